"""One registry of sample calls for every op of the vocabulary: operands, attributes, element types, shapes.

What tests draw from it: types against the reference and against torch's shapes without data, interpretation, every CPU
kernel. An op without a sample fails a test. Shapes hold a batch and a sequence of varying size, odd sizes, and ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from graph_harness import B, S, Sketch

from planish.compiler.dims import Dim
from planish.compiler.graph import Value
from planish.compiler.ops import OPS, REDUCTIONS, SCANS, SCATTER_REDUCTIONS, schema
from planish.compiler.types import DType, float_to_bf16

F64, F32, F16, BF16, I64, I32, I16, I8, I4, U8, BOOL = (
    DType(n) for n in ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "i4", "u8", "bool")
)
FLOATS, INTEGERS = (F32, BF16), (I64, I32)
NUMBERS = FLOATS + INTEGERS
ANY = (*NUMBERS, BOOL)


@dataclass(frozen=True)
class In:
    """An operand that is an input: its shape, what its numbers are like, and its element type where that is not the sample's.

    kind: ``normal``, ``positive``, ``unit`` (inside (-1, 1)), ``ties`` (few distinct numbers; floats with NaN, infinities and
    -0 among them), ``sorted`` along the last axis, ``ids`` (in [-high, high)), ``few`` (in [0, high)); all are a function of
    the shape and a seed.
    """

    shape: tuple[Dim, ...]
    kind: str = "normal"
    dtype: DType | None = None
    high: int = 4


@dataclass(frozen=True)
class Const(In):
    """An operand that is a constant of the graph."""


@dataclass(frozen=True)
class Sample:
    """One way to call an op, for each of ``dtypes``."""

    op: str
    operands: tuple[In | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[DType, ...] = FLOATS
    slack: float = 1.0

    def write(self, g: Sketch, dtype: DType, inputs: dict[In, Value]) -> list[Value]:
        """Append the call to a sketch and return its results; equal operands are made once (``inputs``)."""
        values: list[Value | None] = []
        for number, operand in enumerate(self.operands):
            if operand is None:
                values.append(None)
                continue
            key = In(operand.shape, operand.kind, operand.dtype or dtype, operand.high + 1000 * number)
            if isinstance(operand, Const) or key not in inputs:
                value = _made(g, operand, operand.dtype or dtype)
                if not isinstance(operand, Const):
                    inputs[key] = value
            else:
                value = inputs[key]
            values.append(value)
        attrs = {k: dtype if v == "dtype" else v for k, v in self.attrs.items()}
        return g.both(self.op, *values, **attrs)


def _made(g: Sketch, operand: In, dtype: DType) -> Value:
    if isinstance(operand, Const):
        sizes = tuple(int(d) for d in operand.shape)  # type: ignore[arg-type]
        array = draw(np.random.default_rng(len(g.graph)), sizes, operand, dtype)
        return g.graph.add_constant(array, "c", dtype)
    return g.input(*operand.shape, dtype=dtype, data=lambda rng, shape: draw(rng, shape, operand, dtype))


_SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -2.5, 1.5])


def draw(rng: np.random.Generator, shape: tuple[int, ...], operand: In, dtype: DType) -> np.ndarray:
    """The numbers of an operand (bf16 as bits)."""
    if operand.kind in ("ids", "few"):
        low = 0 if operand.kind == "few" else -operand.high
        return rng.integers(low, operand.high, shape).astype(dtype.numpy)
    if dtype is BOOL:
        return rng.random(shape) < 0.5
    if dtype.is_integer:
        low, high = {"positive": (1, 6), "ties": (-2, 3)}.get(operand.kind, (-8, 8) if dtype is I4 else (-9, 10))
        array = rng.integers(max(low, np.iinfo(dtype.numpy).min) if dtype is not U8 else 0, high, shape)
        return (np.sort(array, -1) if operand.kind == "sorted" else array).astype(dtype.numpy)
    x = rng.standard_normal(shape)
    if operand.kind == "positive":
        x = np.abs(x) + 0.1
    elif operand.kind == "unit":
        x = np.tanh(x) * 0.95
    elif operand.kind == "ties":
        x = np.round(x * 2) / 2
        x.reshape(-1)[::5] = _SPECIAL[rng.integers(0, _SPECIAL.size, x.reshape(-1)[::5].shape)]
    elif operand.kind == "sorted":
        x = np.sort(np.round(x * 4) / 4, -1)
    return float_to_bf16(x.astype(np.float32)) if dtype is BF16 else x.astype(dtype.numpy)


SAMPLES: list[Sample] = []


def sample(op: str, *operands: In | None, dtypes: tuple[DType, ...] = FLOATS, slack: float = 1.0, **attrs: Any) -> None:
    """Add a sample of an op."""
    SAMPLES.append(Sample(op, operands, attrs, dtypes, slack))


# -- element by element -------------------------------------------------------------------------------------------------
_RANGE = {**dict.fromkeys(("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "lgamma", "reciprocal"), "positive"),
          **dict.fromkeys(("asin", "acos", "atanh", "erfinv"), "unit")}  # fmt: skip
_OF_INTEGERS = {"neg", "abs", "sign", "relu", "square", "bitwise_not", "clamp", "logical_not", "add", "sub", "mul", "div",
                "floordiv", "mod", "fmod", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor",
                "bitwise_left_shift", "bitwise_right_shift", "logical_and", "logical_or", "logical_xor", "eq", "ne", "lt",
                "le", "gt", "ge"}  # fmt: skip
_OF_BOOLS = {"logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or",
             "bitwise_xor", "eq", "ne"}  # fmt: skip
_ATTRS: dict[str, list[dict[str, Any]]] = {
    "clamp": [{"min": -1, "max": 2}, {"min": 0}, {"max": 1}], "elu": [{"alpha": 1.5}], "leaky_relu": [{"slope": 0.2}],
    "softplus": [{"beta": 2.0, "threshold": 3.0}], "gelu": [{"approximate": a} for a in ("none", "tanh", "quick")],
}  # fmt: skip


def _elementwise(op: str) -> None:
    spec = schema(op)
    only_integers = op.startswith("bitwise")
    dtypes = (() if only_integers else FLOATS) + (INTEGERS if op in _OF_INTEGERS else ())
    dtypes += (BOOL,) if op in _OF_BOOLS else ()
    divides = op in ("div", "floordiv", "mod", "fmod")
    for attrs in _ATTRS.get(op, [{}]):
        if len(spec.inputs) == 1:
            sample(op, In((B, S, 7), _RANGE.get(op, "normal")), dtypes=dtypes, **attrs)
            continue
        second = "positive" if divides or "shift" in op or op == "pow" else "normal"
        first = "positive" if op == "pow" else "normal"
        sample(op, In((B, S, 7), first), In((B, S, 7), second), dtypes=dtypes, **attrs)
        sample(op, In((B, S, 7), first), In((7,), second), dtypes=dtypes[:1], **attrs)


for _op in OPS:
    if schema(_op).elementwise and _op not in ("cast", "where"):
        _elementwise(_op)
sample("acosh", In((B, 3), "positive", high=9))
sample("where", In((B, S, 7), dtype=BOOL), In((B, S, 7)), In((B, 1, 7)), dtypes=ANY)
for _to in (F64, F16, I16, I8, U8, BOOL, F32, I64):
    sample("cast", In((B, S, 7), "positive"), dtypes=(F32, BF16, I64, BOOL), dtype=_to)
sample("isnan", In((B, 9), "ties"))
sample("isinf", In((B, 9), "ties"))

# -- along axes ---------------------------------------------------------------------------------------------------------
for _op in REDUCTIONS:
    _dtypes = (BOOL,) if _op in ("reduce_any", "reduce_all") else FLOATS if _op == "reduce_mean" else NUMBERS
    _kind = "positive" if _op == "reduce_prod" else "normal"
    sample(_op, In((B, 3, 7), _kind), dtypes=_dtypes, axes=(2,), keepdim=True)
    sample(_op, In((B, 3, 7), _kind), dtypes=_dtypes[:1], axes=(1, -1))
    sample(_op, In((S, 5), _kind), dtypes=_dtypes[:1], axes=(1,))
for _op in ("argmax", "argmin"):
    sample(_op, In((B, 3, 7), "ties"), dtypes=NUMBERS, axis=-1)
    sample(_op, In((B, 5, 3), "ties"), dtypes=(F32,), axis=1, keepdim=True)
for _op in ("softmax", "log_softmax"):
    sample(_op, In((B, 3, 9)), axis=-1)
    sample(_op, In((B, 5, 3)), dtypes=(F32,), axis=1)
sample("layer_norm", In((B, 3, 9)), Const((9,)), Const((9,)), axes=1, eps=1e-5)
sample("layer_norm", In((B, 3, 9)), dtypes=(F32,), axes=2, eps=1e-5)
sample("rms_norm", In((B, 3, 9)), Const((9,)), eps=1e-6)
sample("group_norm", In((B, 6, 5)), Const((6,)), Const((6,)), groups=2, eps=1e-5, slack=2.0)
sample("batch_norm", In((B, 3, 5)), Const((3,)), Const((3,)), Const((3,)), Const((3,), "positive"), eps=1e-5, slack=4.0)

# -- order and place ----------------------------------------------------------------------------------------------------
for _op in SCANS:
    _dtypes = FLOATS if _op == "logcumsumexp" else NUMBERS
    _kind = "unit" if _op == "cumprod" else "normal"
    sample(_op, In((B, 3, 9), _kind), dtypes=_dtypes, axis=-1)
    sample(_op, In((B, S, 70), _kind), dtypes=_dtypes, axis=1)
    sample(_op, In((B, 5), "ties"), dtypes=(F32,), axis=0)
for _op in ("cummax", "cummin"):
    sample(_op, In((B, 3, 9), "ties"), dtypes=ANY, axis=-1)
    sample(_op, In((B, S, 70), "ties"), dtypes=(F32, I64), axis=1)
for _down in (False, True):
    sample(
        "sort", In((B, S), "ties"), dtypes=(F64, F32, BF16, F16, I64, I32, I16, I8, U8, BOOL), axis=-1, descending=_down
    )
    sample("sort", In((B, S, 3), "ties"), dtypes=(F32, I64), axis=1, descending=_down)
    sample("topk", In((B, 3, 40), "ties"), dtypes=NUMBERS, k=4, axis=-1, largest=_down)
    sample("topk", In((B, 40, 3), "ties"), dtypes=(F32,), k=11, axis=1, largest=_down)
    sample("searchsorted", In((7,), "sorted"), In((B, S), "ties"), dtypes=NUMBERS, right=_down)
    sample("searchsorted", In((B, 3, 6), "sorted"), In((B, 3, 8)), dtypes=(F32,), right=_down, dtype=I32)
for _reduce in SCATTER_REDUCTIONS:
    sample("scatter", In((B, 5, 6)), In((S,), "ids", I64, high=5), In((B, S, 6)), dtypes=ANY, axis=1, reduce=_reduce)
    sample(
        "put_along", In((B, 5, 6)), In((B, S, 6), "few", I64, high=5), In((B, S, 6)), dtypes=ANY, axis=1, reduce=_reduce
    )
    sample("put_along", In((B, 3, 5)), In((B, 2, S), "ids", I32, high=5), In((B, 2, S), "ties"), dtypes=(F32,), axis=-1,
           reduce=_reduce)  # fmt: skip
    sample(
        "scatter",
        In((4, B, 6)),
        In((2, 3), "ids", I64, high=4),
        In((2, 3, B, 6)),
        dtypes=(F32, I8),
        axis=0,
        reduce=_reduce,
    )

# -- products, windows, attention -----------------------------------------------------------------------------------------
sample("linear", In((B, 3, 9)), Const((5, 9)), Const((5,)))
sample("matmul", In((B, 3, 9)), In((B, 9, 5)), dtypes=(F32, BF16, I64))
sample("matmul", In((B, 3, 9)), In((9, 5)), dtypes=(F32,))
sample("qlinear", In((B, 3, 9), dtype=I8), In((B, 3, 1), "positive"), Const((5, 9), dtype=I8), Const((5,), "positive"),
       Const((5,)), dtypes=(F32,))  # fmt: skip
sample("qlinear", In((B, 3, 9), dtype=I8), Const((), "positive"), Const((5, 9), dtype=I8), Const((5,), "positive"),
       Const((5,)), Const((), dtype=I8), dtypes=(F32,))  # fmt: skip
sample("qconv", In((B, 4, 7, 6), dtype=I8), Const((), "positive"), Const((6, 2, 3, 3), dtype=I8), Const((6,), "positive"),
       Const((6,)), Const((), dtype=I8), dtypes=(F32,), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)  # fmt: skip
sample("qlinear", In((B, 3, 9), dtype=BF16), None, Const((5, 9), dtype=I8), Const((5,), "positive"), dtypes=(F32,))
sample(
    "qlinear",
    In((B, 64), dtype=BF16),
    None,
    Const((5, 64), dtype=I4),
    Const((5, 2), "positive"),
    Const((5,)),
    dtypes=(F32,),
)
sample("qlinear", In((B, 64), dtype=I8), In((B, 1), "positive"), Const((5, 64), dtype=I4), Const((5, 1), "positive", BF16),
       dtypes=(F32,))  # fmt: skip
_UNIT = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
sample("conv", In((B, 4, 7, 6)), Const((6, 4, 3, 3)), Const((6,)), **{**_UNIT, "padding": (1, 1), "stride": (2, 1)})
sample("conv", In((B, 4, 9)), Const((8, 1, 3)), dtypes=(F32,), stride=(1,), padding=(1,), dilation=(2,), groups=4)
sample("conv_transpose", In((B, 4, 5, 3)), Const((4, 3, 3, 3)), Const((6,)), dtypes=(F32,), output_padding=(0, 0), groups=2,
       **{**_UNIT, "stride": (2, 2)})  # fmt: skip
sample("fold", In((B, 4, 3, 24)), dtypes=(F32,), kernel=(3, 2), output_padding=(0, 0), **{**_UNIT, "stride": (2, 1)})
for _op in ("max_pool", "avg_pool"):
    sample(_op, In((B, 3, 7, 6)), kernel=(3, 2), stride=(2, 1), padding=(1, 0))
    _more = {"dilation": (2,)} if _op == "max_pool" else {"count_include_pad": False}
    sample(_op, In((B, 3, 9)), dtypes=(F32,), kernel=(3,), stride=(1,), padding=(1,), **_more)
sample("group_stats", In((B, 3, 5, 6)), Const((6,), dtype=F32), Const((6,), dtype=F32), groups=2, eps=1e-5, slack=2.0)
sample(
    "recurrent", In((S, B, 32)), Const((32, 8)), In((B, 8)), In((B, 8), "unit"), dtypes=(F32,), cell="lstm", slack=4.0
)
sample("recurrent", In((S, B, 24)), Const((24, 8)), In((B, 8)), None, Const((8,)), dtypes=(F32,), cell="gru", reverse=True,
       slack=4.0)  # fmt: skip
sample("attention", In((B, 2, 3, 8)), In((B, 2, 5, 8)), In((B, 2, 5, 8)), scale=0.3)
sample("rotary", In((B, 2, S, 8)), In((1, 1, S, 4), "unit"), In((1, 1, S, 4), "unit"))
sample("rotary", In((B, S, 3, 10)), In((S, 1, 3), "unit"), In((S, 1, 3), "unit"), interleaved=True)
sample("attention", In((B, 4, S, 8)), In((B, 2, S, 8)), In((B, 2, S, 8)), dtypes=(F32,), scale=0.3, causal=True)
sample("attention", In((B, 2, 3, 8)), In((B, 2, 5, 8)), In((B, 2, 5, 8)), In((B, 1, 3, 5), dtype=BOOL), dtypes=(F32,),
       scale=0.3, empty_row="zero")  # fmt: skip

# -- where elements lie and come from -------------------------------------------------------------------------------------
sample("embedding", Const((9, 6)), In((B, S), "few", I64, high=9), dtypes=(*FLOATS, I64))
sample("gather", In((B, 5, 6)), In((S,), "ids", I64, high=5), dtypes=ANY, axis=1)
sample("gather", In((B, 5)), In((2, 3), "ids", I32, high=5), dtypes=(F32,), axis=-1)
sample("take_along", In((B, 5, 6)), In((B, 2, 6), "few", I64, high=5), dtypes=ANY, axis=1)
sample("reshape", In((B, 4, 6)), dtypes=ANY, shape=(B, 24))
sample("transpose", In((B, S, 6)), dtypes=ANY, perm=(1, 2, 0))
sample("expand", In((B, 1, 6)), dtypes=ANY, shape=(2, B, 5, 6))
sample("concat", In((B, 4)), In((B, 3), "positive"), dtypes=ANY, axis=-1)
sample("slice", In((B, 9)), dtypes=ANY, axis=1, start=1, end=8, step=3)
sample("pad", In((B, 5)), dtypes=ANY, low=(1, 0), high=(0, 3), value=1)
sample("full", dtypes=ANY, value=1, shape=(B, 3), dtype="dtype")
sample("arange", dtypes=(F32, I64, I32), start=2, end=S * 3 + 2, step=3, dtype="dtype")
sample("quantize_dynamic", In((B, 3, 9)))
sample("quantize_tensor", In((B, 3, 9)), dtypes=(F32,))
sample("quantize", In((B, 3, 9)), Const((1,), "positive"), dtypes=(F32,), dtype=I8)
sample("quantize", In((B, 3, 9)), Const((1,), "positive"), Const((1,), "few", U8, high=200), dtypes=(F32,), dtype=U8)
sample("quantize", In((B, 3, 9)), Const((), "positive"), Const((), dtype=I8), dtypes=(F32,), dtype=I8, division=True)
sample("dequantize", In((B, 3, 9), dtype=I8), Const((9,), "positive"), dtypes=(F32,))
sample("dequantize", In((B, 3, 9), dtype=I8), In((B, 3, 3), "positive"), Const((1, 3, 3), dtype=I8), dtypes=(F32,))
sample("dequantize", In((B, 12), dtype=I8), In((B, 3), "positive"), Const((1, 2), dtype=I8), dtypes=(F32,))
sample("dequantize", Const((4, 12), dtype=I4), Const((4, 3), "positive"), dtypes=(F32,))

#: Ops whose samples are other ops: a constant is data, a fused node its region, and both are in every compiled graph.
STRUCTURE = frozenset({"constant", "fused"})


def fewer() -> list[Sample]:
    """Samples enough to build a kernel of every op: those of order in f32, bf16 and i64, others as they come first.

    Elementwise ops are left out: ``backends/cpu/test_elementwise.py`` goes through the vocabulary for them.
    """
    chosen: list[Sample] = []
    seen: set[str] = set()
    for one in SAMPLES:
        first = one.op not in seen
        seen.add(one.op)
        if schema(one.op).elementwise or not first:
            continue
        many = one.op in (*SCANS, "cummax", "cummin", "sort", "topk", "scatter", "put_along")
        kept = tuple(d for d in one.dtypes if d in (F32, BF16, I64)) if many else one.dtypes[:1]
        chosen.append(replace(one, dtypes=kept))
    return chosen + [s for s in SAMPLES if s.op == "put_along" and s.attrs["reduce"] != "none" and s.dtypes == (F32,)]


def packs(samples: Sequence[Sample] = SAMPLES, per_pack: int = 24) -> dict[str, tuple[Sketch, list[str], float]]:
    """Samples as sketches: elementwise ones that share their shapes stand in one, so that one kernel holds many.

    Returns:
        name -> (sketch, the op behind each output, how many times the usual tolerance is allowed).
    """
    groups: dict[tuple[Any, ...], list[Sample]] = {}
    for number, one in enumerate(samples):
        for dtype in one.dtypes:
            shapes = tuple(o.shape for o in one.operands if o is not None)
            pack = schema(one.op).elementwise
            groups.setdefault((dtype, *shapes) if pack else (dtype, number), []).append(one)
    result: dict[str, tuple[Sketch, list[str], float]] = {}
    for key, members in groups.items():
        for start in range(0, len(members), per_pack):
            part, sketch, inputs, labels = members[start : start + per_pack], Sketch(), dict[In, Value](), list[str]()
            outputs: list[Value] = []
            for one in part:
                values = one.write(sketch, key[0], inputs)
                outputs += values
                labels += [one.op] * len(values)
            if not sketch.graph.inputs:
                sketch.input(B, S, dtype=U8)  # what the sizes are read from
            sketch.output(*outputs)
            name = f"{part[0].op if len(part) == 1 else 'elementwise'}_{key[0]}_{len(result)}"
            result[name] = (sketch, labels, max(one.slack for one in part))
    return result
