"""Random graphs from the op table, for property tests: well formed by construction, with symbols, constants and regions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from planish.compiler.dims import symbol
from planish.compiler.graph import Graph, Symbol, Value
from planish.compiler.types import DType, TensorType, float_to_bf16

_FLOAT_UNARY = ("neg", "abs", "relu", "tanh", "sigmoid", "erf", "gelu", "silu", "square", "softplus", "hardswish")
_BINARY = ("add", "sub", "mul", "maximum", "minimum")
_SIZES = (1, 2, 3, 4, 6)


@st.composite
def graphs(draw: st.DrawFn, *, nodes: int = 12, regions: bool = True) -> Graph:
    """A graph of up to ``nodes`` random ops over f32, bf16, integer and bool values; every op type-checks."""
    graph = Graph(draw(st.sampled_from(["main", "a graph", "ünïcode"])))
    batch = symbol("s0")
    graph.symbols["s0"] = Symbol("s0", 1, draw(st.integers(1, 64)))
    width = draw(st.sampled_from(_SIZES))
    pool = [
        graph.add_input("x", TensorType(DType.f32, (batch, width))),
        graph.add_input("odd name %", TensorType(DType.f32, (batch * 2 + 1, width))),
        graph.add_input("ids", TensorType(DType.i64, (batch, draw(st.sampled_from(_SIZES))))),
    ]
    for _ in range(draw(st.integers(1, nodes))):
        pool += _grow(draw, graph, pool, regions)
    graph.outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    return graph


def example_inputs(graph: Graph, seed: int = 0, s0: int = 3) -> dict[str, np.ndarray]:
    """Inputs for a graph of :func:`graphs`."""
    rng = np.random.default_rng(seed)
    sizes = {"x": s0, "odd name %": 2 * s0 + 1, "ids": s0}
    return {
        v.name: rng.integers(0, 3, (sizes[v.name], v.shape[1]))
        if v.dtype is DType.i64
        else rng.standard_normal((sizes[v.name], v.shape[1])).astype(np.float32)
        for v in graph.inputs
    }


def _grow(draw: st.DrawFn, graph: Graph, pool: list[Value], regions: bool) -> list[Value]:
    x = draw(st.sampled_from(pool))
    kinds: list[Callable[[], list[Value]]] = [
        lambda: _add(draw, graph, "cast", [x], {"dtype": draw(st.sampled_from([DType.f32, DType.bf16, DType.i32]))}),
        lambda: _add(draw, graph, "reshape", [x], {"shape": (x.type.elements,)}),
        lambda: _add(draw, graph, "eq", [x, x], {}),
        lambda: _constant(draw, graph),
    ]
    if x.dtype is DType.f32:
        kinds += [lambda op=op: _add(draw, graph, op, [x], {}) for op in ("neg", "abs", "relu")]  # type: ignore[misc]
    if x.dtype in (DType.f32, DType.bf16):
        peers = [v for v in pool if v.type == x.type]
        kinds += [
            lambda: _add(draw, graph, draw(st.sampled_from(_FLOAT_UNARY)), [x], {}),
            lambda: _add(draw, graph, draw(st.sampled_from(_BINARY)), [x, draw(st.sampled_from(peers))], {}),
            lambda: _add(
                draw, graph, "clamp", [x], {"min": draw(st.floats(-3, 3) | st.just(float("-inf"))), "max": None}
            ),
            lambda: _scaled(draw, graph, x),
        ]
    if x.dtype is DType.f32 and x.type.rank:
        kinds += [
            lambda: _add(draw, graph, "softmax", [x], {"axis": draw(st.integers(-x.type.rank, x.type.rank - 1))}),
            lambda: _add(draw, graph, "layer_norm", [x, None, None], {"eps": draw(st.floats(1e-9, 1e-2))}),
            lambda: _add(draw, graph, "reduce_sum", [x], {"axes": (-1,), "keepdim": draw(st.booleans())}),
            lambda: _add(draw, graph, "concat", [x, x], {"axis": 0}),
        ]
        if isinstance(x.shape[-1], int):
            kinds += [lambda: _linear(draw, graph, x), lambda: _add(draw, graph, "quantize_dynamic", [x], {})]
    if x.type.rank == 2:
        kinds.append(lambda: _add(draw, graph, "transpose", [x], {"perm": (1, 0)}))
        kinds.append(lambda: _add(draw, graph, "slice", [x], {"axis": 0, "end": 1}))
    if regions and x.dtype is DType.f32:
        kinds.append(lambda: _fused(draw, graph, x))
    return draw(st.sampled_from(kinds))()


def _add(draw: st.DrawFn, graph: Graph, op: str, inputs: list[Value | None], attrs: dict) -> list[Value]:
    name = draw(st.sampled_from(["", "encoder.layer.0", 'a "quoted" name', "encoder.layer.1.dense"]))
    location = draw(st.sampled_from([None, "model.py:12"]))
    sources = draw(st.sampled_from([(), ("a", "b"), ("encoder.layer.0",)]))
    return graph.insert(op, inputs, attrs, name=name, location=location, sources=sources).outputs


def _constant(draw: st.DrawFn, graph: Graph) -> list[Value]:
    shape = draw(st.sampled_from([(), (1,), (2, 2), (0,), (3, 7)]))
    dtype = draw(st.sampled_from([DType.f32, DType.bf16, DType.f16, DType.i64, DType.i8, DType.bool, DType.f64]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    array = rng.standard_normal(shape) * 100
    if dtype is DType.bf16:
        return [graph.add_constant(float_to_bf16(array.astype(np.float32)), "c", dtype)]
    array = np.asarray(array).astype(dtype.numpy)
    if dtype.is_float and array.size > 1 and draw(st.booleans()):
        array.reshape(-1)[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]))
    return [graph.add_constant(array, "c", dtype)]


def _scaled(draw: st.DrawFn, graph: Graph, x: Value) -> list[Value]:
    number = np.float32(draw(st.floats(-4, 4, width=32)))
    array = float_to_bf16(np.asarray(number)) if x.dtype is DType.bf16 else np.asarray(number)
    return _add(draw, graph, "mul", [x, graph.add_constant(array, "scalar", x.dtype)], {})


def _linear(draw: st.DrawFn, graph: Graph, x: Value) -> list[Value]:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = graph.add_constant(
        rng.standard_normal((draw(st.sampled_from(_SIZES)), x.shape[-1])).astype(np.float32), "w"
    )
    return _add(draw, graph, "linear", [x, weight], {})


def _fused(draw: st.DrawFn, graph: Graph, x: Value) -> list[Value]:
    body = Graph("body")
    inner = body.add_input("x", x.type)
    body.outputs = [body.insert("relu", [body.insert("neg", [inner], name="deep").output]).output]
    return graph.insert("fused", [x], regions=[body], name="fusion").outputs
