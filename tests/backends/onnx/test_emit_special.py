"""What is hard about element-wise ops: infinities, NaN, signs of zero, huge and tiny numbers, integers that wrap around."""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import Sketch, near
from onnx_harness import Session

from planish.compiler.interpret import interpret
from planish.compiler.ops import BINARY, COMPARE, UNARY
from planish.compiler.types import DType

F32, F64, I32, I8, U8, I64, I16 = (DType(n) for n in ("f32", "f64", "i32", "i8", "u8", "i64", "i16"))
_SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5, 3.0, 1e-30, -1e-30, 1e-4, -3e-3, 0.25, 7.75,
            -6.5, 20.5, -19.75, 88.0, -87.0, 1e4, -1e9, 3e18, 0.999999, -0.999999, 1.000001]  # fmt: skip
_OF_INTEGERS = ("bitwise_not",)
#: Where f32 keeps no digits: arguments of circular functions beyond 2^20, and what lies at the edge of the range of exp.
_LARGE = {"sin", "cos", "tan"}


#: Where ONNX Runtime's kernel is right to so much of the tolerance of a number of this size: its sigmoid ends at -18, its elu
#: is exp(x) - 1. The logarithm of the gamma function has zeros at 1 and 2.
_FLOOR = {"sigmoid": 0.02, "silu": 0.02, "elu": 0.05, "lgamma": 1.0}


def compare(sketch: Sketch, inputs: dict[str, np.ndarray], slack: float = 1.0, floor: float = 0.0) -> None:
    session = Session(sketch.graph)
    want, got = interpret(sketch.graph, inputs), session(inputs)
    for value, a, b in zip(sketch.graph.outputs, want, got, strict=True):
        # one element at a time: a huge one would hide what is wrong with the rest
        for at in np.ndindex(a.shape):
            why = near(a[at].reshape(()), b[at].reshape(()), value.dtype, slack, floor=floor)
            given = [
                i.reshape(-1)[np.ravel_multi_index(at, a.shape)] if i.shape == a.shape else i for i in inputs.values()
            ]
            assert why is None, f"{value.name} of {given}: {why}"


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("op", [op for op in UNARY if op not in _OF_INTEGERS] + ["isnan", "isinf"])
def test_unary(op: str, dtype: DType) -> None:
    numbers = [n for n in _SPECIAL if not (op in _LARGE and abs(n) > 1e5 and np.isfinite(n))]
    sketch = Sketch()
    x = sketch.input(len(numbers), dtype=dtype)
    attrs = {"min": -0.75, "max": 2.0} if op == "clamp" else {}
    sketch.output(sketch(op, x, **attrs))
    if op == "gelu":  # torch gives NaN or infinity there, by the width of its vectors
        numbers = [0.0 if np.isinf(n) else n for n in numbers]
    compare(sketch, {"x0": np.array(numbers, dtype.numpy)}, slack=2.0, floor=_FLOOR.get(op, 0.0))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("op", [op for op in (*BINARY, *COMPARE) if not op.startswith("bitwise")])
def test_binary(op: str, dtype: DType) -> None:
    a, b = (g.reshape(-1) for g in np.meshgrid(np.array(_SPECIAL, dtype.numpy), np.array(_SPECIAL, dtype.numpy)))
    if op in ("floordiv", "mod", "fmod"):  # a quotient beyond the digits of the type is noise
        with np.errstate(all="ignore"):
            kept = ~(np.abs(a / b) > 1e6) | ~np.isfinite(a) | ~np.isfinite(b) | (b == 0)
        a, b = a[kept], b[kept]
    sketch = Sketch()
    x, y = (sketch.input(len(a), dtype=dtype) for _ in range(2))
    sketch.output(sketch(op, x, y))
    compare(sketch, {"x0": a, "x1": b}, slack=2.0)


