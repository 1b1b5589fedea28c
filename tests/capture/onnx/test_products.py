"""Matrix products of ONNX models against ONNX Runtime, and in which form they arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

SIZES = [{"n": 1, "s": 5}, {"n": 3, "s": 2}]
RNG = np.random.default_rng(5)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("a", "b"),
    [(("n", "s", 4), (4, 3)), (("n", "s", 4), ("n", 4, "s")), ((4,), ("n", 4, 3)), (("n", "s", 4), (4,)), ((4,), (4,)),
     (("n", 1, "s", 4), (5, 4, 2))],
)  # fmt: skip
def test_matmul(a: Any, b: Any) -> None:
    against_runtime("MatMul", Fed(a), Fed(b), sizes=SIZES)


@pytest.mark.parametrize("x", [("n", "s", 4), (4,), ("n", 4)])
def test_a_constant_matrix_is_a_weight(x: Any) -> None:
    assert ops_of(against_runtime("MatMul", Fed(x), weights(4, 3), sizes=SIZES)) == ["linear"]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("bias", [(3,), (1, 1, 3)])
def test_a_constant_behind_it_is_its_bias(flipped: bool, bias: tuple[int, ...]) -> None:
    held = {"w": weights(4, 3), "b": weights(*bias)}
    added = ["b", "y"] if flipped else ["y", "b"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc"), helper.make_node("Add", added, ["z"], "fc.add")]
    ports = [helper.make_tensor_value_info("x", 1, ["n", "s", 4])], [helper.make_empty_tensor_value_info("z")]
    stored = [numpy_helper.from_array(v, k) for k, v in held.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", *ports, stored), opset_imports=[helper.make_opsetid("", 17)]
    )
    graph = capture_onnx(model).graph
    assert ops_of(graph) == ["linear"]
    assert next(n for n in graph.nodes if n.op == "linear").name == "fc"
    x = weights(2, 3, 4)
    np.testing.assert_allclose(interpret(graph, [x])[0], x @ held["w"] + held["b"], rtol=1e-5, atol=1e-5)
    model.graph.output.append(helper.make_empty_tensor_value_info("y"))  # the product itself is wanted too
    assert ops_of(capture_onnx(model).graph) == ["linear", "add"]


@pytest.mark.parametrize("attributes", [{}, {"transA": 1}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("c", [None, (3,), (1, 3), (1,), ("n", 1), ("n", 3)])
def test_gemm(attributes: dict[str, Any], constant: bool, c: Any) -> None:
    a = Fed((4, "n") if attributes.get("transA") else ("n", 4))
    shape = (3, 4) if attributes.get("transB") else (4, 3)
    last = None if c is None else (weights(*c) if constant and "n" not in c else Fed(c))
    against_runtime("Gemm", a, weights(*shape) if constant else Fed(shape), last, sizes=SIZES, **attributes)


def test_gemm_is_one_linear() -> None:
    assert ops_of(against_runtime("Gemm", Fed(("n", 4)), weights(3, 4), weights(3), sizes=SIZES, transB=1)) == [
        "linear"
    ]


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [("n", 4), (4, 3)]), ("bhqd,bhkd->bhqk", [("n", 2, "s", 4), ("n", 2, "s", 4)]),
     ("bqd,dk", [("n", "s", 4), (4, 3)]), ("...d,...d->...", [("n", "s", 4), (1, "s", 4)]), ("ii->i", [(4, 4)]),
     ("iij->j", [(4, 4, 3)]), ("i,j->ij", [("n",), (3,)]), ("bij->b", [("n", 2, 3)]), ("bij->bji", [("n", 2, 3)]),
     ("...ij->...ji", [("n", "s", 2, 3)]), ("ij,jk,kl->il", [("n", 2), (2, 3), (3, 4)]), ("ab,ab->ab", [("n", 4), ("n", 4)]),
     ("bld,ldk->bk", [("n", 2, 3), (2, 3, 5)]), ("ba,ac,a->bc", [("n", 4), (4, 3), (4,)]), ("...b,b", [("n", 2, 4), (4,)])],
)  # fmt: skip
@pytest.mark.parametrize("constant", [False, True])
def test_einsum(equation: str, shapes: list[Any], constant: bool) -> None:
    operands: list[Any] = [Fed(s) for s in shapes]
    if constant and len(shapes) > 1 and all(isinstance(d, int) for d in shapes[1]):
        operands[1] = weights(*shapes[1])
    against_runtime("Einsum", *operands, sizes=SIZES, equation=equation)


def test_einsum_with_a_weight_is_a_linear() -> None:
    graph = against_runtime("Einsum", Fed(("n", "s", 4)), weights(2, 4, 3), sizes=SIZES, equation="bsd,hdk->bshk")
    assert "linear" in ops_of(graph)
    assert "matmul" not in ops_of(graph)


@pytest.mark.parametrize("equation", ["ij->ik", "ij,jk", "ijk->i"])
def test_equations_that_do_not_fit(equation: str) -> None:
    with pytest.raises(CaptureError):
        capture_onnx(one_node("Einsum", [Fed((2, 3))], 1, 17, {"equation": equation}))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_determinants(size: int) -> None:
    against_runtime("Det", Fed(("n", size, size)), sizes=SIZES, rtol=1e-3, opset=11)


def test_determinants_of_matrices_without_an_inverse() -> None:
    x = np.array([[[0, 0], [0, 0]], [[1, 2], [2, 4]], [[0, 1], [1, 0]]], np.float32)
    graph = capture_onnx(one_node("Det", [Fed(("n", 2, 2))], 1, 17, {})).graph
    assert interpret(graph, [x])[0].tolist() == [0, 0, -1]


@pytest.mark.parametrize("way", ["transpose", "gemm"])
def test_a_weight_that_lies_as_it_is_needed_is_not_copied(way: str) -> None:
    """As torch's exporters write a linear layer; a table that shares it stays one."""
    table = weights(9, 4)
    product = {
        "transpose": [
            helper.make_node("Transpose", ["w"], ["wt"]),
            helper.make_node("MatMul", ["e", "wt"], ["y"], "head"),
        ],
        "gemm": [helper.make_node("Gemm", ["e", "w"], ["y"], "head", transB=1)],
    }[way]
    nodes = [helper.make_node("Gather", ["w", "ids"], ["e"]), *product]
    ports = [helper.make_tensor_value_info("ids", 7, ["n"])], [helper.make_empty_tensor_value_info("y")]
    held = [numpy_helper.from_array(table, "w")]
    graph = capture_onnx(
        helper.make_model(helper.make_graph(nodes, "net", *ports, held), opset_imports=[helper.make_opsetid("", 17)])
    ).graph
    assert ops_of(graph) == ["gather", "linear"]
    assert list(graph.constants) == ["w"]
    chosen = np.array([3, 8], np.int64)
    np.testing.assert_allclose(interpret(graph, [chosen])[0], table[chosen] @ table.T, rtol=1e-5)


def test_what_is_computed_from_a_turned_matrix_is_a_constant() -> None:
    matrix = weights(3, 4)
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("Mul", ["wt", "two"], ["double"]),
        helper.make_node("MatMul", ["x", "double"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info("x", 1, ["n", 4])], [helper.make_empty_tensor_value_info("y")]
    held = [numpy_helper.from_array(matrix, "w"), numpy_helper.from_array(np.array(2, np.float32), "two")]
    graph = capture_onnx(
        helper.make_model(helper.make_graph(nodes, "net", *ports, held), opset_imports=[helper.make_opsetid("", 17)])
    ).graph
    assert ops_of(graph) == ["linear"]
    x = weights(2, 4)
    np.testing.assert_allclose(interpret(graph, [x])[0], x @ (2 * matrix.T), rtol=1e-5, atol=1e-6)


def test_a_turned_matrix_that_is_no_weight() -> None:
    assert ops_of(against_runtime("Transpose", weights(3, 4))) == ["transpose"]
