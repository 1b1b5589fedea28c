"""ATen reductions, softmax and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..dims import Expr, product
from ..graph import Value
from ..types import DType
from .aten_elementwise import as_bool
from .lowering import Lowering, Scalar, aten
from .scalars import low_precision
from .symbols import Unsupported

Axes = Sequence[int] | int | None


def axes_of(x: Value, dim: Axes) -> tuple[int, ...]:
    """Non-negative axes; None or an empty list means all of them."""
    rank = x.type.rank
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return tuple(range(rank))
    given = [dim] if isinstance(dim, int) else dim
    return tuple(sorted(d % rank for d in given)) if rank else ()


def reduce(b: Lowering, op: str, x: Value, dim: Axes, keepdim: bool = False) -> Value:
    """A reduction over axes; a rank-0 operand is its own result."""
    axes = axes_of(x, dim)
    return b.emit(op, x, axes=axes, keepdim=keepdim) if axes else x


def _sized(op: str, b: Lowering, self: Value, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return reduce(b, op, b.cast(self, b.out_dtype), dim, keepdim)


aten("sum", "sum.dim_IntList")(partial(_sized, "reduce_sum"))
aten("prod", "prod.dim_int")(partial(_sized, "reduce_prod"))
aten("mean", "mean.dim")(partial(_sized, "reduce_mean"))
aten("amax", "max")(partial(_sized, "reduce_max"))
aten("amin", "min")(partial(_sized, "reduce_min"))


def _truth(op: str, b: Lowering, self: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return b.cast(reduce(b, op, as_bool(b, self), dim, keepdim), b.out_dtype)


aten("any", "any.dim", "any.dims")(partial(_truth, "reduce_any"))
aten("all", "all.dim", "all.dims")(partial(_truth, "reduce_all"))


@aten("count_nonzero", "count_nonzero.dim_IntList")
def _count_nonzero(b: Lowering, self: Value, dim: Axes = None) -> Value:
    return reduce(b, "reduce_sum", b.cast(as_bool(b, self), DType.i64), dim)


@aten("max.dim", "min.dim")
def _extreme(b: Lowering, self: Value, dim: int, keepdim: bool) -> list[Value]:
    which = b.op
    if not self.type.rank:
        return [self, b.scalar(0, DType.i64)]
    return [
        reduce(b, f"reduce_{which}", self, dim, keepdim),
        b.emit(f"arg{which}", self, axis=dim % self.type.rank, keepdim=keepdim),
    ]


@aten("argmax", "argmin")
def _arg(b: Lowering, self: Value, dim: int | None, keepdim: bool) -> Value:
    op = b.op
    if not self.type.rank:
        return b.scalar(0, DType.i64)
    if dim is None:
        result = b.emit(op, b.reshape(self, (product(self.shape),)), axis=0, keepdim=False)
        return b.reshape(result, (1,) * self.type.rank) if keepdim else result
    return b.emit(op, self, axis=dim % self.type.rank, keepdim=keepdim)


def variance(b: Lowering, x: Value, dim: Axes, keepdim: bool, correction: Scalar) -> tuple[Value, Value]:
    """Variance and mean over axes; ``correction`` is taken off the count."""
    axes = axes_of(x, dim)
    mean = b.emit("reduce_mean", x, axes=axes, keepdim=True)
    total = b.emit("reduce_sum", b.emit("square", b.emit("sub", x, mean)), axes=axes, keepdim=keepdim)
    count = product(x.shape[a] for a in axes)
    if isinstance(correction, Expr) or int(correction) != correction:
        raise Unsupported(f"the argument correction={correction} is not supported")
    rest = count - int(correction)
    if isinstance(rest, int):
        rest = max(rest, 0)
    plain = mean if keepdim else b.emit("reduce_mean", x, axes=axes, keepdim=False)
    return b.emit("div", total, b.operand(rest, x.dtype)), plain


@aten(
    "var.correction",
    "std.correction",
    "var.dim",
    "std.dim",
    "var",
    "std",
    "var_mean.correction",
    "var_mean.dim",
    "var_mean",
    "std_mean.correction",
    "std_mean.dim",
    "std_mean",
)
def _var(
    b: Lowering, self: Value, dim: Axes = None, keepdim: bool = False, correction: Scalar | None = None, unbiased: bool = True
) -> Any:  # fmt: skip
    taken = int(unbiased) if correction is None else correction
    alone = not self.type.rank
    x = b.reshape(self, (1,)) if alone else self
    wide = b.cast(x, DType.f32) if low_precision(x.dtype) else x  # torch rounds the results alone
    both = list(variance(b, wide, 0 if alone else dim, keepdim and not alone, taken))
    name = b.op
    if "std" in name:
        both[0] = b.emit("sqrt", both[0])
    both = [b.cast(v, self.dtype) for v in both]
    return both if "mean" in name else both[0]


@aten("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(
    b: Lowering, self: Value, ord: Scalar = 2, p: Scalar | None = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None
) -> Value:  # fmt: skip
    order = ord if "linalg" in b.op else (2 if p is None else p)
    x = b.cast(self, b.out_dtype)
    if order == 2:
        return b.emit("sqrt", reduce(b, "reduce_sum", b.emit("square", x), dim, keepdim))
    size = b.emit("abs", x)
    if order == 1:
        return reduce(b, "reduce_sum", size, dim, keepdim)
    if order == float("inf"):
        return reduce(b, "reduce_max", size, dim, keepdim)
    if order == -float("inf"):
        return reduce(b, "reduce_min", size, dim, keepdim)
    if order == 0:
        return reduce(b, "reduce_sum", b.cast(b.emit("ne", x, b.scalar(0.0, x.dtype)), x.dtype), dim, keepdim)
    if not isinstance(order, (int, float)):
        raise Unsupported(f"the norm of order {order} is not supported")
    total = reduce(b, "reduce_sum", b.emit("pow", size, b.scalar(float(order), x.dtype)), dim, keepdim)
    return b.emit("pow", total, b.scalar(1.0 / order, x.dtype))


@aten("logsumexp")
def _logsumexp(b: Lowering, self: Value, dim: Axes, keepdim: bool) -> Value:
    x = b.cast(self, b.out_dtype)
    axes = axes_of(x, dim)
    peak = b.emit("reduce_max", x, axes=axes, keepdim=True)
    infinite = b.emit("isinf", peak)
    peak = b.emit("where", infinite, b.scalar(0.0, x.dtype), peak)
    total = b.emit("log", b.emit("reduce_sum", b.emit("exp", b.emit("sub", x, peak)), axes=axes, keepdim=True))
    result = b.emit("add", total, peak)
    return result if keepdim else b.reshape(result, [d for i, d in enumerate(result.shape) if i not in axes])


@aten(
    "softmax.int",
    "_softmax",
    "log_softmax.int",
    "_log_softmax",
    "_safe_softmax",
    "special_log_softmax",
    "special_softmax",
)
def _softmax(b: Lowering, self: Value, dim: int, dtype: Any = None, half_to_float: bool = False) -> Value:
    name = b.op
    x = b.cast(self, b.out_dtype)
    if not x.type.rank:
        return b.reshape(_softmax(b, b.reshape(x, (1,)), 0), ())
    axis = dim % x.type.rank
    result = b.emit("log_softmax" if "log" in name else "softmax", x, axis=axis)
    if "safe" not in name:
        return result
    hidden = b.emit("eq", x, b.scalar(-float("inf"), x.dtype))
    empty = b.emit("reduce_all", hidden, axes=(axis,), keepdim=True)
    return b.emit("where", empty, b.scalar(0.0, x.dtype), result)
