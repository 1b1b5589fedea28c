"""Functions of one variable against values computed in float64, over the whole range of floats, on every ISA level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from kernel_harness import RUNNABLE, aligned, build_kernel

from planish.codegen.specs import Operand, RowProgram, Step

#: Every 2039th bit pattern (a prime, so that all low bits occur), and what is special.
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 88.72284,
     88.7229, -87.33655, -103.97, -104.1, 0.5, 1.5, 2.5, -0.5, -2.5, 8388607.5, 8388608.0, 0.625, 0.927734375, 9.0, 709.0],
    np.float32,
)  # fmt: skip
FLOATS = np.concatenate([np.arange(0, 2**32, 2039, dtype=np.uint64).astype(np.uint32).view(np.float32), SPECIAL])


def _torch(name: str) -> Callable[[np.ndarray], np.ndarray]:
    function = getattr(torch.special, name, None) or getattr(torch, name)
    return lambda x: function(torch.from_numpy(x)).numpy()


def _normal(x: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(x)).numpy()


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1.0) / (1 + np.exp(-np.abs(x)))


#: name -> (oracle in float64, largest error in units in the last place).
ACCURATE: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 2), "exp2": (np.exp2, 3), "expm1": (np.expm1, 3), "log": (np.log, 3), "log2": (np.log2, 3),
    "log10": (np.log10, 3), "log1p": (np.log1p, 3), "tanh": (np.tanh, 3), "sigmoid": (_sigmoid, 3),
    "erf": (_torch("erf"), 3), "sin": (np.sin, 3), "cos": (np.cos, 3),
    "tan": (np.tan, 2), "atan": (np.arctan, 2), "asin": (np.arcsin, 2), "acos": (np.arccos, 2), "sinh": (np.sinh, 3),
    "cosh": (np.cosh, 2), "asinh": (np.arcsinh, 2), "acosh": (np.arccosh, 2), "atanh": (np.arctanh, 2),
    "sqrt": (np.sqrt, 0.51), "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5), "reciprocal": (lambda x: 1 / x, 0.51),
    "floor": (np.floor, 0), "ceil": (np.ceil, 0), "round": (np.rint, 0), "trunc": (np.trunc, 0), "abs": (np.abs, 0),
    "neg": (np.negative, 0), "sign": (lambda x: np.nan_to_num(np.sign(x)), 0), "relu": (lambda x: np.where(x < 0, 0, x), 0),
    "square": (np.square, 0.51),
}  # fmt: skip
#: Functions whose error is bounded absolutely (a multiple of |x|): what cancels is not followed to the last place.
BOUNDED: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray], float]] = {
    "gelu_erf": ("gelu", "erf", lambda x: x * _normal(x), 3e-7),
    "gelu_tanh": ("gelu", "tanh", _gelu_tanh, 5e-7),
    "gelu_quick": ("gelu", "quick", lambda x: x * _sigmoid(1.702 * x), 5e-7),
    "silu": ("silu", "", lambda x: x * _sigmoid(x), 5e-7),
    "softplus": ("softplus", "", lambda x: np.logaddexp(x, 0), 3e-7),
    "mish": ("mish", "", lambda x: x * np.tanh(np.logaddexp(x, 0)), 1e-6),
}
FAST: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray], float]] = {
    "gelu_erf_fast": ("gelu", "erf,fast", lambda x: x * _normal(x), 1.9e-4),
    "gelu_tanh_fast": ("gelu", "tanh,fast", _gelu_tanh, 1.9e-4),
    "gelu_quick_fast": ("gelu", "quick,fast", lambda x: x * _sigmoid(1.702 * x), 1.9e-4),
    "sigmoid_fast": ("sigmoid", "fast", _sigmoid, 1.9e-4),
    "tanh_fast": ("tanh", "fast", np.tanh, 1.9e-4),
    "silu_fast": ("silu", "fast", lambda x: x * _sigmoid(x), 1.9e-4),
    "exp_fast": ("exp", "fast", np.exp, 1.9e-4),
}


def _program(steps: Mapping[str, tuple[str, str, tuple[float, ...]]]) -> RowProgram:
    """All the functions of x, one output each: one build per ISA level instead of one per function."""
    body = [Step("load", "x", (0,))]
    for number, (name, (op, mode, extra)) in enumerate(steps.items(), 1):
        body += [Step(op, name, ("x", *extra), mode=mode), Step("store", "", (number, name))]
    return RowProgram((Operand("f32"),) * (len(steps) + 1), tuple(body), outer_rank=0)


_EXTRA = {"softplus": (1.0, 20.0)}
_STEPS = {
    **{name: (name, "", ()) for name in ACCURATE},
    **{name: (op, mode, _EXTRA.get(op, ())) for name, (op, mode, _, _) in {**BOUNDED, **FAST}.items()},
}
PROGRAM = _program(_STEPS)
_results: dict[str, dict[str, np.ndarray]] = {}


def results(isa: str) -> dict[str, np.ndarray]:
    """Every function of every float, computed once per level."""
    if isa not in _results:
        outputs = {name: np.full(FLOATS.size, 77, np.float32) for name in _STEPS}
        build_kernel(PROGRAM, isa)([FLOATS, *outputs.values()], [FLOATS.size])
        _results[isa] = outputs
    return _results[isa]


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in units in the last place of float32 at ``want``; 0 where both are the same infinity or NaN."""
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32)
        unit = np.spacing(np.minimum(np.maximum(np.abs(rounded), np.float32(2.0**-126)), np.float32(3e38)))
        error = np.abs(got.astype(np.float64) - want) / unit.astype(np.float64)
        same = (got == rounded) | (np.isnan(got) & np.isnan(want))
        return np.where(same & ~np.isfinite(got), 0, np.where(np.isnan(error), np.inf, error))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("name", ACCURATE)