@pytest.mark.parametrize("dtype", [I64, I32, I16, I8, U8])
@pytest.mark.parametrize("op", [op for op in BINARY if op not in ("atan2",)])
def test_integers_wrap_around(op: str, dtype: DType) -> None:
    limits = np.iinfo(dtype.numpy)
    numbers = np.unique(
        np.array([limits.min, limits.min + 1, -7, -2, -1, 0, 1, 2, 3, 7, 31, 63, 100, limits.max], object)
    )
    numbers = np.array([n for n in numbers if limits.min <= n <= limits.max], dtype.numpy)
    a, b = (g.reshape(-1) for g in np.meshgrid(numbers, numbers))
    if op in ("div", "floordiv", "mod", "fmod"):  # the reference refuses 0, and so does the processor the least by -1
        if dtype is U8:
            pytest.skip("the reference divides no u8 in this spelling")
        kept = (b != 0) & ~((b == -1) & (a == limits.min))
        a, b = a[kept], b[kept]
    if op == "pow":
        kept = (b >= 0) & (b < 64)
        a, b = a[kept], b[kept]
    sketch = Sketch()
    x, y = (sketch.input(len(a), dtype=dtype) for _ in range(2))
    sketch.output(sketch(op, x, y))
    want, got = interpret(sketch.graph, {"x0": a, "x1": b}), Session(sketch.graph)({"x0": a, "x1": b})
    wrong = [(int(p), int(q), r, s) for p, q, r, s in zip(a, b, want[0], got[0], strict=True) if r != s]
    assert not wrong, wrong[:5]


def test_an_integer_divided_by_zero_does_not_end_the_process() -> None:
    sketch = Sketch()
    x, y = (sketch.input(3, dtype=I32) for _ in range(2))
    sketch.output(*(sketch(op, x, y) for op in ("div", "floordiv", "mod", "fmod")))
    given = {"x0": np.array([7, -7, 0], np.int32), "x1": np.array([2, 0, 0], np.int32)}
    results = Session(sketch.graph)(given)
    assert [r[0] for r in results] == [3, 3, 1, 1]


@pytest.mark.parametrize("columns", [1, 5, 33, 200])
def test_nan_wins(columns: int) -> None:
    """ONNX Runtime's own maximum over an axis loses NaN for some widths."""
    sketch = Sketch()
    x = sketch.input(6, columns)
    for op in ("reduce_max", "reduce_min"):
        for axis in (0, 1):
            sketch.graph.outputs.append(sketch(op, x, axes=(axis,)))
    for op in ("argmax", "argmin"):
        for axis in (0, 1):
            sketch.graph.outputs.append(sketch(op, x, axis=axis))
    data = np.random.default_rng(0).standard_normal((6, columns)).astype(np.float32)
    data[1, columns // 2] = data[4, 0] = np.nan
    data[2] = -np.inf
    data[3, -1] = np.inf
    compare(sketch, {"x0": data})


@pytest.mark.parametrize("to", [I64, I32, I16, I8, U8, DType.bool])
def test_casts_of_floats(to: DType) -> None:
    numbers = [0.0, -0.0, 0.4, 0.6, -0.6, 1.5, 2.5, 100.7, 127.0] + ([] if to is U8 else [-1.5, -100.7])
    numbers += [np.nan, np.inf] if to is DType.bool else [200.2, 300.9] if to is not I8 else []
    sketch = Sketch()
    sketch.output(sketch("cast", sketch.input(len(numbers)), dtype=to))
    compare(sketch, {"x0": np.array(numbers, np.float32)})


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", [DType.f64, F32, DType.f16, DType.bf16])
def test_nan_and_infinity_have_their_places(dtype: DType, descending: bool) -> None:
    numbers = np.array([1, np.nan, np.inf, -np.inf, 3e38, np.inf, np.nan, -0.0, 0.0, -2, 1])
    if dtype is DType.f16:
        numbers[4] = 65504
    sketch = Sketch()
    x = sketch.input(len(numbers), dtype=dtype)
    sketch.output(*sketch.both("sort", x, axis=0, descending=descending), *sketch.both("topk", x, k=5, axis=0))
    with np.errstate(over="ignore"):
        given = numbers.astype(np.float32).view(np.uint32) >> 16 if dtype is DType.bf16 else numbers.astype(dtype.numpy)
    compare(sketch, {"x0": given.astype(np.uint16) if dtype is DType.bf16 else given})


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("right", [False, True])
def test_searching(count: int, right: bool) -> None:
    """Short rows are compared whole, long ones halved."""
    rng = np.random.default_rng(count)
    row = np.sort(np.round(rng.standard_normal(count) * 3) / 3).astype(np.float32)
    wanted = np.concatenate([row, rng.standard_normal(20), [np.nan, np.inf, -np.inf]]).astype(np.float32)
    sketch = Sketch()
    edges, x = sketch.input(count), sketch.input(len(wanted))
    rows = sketch("expand", edges, shape=(2, count))
    columns = sketch("expand", x, shape=(2, len(wanted)))
    sketch.output(sketch("searchsorted", edges, x, right=right), sketch("searchsorted", rows, columns, right=right))
    compare(sketch, {"x0": row, "x1": wanted})
