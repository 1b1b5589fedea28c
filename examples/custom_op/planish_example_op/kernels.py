"""What planish is told of the three ops: one way of writing a kernel each.

Found through the entry point ``planish.ops`` once the package is installed; without installing anything it is named on the
command line, ``--ops examples/custom_op/planish_example_op/kernels.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import planish
from planish_example_op import ema, rotary, soft_cap

# An expression over the op's arguments. It fuses into the kernel that makes x.
planish.register_op(soft_cap, "cap * tanh(x / cap)", doc="a smooth bound on the absolute value")


def _rotary(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """The same op written with planish's ops; x, cos and sin are values of the graph, with a type."""
    width = x.shape[-1]
    low = op.slice(x, axis=-1, start=0, end=width // 2)
    high = op.slice(x, axis=-1, start=width // 2, end=width)
    turned = op.concat(op.neg(high), low, axis=-1)
    return op.add(op.mul(x, cos), op.mul(turned, sin))


planish.register_op(rotary, _rotary, infer="x", doc="rotary position embedding (Su et al. 2021)")

# C++: what no composition of ops does well, because every step needs the one before. Batches are shared out among threads.
planish.register_op(
    ema,
    planish.CppKernel(Path(__file__).with_name("ema.cpp"), "ema", parallel=1),
    infer="x",
    flops=3,
    doc="exponential moving average along the steps (Ma et al. 2022)",
)
