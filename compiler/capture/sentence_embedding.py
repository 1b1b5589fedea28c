"""The embedding of a sentence as a folder of sentence-transformers describes it: tokens, pooling, dense layers, normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError

MODULES = "modules.json"

#: Keys of older pooling configurations -> the mode they switch on, in the order in which several are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(nn.Module):
    """Token vectors ``[batch, seq, width]`` and their mask to one vector for each text, ``[batch, modes * width]``."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        """Concatenate the results of these modes."""
        super().__init__()
        self.modes = modes

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pool; padded positions (mask 0) do not count."""
        return torch.cat([self._one(mode, tokens, mask) for mode in self.modes], 1)

    @staticmethod
    def _one(mode: str, tokens: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        if mode == "max":
            return tokens.masked_fill(weights == 0, torch.finfo(tokens.dtype).min).amax(1)
        if mode in ("cls", "lasttoken"):  # the first or last token that is no padding, wherever the padding is
            place = torch.arange(mask.shape[1], device=mask.device)[None]
            rank = (place + 1 if mode == "lasttoken" else mask.shape[1] - place) * mask
            chosen = (rank == rank.amax(1, keepdim=True)).unsqueeze(-1)
            return (tokens * chosen.to(tokens.dtype)).sum(1)
        if mode == "weightedmean":
            weights = weights * weights.cumsum(1)
        total = weights.sum(1).clamp(min=1e-9)
        return (tokens * weights).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class Dense(nn.Module):
    """A linear layer with its activation."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        """Put them together."""
        super().__init__()
        self.linear, self.activation = linear, activation

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in]`` to ``[batch, out]``."""
        y: Tensor = self.activation(self.linear(x))
        return y


class Normalize(nn.Module):
    """Vectors of length one."""

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width]`` to the same."""
        return nn.functional.normalize(x, p=2.0, dim=1)


def described(folder: Path) -> tuple[Path, list[tuple[str, Path]]] | None:
    """The folder of the transformer, and kind and folder of each module after it; None if the folder describes none.

    Raises:
        CaptureError: ``modules.json`` cannot be read.
    """
    file = folder / MODULES
    if not file.is_file():
        return None
    try:
        entries = [(str(e["type"]).rpartition(".")[2], folder / str(e["path"])) for e in json.loads(file.read_text())]
    except (ValueError, KeyError, TypeError):
        raise CaptureError(f"{file} cannot be read", "download it again") from None
    if not entries or entries[0][0] != "Transformer":
        return None
    return entries[0][1], entries[1:]


def steps(entries: list[tuple[str, Path]]) -> nn.ModuleDict:
    """The modules after the transformer, the pooling first.

    Raises:
        CaptureError: one is of a kind that is not known, or lacks its files.
    """
    found = nn.ModuleDict()
    for number, (kind, folder) in enumerate(entries, 1):
        if kind == "Pooling":
            found["pooling"] = Pooling(_modes(_settings(folder)))
        elif kind == "Normalize":
            found[f"normalize_{number}"] = Normalize()
        elif kind == "Dense":
            found[f"dense_{number}"] = _dense(folder)
        elif kind != "Dropout":
            raise CaptureError(
                f"{MODULES} asks for a {kind}, which is not known",
                "--task feature-extraction compiles the model without it",
            )
    if next(iter(found), None) != "pooling":
        raise CaptureError(f"{MODULES} has no pooling", "--task feature-extraction compiles the model without it")
    return found


def _settings(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / "config.json").read_text())
        return dict(data)
    except (OSError, ValueError, TypeError):
        raise CaptureError(f"{folder / 'config.json'} cannot be read", "download it again") from None


def _modes(settings: dict[str, Any]) -> tuple[str, ...]:
    mode = settings.get("pooling_mode")
    modes = (mode,) if isinstance(mode, str) else tuple(mode or (m for flag, m in _FLAGS.items() if settings.get(flag)))
    unknown = [m for m in modes if m not in _FLAGS.values()]
    if unknown:
        raise CaptureError(f"the pooling {unknown[0]!r} is not known", f"known are {', '.join(_FLAGS.values())}")
    return modes or ("mean",)


def _dense(folder: Path) -> Dense:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = _settings(folder)
    name = str(settings.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    activation = getattr(nn, name, None)
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise CaptureError(f"the activation {name!r} of {folder.name} is not known")
    linear = nn.Linear(int(settings["in_features"]), int(settings["out_features"]), bool(settings.get("bias", True)))
    try:
        state = {k.removeprefix("linear."): v for k, v in load_file(folder / "model.safetensors").items()}
        linear.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CaptureError(f"{folder} has no usable model.safetensors: {str(error).splitlines()[0]}") from error
    return Dense(linear, activation())
