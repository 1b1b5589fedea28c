"""Quantised weights and activations as the CPU's kernels take them."""

from __future__ import annotations

from math import gcd

from ...compiler.graph import Node, Value
from ...compiler.ops_anchor import scale_group
from .builder import Builder


def legal_dequantize(b: Builder, node: Node) -> Value | None:
    """A scale for each group of neighbours is one for each row where the groups are rows of their own.

    Linears read grouped weights as they are.
    """
    q, *scales = node.operands
    sizes = [size for s in scales if (size := scale_group(q.type, s.type)) is not None]
    users = node.output.users
    if not sizes or (users and all(u.op == "linear" and u.inputs[1] is node.output for u in users)):
        return None
    rows, length = gcd(*sizes), q.shape[-1]
    assert isinstance(length, int)
    split = b("reshape", q, shape=(*q.shape[:-1], length // rows, rows))
    y = b("dequantize", split, *(_split(b, s, length, rows) for s in scales))
    return b("reshape", y, shape=node.output.shape)


def _split(b: Builder, scale: Value, length: int, rows: int) -> Value:
    """``scale`` for rows of so many elements of what it served along an axis of ``length``."""
    if not scale.type.rank:
        return scale
    *outer, groups = scale.shape
    assert isinstance(groups, int)
    if groups in (1, length):
        return b("reshape", scale, shape=(*outer, length // rows, rows) if groups == length else (*outer, 1, 1))
    apart = b("reshape", scale, shape=(*outer, groups, 1))
    each = length // groups // rows
    return b("reshape", b("expand", apart, shape=(*outer, groups, each)), shape=(*outer, length // rows, 1))
