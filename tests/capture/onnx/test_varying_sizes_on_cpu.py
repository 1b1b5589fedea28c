"""Operators that move, reduce, index and multiply, captured with sizes that vary, in compiled kernels against the interpreter.

Beside the node tests, whose sizes are all fixed; what the operators mean is checked against ONNX Runtime elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_harness import Compiled, Sketch, compile_sketches
from onnx_against_runtime import Fed, one_node

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.target import find_target

ENVS = [{"b": 1, "s": 4}, {"b": 3, "s": 9}]
X = Fed(("b", "s", 4))
FAR = np.iinfo(np.int64).max
RNG = np.random.default_rng(2)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def one(number: int) -> np.ndarray:
    return np.array(number, np.int64)


def whole(low: int, high: int, dtype: Any = np.int64) -> Any:
    return lambda rng, shape: rng.integers(low, high, tuple(shape)).astype(dtype)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


#: Name -> operator, operands, opset, attributes, number of results.
CASES: dict[str, tuple[str, list[Any], int, dict[str, Any], int]] = {
    "slice": ("Slice", [X, ids(1), ids(-1), ids(1)], 17, {}, 1),
    "slice_backwards": ("Slice", [X, ids(-1), ids(-FAR), ids(1), ids(-2)], 17, {}, 1),
    "slice_from_the_third": ("Slice", [X, ids(2), ids(FAR), ids(1)], 17, {}, 1),
    "split": ("Split", [X, ids(1, 3)], 17, {"axis": 2}, 2),
    "concat": ("Concat", [X, Fed(("b", 2, 4)), X], 17, {"axis": 1}, 1),
    "tile": ("Tile", [X, ids(1, 2, 3)], 17, {}, 1),
    "expand": ("Expand", [Fed(("b", 1, 4)), ids(1, 5, 1)], 17, {}, 1),
    "transpose": ("Transpose", [X], 17, {"perm": [2, 0, 1]}, 1),
    "flatten": ("Flatten", [X], 17, {"axis": 2}, 1),
    "shape": ("Shape", [X], 17, {}, 1),
    "pad": ("Pad", [X, ids(0, 1, 0, 0, 2, -1), Fed(())], 17, {}, 1),
    "pad_edge": ("Pad", [X, ids(0, 2, 0, 0, 3, 0)], 17, {"mode": "edge"}, 1),
    "pad_reflect": ("Pad", [X, ids(0, 2, 1, 0, 3, 1)], 17, {"mode": "reflect"}, 1),
    "pad_wrap": ("Pad", [X, ids(0, 2, 0, 0, 3, 0)], 19, {"mode": "wrap"}, 1),
    "trilu": ("Trilu", [Fed(("b", "s", "s")), Fed((), whole(-2, 2))], 17, {"upper": 0}, 1),
    "eye_like": ("EyeLike", [Fed(("s", "b"))], 17, {"k": -1}, 1),
    "one_hot": ("OneHot", [Fed(("b", "s"), whole(-5, 6)), ids(5), weights(2)], 17, {"axis": 1}, 1),
    "reverse_sequence": ("ReverseSequence", [Fed((4, "s", 2)), ids(1, 2, 3, 4)], 17, {"batch_axis": 0, "time_axis": 1}, 1),
    "depth_to_space": ("DepthToSpace", [Fed(("b", 8, "s", 3))], 17, {"blocksize": 2, "mode": "CRD"}, 1),
    "gather": ("Gather", [Fed((5, "s")), Fed(("b", 2), whole(-5, 5))], 17, {}, 1),
    "gather_one": ("Gather", [X, one(-1)], 17, {"axis": 1}, 1),
    "gather_elements": ("GatherElements", [Fed(("b", "s", 4)), Fed(("b", "s", 2), whole(-4, 4))], 17, {"axis": 2}, 1),
    "gather_nd": ("GatherND", [Fed(("b", "s", 4, 3)), Fed(("b", "s", 2, 1), whole(-4, 4))], 17, {"batch_dims": 2}, 1),
    "scatter_elements": ("ScatterElements", [Fed(("b", 5)), Fed(("b", 3), whole(-5, 5)), Fed(("b", 3))], 18,
                         {"axis": 1, "reduction": "max"}, 1),
    "scatter_nd": ("ScatterND", [Fed((4, "s")), ids(2, 0).reshape(2, 1), Fed((2, "s"))], 18, {"reduction": "add"}, 1),
    "col2im": ("Col2Im", [Fed(("b", 12, 20)), ids(5, 6), ids(2, 2)], 18, {}, 1),
    "reduce_log_sum_exp": ("ReduceLogSumExp", [X, ids(1)], 18, {}, 1),
    "reduce_l2": ("ReduceL2", [X, ids(0, 2)], 18, {"keepdims": 0}, 1),
    "reduce_mean_of_integers": ("ReduceMean", [Fed(("b", "s"), whole(-9, 9, np.int32)), ids(1)], 18, {}, 1),
    "arg_max_last": ("ArgMax", [Fed(("b", "s"), whole(0, 3, np.int32))], 17, {"axis": 1, "select_last_index": 1}, 1),
    "hardmax": ("Hardmax", [X], 17, {"axis": 1}, 1),
    "softmax_over_all_later_axes": ("Softmax", [X], 11, {"axis": 1}, 1),
    "cumsum": ("CumSum", [X, one(1)], 17, {"exclusive": 1, "reverse": 1}, 1),
    "top_k": ("TopK", [X, ids(3)], 17, {"axis": 1, "largest": 0}, 2),
    "power_of_integers": ("Pow", [Fed(("s",), whole(1, 6, np.int32)), Fed(("s",), whole(0, 4, np.float32))], 17, {}, 1),
    "remainder_of_bytes": ("Mod", [Fed(("s",), whole(0, 255, np.uint8)), np.array([7], np.uint8)], 17, {}, 1),
    "shrink": ("Shrink", [X], 17, {"lambd": 0.4, "bias": 0.1}, 1),
    "clip_to_computed": ("Clip", [X, Fed(()), None], 17, {}, 1),
    "matmul_of_a_vector": ("MatMul", [Fed((4,)), Fed(("b", 4, "s"))], 17, {}, 1),
    "gemm": ("Gemm", [Fed((4, "b")), weights(4, 3), Fed(("b", 1))], 17, {"transA": 1, "alpha": 0.5, "beta": 2.0}, 1),
    "einsum": ("Einsum", [Fed(("b", 2, "s", 4)), Fed(("b", 2, "s", 4))], 17, {"equation": "bhqd,bhkd->bqhk"}, 1),
    "einsum_weight": ("Einsum", [X, weights(2, 4, 3)], 17, {"equation": "bsd,hdk->bshk"}, 1),
    "det": ("Det", [Fed(("b", 4, 4))], 17, {}, 1),
    "dft": ("DFT", [Fed(("b", 12, "s", 1)), None, one(1)], 20, {"onesided": 1}, 1),
    "stft": ("STFT", [Fed((2, "s", 1)), one(2), np.hanning(4).astype(np.float32)], 17, {}, 1),
}  # fmt: skip


def sketch(name: str) -> Sketch:
    op, operands, opset, attributes, outputs = CASES[name]
    made = Sketch()
    made.graph = capture_onnx(one_node(op, operands, outputs, opset, attributes)).graph
    for number, operand in enumerate(operands):
        if isinstance(operand, Fed):
            made.data[f"in{number}"] = operand.draw
    return made


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_sketches({name: sketch(name) for name in CASES}, find_target("cpu").level, per_object=len(CASES))


@pytest.mark.slow
@pytest.mark.parametrize("env", ENVS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels(compiled: Compiled, name: str, env: dict[str, int]) -> None:
    compiled.check(name, env, slack=10)
