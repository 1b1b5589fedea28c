"""The vocabulary, along axes: reductions, softmax, norms."""

from __future__ import annotations

from .graph import Node
from .ops_schema import REQUIRED, Infer, axis_of, define, like, type_of
from .types import DType, TensorType


def _reduce(dtype: DType | None = None) -> Infer:
    def infer_reduce(node: Node) -> list[TensorType]:
        x = type_of(node.inputs[0])
        axes = {axis_of(a, x.rank) for a in node.attrs["axes"]}
        shape = [1 if i in axes else d for i, d in enumerate(x.shape) if i not in axes or node.attrs["keepdim"]]
        return [TensorType(dtype or x.dtype, tuple(shape))]

    return infer_reduce


def _arg_reduce(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    axis = axis_of(node.attrs["axis"], x.rank)
    shape = [1 if i == axis else d for i, d in enumerate(x.shape) if i != axis or node.attrs["keepdim"]]
    return [TensorType(DType.i64, tuple(shape))]


_MEANING = {
    "reduce_sum": "sum over axes", "reduce_mean": "mean over axes", "reduce_max": "largest over axes; NaN wins",
    "reduce_min": "smallest over axes; NaN wins", "reduce_prod": "product over axes", "reduce_any": "whether any is true",
    "reduce_all": "whether all are true",
}  # fmt: skip
REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all")


for name in REDUCTIONS:
    define(
        name,
        "x",
        _reduce(),
        _MEANING[name],
        attrs={"axes": REQUIRED, "keepdim": False},
        flops=lambda n: type_of(n.inputs[0]).elements,
    )
for name in ("argmax", "argmin"):
    define(name, "x", _arg_reduce, f"index of the {name[3:]} along an axis", attrs={"axis": REQUIRED, "keepdim": False})
define("softmax", "x", like, "softmax along an axis", attrs={"axis": -1}, flops=5)
define("log_softmax", "x", like, "log of softmax along an axis", attrs={"axis": -1}, flops=5)
define(
    "layer_norm",
    "x weight? bias?",
    like,
    "layer normalisation over the last `axes` axes (Ba et al. 2016)",
    attrs={"axes": 1, "eps": 1e-5},
    flops=8,
)
define(
    "rms_norm",
    "x weight?",
    like,
    "root mean square normalisation over the last axis (Zhang & Sennrich 2019)",
    attrs={"eps": 1e-6},
    flops=5,
)
define(
    "group_norm",
    "x weight? bias?",
    like,
    "group normalisation over channels (Wu & He 2018)",
    attrs={"groups": REQUIRED, "eps": 1e-5},
    flops=8,
)
define(
    "batch_norm",
    "x weight? bias? mean var",
    like,
    "batch normalisation with running statistics",
    attrs={"eps": 1e-5},
    flops=4,
)