def test_within_units_in_the_last_place(name: str, isa: str) -> None:
    oracle, limit = ACCURATE[name]
    with np.errstate(all="ignore"):
        want = oracle(FLOATS.astype(np.float64))
    error = ulps(results(isa)[name], want)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({FLOATS[worst]!r}) = {results(isa)[name][worst]!r}, not {want[worst]!r}"
    assert np.unique(results(isa)[name]).size > 2


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("name", [*BOUNDED, *FAST])
def test_within_a_bound(name: str, isa: str) -> None:
    _, _, oracle, limit = {**BOUNDED, **FAST}[name]
    moderate = np.abs(FLOATS) < 80
    with np.errstate(all="ignore"):
        x, got = FLOATS[moderate], results(isa)[name][moderate]
        want = oracle(x.astype(np.float64))
    scale = np.abs(want) if name.startswith("exp") else np.maximum(1, np.abs(want))
    error = np.abs(got - want) / np.maximum(scale, 1e-37)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({x[worst]!r}) = {got[worst]!r}, not {want[worst]!r}"


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("name", [name for name in _STEPS if name != "sign"])  # PyTorch's sign of NaN is 0
def test_nan_comes_through(name: str, isa: str) -> None:
    assert np.isnan(results(isa)[name][np.isnan(FLOATS)]).all()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu_erf", torch.nn.functional.gelu),
        ("silu", torch.nn.functional.silu),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ],
)
def test_large_as_pytorch(name: str, function: Callable[[torch.Tensor], torch.Tensor], isa: str) -> None:
    at = np.flatnonzero(np.isin(FLOATS, np.array([709.0, 9.0], np.float32)))
    want = function(torch.from_numpy(FLOATS[at])).numpy()
    np.testing.assert_allclose(results(isa)[name][at], want, rtol=1e-6)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "gelu_quick", "gelu_erf_fast", "silu"])
def test_activations_at_infinity(name: str, isa: str) -> None:
    at = [int(np.flatnonzero(infinity == FLOATS)[0]) for infinity in (np.inf, -np.inf)]
    high, low = results(isa)[name][at]
    assert high == np.inf
    assert np.isnan(low)  # -inf * 0, as PyTorch has it


@pytest.mark.parametrize("isa", RUNNABLE)
def test_fast_gelu_vanishes_far_below_zero(isa: str) -> None:
    far = (FLOATS < -4) & (FLOATS > -1e4)
    assert np.abs(results(isa)["gelu_erf_fast"][far]).max() < 1.9e-4


@pytest.mark.parametrize("isa", RUNNABLE)
def test_one_scalar_per_row_takes_the_same_way(isa: str) -> None:
    names = [name for name in _STEPS if name not in ("sign",)]
    steps = [Step("load", "x", (0,))]
    for number, name in enumerate(names, 1):
        op, mode, extra = _STEPS[name]
        steps += [Step(op, name, ("x", *extra), mode=mode), Step("store", "", (number, name))]
    program = RowProgram((Operand("f32", "broadcast"),) * (len(names) + 1), tuple(steps))
    x = np.concatenate([SPECIAL, np.linspace(-9, 9, 37, dtype=np.float32)])
    outputs = [aligned(x.size, np.float32) for _ in names]
    build_kernel(program, isa)([x, *outputs], [x.size, 1, *([1] * (len(names) + 1))])
    lanes = [np.empty_like(x) for _ in _STEPS]
    build_kernel(PROGRAM, isa)([x, *lanes], [x.size])
    for name, got in zip(names, outputs, strict=True):
        np.testing.assert_array_equal(got, lanes[list(_STEPS).index(name)], err_msg=name)
