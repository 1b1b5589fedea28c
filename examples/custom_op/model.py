"""A small block in the manner of Mega: a moving average, attention over rotated queries and keys, capped logits.

pip install ./examples/custom_op
planish compile examples/custom_op/model.py:model -o mega.planish
"""

from __future__ import annotations

from typing import Any

import torch
from planish_example_op import ema, rotary, soft_cap
from torch import nn

WIDTH, HEADS, CLASSES, STEPS = 64, 4, 10, 512


class Block(nn.Module):
    """x [batch, steps, WIDTH] to logits [batch, steps, CLASSES], all within [-5, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-2, 2, WIDTH))
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        size = WIDTH // HEADS
        angles = torch.outer(torch.arange(STEPS), 10000.0 ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.cos = nn.Buffer(angles.cos())
        self.sin = nn.Buffer(angles.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        steps = x.shape[1]
        mixed = ema(x, torch.sigmoid(self.decay))

        def heads(t: torch.Tensor) -> torch.Tensor:
            return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k = (rotary(heads(part(mixed)), self.cos[:steps], self.sin[:steps]) for part in (self.query, self.key))
        seen = nn.functional.scaled_dot_product_attention(q, k, heads(self.value(x)))
        return soft_cap(self.head(self.norm(x + seen.transpose(1, 2).flatten(2))), 5.0)


def model() -> tuple[nn.Module, tuple[torch.Tensor], None, dict[str, Any]]:
    """What ``planish compile`` asks for: the module, an example, no keywords, and which sizes vary."""
    torch.manual_seed(0)
    batch, steps = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("steps", min=1, max=STEPS)
    return Block().eval(), (torch.randn(2, 40, WIDTH),), None, {"x": {0: batch, 1: steps}}
