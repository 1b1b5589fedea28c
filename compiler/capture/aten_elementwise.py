"""ATen ops that work element by element, with torch's type promotion spelt out as casts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..dims import Expr
from ..graph import Value
from ..ops import COMPARE
from ..types import DType
from .lowering import Lowering, Scalar, aten
from .scalars import exactly, low_precision
from .symbols import Unsupported
from .weights import DTYPE_TO_TORCH, dtype_of

Operand = Value | Scalar


# -- unary ----------------------------------------------------------------------------------------------------------------
def _unary(op: str, b: Lowering, self: Value) -> Value:
    return b.emit(op, b.cast(self, b.out_dtype))


for _name in ("neg", "abs", "sign", "relu", "floor", "ceil", "trunc", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
              "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
              "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma", "silu", "hardswish", "hardsigmoid", "mish",
              "square"):  # fmt: skip
    aten(_name)(partial(_unary, _name))
aten("fix")(partial(_unary, "trunc"))


@aten("round", "round.decimals")
def _round(b: Lowering, self: Value, decimals: int = 0) -> Value:
    if not decimals:
        return b.emit("round", self)
    if not self.dtype.is_float:
        raise Unsupported("rounding integers to decimals is not supported")
    power = b.scalar(10.0 ** abs(decimals), self.dtype)
    first, second = ("mul", "div") if decimals > 0 else ("div", "mul")
    return b.emit(second, b.emit("round", b.emit(first, self, power)), power)


@aten("isnan", "isinf")
def _is(b: Lowering, self: Value) -> Value:
    op = b.op
    if not self.dtype.is_float:
        return b.expand(b.scalar(False, DType.bool), self.shape)
    return b.emit(op, self)


@aten("isfinite")
def _isfinite(b: Lowering, self: Value) -> Value:
    if not self.dtype.is_float:
        return b.expand(b.scalar(True, DType.bool), self.shape)
    return b.emit("logical_not", b.emit("logical_or", b.emit("isnan", self), b.emit("isinf", self)))


@aten("logical_not")
def _logical_not(b: Lowering, self: Value) -> Value:
    return b.emit("logical_not", as_bool(b, self))


@aten("bitwise_not")
def _bitwise_not(b: Lowering, self: Value) -> Value:
    return b.emit("logical_not" if self.dtype is DType.bool else "bitwise_not", self)


@aten("gelu")
def _gelu(b: Lowering, self: Value, approximate: str) -> Value:
    return b.emit("gelu", self, approximate=approximate)


@aten("softplus")
def _softplus(b: Lowering, self: Value, beta: float, threshold: float) -> Value:
    return b.emit("softplus", self, beta=float(beta), threshold=float(threshold))


@aten("elu")
def _elu(b: Lowering, self: Value, alpha: float, scale: float, input_scale: float) -> Value:
    if input_scale != 1:  # for negative numbers alone
        curve = b.emit("expm1", b.emit("mul", self, b.scalar(float(input_scale), self.dtype)))
        negative = b.emit("mul", curve, b.scalar(float(alpha), self.dtype))
        result = b.emit("where", b.emit("gt", self, b.scalar(0.0, self.dtype)), self, negative)
    else:
        result = b.emit("elu", self, alpha=float(alpha))
    return result if scale == 1 else b.emit("mul", result, b.scalar(float(scale), result.dtype))


@aten("selu")
def _selu(b: Lowering, self: Value) -> Value:
    result = b.emit("elu", self, alpha=1.6732632423543772)
    return b.emit("mul", result, b.scalar(1.0507009873554805, result.dtype))


@aten("celu")
def _celu(b: Lowering, self: Value, alpha: float) -> Value:
    negative = b.emit("minimum", self, b.scalar(0.0, self.dtype))
    curve = b.emit("expm1", b.emit("div", negative, b.scalar(float(alpha), self.dtype)))
    return b.emit("add", b.emit("relu", self), b.emit("mul", curve, b.scalar(float(alpha), self.dtype)))


@aten("leaky_relu")
def _leaky_relu(b: Lowering, self: Value, negative_slope: float) -> Value:
    return b.emit("leaky_relu", self, slope=float(negative_slope))


@aten("prelu", "_prelu_kernel")
def _prelu(b: Lowering, self: Value, weight: Value) -> Value:
    slope = weight
    if weight.type.rank == 1 and self.type.rank > 1:
        slope = b.reshape(weight, (1, weight.shape[0], *(1 for _ in range(self.type.rank - 2))))
    positive = b.emit("gt", self, b.scalar(0.0, self.dtype))
    return b.emit("where", positive, self, b.emit("mul", self, slope))


@aten("rrelu", "rrelu_with_noise")
def _rrelu(
    b: Lowering, self: Value, lower: Scalar, upper: Scalar, training: bool = False, noise: Value | None = None
) -> Value:
    if training:
        raise Unsupported("it draws random numbers (export the model in eval mode)")
    return b.emit("leaky_relu", self, slope=(float(lower) + float(upper)) / 2)  # type: ignore[arg-type]


@aten("relu6")
def _relu6(b: Lowering, self: Value) -> Value:
    return b.emit("clamp", self, min=0.0, max=6.0)


@aten("hardtanh")
def _hardtanh(b: Lowering, self: Value, min_val: float, max_val: float) -> Value:
    return clamp_to(b, self, min_val, max_val)


@aten("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(b: Lowering, self: Value) -> Any:
    result = b.emit("neg", b.emit("softplus", b.emit("neg", self), threshold=1e9))
    return [result, None] if "forward" in b.op else result


@aten("softsign")
def _softsign(b: Lowering, self: Value) -> Value:
    return b.emit("div", self, b.emit("add", b.emit("abs", self), b.scalar(1.0, self.dtype)))


@aten("rsub.Scalar", "rsub.Tensor")
def _rsub(b: Lowering, self: Value, other: Operand, alpha: Scalar) -> Value:
    return arithmetic(b, "sub", other, self if alpha == 1 else arithmetic(b, "mul", self, alpha))


# -- binary ---------------------------------------------------------------------------------------------------------------
def arithmetic(b: Lowering, op: str, a: Operand, c: Operand) -> Value:
    """A binary op in the element type of the result; numbers that bf16 or f16 cannot hold are kept in float32."""
    dtype = b.out_dtype
    wide = low_precision(dtype) and any(
        isinstance(x, float) and x == x and abs(x) != float("inf") and not exactly(x, dtype) for x in (a, c)
    )
    compute = DType.f32 if wide else dtype
    return b.cast(b.emit(op, b.operand(a, compute), b.operand(c, compute)), dtype)


@aten("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar")
def _add(b: Lowering, self: Operand, other: Operand, alpha: Scalar) -> Value:
    op = b.op
    if alpha != 1:
        plain = isinstance(other, (int, float)) and isinstance(alpha, (int, float))
        other = other * alpha if plain else arithmetic(b, "mul", other, alpha)  # type: ignore[operator, arg-type]
    if b.out_dtype is DType.bool:
        op = "logical_or"
    return arithmetic(b, op, self, other)


@aten("mul.Tensor", "mul.Scalar")
def _mul(b: Lowering, self: Operand, other: Operand) -> Value:
    return arithmetic(b, "logical_and" if b.out_dtype is DType.bool else "mul", self, other)


@aten("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode", "true_divide.Tensor")
def _div(b: Lowering, self: Operand, other: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return arithmetic(b, "div", self, other)
    if rounding_mode == "floor":
        return arithmetic(b, "floordiv", self, other)
    if b.out_dtype.is_float:
        return b.emit("trunc", arithmetic(b, "div", self, other))
    whole = arithmetic(b, "sub", self, arithmetic(b, "fmod", self, other))
    return arithmetic(b, "floordiv", whole, other)


aten("floor_divide", "floor_divide.Scalar")(lambda b, self, other: arithmetic(b, "floordiv", self, other))
aten("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")(
    lambda b, self, other: arithmetic(b, "mod", self, other)
)
aten("fmod.Tensor", "fmod.Scalar")(lambda b, self, other: arithmetic(b, "fmod", self, other))
aten("atan2", "arctan2")(lambda b, self, other: arithmetic(b, "atan2", self, other))
aten("maximum", "max.other")(lambda b, self, other: arithmetic(b, "maximum", self, other))
aten("minimum", "min.other")(lambda b, self, other: arithmetic(b, "minimum", self, other))


@aten("pow.Tensor_Tensor", "pow.Scalar")
def _pow(b: Lowering, self: Operand, exponent: Operand) -> Value:
    return arithmetic(b, "pow", self, exponent)


@aten("pow.Tensor_Scalar")
def _pow_scalar(b: Lowering, self: Value, exponent: Scalar) -> Value:
    x = b.cast(self, b.out_dtype)
    if isinstance(exponent, (int, float)):
        if exponent == 1:
            return x
        if exponent == 2:
            return b.emit("square", x)
        if exponent == 3:
            return b.emit("mul", b.emit("square", x), x)
        if x.dtype.is_float and exponent in (0.5, -0.5, -1):
            return b.emit({0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}[exponent], x)
    return arithmetic(b, "pow", x, exponent)


def _shift(op: str, b: Lowering, self: Operand, other: Operand) -> Value:
    if b.out_dtype.is_float:
        raise Unsupported("shifts of real numbers are not supported")
    return arithmetic(b, op, self, other)


for _name, _stem in (("bitwise_left_shift", "__lshift__"), ("bitwise_right_shift", "__rshift__")):
    aten(f"{_name}.Tensor", f"{_name}.Tensor_Scalar", f"{_name}.Scalar_Tensor", f"{_stem}.Scalar", f"{_stem}.Tensor")(
        partial(_shift, _name)
    )


@aten("hypot")
def _hypot(b: Lowering, self: Value, other: Value) -> Value:
    """The larger one times a root near 1, which cannot overflow; an infinity wins over a NaN."""
    x, y = b.emit("abs", b.operand(self, b.out_dtype)), b.emit("abs", b.operand(other, b.out_dtype))
    large, small = b.emit("maximum", x, y), b.emit("minimum", x, y)
    ratio = b.emit("square", b.emit("div", small, large))
    length = b.emit("mul", large, b.emit("sqrt", b.emit("add", ratio, b.scalar(1.0, x.dtype))))
    length = b.emit("where", b.emit("eq", large, b.scalar(0.0, x.dtype)), large, length)
    infinite = b.emit("logical_or", b.emit("isinf", x), b.emit("isinf", y))
    return b.emit("where", infinite, b.scalar(float("inf"), x.dtype), length)


def signbit(b: Lowering, x: Value) -> Value:
    """Whether a number, -0 included, is negative (a NaN is not)."""
    zero = b.scalar(0, x.dtype)
    if not x.dtype.is_float:
        return b.emit("lt", x, zero)
    return b.emit("logical_or", b.emit("lt", x, zero), b.emit("lt", b.emit("reciprocal", x), zero))


@aten("signbit")
def _signbit(b: Lowering, self: Value) -> Value:
    return signbit(b, self) if self.dtype is not DType.bool else b.expand(b.scalar(False, DType.bool), self.shape)


@aten("copysign.Tensor", "copysign.Scalar")
def _copysign(b: Lowering, self: Value, other: Operand) -> Value:
    size = b.emit("abs", b.cast(self, b.out_dtype))
    return b.emit("where", signbit(b, b.operand(other, b.out_dtype)), b.emit("neg", size), size)


@aten("fmax", "fmin")
def _without_nan(b: Lowering, self: Value, other: Value) -> Value:
    """The larger or smaller of two, where a NaN is ignored unless both are one."""
    x, y = b.operand(self, b.out_dtype), b.operand(other, b.out_dtype)
    result = b.emit("maximum" if b.op == "fmax" else "minimum", x, y)
    if not x.dtype.is_float:
        return result
    return b.emit("where", b.emit("isnan", x), y, b.emit("where", b.emit("isnan", y), x, result))


@aten("ldexp.Tensor")
def _ldexp(b: Lowering, self: Value, other: Value) -> Value:
    return b.emit("mul", b.cast(self, b.out_dtype), b.emit("exp2", b.cast(other, b.out_dtype)))


def common_dtype(b: Lowering, a: Operand, c: Operand) -> DType:
    """The element type in which torch compares two operands."""

    def stand_in(x: Operand) -> Any:
        if not isinstance(x, Value):
            return 1 if isinstance(x, Expr) else x
        return torch.empty((1,) * min(x.type.rank, 1), dtype=DTYPE_TO_TORCH[x.dtype])

    return dtype_of(torch.result_type(stand_in(a), stand_in(c)))


def _compare(op: str, b: Lowering, self: Value, other: Operand) -> Value:
    dtype = common_dtype(b, self, other)
    if low_precision(dtype) and isinstance(other, float):
        dtype = DType.f32
    return b.emit(op, b.operand(self, dtype), b.operand(other, dtype))


for _name in COMPARE:
    aten(f"{_name}.Tensor", f"{_name}.Scalar")(partial(_compare, _name))


def as_bool(b: Lowering, x: Value) -> Value:
    """Whether each element is non-zero."""
    return b.cast(x, DType.bool)


def _logical(op: str, b: Lowering, self: Value, other: Value) -> Value:
    return b.emit(op, as_bool(b, self), as_bool(b, other))


def _bitwise(op: str, b: Lowering, self: Operand, other: Operand) -> Value:
    return arithmetic(b, f"{'logical' if b.out_dtype is DType.bool else 'bitwise'}_{op}", self, other)


for _name in ("and", "or", "xor"):
    aten(f"logical_{_name}")(partial(_logical, f"logical_{_name}"))
    aten(*(f"{stem}.{kind}" for stem in (f"bitwise_{_name}", f"__{_name}__") for kind in ("Tensor", "Scalar")))(
        partial(_bitwise, _name)
    )


# -- selection ------------------------------------------------------------------------------------------------------------
@aten("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def _where(b: Lowering, condition: Value, self: Operand, other: Operand) -> Value:
    dtype = b.out_dtype
    return b.emit("where", as_bool(b, condition), b.operand(self, dtype), b.operand(other, dtype))


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(b: Lowering, self: Value, mask: Value, value: Operand) -> Value:
    return b.emit("where", as_bool(b, mask), b.operand(value, self.dtype), self)


def clamp_to(b: Lowering, x: Value, low: Operand | None, high: Operand | None) -> Value:
    """``x`` between two bounds, each a number, a tensor or absent."""
    x = b.cast(x, b.out_dtype)
    if any(isinstance(v, (Value, Expr)) for v in (low, high)):
        if low is not None:
            x = b.emit("maximum", x, b.operand(low, x.dtype))
        return x if high is None else b.emit("minimum", x, b.operand(high, x.dtype))
    if x.dtype is DType.u8:  # torch reads -3 as 253 there
        low, high = (v % 256 if isinstance(v, int) and v < 0 else v for v in (low, high))
    return b.emit("clamp", x, min=low, max=high)


@aten("clamp", "clamp.Tensor", "clip", "clip.Tensor")
def _clamp(b: Lowering, self: Value, min: Operand | None, max: Operand | None) -> Value:
    return clamp_to(b, self, min, max)


aten("clamp_min", "clamp_min.Tensor")(lambda b, self, min: clamp_to(b, self, min, None))
aten("clamp_max", "clamp_max.Tensor")(lambda b, self, max: clamp_to(b, self, None, max))


@aten("lerp.Scalar", "lerp.Tensor")
def _lerp(b: Lowering, self: Value, end: Value, weight: Operand) -> Value:
    step = b.emit("mul", b.emit("sub", end, self), b.operand(weight, self.dtype))
    return b.emit("add", self, step)


@aten("addcmul", "addcdiv")
def _addc(b: Lowering, self: Value, tensor1: Value, tensor2: Value, value: Scalar) -> Value:
    op = "mul" if "addcmul" in b.op else "div"
    term = b.emit(op, b.operand(tensor1, b.out_dtype), b.operand(tensor2, b.out_dtype))
    return arithmetic(b, "add", self, term if value == 1 else arithmetic(b, "mul", term, value))


# -- what changes nothing, or the type alone ------------------------------------------------------------------------------
@aten("alias", "clone", "contiguous", "detach", "detach_", "lift", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj",
      "resolve_neg", "_conj", "conj", "view_as_real_copy", "real")  # fmt: skip
def _same(b: Lowering, self: Value) -> Value:
    return self


@aten("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def _dropout(b: Lowering, input: Value, p: float, train: bool | None) -> Any:
    if train and p > 0:
        raise Unsupported("it draws random numbers (export the model in eval mode)")
    return [input, None] if "native" in b.op else input


@aten("to.dtype", "to.dtype_layout", "to.device", "to.other", "to.prim_Device", "_to_copy", "type_as", "view.dtype")
def _to(b: Lowering, self: Value, **_: Any) -> Value:
    if "view" in b.op and self.dtype is not b.out_dtype:
        raise Unsupported("reading the bits as another element type is not supported")
    return b.cast(self, b.out_dtype)
