"""The vocabulary, what carries the work: matrix products, attention, and int8 around them."""

from __future__ import annotations

from .dims import Dim, product
from .graph import Node
from .ops_schema import REQUIRED, broadcast, define, fail, same_dtype, type_of
from .ops_spatial import CONV_ATTRIBUTES, convolved
from .types import DType, TensorType


def _linear(node: Node) -> list[TensorType]:
    x, w = type_of(node.inputs[0]), type_of(node.inputs[1])
    if w.rank != 2 or x.rank < 1 or x.shape[-1] != w.shape[1]:
        raise fail(node, f"x {x} does not fit the weight {w} (its shape is [out, in])")
    same_dtype(node, node.inputs[:2])
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].shape != (w.shape[0],):
        raise fail(node, f"the bias {node.inputs[2].type} does not fit the weight {w}")
    return [TensorType(node.attrs["out_dtype"] or x.dtype, (*x.shape[:-1], w.shape[0]))]


def _qlinear(node: Node) -> list[TensorType]:
    x, w = type_of(node.inputs[0]), type_of(node.inputs[2])
    x_scale = None if node.inputs[1] is None else node.inputs[1].type
    if (
        x.dtype is not (DType.bf16 if x_scale is None else DType.i8)
        or w.dtype not in (DType.i8, DType.i4)
        or w.rank != 2
    ):
        raise fail(node, f"x {x} must be i8 with a scale or bf16 without one, and w {w} a matrix of i8 or i4")
    if x.shape[-1] != w.shape[1]:
        raise fail(node, f"x {x} and w {w} differ in their last dimension")
    one = x_scale is not None and not x_scale.rank and w.dtype is DType.i8
    if x_scale is not None and not one and x_scale.shape != (*x.shape[:-1], 1):
        raise fail(
            node, f"the scale {x_scale} of x is neither one number (with i8 weights) nor one for each row of {x}"
        )
    if w.dtype is DType.i4:
        _check_groups(node, w)
    _check_one_zero(node, 5)
    if len(node.inputs) > 5 and node.inputs[5] is not None and (x_scale is None or w.dtype is DType.i4):
        raise fail(node, "x has a zero point only where x and w are i8")
    return [TensorType(DType.f32, (*x.shape[:-1], w.shape[0]))]


def _check_groups(node: Node, w: TensorType) -> None:
    """The scales of an i4 weight are one for each output and group of inputs."""
    scales = type_of(node.inputs[3])
    fits = scales.rank == 2 and scales.shape[0] == w.shape[0] and scales.dtype in (DType.f32, DType.bf16)
    if not fits or (scales.shape[1] != 1 and scale_group(w, scales) is None):
        raise fail(node, f"the scales {scales} of w {w} are not f32 or bf16, one for each output and group of inputs")


def _check_one_zero(node: Node, number: int) -> None:
    """A zero point of x, operand ``number``, is one int8 number."""
    zero = node.inputs[number] if len(node.inputs) > number else None
    if zero is not None and (zero.dtype is not DType.i8 or product(zero.shape) != 1):
        raise fail(node, f"the zero point {zero.type} of x must be one i8 number")


def _qconv(node: Node) -> list[TensorType]:
    x, w = type_of(node.inputs[0]), type_of(node.inputs[2])
    if x.dtype is not DType.i8 or w.dtype is not DType.i8:
        raise fail(node, f"x {x} and w {w} must be i8")
    if type_of(node.inputs[1]).rank:
        raise fail(node, f"the scale {type_of(node.inputs[1])} of x is more than one number")
    _check_one_zero(node, 5)
    return [TensorType(DType.f32, convolved(node, x, w))]


def _matmul(node: Node) -> list[TensorType]:
    a, b = type_of(node.inputs[0]), type_of(node.inputs[1])
    if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise fail(node, f"{a} and {b} cannot be multiplied")
    batch = broadcast(node, [a.shape[:-2], b.shape[:-2]])
    dtype = same_dtype(node, node.inputs)
    return [TensorType(node.attrs["out_dtype"] or dtype, (*batch, a.shape[-2], b.shape[-1]))]


def _attention(node: Node) -> list[TensorType]:
    q, k, v = (type_of(i) for i in node.inputs[:3])
    if not q.rank == k.rank == v.rank == 4 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise fail(node, f"q {q}, k {k} and v {v} do not fit ([batch, heads, sequence, head_dim])")
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads != kv_heads and (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads):
        raise fail(node, f"{heads} query heads are no multiple of {kv_heads} key heads")
    same_dtype(node, node.inputs[:3])
    return [TensorType(node.attrs["out_dtype"] or q.dtype, (*q.shape[:-1], v.shape[-1]))]


def _rotary(node: Node) -> list[TensorType]:
    x, cos, sin = (type_of(v) for v in node.inputs)
    same_dtype(node, node.inputs)
    if cos.shape != sin.shape or not cos.rank or not x.rank:
        raise fail(node, f"the tables {cos} and {sin} differ in shape")
    turned, width = cos.shape[-1], x.shape[-1]
    if not isinstance(turned, int) or not isinstance(width, int) or 2 * turned > width:
        raise fail(node, f"tables {cos} turn more elements than {x} has")
    if broadcast(node, [x.shape[:-1], cos.shape[:-1]]) != x.shape[:-1]:
        raise fail(node, f"the tables {cos} do not broadcast to {x}")
    return [x]


