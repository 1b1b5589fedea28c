"""Weights of the small examples: trained when they are first needed, then kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def trained(name: str, module: nn.Module, train: Callable[[nn.Module], None], recipe: Path) -> nn.Module:
    """``module`` in eval mode, its weights read from the cache or found by ``train``.

    Args:
        name: of the model, a part of the file's name.
        module: freshly made.
        train: changes its weights in place; called with a fixed seed.
        recipe: the Python file that says how it is trained: whenever that changes, it is trained again.
    """
    digest = hashlib.sha256(recipe.read_bytes()).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planish-examples"
    path = folder / f"{name}-{digest}.safetensors"
    if path.is_file():
        module.load_state_dict(load_file(path))
    else:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # steps this small gain nothing from more, and wait for one another on a busy machine
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                module.train()
                train(module)
        finally:
            torch.set_num_threads(threads)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, partial)
        partial.replace(path)
    return module.eval().requires_grad_(False)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose initial weights are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()
