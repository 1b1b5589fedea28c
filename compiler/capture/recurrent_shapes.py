"""While torch.export traces, recurrent ops say only what shapes they give.

torch evaluates ``aten.lstm.input`` and its like on fake tensors by walking all steps in Python, which fixes the length of the
sequence and takes as long as the sequence is. The ops themselves stay in the exported graph either way; here their stand-ins
give results of the right shape at once, so that the length may vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def _shapes(
    input: Tensor, hx: Tensor | Sequence[Tensor], params: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return (input.new_empty((*input.shape[:-1], width)), *(s.new_empty(s.shape) for s in states))


@contextmanager
def varying_length() -> Iterator[None]:
    """Recurrent ops on fake tensors give shapes alone; nothing changes where this torch has no Python kernels for them."""
    aten: Any = torch.ops.aten
    ops = [op for op in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
           if getattr(op, "py_kernels", None) and hasattr(op, "_dispatch_cache")]  # fmt: skip
    before = [dict(op.py_kernels) for op in ops]
    try:
        for op in ops:
            op.py_kernels.update(dict.fromkeys(op.py_kernels, _shapes))
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels in zip(ops, before, strict=True):
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()
