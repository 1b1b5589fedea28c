"""What a recurrent layer means, as torch code; see ``reference``."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import REFERENCE, Attrs


def _cell(
    cell: str, x: Tensor, product: Tensor, h: Tensor, c: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """One step: the gates' shares of the input and of the state to the next (h,) or (h, c)."""
    if cell == "lstm":
        assert c is not None
        i, f, g, o = (x + product).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if cell == "gru":
        xr, xz, xn = x.chunk(3, -1)
        hr, hz, hn = product.chunk(3, -1)
        reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        new = torch.tanh(xn + reset * (hn if bias is None else hn + bias))
        return (new + update * (h - new),)
    return (torch.tanh(x + product) if cell == "rnn_tanh" else torch.relu(x + product),)


def _recurrent(
    attrs: Attrs, x: Tensor, weight: Tensor, h: Tensor, c: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    given = x.dtype
    if given in (torch.bfloat16, torch.float16):  # the state is kept in f32 and rounded where it leaves
        x, weight, h = x.float(), weight.float(), h.float()
        c, bias = (None if v is None else v.float() for v in (c, bias))
    order = range(x.shape[0] - 1, -1, -1) if attrs["reverse"] else range(x.shape[0])
    steps: list[Tensor] = [h] * x.shape[0]
    state: tuple[Tensor, ...] = (h,) if c is None else (h, c)
    for t in order:
        state = _cell(attrs["cell"], x[t], state[0] @ weight.T, state[0], state[1] if c is not None else None, bias)
        steps[t] = state[0]
    whole = torch.stack(steps) if steps else x.new_zeros((0, *h.shape))
    return tuple(v.to(given) for v in (whole, *state))


REFERENCE["recurrent"] = _recurrent
