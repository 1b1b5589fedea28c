"""The vocabulary: for every op a versioned schema with attributes, type inference, cost and aliasing.

No torch here: types are inferred by the functions below. What an op *means* is in ``reference.py``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .dims import Dim, Expr, floordiv, product
from .errors import PassError
from .graph import Node, Value
from .types import DType, TensorType

REQUIRED = object()
Infer = Callable[[Node], Sequence[TensorType]]


@dataclass(frozen=True)
class Cost:
    """Arithmetic operations and the bytes that must move at least once."""

    flops: Dim
    bytes: Dim


@dataclass(frozen=True)
class OpSchema:
    """What is known about an op without running it.

    Attributes:
        name, version: identity; the version rises when the meaning changes and is recorded in every artifact.
        inputs: names of the operands; a trailing ``?`` marks one that may be absent, ``*`` any number.
        attributes: name -> default (``REQUIRED`` if there is none).
        infer: the output types.
        elementwise: output element i depends on element i of the broadcast operands alone.
        commutative: the two operands may be swapped.
        view: the output can share the storage of operand 0 (read by the memory planner alone).
        flops: operations per output element, or a function of the node.
        doc: one line.
    """

    name: str
    inputs: tuple[str, ...]
    infer: Infer
    attributes: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    elementwise: bool = False
    commutative: bool = False
    view: bool = False
    flops: int | Callable[[Node], Dim] = 0
    doc: str = ""


OPS: dict[str, OpSchema] = {}


def register(schema: OpSchema) -> OpSchema:
    """Add an op to the vocabulary.

    Raises:
        ValueError: the name is taken.
    """
    if schema.name in OPS:
        raise ValueError(f"op {schema.name!r} is registered twice")
    OPS[schema.name] = schema
    return schema


def schema(op: str) -> OpSchema:
    """The schema of ``op``.

    Raises:
        PassError: no such op; names the nearest.
    """
    try:
        return OPS[op]
    except KeyError:
        near = difflib.get_close_matches(op, OPS, 1)
        raise PassError(f"there is no op {op!r}", f"did you mean {near[0]!r}?" if near else None) from None


def normalise(op: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the schema's order with defaults filled in, lists as tuples.

    Raises:
        PassError: an attribute is unknown or a required one is missing.
    """
    spec = schema(op)
    for name in attrs:
        if name not in spec.attributes:
            near = difflib.get_close_matches(name, spec.attributes, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(spec.attributes) or 'none'}"
            raise PassError(f"op {op!r} has no attribute {name!r}", hint)
    complete = {}
    for name, default in spec.attributes.items():
        value = attrs.get(name, default)
        if value is REQUIRED:
            raise PassError(f"op {op!r} needs the attribute {name!r}")
        complete[name] = tuple(value) if isinstance(value, list) else value
    return complete


def infer(node: Node) -> Sequence[TensorType]:
    """Output types of ``node``.

    Raises:
        PassError: the operands do not fit the op.
    """
    spec = schema(node.op)
    required = max((i + 1 for i, n in enumerate(spec.inputs) if not n.endswith(("?", "*"))), default=0)
    most = math.inf if any(n.endswith("*") for n in spec.inputs) else len(spec.inputs)
    present = len(node.inputs)
    if not required <= present <= most:
        raise PassError(f"{node.op} takes {', '.join(spec.inputs) or 'no operands'}, not {present} operands")
    for name, value in zip(spec.inputs, node.inputs, strict=False):
        if value is None and not name.endswith(("?", "*")):
            raise PassError(f"{node.op}: operand {name!r} is missing")
    return spec.infer(node)


def cost(node: Node) -> Cost:
    """Operations and bytes of ``node``; a fused region moves only what crosses its border."""
    read = sum((_bytes_read(node, v, i) for i, v in enumerate(node.inputs) if v is not None), start=0)
    moved = read + sum((v.type.bytes for v in node.outputs), start=0)
    if node.op == "fused":
        return Cost(sum((cost(n).flops for n in node.regions[0].nodes), start=0), moved)
    flops = schema(node.op).flops
    total = flops(node) if callable(flops) else node.outputs[0].type.elements * flops
    return Cost(total, 0 if schema(node.op).view or node.op == "constant" else moved)


