"""Three torch ops as libraries bring them: opaque to torch.export, each with a fake implementation. No planish in sight.

``soft_cap`` bounds attention scores and logits (Gemma 2), ``rotary`` turns pairs of features by an angle that grows with the
position (Su et al. 2021), ``ema`` is the damped moving average in front of attention in Mega (Ma et al. 2022).
"""

from __future__ import annotations

import torch


@torch.library.custom_op("example::soft_cap", mutates_args=())
def soft_cap(x: torch.Tensor, cap: float) -> torch.Tensor:
    """``cap * tanh(x / cap)``: almost x where x is small, never beyond the cap."""
    return cap * torch.tanh(x / cap)


@torch.library.custom_op("example::rotary", mutates_args=())
def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [..., steps, width] turned by the angles whose cosines and sines are [steps, width], halves against each other."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


@torch.library.custom_op("example::ema", mutates_args=())
def ema(x: torch.Tensor, decay: torch.Tensor, reverse: bool = False) -> torch.Tensor:
    """y[t] = decay * y[t - 1] + (1 - decay) * x[t] over x [batch, steps, channels], decay [channels]; or from the end."""
    result, state = torch.empty_like(x), torch.zeros_like(x[:, 0])
    steps = range(x.shape[1] - 1, -1, -1) if reverse else range(x.shape[1])
    for t in steps:
        state = decay * state + (1 - decay) * x[:, t]
        result[:, t] = state
    return result


@soft_cap.register_fake
def _(x: torch.Tensor, cap: float) -> torch.Tensor:
    return torch.empty_like(x)


@rotary.register_fake
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@ema.register_fake
def _(x: torch.Tensor, decay: torch.Tensor, reverse: bool = False) -> torch.Tensor:
    return torch.empty_like(x)
