"""Every elementwise op of the vocabulary on the CPU against the interpreter, in every element type that has it."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, Table
from graph_harness import B, S, Sketch

from planish.backends.cpu import isa
from planish.compiler.graph import Value
from planish.compiler.ops import BINARY, COMPARE, UNARY
from planish.compiler.types import DType, float_to_bf16

F32, F64, F16, BF16, I64, I32, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "bool"))
TABLE = Table()
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, 2.5, -2.5, 0.5, 3.5, 88.0, -104.0]
)
#: Ops of float operands alone.
REAL = tuple(n for n in UNARY if n not in ("logical_not", "bitwise_not"))
INTEGER = ("neg", "abs", "sign", "square", "relu", "bitwise_not", "clamp")
ATTRS: dict[str, dict] = {
    "clamp": {"min": -1, "max": 2},
    "elu": {"alpha": 1.5},
    "leaky_relu": {"slope": 0.2},
    "softplus": {"beta": 2.0},
}
POSITIVE = frozenset({"log", "log2", "sqrt", "rsqrt", "log1p"})
INTEGER_BINARY = tuple(op for op in BINARY if op not in ("atan2", "pow", "logical_and", "logical_or", "logical_xor"))
LOGIC = ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")


def special(dtype: DType, shift: int = 0):  # type: ignore[no-untyped-def]
    """Random numbers with every special value among them."""

    def data(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        array = (rng.standard_normal(shape) * 4).astype(np.float32)
        flat = array.reshape(-1)
        at = np.arange(0, flat.size, 3)
        flat[at] = SPECIAL.astype(np.float32)[(at // 3 + shift) % SPECIAL.size]
        return float_to_bf16(array) if dtype is BF16 else array.astype(dtype.numpy)

    return data


def positive(dtype: DType):  # type: ignore[no-untyped-def]
    def data(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        array = np.abs(rng.standard_normal(shape)).astype(np.float32) + 0.01
        return float_to_bf16(array) if dtype is BF16 else array.astype(dtype.numpy)

    return data


def attrs_of(op: str, dtype: DType) -> dict:
    attrs: dict = dict(ATTRS.get(op, {}))
    return {k: float(v) for k, v in attrs.items()} if dtype.is_float else attrs


for _op in REAL:
    for _dtype in (F64, BF16, F16):  # f32 with special values: see below
        if _dtype is not F64 and _op not in ("exp", "gelu", "reciprocal", "softplus", "rsqrt", "square"):
            continue

        @TABLE.each(**{f"{_op}_{_dtype}": (_op, _dtype)})
        def unary(g: Sketch, which: tuple[str, DType]) -> Value:
            op, dtype = which
            x = g.input(B, S, dtype=dtype, data=positive(dtype) if op in POSITIVE else None)
            return g(op, x, **attrs_of(op, dtype))


for _mode in ("tanh", "quick"):

    @TABLE.each(**{_mode: _mode})
    def gelu(g: Sketch, mode: str) -> Value:
        return g("gelu", g.input(B, S), approximate=mode)


for _op in REAL:

    @TABLE.each(**{_op: _op})
    def unary_special(g: Sketch, op: str) -> Value:
        if op in ("sin", "cos", "tan"):
            return g(op, g.input(B, S, data=lambda rng, shape: rng.uniform(-50, 50, shape).astype(np.float32)))
        if op == "gelu":  # PyTorch's own gives NaN at infinity, in f32 alone
            return g(op, g("clamp", g.input(B, S, data=special(F32)), min=-1e30, max=1e30))
        return g(op, g.input(B, S, data=special(F32)), **attrs_of(op, F32))


for _op in INTEGER:
    for _dtype in (I64, I32, DType.i8):

        @TABLE.each(**{f"{_op}_{_dtype}": (_op, _dtype)})
        def unary_int(g: Sketch, which: tuple[str, DType]) -> Value:
            op, dtype = which
            return g(op, g.input(B, S, dtype=dtype, low=-9, high=10), **attrs_of(op, dtype))


for _op in ("logical_not", "bitwise_not"):

    @TABLE.each(**{_op: _op})
    def unary_bool(g: Sketch, op: str) -> Value:
        return g(op, g.input(B, S, dtype=BOOL))


FLOAT_BINARY = tuple(op for op in BINARY if not op.startswith(("logical", "bitwise")))
for _op in FLOAT_BINARY:
    for _dtype in (F64, BF16, F16):
        if _dtype is not F64 and _op not in ("sub", "div", "mod"):
            continue

        @TABLE.each(**{f"{_op}_{_dtype}": (_op, _dtype)})
        def binary(g: Sketch, which: tuple[str, DType]) -> Value:
            op, dtype = which
            a = g.input(B, S, dtype=dtype, data=positive(dtype) if op == "pow" else None)
            return g(op, a, g.input(B, S, dtype=dtype))


for _op in (*FLOAT_BINARY, *COMPARE):

    @TABLE.each(**{_op: _op})
    def binary_special(g: Sketch, op: str) -> Value:
        return g(op, g.input(B, S, data=special(F32)), g.input(B, S, data=special(F32, 5)))


for _op in (*INTEGER_BINARY, *COMPARE):
    for _dtype in (I64, I32, DType.u8):
        if _dtype is not I64 and _op in COMPARE:
            continue

        @TABLE.each(**{f"{_op}_{_dtype}": (_op, _dtype)})
        def binary_int(g: Sketch, which: tuple[str, DType]) -> Value:
            op, dtype = which
            low, high = (0, 12) if dtype is DType.u8 else (-9, 10)

            def divisor(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
                array = rng.integers(1, 7, shape)
                return (array if dtype is DType.u8 else array * rng.choice([-1, 1], shape)).astype(dtype.numpy)

            b = g.input(B, S, dtype=dtype, data=divisor)
            return g(op, g.input(B, S, dtype=dtype, low=low, high=high), b)


for _op in (*LOGIC, *COMPARE):

    @TABLE.each(**{_op: _op})
    def binary_bool(g: Sketch, op: str) -> Value:
        return g(op, g.input(B, S, dtype=BOOL), g.input(B, S, dtype=BOOL))


@TABLE.each(square=2, cube=3, root=0.5, inverse=-1, rsqrt=-0.5, other=1.7, zero=0, one=1)
def power_of_constant(g: Sketch, exponent: float) -> Value:
    x = g.input(B, S, data=positive(F32))
    return g("pow", x, g.const(np.float32(exponent)))


@TABLE.case
def integer_power(g: Sketch) -> Value:
    return g("pow", g.input(B, S, dtype=I64), g.const(np.int64(3)))


@TABLE.each(row=(1, 7), column=(5, 1), lone=(1, 1), rank1=(7,), rank0=())
def broadcast_constant(g: Sketch, shape: tuple[int, ...]) -> Value:
    return g("add", g.input(B, 5, 7), g.random(*shape))


@TABLE.each(batch=(B, 1, 1), row=(1, S, 1), rank2=(S, 7), last=(7,), rank0=(), mixed=(B, 1, 7))
def broadcast_input(g: Sketch, shape: tuple) -> Value:
    return g("mul", g.input(B, S, 7), g.input(*shape))


@TABLE.case
def outer_product(g: Sketch) -> Value:
    return g("sub", g.input(B, 1), g.input(S))


@TABLE.case
def where_broadcast(g: Sketch) -> Value:
    return g("where", g.input(B, 1, S, dtype=BOOL), g.input(4, S), g.const(np.float32(-1.5)))


@TABLE.each(**{str(d): d for d in (F32, F64, BF16, F16, I64, I32, DType.i16, DType.i8, DType.u8, BOOL)})
def where_of(g: Sketch, dtype: DType) -> Value:
    return g("where", g.input(B, S, dtype=BOOL), g.input(B, S, dtype=dtype, low=0), g.input(B, S, dtype=dtype, low=0))


ALL = (F32, F64, BF16, F16, I64, I32, DType.i16, DType.i8, DType.u8, BOOL)


@TABLE.each(**{str(d): d for d in ALL})
def cast_from(g: Sketch, source: DType) -> list[Value]:
    def data(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        array = (rng.random(shape) * 100).astype(np.float32)
        array.reshape(-1)[::7] = 0
        return float_to_bf16(array) if source is BF16 else array.astype(source.numpy)

    x = g.input(B, S, dtype=source, data=data)
    return [g("cast", x, dtype=to) for to in ALL if to is not source]


@TABLE.case
def cast_of_special_values(g: Sketch) -> list[Value]:
    x = g.input(B, S, data=special(F32))
    return [g("cast", x, dtype=to) for to in (BOOL, F64, BF16, F16)]


@TABLE.case
def integers_wrap(g: Sketch) -> list[Value]:
    x = g.input(B, S, dtype=DType.i8, low=-128, high=128)
    y = g.input(B, S, dtype=I32, low=-(2**31), high=2**31)
    wide = g.input(B, S, dtype=I64, low=-(2**40), high=2**40)
    return [
        g("add", x, x), g("mul", x, x), g("neg", x), g("abs", x), g("mul", y, y), g("cast", wide, dtype=I32),
        g("cast", y, dtype=DType.i8), g("cast", y, dtype=DType.u8), g("cast", wide, dtype=DType.i16),
    ]  # fmt: skip


@TABLE.case
def narrow_integers_wrap_between_steps(g: Sketch) -> list[Value]:
    """i8 values are computed in i32: what overflows must wrap before the next step looks at it."""
    x = g.input(B, S, dtype=DType.i8, low=-128, high=128)
    u = g.input(B, S, dtype=DType.u8, low=0, high=256)
    doubled, squared = g("add", x, x), g("mul", u, u)
    return [
        g("gt", doubled, x), g("cast", doubled, dtype=I64), g("div", squared, g("maximum", u, g.const(3, DType.u8))),
        g("cast", g("sub", u, squared), dtype=F32), g("cast", g("bitwise_not", u), dtype=I32),
    ]  # fmt: skip


@TABLE.case
def bf16_rounds_between_steps(g: Sketch) -> list[Value]:
    x, y = g.input(B, S, dtype=BF16), g.input(B, S, dtype=BF16)
    total = g("add", g("mul", x, y), x)
    return [total, g("eq", g("add", x, y), g("add", y, x)), g("cast", g("exp", g("mul", x, y)), dtype=F32)]


@TABLE.case
def f16_rounds_between_steps(g: Sketch) -> list[Value]:
    x, y = g.input(B, S, dtype=F16), g.input(B, S, dtype=F16)
    return [g("cast", g("sub", g("mul", x, y), x), dtype=F32), g("cast", g("tanh", x), dtype=F32)]


@TABLE.case
def bool_arithmetic(g: Sketch) -> list[Value]:
    a, b = g.input(B, S, dtype=BOOL), g.input(B, S, dtype=BOOL)
    return [g("maximum", a, b), g("minimum", a, b), g("add", a, b), g("mul", a, b)]


@TABLE.case
def clamp_one_side(g: Sketch) -> list[Value]:
    x = g.input(B, S, data=special(F32))
    return [g("clamp", x, min=0.5), g("clamp", x, max=-0.5), g("clamp", x, min=2.0, max=-2.0)]


@TABLE.case
def a_long_chain(g: Sketch) -> Value:
    x = g.input(B, S, 9)
    y = x
    for op in ("tanh", "neg", "exp", "relu", "sigmoid", "erf", "square", "silu", "softplus", "gelu") * 6:
        y = g("add", g(op, y), x) if op == "exp" else g(op, y)
    return y


@pytest.mark.parametrize("name", TABLE.sketches)
def test_elementwise(name: str) -> None:
    TABLE.check(name, isa.detect(), slack=3.0 if "special" in name else 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_elementwise_at_lower_levels(level: str) -> None:
    TABLE.check_all(level, slack=3.0)