def _quantize_dynamic(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    return [TensorType(DType.i8, x.shape), TensorType(DType.f32, (*x.shape[:-1], 1))]


def _quantize_tensor(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    return [TensorType(DType.u8, x.shape), TensorType(DType.f32, ()), TensorType(DType.u8, ())]


def _quantize(node: Node) -> list[TensorType]:
    if node.attrs["dtype"] not in (DType.i8, DType.u8, DType.i16):
        raise fail(node, f"it cannot quantise to {node.attrs['dtype']}; it has i8, u8 and i16")
    return [TensorType(node.attrs["dtype"], type_of(node.inputs[0]).shape)]


def scale_group(q: TensorType, scale: TensorType) -> int | None:
    """How many neighbours along the last axis share an element of ``scale``, where it has one for each group; None where
    ``scale`` broadcasts to ``q`` as numpy does it."""
    if not q.rank or q.rank != scale.rank:
        return None
    length, groups = q.shape[-1], scale.shape[-1]
    if not isinstance(length, int) or not isinstance(groups, int) or groups in (0, 1, length) or length % groups:
        return None
    return length // groups


def _dequantize(node: Node) -> list[TensorType]:
    q = type_of(node.inputs[0])
    shapes = [q.shape]
    for value in node.operands[1:]:
        grouped = scale_group(q, value.type) is not None
        shapes.append((*value.shape[:-1], q.shape[-1]) if grouped else value.shape)
    return [TensorType(DType.f32, broadcast(node, shapes))]


def _matmul_flops(node: Node) -> Dim:
    return 2 * node.output.type.elements * type_of(node.inputs[0]).shape[-1]


def _attention_flops(node: Node) -> Dim:
    q, k, v = (type_of(i) for i in node.inputs[:3])
    pairs = product(q.shape[:3]) * k.shape[2]
    return 2 * pairs * q.shape[3] + 2 * pairs * v.shape[3]


define(
    "linear",
    "x weight bias?",
    _linear,
    "x @ weight.T + bias; bf16 operands accumulate in f32",
    attrs={"out_dtype": None},
    flops=_matmul_flops,
)
define(
    "qlinear",
    "x x_scale? weight weight_scale bias? x_zero?",
    _qlinear,
    "linear on integer weights. i8 x, i8 weight: float(int32 sum of (x - x_zero) weight) * (x_scale * weight_scale) + bias; "
    "x_scale is one for each row, or without axes one for all. bf16 x (no x_scale), i8 weight: f32 sum * weight_scale + bias. "
    "i4 weight, weight_scale [out, groups]: the sum over the groups of inputs, in order, of (f32 or int32 sum of the group) * "
    "weight_scale, times x_scale of i8 x, + bias",
    version=3,
    flops=_matmul_flops,
)
define(
    "qconv",
    "x x_scale weight weight_scale bias? x_zero?",
    _qconv,
    "int8 convolution: float(int32 sum of (x - x_zero) weight) * (x_scale * weight_scale) + bias; one x_scale, a weight_scale "
    "for each output channel; what lies outside of x counts as x_zero",
    attrs=CONV_ATTRIBUTES,
    flops=lambda node: 2 * node.output.type.elements * product(type_of(node.inputs[2]).shape[1:]),
)
define("matmul", "a b", _matmul, "batched matrix product", attrs={"out_dtype": None}, flops=_matmul_flops)
define(
    "attention",
    "q k v mask?",
    _attention,
    "softmax(scale q k^T + mask) v; a bool mask says where to attend, a float mask is added; `causal`: query i sees "
    "keys j <= i + causal_offset; fewer key heads than query heads are shared in groups; a row whose scores are all "
    "-inf gives what `empty_row` says: nan, zero, or the mean of all values",
    attrs={"scale": REQUIRED, "causal": False, "causal_offset": 0, "empty_row": "nan", "out_dtype": None},
    flops=_attention_flops,
)


define(
    "rotary",
    "x cos sin",
    _rotary,
    "rotary position embedding (Su et al. 2021): (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin), where x1 and x2 are the "
    "halves, or if `interleaved` the even and odd elements, of the first 2 n elements of the last axis, n the length of the "
    "tables; what lies behind them passes through",
    attrs={"interleaved": False},
    flops=3,
)

define(
    "quantize_dynamic",
    "x",
    _quantize_dynamic,
    "int8 per row of the last axis: scale = amax / 127, q = clamp(round(x * (127 / amax)), -127, 127)",
    flops=4,
)
define(
    "quantize_tensor",
    "x",
    _quantize_tensor,
    "u8 for all of x, as ONNX's DynamicQuantizeLinear: over the range low .. high of x and 0, scale = (high - low) / 255 (1 if "
    "it is 0), zero = round(clamp(-low / scale, 0, 255)), q = clamp(round(x / scale) + zero, 0, 255); x is finite",
    flops=4,
)
define(
    "quantize",
    "x scale zero_point?",
    _quantize,
    "clamp(round(x * (1 / scale)) + zero_point), in f32, halves to even; `division`: x / scale, as ONNX has it, which now and "
    "then rounds to the neighbour; i8 without a zero point is at least -127; NaN gives the zero point",
    attrs={"dtype": DType.i8, "division": False},
    version=2,
    elementwise=True,
    flops=3,
)
define(
    "dequantize",
    "q scale zero_point?",
    _dequantize,
    "(q - zero_point) * scale in f32; a scale (or zero point) whose last axis is n times shorter than that of q serves n "
    "neighbours each",
    version=2,
    flops=2,
)