def _bytes_read(node: Node, value: Value, number: int) -> Dim:
    """Bytes that ``node`` reads of its operand: of a table that is looked up in, the rows alone."""
    if node.op == "fused":
        body = node.regions[0]
        inner = body.inputs[number]
        readers = inner.users
        if inner not in body.outputs and readers and all(_looks_up(r, inner) for r in readers):
            return sum((r.output.type.bytes for r in readers), start=0)
    elif _looks_up(node, value):
        return node.output.type.bytes
    return value.type.bytes


def _looks_up(node: Node, value: Value) -> bool:
    return (
        node.op in ("embedding", "gather", "take_along") and node.inputs[0] is value and node.inputs.count(value) == 1
    )


# -- inference helpers ----------------------------------------------------------------------------------------------------
def _fail(node: Node, why: str) -> PassError:
    where = f" at {node.name}" if node.name else ""
    return PassError(f"{node.op}{where}: {why}")


def broadcast(node: Node, shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape that ``shapes`` broadcast to, as numpy does it; symbolic sizes must be provably equal or 1."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        size: Dim = 1
        for shape in shapes:
            at = axis - (rank - len(shape))
            if at < 0 or shape[at] == 1 or shape[at] == size:
                continue
            if size != 1:
                raise _fail(node, f"shapes {' and '.join(str(s) for s in shapes)} do not broadcast")
            size = shape[at]
        result.append(size)
    return tuple(result)


def _type(value: Value | None) -> TensorType:
    assert value is not None
    return value.type


def _same_dtype(node: Node, values: Sequence[Value | None]) -> DType:
    dtypes = {_type(v).dtype for v in values if v is not None}
    if len(dtypes) != 1:
        raise _fail(node, f"operands have different element types: {', '.join(sorted(dtypes))}")
    return dtypes.pop()


def _elementwise(node: Node) -> list[TensorType]:
    dtype = _same_dtype(node, node.inputs)
    return [TensorType(dtype, broadcast(node, [v.shape for v in node.operands]))]


def _compare(node: Node) -> list[TensorType]:
    return [_elementwise(node)[0].with_dtype(DType.bool)]


def _where(node: Node) -> list[TensorType]:
    if _type(node.inputs[0]).dtype is not DType.bool:
        raise _fail(node, "the condition must be bool")
    dtype = _same_dtype(node, node.inputs[1:])
    return [TensorType(dtype, broadcast(node, [v.shape for v in node.operands]))]


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis.

    Raises:
        PassError: out of range.
    """
    if not -rank <= axis < max(rank, 1):
        raise PassError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def _reduce(dtype: DType | None = None) -> Infer:
    def infer_reduce(node: Node) -> list[TensorType]:
        x = _type(node.inputs[0])
        axes = {axis_of(a, x.rank) for a in node.attrs["axes"]}
        shape = [1 if i in axes else d for i, d in enumerate(x.shape) if i not in axes or node.attrs["keepdim"]]
        return [TensorType(dtype or x.dtype, tuple(shape))]

    return infer_reduce


def _arg_reduce(node: Node) -> list[TensorType]:
    x = _type(node.inputs[0])
    axis = axis_of(node.attrs["axis"], x.rank)
    shape = [1 if i == axis else d for i, d in enumerate(x.shape) if i != axis or node.attrs["keepdim"]]
    return [TensorType(DType.i64, tuple(shape))]


def _like(node: Node) -> list[TensorType]:
    return [TensorType(_type(node.inputs[0]).dtype, _type(node.inputs[0]).shape)]


def _linear(node: Node) -> list[TensorType]:
    x, w = _type(node.inputs[0]), _type(node.inputs[1])
    if w.rank != 2 or x.rank < 1 or x.shape[-1] != w.shape[1]:
        raise _fail(node, f"x {x} does not fit the weight {w} (its shape is [out, in])")
    _same_dtype(node, node.inputs[:2])
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].shape != (w.shape[0],):
        raise _fail(node, f"the bias {node.inputs[2].type} does not fit the weight {w}")
    return [TensorType(node.attrs["out_dtype"] or x.dtype, (*x.shape[:-1], w.shape[0]))]


def _qlinear(node: Node) -> list[TensorType]:
    x, w = _type(node.inputs[0]), _type(node.inputs[2])
    if x.dtype is not DType.i8 or w.dtype is not DType.i8 or x.shape[-1] != w.shape[1]:
        raise _fail(node, f"x {x} and w {w} must be i8 with equal last dimensions")
    return [TensorType(DType.f32, (*x.shape[:-1], w.shape[0]))]


def _matmul(node: Node) -> list[TensorType]:
    a, b = _type(node.inputs[0]), _type(node.inputs[1])
    if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise _fail(node, f"{a} and {b} cannot be multiplied")
    batch = broadcast(node, [a.shape[:-2], b.shape[:-2]])
    dtype = _same_dtype(node, node.inputs)
    return [TensorType(node.attrs["out_dtype"] or dtype, (*batch, a.shape[-2], b.shape[-1]))]


def conv_output(size: Dim, kernel: Dim, stride: int, padding: int, dilation: int) -> Dim:
    """Output size of a convolution or pooling along one axis."""
    return floordiv(size + 2 * padding - dilation * (kernel - 1) - 1, stride) + 1


def _conv(node: Node) -> list[TensorType]:
    x, w = _type(node.inputs[0]), _type(node.inputs[1])
    spatial = x.rank - 2
    if w.rank != x.rank or spatial < 1:
        raise _fail(node, f"x {x} and w {w} must have the same rank of at least 3")
    if x.shape[1] != w.shape[1] * node.attrs["groups"]:
        raise _fail(node, f"x {x} has not {w.shape[1]} x {node.attrs['groups']} channels")
    sizes = [
        conv_output(x.shape[2 + i], w.shape[2 + i], *(node.attrs[a][i] for a in ("stride", "padding", "dilation")))
        for i in range(spatial)
    ]
    return [TensorType(node.attrs["out_dtype"] or x.dtype, (x.shape[0], w.shape[0], *sizes))]


def _attention(node: Node) -> list[TensorType]:
    q, k, v = (_type(i) for i in node.inputs[:3])
    if not q.rank == k.rank == v.rank == 4 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise _fail(node, f"q {q}, k {k} and v {v} do not fit ([batch, heads, sequence, head_dim])")
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads != kv_heads and (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads):
        raise _fail(node, f"{heads} query heads are no multiple of {kv_heads} key heads")
    _same_dtype(node, node.inputs[:3])
    return [TensorType(node.attrs["out_dtype"] or q.dtype, (*q.shape[:-1], v.shape[-1]))]


def _embedding(node: Node) -> list[TensorType]:
    table, ids = _type(node.inputs[0]), _type(node.inputs[1])
    if not ids.dtype.is_integer:
        raise _fail(node, f"the ids must be integers, not {ids.dtype}")
    return [TensorType(table.dtype, (*ids.shape, *table.shape[1:]))]


def _gather(node: Node) -> list[TensorType]:
    x, ids = _type(node.inputs[0]), _type(node.inputs[1])
    axis = axis_of(node.attrs["axis"], x.rank)
    return [TensorType(x.dtype, (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]))]


def _take_along(node: Node) -> list[TensorType]:
    x, ids = _type(node.inputs[0]), _type(node.inputs[1])
    if x.rank != ids.rank:
        raise _fail(node, f"{x} and the indices {ids} differ in rank")
    return [TensorType(x.dtype, ids.shape)]


def _reshape(node: Node) -> list[TensorType]:
    x, shape = _type(node.inputs[0]), node.attrs["shape"]
    if product(shape) != x.elements:
        raise _fail(node, f"{x} cannot be seen as [{', '.join(map(str, shape))}]")
    return [TensorType(x.dtype, tuple(shape))]


def _transpose(node: Node) -> list[TensorType]:
    x, perm = _type(node.inputs[0]), node.attrs["perm"]
    if sorted(perm) != list(range(x.rank)):
        raise _fail(node, f"{perm} is no permutation of the axes of {x}")
    return [TensorType(x.dtype, tuple(x.shape[p] for p in perm))]


def _expand(node: Node) -> list[TensorType]:
    x, shape = _type(node.inputs[0]), tuple(node.attrs["shape"])
    if broadcast(node, [x.shape, shape]) != shape:
        raise _fail(node, f"{x} does not expand to {shape}")
    return [TensorType(x.dtype, shape)]


def _concat(node: Node) -> list[TensorType]:
    types = [v.type for v in node.operands]
    dtype, first = _same_dtype(node, node.inputs), types[0]
    axis = axis_of(node.attrs["axis"], first.rank)
    for t in types[1:]:
        if t.rank != first.rank or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != axis
        ):
            raise _fail(node, f"{first} and {t} do not join along axis {axis}")
    total: Dim = sum((t.shape[axis] for t in types), start=0)
    return [TensorType(dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))]


def _slice(node: Node) -> list[TensorType]:
    x, step = _type(node.inputs[0]), node.attrs["step"]
    axis = axis_of(node.attrs["axis"], x.rank)
    length = node.attrs["end"] - node.attrs["start"]
    if step != 1:
        length = floordiv(length + step - 1, step)
    return [TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :]))]


def _pad(node: Node) -> list[TensorType]:
    x, low, high = _type(node.inputs[0]), node.attrs["low"], node.attrs["high"]
    return [TensorType(x.dtype, tuple(d + a + b for d, a, b in zip(x.shape, low, high, strict=True)))]


def _cumsum(node: Node) -> list[TensorType]:
    return _like(node)


def _constant(node: Node) -> list[TensorType]:
    return [TensorType(node.attrs["dtype"], tuple(node.attrs["shape"]))]


def _full(node: Node) -> list[TensorType]:
    return [TensorType(node.attrs["dtype"], tuple(node.attrs["shape"]))]


def _arange(node: Node) -> list[TensorType]:
    start, end, step = (node.attrs[k] for k in ("start", "end", "step"))
    length: Dim
    if all(isinstance(v, (int, Expr)) for v in (start, end, step)):
        if isinstance(step, int) and step < 0:
            length = floordiv(start - end - step - 1, -step)
        else:
            length = floordiv(end - start + step - 1, step)
        length = max(length, 0) if isinstance(length, int) else length
    else:
        length = max(0, math.ceil((end - start) / step))
    return [TensorType(node.attrs["dtype"], (length,))]


def _quantize_dynamic(node: Node) -> list[TensorType]:
    x = _type(node.inputs[0])
    return [TensorType(DType.i8, x.shape), TensorType(DType.f32, (*x.shape[:-1], 1))]


def _quantize(node: Node) -> list[TensorType]:
    return [TensorType(node.attrs["dtype"], _type(node.inputs[0]).shape)]


def _dequantize(node: Node) -> list[TensorType]:
    return [TensorType(DType.f32, broadcast(node, [v.shape for v in node.operands]))]


def _pool(node: Node) -> list[TensorType]:
    x = _type(node.inputs[0])
    kernel, stride, padding = (node.attrs[k] for k in ("kernel", "stride", "padding"))
    dilation = node.attrs.get("dilation") or (1,) * len(kernel)
    sizes = [conv_output(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(len(kernel))]
    return [TensorType(x.dtype, (*x.shape[:2], *sizes))]


def _fused(node: Node) -> list[TensorType]:
    (body,) = node.regions
    for outer, inner in zip(node.inputs, body.inputs, strict=True):
        if outer is None or outer.type != inner.type:
            raise _fail(node, f"the operand {outer} does not fit the region's {inner}")
    return [v.type for v in body.outputs]


def _matmul_flops(node: Node) -> Dim:
    return 2 * node.output.type.elements * _type(node.inputs[0]).shape[-1]


def _conv_flops(node: Node) -> Dim:
    return 2 * node.output.type.elements * product(_type(node.inputs[1]).shape[1:])


def _attention_flops(node: Node) -> Dim:
    q, k, v = (_type(i) for i in node.inputs[:3])
    pairs = product(q.shape[:3]) * k.shape[2]
    return 2 * pairs * q.shape[3] + 2 * pairs * v.shape[3]


# -- the vocabulary -------------------------------------------------------------------------------------------------------
UNARY = {
    "neg": {}, "abs": {}, "sign": {}, "relu": {}, "floor": {}, "ceil": {}, "round": {}, "trunc": {}, "square": {},
    "exp": {}, "exp2": {}, "expm1": {}, "log": {}, "log2": {}, "log1p": {}, "sqrt": {}, "rsqrt": {}, "reciprocal": {},
    "sin": {}, "cos": {}, "tan": {}, "atan": {}, "sinh": {}, "cosh": {}, "tanh": {}, "sigmoid": {}, "erf": {}, "silu": {},
    "gelu": {"approximate": "none"}, "softplus": {"beta": 1.0, "threshold": 20.0}, "elu": {"alpha": 1.0},
    "leaky_relu": {"slope": 0.01}, "hardswish": {}, "hardsigmoid": {}, "mish": {}, "logical_not": {}, "bitwise_not": {},
    "clamp": {"min": None, "max": None},
}  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "floordiv", "mod", "fmod", "pow", "atan2", "maximum", "minimum",
          "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")  # fmt: skip
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor",
                         "bitwise_and", "bitwise_or", "bitwise_xor"})  # fmt: skip
REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all")


def _define() -> None:
    def op(name: str, inputs: str, infer: Infer, doc: str, **options: Any) -> None:
        attributes = options.pop("attrs", {})
        register(OpSchema(name, tuple(inputs.split()), infer, attributes, doc=doc, **options))

    for name, attrs in UNARY.items():
        op(name, "x", _elementwise, f"elementwise {name}", attrs=attrs, elementwise=True, flops=1)
    for name in ("isnan", "isinf"):
        op(name, "x", _compare, f"elementwise {name}", elementwise=True, flops=1)
    for name in (*BINARY, *COMPARE):
        infer_ = _compare if name in COMPARE else _elementwise
        op(name, "a b", infer_, f"elementwise {name} with broadcasting", elementwise=True, flops=1,
           commutative=name in COMMUTATIVE)  # fmt: skip
    op("where", "condition a b", _where, "a where the condition holds, else b", elementwise=True, flops=1)
    op("cast", "x", lambda n: [_type(n.inputs[0]).with_dtype(n.attrs["dtype"])], "convert the element type",
       attrs={"dtype": REQUIRED}, elementwise=True)  # fmt: skip

    for name in REDUCTIONS:
        op(name, "x", _reduce(), f"{name[7:]} over axes", attrs={"axes": REQUIRED, "keepdim": False},
           flops=lambda n: _type(n.inputs[0]).elements)  # fmt: skip
    for name in ("argmax", "argmin"):
        op(name, "x", _arg_reduce, f"index of the {name[3:]} along an axis", attrs={"axis": REQUIRED, "keepdim": False})
    op("cumsum", "x", _cumsum, "running sum along an axis", attrs={"axis": REQUIRED}, flops=1)
    op("softmax", "x", _like, "softmax along an axis", attrs={"axis": -1}, flops=5)
    op("log_softmax", "x", _like, "log of softmax along an axis", attrs={"axis": -1}, flops=5)
    op("layer_norm", "x weight? bias?", _like, "layer normalisation over the last `axes` axes (Ba et al. 2016)",
       attrs={"axes": 1, "eps": 1e-5}, flops=8)  # fmt: skip
    op("rms_norm", "x weight?", _like, "root mean square normalisation over the last axis (Zhang & Sennrich 2019)",
       attrs={"eps": 1e-6}, flops=5)  # fmt: skip
    op("group_norm", "x weight? bias?", _like, "group normalisation over channels (Wu & He 2018)",
       attrs={"groups": REQUIRED, "eps": 1e-5}, flops=8)  # fmt: skip
    op("batch_norm", "x weight? bias? mean var", _like, "batch normalisation with running statistics",
       attrs={"eps": 1e-5}, flops=4)  # fmt: skip

    op("linear", "x weight bias?", _linear, "x @ weight.T + bias; bf16 operands accumulate in f32",
       attrs={"out_dtype": None}, flops=_matmul_flops)  # fmt: skip
    op("qlinear", "x x_scale weight weight_scale bias?", _qlinear,
       "int8 linear: float(int32 sum) * (x_scale * weight_scale) + bias", flops=_matmul_flops)  # fmt: skip
    op("matmul", "a b", _matmul, "batched matrix product", attrs={"out_dtype": None}, flops=_matmul_flops)
    op("conv", "x weight bias?", _conv, "convolution, channels second",
       attrs={"stride": REQUIRED, "padding": REQUIRED, "dilation": REQUIRED, "groups": 1, "out_dtype": None},
       flops=_conv_flops)  # fmt: skip
    for name in ("max_pool", "avg_pool"):
        op(name, "x", _pool, f"{name} over windows",
           attrs={"kernel": REQUIRED, "stride": REQUIRED, "padding": REQUIRED,
                  **({"dilation": None} if name == "max_pool" else {"count_include_pad": True})})  # fmt: skip
    op("attention", "q k v mask?", _attention,
       "softmax(scale q k^T + mask) v; a bool mask says where to attend, a float mask is added; `causal`: query i sees "
       "keys j <= i + causal_offset; fewer key heads than query heads are shared in groups; a row whose scores are all "
       "-inf gives what `empty_row` says, nan or zero",
       attrs={"scale": REQUIRED, "causal": False, "causal_offset": 0, "empty_row": "nan", "out_dtype": None},
       flops=_attention_flops)  # fmt: skip

    op("embedding", "table ids", _embedding, "rows of the table")
    op("gather", "x ids", _gather, "slices of x along an axis at the ids", attrs={"axis": REQUIRED})
    op("take_along", "x ids", _take_along, "elements of x along an axis, one id each", attrs={"axis": REQUIRED})
    op("reshape", "x", _reshape, "the same elements in another shape", attrs={"shape": REQUIRED}, view=True)
    op("transpose", "x", _transpose, "axes in another order", attrs={"perm": REQUIRED})
    op("expand", "x", _expand, "broadcast to a shape", attrs={"shape": REQUIRED})
    op("concat", "x*", _concat, "join along an axis", attrs={"axis": REQUIRED})
    op("slice", "x", _slice, "start:end:step along an axis (0 <= start <= end <= size, step >= 1)",
       attrs={"axis": REQUIRED, "start": 0, "end": REQUIRED, "step": 1})  # fmt: skip
    op("pad", "x", _pad, "pad with a value; negative amounts crop",
       attrs={"low": REQUIRED, "high": REQUIRED, "value": 0.0})  # fmt: skip
    op("constant", "", _constant, "data of the graph", attrs={"ref": REQUIRED, "dtype": REQUIRED, "shape": REQUIRED})
    op("full", "", _full, "one value everywhere; the value may be a dimension",
       attrs={"value": REQUIRED, "shape": REQUIRED, "dtype": REQUIRED})  # fmt: skip
    op("arange", "", _arange, "start, start + step, ... below end",
       attrs={"start": 0, "end": REQUIRED, "step": 1, "dtype": DType.i64})  # fmt: skip

    op("quantize_dynamic", "x", _quantize_dynamic,
       "int8 per row of the last axis: scale = amax / 127, q = clamp(round(x * (127 / amax)), -127, 127)",
       flops=4)  # fmt: skip
    op("quantize", "x scale zero_point?", _quantize, "clamp(round(x / scale) + zero_point)", attrs={"dtype": DType.i8},
       flops=3)  # fmt: skip
    op("dequantize", "q scale zero_point?", _dequantize, "(q - zero_point) * scale in f32", flops=2)
    op("fused", "x*", _fused, "one kernel: runs its region")


_define()


def is_elementwise(node: Node) -> bool:
    """Whether the op of ``node`` works element by element."""
    return schema(node.op).elementwise
