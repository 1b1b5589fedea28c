"""Sums down columns as matrix products.

A sum over an axis that is not the last one would have to gather elements that lie far apart, or write its operand transposed.
As ``ones [1, S] @ x [S, N]`` it reads x once, in order. A factor for each row (the mask of mean pooling) takes the place of the
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.dims import Dim, product
from ...compiler.graph import Node, Value
from ...compiler.types import DType
from .builder import Builder

#: Fewer columns than this do not fill a vector.
LEAST_COLUMNS = 16


def column_sum(b: Builder, node: Node, axes: Sequence[int]) -> Value | None:
    """The sum or mean of ``node`` as a matrix product; None where it is none, or would not pay.

    Args:
        b: inserts in front of ``node``.
        node: a reduction of f32.
        axes: what it reduces, ascending, not negative.
    """
    x = node.inputs[0]
    assert x is not None
    first, last, rank = axes[0], axes[-1], x.type.rank
    if node.op not in ("reduce_sum", "reduce_mean") or x.dtype is not DType.f32:
        return None
    if last == rank - 1 or list(axes) != list(range(first, last + 1)):
        return None
    outer, length, columns = x.shape[:first], product(x.shape[first : last + 1]), product(x.shape[last + 1 :])
    if isinstance(columns, int) and columns < LEAST_COLUMNS:
        return None
    factor, data = _weighted(x, outer, x.shape[first : last + 1], last)
    if factor is None:
        row = b.full(1.0, x, (*(1 for _ in outer), 1, length))
        row = b("expand", row, shape=(*outer, 1, length)) if outer else row
    else:
        row = b("reshape", factor, shape=(*outer, 1, length))
    flat = data if data.type.rank == first + 2 else b("reshape", data, shape=(*outer, length, columns))
    total = b("matmul", row, flat)
    if node.op == "reduce_mean":
        total = b("div", total, b("cast", b("full", value=length, shape=(), dtype=DType.i64), dtype=DType.f32))
    return b("reshape", total, shape=node.output.shape)


def _weighted(x: Value, outer: Sequence[Dim], reduced: Sequence[Dim], last: int) -> tuple[Value | None, Value]:
    """``x`` as (a factor for each row, what it multiplies), where that is how it is computed and nobody else wants it."""
    product_of = x.node
    if product_of is None or product_of.op != "mul" or x.use_count != 1:
        return None, x
    a, c = product_of.inputs
    assert a is not None and c is not None
    rows = (*outer, *reduced, *(1 for _ in x.shape[last + 1 :]))
    for factor, data in ((c, a), (a, c)):
        if factor.shape == rows and data.shape == x.shape:
            return factor, data
    return None, x
