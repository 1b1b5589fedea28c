"""The vocabulary: for every op a versioned schema with attributes, type inference, cost and aliasing.

No torch here: types are inferred by the functions in the modules beside this one (``ops_elementwise``, ``ops_reduce``,
``ops_anchor``, ``ops_spatial``, ``ops_data``). What an op *means* is in ``reference.py``.
"""

from __future__ import annotations

from . import ops_anchor, ops_data, ops_elementwise, ops_reduce, ops_spatial  # noqa: F401  (they register their ops)
from .ops_elementwise import BINARY, COMMUTATIVE, COMPARE, UNARY
from .ops_reduce import REDUCTIONS
from .ops_schema import (
    OPS,
    REQUIRED,
    Cost,
    Infer,
    OpSchema,
    axis_of,
    broadcast,
    cost,
    infer,
    is_elementwise,
    normalise,
    register,
    schema,
)
from .ops_spatial import conv_output

__all__ = [
    "BINARY", "COMMUTATIVE", "COMPARE", "OPS", "REDUCTIONS", "REQUIRED", "UNARY", "Cost", "Infer", "OpSchema", "axis_of",
    "broadcast", "conv_output", "cost", "infer", "is_elementwise", "normalise", "register", "schema",
]  # fmt: skip
