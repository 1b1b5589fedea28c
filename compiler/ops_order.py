"""The vocabulary, what depends on order or place: running reductions, sorting, searching, and writing by index."""

from __future__ import annotations

from .dims import Dim
from .errors import PassError
from .graph import Node
from .ops_schema import REQUIRED, axis_of, define, fail, same_dtype, type_of
from .types import DType, TensorType

#: Running reductions with one result.
SCANS = ("cumsum", "cumprod", "logcumsumexp")
#: How a write by index combines what is written with what is there; ``none`` replaces it.
SCATTER_REDUCTIONS = ("none", "sum", "prod", "max", "min")


def _scan(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    axis_of(node.attrs["axis"], x.rank)
    if x.dtype is DType.bool or (node.op == "logcumsumexp" and not x.dtype.is_float):
        raise fail(node, f"it is not defined for {x.dtype}")
    return [TensorType(x.dtype, x.shape)]


def _scan_extreme(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    axis_of(node.attrs["axis"], x.rank)
    return [TensorType(x.dtype, x.shape), TensorType(DType.i64, x.shape)]


def _topk(node: Node) -> list[TensorType]:
    x, k = type_of(node.inputs[0]), node.attrs["k"]
    axis = axis_of(node.attrs["axis"], x.rank)
    size = x.shape[axis]
    if isinstance(k, int) and (k < 0 or (isinstance(size, int) and k > size)):
        raise fail(node, f"there are no {k} elements along axis {axis} of {x}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType(DType.i64, shape)]


def _searchsorted(node: Node) -> list[TensorType]:
    edges, x = type_of(node.inputs[0]), type_of(node.inputs[1])
    same_dtype(node, node.inputs)
    if edges.rank != 1 and (edges.rank != x.rank or edges.shape[:-1] != x.shape[:-1]):
        raise fail(node, f"the sorted numbers {edges} are neither one row nor one row for each row of {x}")
    return [TensorType(node.attrs["dtype"], x.shape)]


def _check_write(node: Node) -> tuple[TensorType, TensorType, TensorType, int]:
    x, ids, source = (type_of(v) for v in node.inputs[:3])
    if not ids.dtype.is_integer:
        raise fail(node, f"the ids must be integers, not {ids.dtype}")
    if source.dtype is not x.dtype:
        raise fail(node, f"what is written is {source.dtype}, where {x.dtype} is expected")
    if node.attrs["reduce"] not in SCATTER_REDUCTIONS:
        raise PassError(f"there is no reduction {node.attrs['reduce']!r}", f"there are {', '.join(SCATTER_REDUCTIONS)}")
    return x, ids, source, axis_of(node.attrs["axis"], x.rank)


def _scatter(node: Node) -> list[TensorType]:
    x, ids, source, axis = _check_write(node)
    if source.shape != (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]):
        raise fail(node, f"what is written, {source}, does not fit the ids {ids} along axis {axis} of {x}")
    return [x]


def _put_along(node: Node) -> list[TensorType]:
    x, ids, source, axis = _check_write(node)
    if ids.rank != x.rank or source.shape != ids.shape:
        raise fail(node, f"the ids {ids} and what is written, {source}, must have one shape, and the rank of {x}")
    for at, (have, want) in enumerate(zip(x.shape, ids.shape, strict=True)):
        if at != axis and isinstance(have, int) and isinstance(want, int) and want > have:
            raise fail(node, f"the ids {ids} reach beyond {x} along axis {at}")
    return [x]


def _written(node: Node) -> Dim:
    return type_of(node.inputs[2]).elements


_DOCS = {
    "cumsum": "running sum along an axis",
    "cumprod": "running product along an axis",
    "logcumsumexp": "logarithm of the running sum of exponentials along an axis",
}
for _name in SCANS:
    define(_name, "x", _scan, _DOCS[_name], attrs={"axis": REQUIRED}, flops=20 if _name == "logcumsumexp" else 1)
for _name in ("cummax", "cummin"):
    define(
        _name,
        "x",
        _scan_extreme,
        f"running {_name[3:]} along an axis and where it was last met; NaN is the extreme of what follows it",
        attrs={"axis": REQUIRED},
        flops=1,
    )
define(
    "sort",
    "x",
    lambda n: _scan_extreme(n),
    "the elements along an axis in order, and their places; equal ones keep their order; NaN is the greatest",
    attrs={"axis": REQUIRED, "descending": False},
    flops=16,
)
define(
    "topk",
    "x",
    _topk,
    "the first `k` elements along an axis of the sorted order (descending where `largest`), and their places",
    attrs={"k": REQUIRED, "axis": REQUIRED, "largest": True},
    flops=lambda n: type_of(n.inputs[0]).elements * 2,
)
define(
    "searchsorted",
    "sorted x",
    _searchsorted,
    "how many sorted numbers are below each element of x (`right`: not above it); NaN is above all",
    attrs={"right": False, "dtype": DType.i64},
    flops=16,
)
define(
    "scatter",
    "x ids source",
    _scatter,
    "x with slices along an axis replaced, or combined by `reduce`, at the ids, in order; negative ids count from the end",
    attrs={"axis": REQUIRED, "reduce": "none"},
    flops=_written,
)
define(
    "put_along",
    "x ids source",
    _put_along,
    "x with elements along an axis replaced, or combined by `reduce`, one id each, in order; negative ids count from the end",
    attrs={"axis": REQUIRED, "reduce": "none"},
    flops=_written,
)
