"""Elementwise steps in every domain against the IR's reference, on every ISA level: lanes, scalars of a row, constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_harness import RUNNABLE, build_kernels
from row_programs import Steps

from planish.codegen.specs import Domain, Operand, RowProgram
from planish.compiler.ops import BINARY, COMPARE
from planish.compiler.reference import REFERENCE

_NUMPY = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "bool": np.bool_}
_DOMAINS: tuple[Domain, ...] = ("f32", "f64", "i32", "i64", "bool")
_LOGIC = [op for op in BINARY if op.startswith("logical")]
_BITWISE = [op for op in BINARY if op.startswith("bitwise")]
_UNARY = {
    "f": ("neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc", "square", "sqrt", "rsqrt", "reciprocal", "exp",
          "expm1", "exp2", "log", "log2", "log1p", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf",
          "log10", "asin", "acos", "asinh", "acosh", "atanh", "erfc", "erfinv", "lgamma", "silu", "hardswish",
          "hardsigmoid", "mish", "isnan", "isinf", "logical_not"),
    "i": ("neg", "abs", "sign", "relu", "floor", "round", "square", "bitwise_not", "logical_not", "isnan"),
    "b": ("logical_not", "bitwise_not"),
}  # fmt: skip


def _binary_ops(domain: Domain) -> list[str]:
    if domain == "bool":
        whole = [op for op in _BITWISE if not op.endswith("shift")]
        return ["add", "mul", "maximum", "minimum", *_LOGIC, *whole, *COMPARE]
    arithmetic = [op for op in BINARY if op not in _BITWISE and not (op == "atan2" and domain[0] == "i")]
    return [*arithmetic, *(_BITWISE if domain[0] == "i" else ()), *COMPARE]


def _result(op: str, domain: Domain) -> Domain:
    return "bool" if op in COMPARE or op in _LOGIC or op.startswith("is") or op == "logical_not" else domain


def _program(domain: Domain, second: str) -> tuple[RowProgram, list[str]]:
    """Every op of a domain in one kernel. ``second`` is how the second operand moves: unit or broadcast."""
    s, outputs = Steps(), list[tuple[str, str]]()
    a, b = s("load", 0, domain=domain), s("load", 1, domain=domain)
    outputs += [(op, s(op, a, b, domain=_result(op, domain))) for op in _binary_ops(domain)]
    outputs.append(("where", s("where", s("gt", a, b, domain="bool"), a, b, domain=domain)))
    if second == "unit":
        outputs += [(op, s(op, a, domain=_result(op, domain))) for op in _UNARY[domain[0]]]
    operands = [Operand(domain), Operand(domain, second)]  # type: ignore[arg-type]
    for op, name in outputs:
        s.store(len(operands), name)
        operands.append(Operand(_result(op, domain)))
    return RowProgram(tuple(operands), tuple(s.steps), 1), [op for op, _ in outputs]


_PROGRAMS = {(domain, second): _program(domain, second) for domain in _DOMAINS for second in ("unit", "broadcast")}


def _values(domain: Domain, seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if domain == "bool":
        return rng.integers(0, 2, n).astype(bool)
    if domain[0] == "i":
        return rng.integers(-9, 10, n).astype(_NUMPY[domain])
    x: np.ndarray = (rng.normal(size=n) * 4).astype(_NUMPY[domain])
    x[rng.random(n) < 0.15] = rng.choice([0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan])
    return x


def _reference(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    if op == "where":
        return torch.where(x > y, x, y).numpy()
    if op in _UNARY["f"] or op in _UNARY["i"]:
        return REFERENCE[op]({}, x).numpy()  # type: ignore[union-attr]
    return REFERENCE[op]({}, x, y).numpy()  # type: ignore[union-attr]


@pytest.mark.parametrize("second", ["unit", "broadcast"])
@pytest.mark.parametrize("domain", _DOMAINS)
@pytest.mark.parametrize("isa", RUNNABLE)
def test_every_op(isa: str, domain: Domain, second: str) -> None:
    keys = list(_PROGRAMS)
    kernel = build_kernels(tuple(p for p, _ in _PROGRAMS.values()), isa)[keys.index((domain, second))]
    ops = _PROGRAMS[domain, second][1]
    rows, n = 6, 37
    a = np.stack([_values(domain, row, n) for row in range(rows)])
    b = np.stack([_values(domain, row + 50, n) for row in range(rows)])
    if domain[0] == "i":
        b[b == 0] = 3  # PyTorch refuses to divide integers by zero, and to raise them to negative powers
    b = b[:, :1].copy() if second == "broadcast" else b
    wide = np.broadcast_to(b, a.shape).copy()
    outputs: list[np.ndarray] = [np.zeros((rows, n), _NUMPY[_result(op, domain)]) for op in ops]
    kernel([a, b, *outputs], [rows, n, n, 1 if second == "broadcast" else n, *([n] * len(ops))])
    for op, got in zip(ops, outputs, strict=True):
        if op == "pow" and domain[0] == "i":
            inside = wide >= 0
            np.testing.assert_array_equal(got[inside], _reference(op, a, np.abs(wide))[inside], err_msg=op)
            continue
        want = _reference(op, a, wide)
        if domain[0] == "f" and got.dtype != bool:
            tolerance = 2e-6 if domain == "f32" else 1e-13
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance / 10, err_msg=op)
        else:
            np.testing.assert_array_equal(got, want, err_msg=op)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_constants_attributes_and_positions(isa: str) -> None:
    s = Steps()
    x = s("load", 0)
    i = s("inner", domain="i64")
    values = [
        s("pow", x, 2.0), s("pow", x, 0.5), s("pow", x, -1), s("pow", x, 3), s("clamp", x, -1.0, float("inf")),
        s("leaky_relu", x, 0.01), s("elu", x, 1.5), s("softplus", x, 2.0, 20.0), s("add", x, float("-inf")),
        s("where", s("le", i, s("outer", 0, domain="i64"), domain="bool"), x, float("-inf")),
        s("cast", s("add", s("mul", i, s("dim", 0, domain="i64"), domain="i64"), s("length", domain="i64"), domain="i64")),
        s("cast", x, mode="bf16"), s("cast", s("cast", x, domain="i32", mode="u8")),
    ]  # fmt: skip
    for number, value in enumerate(values, 1):
        s.store(number, value)
    program = RowProgram((Operand("f32"),) * (len(values) + 1), tuple(s.steps), 1, extra_dims=1)
    (kernel,) = build_kernels((program,), isa)
    rows, n = 5, 21
    data = np.abs(np.random.default_rng(0).normal(size=(rows, n)) * 3).astype(np.float32)
    data[:, ::2] *= np.where(np.arange(rows) % 2, -1, 1)[:, None]
    outs = [np.zeros((rows, n), np.float32) for _ in values]
    kernel([data, *outs], [rows, n, *([n] * (len(values) + 1)), 7])
    t = torch.from_numpy(data)
    column, row = np.arange(n)[None], np.arange(rows)[:, None]
    wants = [
        t**2, t.sqrt(), 1 / t, t**3, t.clamp(min=-1.0), torch.nn.functional.leaky_relu(t), torch.nn.functional.elu(t, 1.5),
        torch.nn.functional.softplus(t, 2.0), t - torch.inf, np.where(column <= row, data, -np.inf),
        np.broadcast_to(column * 7.0 + n, (rows, n)), t.bfloat16().float(), t.to(torch.int32).to(torch.uint8).float(),
    ]  # fmt: skip
    for got, want in zip(outs, wants, strict=True):
        np.testing.assert_allclose(got, np.asarray(want), rtol=1e-6)
