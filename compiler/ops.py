"""The vocabulary: for every op a versioned schema with attributes, type inference, cost and aliasing.

No torch here: types are inferred by the functions in the modules beside this one (``ops_elementwise``, ``ops_reduce``,
``ops_anchor``, ``ops_spatial``, ``ops_recurrent``, ``ops_data``, ``ops_order``). What an op *means* is in ``reference.py``.
"""

from __future__ import annotations

from . import (  # noqa: F401  (they register their ops)
    ops_anchor,
    ops_data,
    ops_elementwise,
    ops_order,
    ops_recurrent,
    ops_reduce,
    ops_spatial,
)
from .ops_elementwise import BINARY, COMMUTATIVE, COMPARE, UNARY
from .ops_order import SCANS, SCATTER_REDUCTIONS
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
    "BINARY", "COMMUTATIVE", "COMPARE", "OPS", "REDUCTIONS", "REQUIRED", "SCANS", "SCATTER_REDUCTIONS", "UNARY", "Cost",
    "Infer", "OpSchema", "axis_of", "broadcast", "conv_output", "cost", "infer", "is_elementwise", "normalise", "register",
    "schema",
]  # fmt: skip
