"""What the operators of neural networks become at sizes that vary, compiled for this machine, against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from graph_harness import Compiled, compile_sketches, near
from onnx_against_runtime import Fed, Operand, one_node

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.target import find_target
from planish.compiler.types import DType

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(17)
#: The harness has two sizes: of a batch, and of all else that varies.
SIZES = ({"b": 2, "s": 9}, {"b": 1, "s": 6}, {"b": 3, "s": 11})
PLANE = Fed(("b", 4, "s", "s"))


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def lengths(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.integers(0, 7, shape).astype(np.int32)


def grid(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.uniform(-1.5, 1.5, tuple(shape)).astype(np.float32)


def regions(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    first = rng.uniform(-2, 5, (shape[0], 2))
    return np.concatenate([first, first + rng.uniform(0.5, 9, (shape[0], 2))], 1).astype(np.float32)


def boxes(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.zeros((shape[0], 1), np.float32), regions(rng, shape)], 1)


def ids(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.integers(0, 16, tuple(shape))


def sparse(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.random(tuple(shape)) < 0.4


def counted(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int64).reshape(tuple(shape))


@dataclass
class Case:
    """One node; opset 21 where it does not say otherwise."""

    op: str
    operands: Sequence[Operand]
    attributes: Mapping[str, Any]
    outputs: Any = 1
    opset: int = 21

    def captured(self) -> Graph:
        return capture_onnx(one_node(self.op, self.operands, self.outputs, self.opset, self.attributes)).graph


@dataclass
class _Sketch:
    """As the harness wants it."""

    graph: Graph
    case: Case
    rough: list[DType] | None = None

    def inputs(self, env: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
        """Data at these sizes."""
        rng = np.random.default_rng(seed)
        made = {f"in{i}": o.array(rng, env) for i, o in enumerate(self.case.operands) if isinstance(o, Fed)}
        return {v.name: made[v.name] for v in self.graph.inputs}


def lstm(lens: Operand, ways: int = 2) -> list[Operand]:
    state = Fed((ways, "b", 8))
    return [Fed(("s", "b", 6)), weights(ways, 32, 6), weights(ways, 32, 8), weights(ways, 64), lens, state, state]


_HEADS: list[Operand] = [Fed(("b", 4, "s", 8)), Fed(("b", 2, "s", 8)), Fed(("b", 2, "s", 8))]
_BATCH = Fed(("s",), lambda rng, shape: rng.integers(0, 1, shape).astype(np.int64))
CASES = {
    "conv-same": Case("Conv", [PLANE, weights(8, 4, 3, 2), weights(8)], {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    "conv-uneven": Case("Conv", [PLANE, weights(8, 4, 3, 3)], {"strides": [2, 1], "pads": [0, 1, 1, 2]}),
    "transposed-uneven": Case("ConvTranspose", [PLANE, weights(4, 8, 3, 3), weights(8)],
                              {"strides": [2, 2], "pads": [0, 1, 2, 1]}),
    "transposed-same": Case("ConvTranspose", [PLANE, weights(4, 8, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "transposed-filled": Case("ConvTranspose", [Fed(("b", 4, 5, 6)), weights(4, 8, 3, 3), weights(8)],
                              {"strides": [2, 2], "output_shape": [12, 14]}),
    "max-uneven": Case("MaxPool", [PLANE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "max-ceil": Case("MaxPool", [PLANE], {"kernel_shape": [3, 2], "strides": [3, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    "max-places": Case("MaxPool", [PLANE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 0]}, 2),
    "average-uneven": Case("AveragePool", [PLANE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "average-gaps": Case("AveragePool", [PLANE], {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [1, 1, 1, 0]}),
    "average-same": Case("AveragePool", [PLANE], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "lp": Case("LpPool", [PLANE], {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "unpool": Case("MaxUnpool", [Fed((1, 4, 3, 4)), Fed((1, 4, 3, 4), counted)],
                   {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "roi-align": Case("RoiAlign", [PLANE, Fed(("s", 4), regions), _BATCH],
                      {"output_height": 3, "output_width": 2, "sampling_ratio": 2}),
    "roi-pool": Case("MaxRoiPool", [PLANE, Fed(("s", 5), boxes)],
                     {"pooled_shape": [3, 2]}),
    "lrn": Case("LRN", [PLANE], {"size": 3, "alpha": 0.3}),
    "layer-norm-statistics": Case("LayerNormalization", [Fed(("b", "s", 16)), weights(16), weights(16)], {}, 3),
    "rms-norm": Case("RMSNormalization", [Fed(("b", 4, 8)), weights(4, 8)], {"axis": 1}, 1, 23),
    "norm-of-batch": Case("BatchNormalization", [PLANE, *(abs(weights(4)) for _ in range(4))], {"training_mode": 1}, 3),
    "mean-variance": Case("MeanVarianceNormalization", [PLANE], {}),
    "lstm": Case("LSTM", lstm(None), {"hidden_size": 8, "direction": "bidirectional"}, 3),
    "lstm-lengths": Case("LSTM", lstm(Fed(("b",), lengths)), {"hidden_size": 8, "direction": "bidirectional"}, 3),
    "gru-steps": Case("GRU", [Fed((4, "b", 6)), weights(1, 24, 6), weights(1, 24, 8), weights(1, 48)], {"hidden_size": 8}, 2),
    "attention": Case("Attention", _HEADS, {"is_causal": 1}, 1, 23),
    "attention-mask": Case("Attention", [*_HEADS, Fed(("b", 1, "s", "s"))], {}, 1, 23),
    "attention-past": Case("Attention", [*_HEADS, None, Fed(("b", 2, "b", 8)), Fed(("b", 2, "b", 8))], {"is_causal": 1}, 3, 23),
    "attention-softcap": Case("Attention", [*_HEADS, Fed(("s", "s"), sparse)],
                              {"softcap": 2.0, "is_causal": 1}, 1, 23),
    "rotary": Case("RotaryEmbedding", [Fed(("b", "s", 24)), weights(16, 4), weights(16, 4), Fed(("b", "s"), ids)],
                   {"num_heads": 3}, 1, 23),
    "resize-twice": Case("Resize", [PLANE, None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
    "resize-linear": Case("Resize", [PLANE, None, np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}),
    "resize-cubic": Case("Resize", [PLANE, None, np.array([1, 1, 0.5, 2], np.float32)], {"mode": "cubic", "exclude_outside": 1}),
    "resize-fixed": Case("Resize", [Fed(("b", 4, 6, 5)), None, None, np.array([9, 11])], {"mode": "cubic", "axes": [2, 3]}),
    "grid-linear": Case("GridSample", [PLANE, Fed(("b", "s", "s", 2), grid)], {"padding_mode": "zeros"}),
    "grid-reflected": Case("GridSample", [PLANE, Fed(("b", "s", "s", 2), grid)], {"padding_mode": "reflection", "mode": "cubic"}),
    "deformed": Case("DeformConv", [Fed(("b", 4, 6, 5)), weights(6, 2, 3, 2), Fed(("b", 24, 4, 4)), weights(6),
                                    Fed(("b", 12, 4, 4))],
                     {"group": 2, "offset_group": 2}),
    "affine": Case("AffineGrid", [Fed(("b", 2, 3)), np.array([1, 3, 4, 5])], {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    sketches = {name: _Sketch(case.captured(), case) for name, case in CASES.items()}
    return compile_sketches(sketches, find_target("cpu").level)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_kernels_give_what_the_interpreter_gives(compiled: Compiled, name: str) -> None:
    sketch = compiled.sketches[name]
    for seed, env in enumerate(SIZES):
        inputs = sketch.inputs(env, seed)
        want = interpret(sketch.graph, inputs)
        got = compiled.run(name, env, seed)
        for value, a, b in zip(sketch.graph.outputs, want, got, strict=True):
            why = near(a, b, value.dtype, slack=4)
            assert why is None, f"{name} at {env}: {why}"
