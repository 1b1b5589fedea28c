"""Resampling along an axis whose size varies: places are computed at run time."""

from __future__ import annotations

from collections.abc import Callable

from ...dims import Dim
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .resampling_weights import Resampling


def cubic_weights(at: Importer, t: Value, a: float) -> list[Value]:
    """The shares of the neighbours at -1, 0, 1 and 2 of a place ``t`` (0 to 1) behind the one at 0 (Keys 1981)."""

    def number(value: float) -> Value:
        return at.scalar(value, t.dtype)

    def near(x: Value) -> Value:
        inner = at.emit("sub", at.emit("mul", x, number(a + 2)), number(a + 3))
        return at.emit("add", at.emit("mul", at.emit("mul", inner, x), x), number(1.0))

    def far(x: Value) -> Value:
        inner = at.emit("add", at.emit("mul", at.emit("sub", x, number(5.0)), x), number(8.0))
        return at.emit("mul", at.emit("sub", at.emit("mul", inner, x), number(4.0)), number(a))

    rest = at.emit("sub", number(1.0), t)
    return [far(at.emit("add", t, number(1.0))), near(t), near(rest), far(at.emit("add", rest, number(1.0)))]


def _places(at: Importer, how: Resampling, size: Dim, count: Dim, scale: float | None) -> Value:
    """Where in the operand each element of the result lies, f32 [count]."""
    f32 = DType.f32
    step = at.cast(at.emit("arange", end=count, dtype=DType.i64), f32)
    if how.coordinates == "align_corners":
        more = at.scalar(count - 1, f32)
        one = at.emit("maximum", more, at.scalar(1.0, f32))  # a single element is the first one
        return at.emit("div", at.emit("mul", step, at.scalar(size - 1, f32)), one)
    ratio = at.scalar(scale, f32) if scale is not None else at.emit("div", at.scalar(count, f32), at.scalar(size, f32))
    if how.coordinates == "asymmetric":
        return at.emit("div", step, ratio)
    if how.coordinates not in ("half_pixel", "pytorch_half_pixel"):
        raise Unsupported(f"the coordinates {how.coordinates!r} along an axis whose size varies are not supported")
    half = at.scalar(0.5, f32)
    found = at.emit("sub", at.emit("div", at.emit("add", step, half), ratio), half)
    if how.coordinates == "half_pixel" or (isinstance(count, int) and count > 1):
        return found
    several = at.emit("gt", at.scalar(count, DType.i64), at.scalar(1, DType.i64))
    return at.emit("where", several, found, at.scalar(0.0, f32))


def in_phases(at: Importer, x: Value, axis: int, how: Resampling, times: int) -> Value:
    """``x`` with ``times`` elements for each along ``axis``, linear between neighbours.

    Each of the ``times`` elements lies at the same distance of its own for all: neighbours are the tensor moved by one, and
    nothing is looked up.
    """
    size = x.shape[axis]
    first, last = at.slice(x, axis, 0, 1), at.slice(x, axis, size - 1, size)
    before = at.emit("concat", first, at.slice(x, axis, 0, size - 1), axis=axis)
    behind = at.emit("concat", at.slice(x, axis, 1, size), last, axis=axis)
    start = 0.0 if how.coordinates == "asymmetric" else 0.5 / times - 0.5
    parts = []
    for phase in range(times):
        away = phase / times + start
        part = x
        if away:
            share, other = at.scalar(abs(away), x.dtype), before if away < 0 else behind
            own = at.emit("mul", x, at.scalar(1.0 - abs(away), x.dtype))
            part = at.emit("add", own, at.emit("mul", other, share))
        parts.append(at.reshape(part, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])))
    whole = at.emit("concat", *parts, axis=axis + 1)
    return at.reshape(whole, (*x.shape[:axis], size * times, *x.shape[axis + 1 :]))


def along_varying(at: Importer, x: Value, axis: int, how: Resampling, count: Dim, scale: float | None) -> Value:
    """``x`` resampled to ``count`` elements along ``axis``.

    Args:
        scale: None: that of the sizes.

    Raises:
        Unsupported: coordinates that are not computed at run time.
    """
    f32, size = DType.f32, x.shape[axis]
    place = _places(at, how, size, count, scale)
    last = at.scalar(size - 1, f32)

    def inside(value: Value) -> Value:
        return at.emit("minimum", at.emit("maximum", value, at.scalar(0.0, f32)), last)

    def taken(value: Value) -> Value:
        return at.emit("gather", x, at.cast(inside(value), DType.i64), axis=axis)

    if how.mode == "nearest":
        half = at.scalar(0.5, f32)
        match how.rounding:
            case "round_prefer_floor":
                return taken(at.emit("ceil", at.emit("sub", place, half)))
            case "round_prefer_ceil":
                return taken(at.emit("floor", at.emit("add", place, half)))
            case "floor" | "ceil":
                return taken(at.emit(how.rounding, place))
        raise Unsupported(f"the rounding {how.rounding!r} is not known")
    if how.mode == "linear":  # an element outside is the outermost one, so places outside are at that
        place = inside(place)
    first = at.emit("floor", place)
    t = at.emit("sub", place, first)
    if how.mode == "linear":
        shares, offsets = [at.emit("sub", at.scalar(1.0, f32), t), t], [0, 1]
    else:
        shares, offsets = cubic_weights(at, t, how.a), [-1, 0, 1, 2]
    ids = [at.emit("add", first, at.scalar(float(o), f32)) if o else first for o in offsets]
    if how.mode == "cubic" and not how.outside:
        shares = _renewed(at, shares, ids, inside)
    total: Value | None = None
    shape = tuple(count if a == axis else 1 for a in range(x.type.rank))
    for share, place in zip(shares, ids, strict=True):
        part = at.emit("mul", taken(place), at.cast(at.reshape(share, shape), x.dtype))
        total = part if total is None else at.emit("add", total, part)
    assert total is not None
    return total


def _renewed(at: Importer, shares: list[Value], ids: list[Value], inside: Callable[[Value], Value]) -> list[Value]:
    """Shares without those of neighbours outside, which sum to one again."""
    kept = [
        at.emit("where", at.emit("eq", place, inside(place)), share, at.scalar(0.0, share.dtype))
        for share, place in zip(shares, ids, strict=True)
    ]
    total = kept[0]
    for share in kept[1:]:
        total = at.emit("add", total, share)
    return [at.emit("div", share, total) for share in kept]
