"""Attention written out by hand, in the ways that people do, for models of transformers: names for ``attn_implementation``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

#: Name -> which masks it is given: ``eager`` (floats that are added) or ``sdpa`` (bool, true is seen).
BY_HAND = {"folded": "eager", "where": "sdpa", "einsum": "sdpa", "five-axes": "eager"}


def _repeated(module: nn.Module, k: Tensor, q: Tensor) -> Tensor:
    """Every key head as often as query heads share it."""
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1) if k.shape[1] != q.shape[1] else k


def folded(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """bmm over batch * heads, the scale on the queries, the mask added in four axes, the softmax in f32."""
    b, h, s, d = q.shape
    k, v = _repeated(module, k, q), _repeated(module, v, q)
    q = q * (d**-0.5 if scaling is None else scaling)
    scores = torch.bmm(q.reshape(b * h, s, d), k.reshape(b * h, -1, d).transpose(1, 2))
    if mask is not None:
        scores = (scores.view(b, h, s, -1) + mask).view(b * h, s, -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
    weights = nn.functional.dropout(weights, 0.1, training=False)
    return torch.bmm(weights, v.reshape(b * h, -1, d)).view(b, h, s, d).transpose(1, 2).contiguous(), None


def where(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """matmul, the scale as a quotient of the scores, hidden ones replaced by the lowest number."""
    k, v = _repeated(module, k, q), _repeated(module, v, q)
    scores = torch.matmul(q, k.transpose(-1, -2)) / (math.sqrt(q.shape[-1]) if scaling is None else 1.0 / scaling)
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3).contiguous(), None


def einsum(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """einsum with the heads inside, the root of the scale on queries and keys, the softmax written out."""
    k, v = _repeated(module, k, q), _repeated(module, v, q)
    root = math.sqrt(q.shape[-1] ** -0.5 if scaling is None else scaling)
    q, k, v = (q * root).transpose(1, 2), (k * root).transpose(1, 2), v.transpose(1, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    return torch.einsum("bhqk,bkhd->bqhd", powers / powers.sum(-1, keepdim=True), v), None


def five_axes(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Query heads in groups, one group for each key head: [batch, key heads, group, sequence, head]."""
    b, h, s, d = q.shape
    q = q.view(b, k.shape[1], h // k.shape[1], s, d)
    scores = torch.matmul(q, k.unsqueeze(2).transpose(-1, -2)) * (d**-0.5 if scaling is None else scaling)
    if mask is not None:
        scores = scores + mask.unsqueeze(2)
    result = torch.matmul(torch.softmax(scores, -1), v.unsqueeze(2))
    return result.reshape(b, h, s, d).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the names known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    written = {"folded": folded, "where": where, "einsum": einsum, "five-axes": five_axes}
    for name, masks in BY_HAND.items():
        AttentionInterface.register(name, written[name])
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[masks])
