"""What is wrong with a model is said in a sentence, with the way out where there is one; whatever the bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError, PlanishError

F, INT = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def port(name: str, code: int = F, shape: Any = ("n",)) -> Any:
    return helper.make_tensor_value_info(name, code, None if shape is None else list(shape))


def model(
    nodes: list[NodeProto], inputs: list[Any] | None = None, outputs: list[Any] | None = None, opset: int = 17,
    stored: dict[str, np.ndarray] | None = None, **more: Any,
) -> ModelProto:  # fmt: skip
    ends = [helper.make_empty_tensor_value_info("z")] if outputs is None else outputs
    arrays = [numpy_helper.from_array(a, n) for n, a in (stored or {}).items()]
    graph = helper.make_graph(nodes, "net", [port("x")] if inputs is None else inputs, ends, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


def recursive() -> ModelProto:
    body = [node("G", ["x"], ["y"], domain="mine")]
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [
        helper.make_function("mine", "F", ["x"], ["y"], body, versions),
        helper.make_function("mine", "G", ["x"], ["y"], [node("F", ["x"], ["y"], domain="mine")], versions),
    ]
    made = model([node("F", ["x"], ["z"], domain="mine")], functions=functions)
    made.opset_import.append(versions[1])
    return made


def damaged() -> ModelProto:
    made = model([node("Add", ["x", "w"], ["z"])], [port("x", F, (3,))], stored={"w": np.ones(3, np.float32)})
    made.graph.initializer[0].raw_data = b"abc"
    return made


NEG = node("Neg", ["x"], ["z"])
CASES: dict[str, tuple[ModelProto, str, str]] = {
    "cycle": (
        model([node("Add", ["x", "z"], ["a"], name="sum"), node("Neg", ["a"], ["z"])]),
        "net has a cycle: the node 'sum' reads 'z', which is computed from what it gives", ""),
    "out of order": (
        model([node("Neg", ["a"], ["z"]), node("Neg", ["x"], ["a"])]),
        "net is not in order: the node 'Neg' reads 'a', which is computed after it", "sort its nodes"),
    "reads what is not there": (model([node("Neg", ["q"], ["z"])]), "the node 'Neg' reads 'q', which nothing computes", ""),
    "gives what is not there": (model([NEG], None, [port("q")]), "nothing computes its output 'q'", ""),
    "twice": (model([NEG, NEG]), "net computes 'z' twice", ""),
    "two inputs of a name": (model([NEG], [port("x"), port("x")]), "net has two inputs called 'x'", ""),
    "types of operands": (
        model([node("Add", ["x", "y"], ["z"])], [port("x"), port("y", INT)]),
        "net is inconsistent: Add: B has inconsistent type", "onnx.checker"),
    "type of a result": (
        model([NEG], None, [port("z", INT)]), "net is inconsistent: Neg: Inferred elem type differs", "onnx.checker"),
    "shape of a result": (
        model([NEG], [port("x", F, (2, 3))], [port("z", F, (4, 5))]), "Inferred shape and existing shape differ", ""),
    "sizes": (
        model([node("MatMul", ["x", "w"], ["z"])], [port("x", F, ("n", 3))], stored={"w": np.ones((4, 5), np.float32)}),
        "net is inconsistent: MatMul: Incompatible dimensions", ""),
    "too new": (model([NEG], opset=24), "uses opset 24 of ONNX, and opsets up to 23 are read", "convert_version"),
    "too old": (model([NEG], opset=5), "uses opset 5 of ONNX, and opsets from 7 on are read", "convert_version"),
    "no operator": (model([node("Frobnicate", ["x"], ["z"])]), "cannot be read: Frobnicate at z", "docs/onnx-ops.md"),
    "no version of a domain": (
        model([node("Foo", ["x"], ["z"], domain="mine")]), "does not say of which version the domain 'mine' is", "opset_import"),
    "attribute of another kind": (
        model([node("Softmax", ["x"], ["z"], axis="one")]), "the attribute 'axis' of Softmax at z is of the wrong kind", ""),
    "attribute that is not there": (model([node("Neg", ["x"], ["z"], q=1)]), r"its attribute 'q' is not supported", ""),
    "too many inputs": (model([node("Neg", ["x", "x"], ["z"])]), "input size 2 not in range", ""),
    "no result": (model([NEG], None, []), "net returns nothing", ""),
    "calls itself": (recursive(), "its function mine::(F|G) calls itself", ""),
    "strings": (model([node("Identity", ["x"], ["z"])], [port("x", TensorProto.STRING)]), "the element type string", ""),
    "uint16": (model([node("Identity", ["x"], ["z"])], [port("x", TensorProto.UINT16)]), "the element type uint16", ""),
    "a sequence": (
        model([node("SequenceLength", ["x"], ["z"])], [helper.make_tensor_sequence_value_info("x", F, None)]),
        "the input 'x' is a sequence, and inputs are tensors", ""),
    "no shape": (model([NEG], [port("x", F, None)]), "the input 'x' has no shape", "make_tensor_value_info"),
    "a tensor of uint16": (
        model([node("Identity", ["x"], ["z"])], stored={"w": np.ones(3, np.uint16)}), "'w' holds uint16", ""),
    "a damaged tensor": (damaged(), "the tensor 'w' of the ONNX model is damaged", ""),
    "a size from the data": (model([node("NonZero", ["x"], ["z"])]), "the size of its result depends on the data", ""),
    "chance": (model([node("RandomNormalLike", ["x"], ["z"])]), "it draws random numbers", ""),
    "sizes of one length": (
        model([node("Add", ["x", "y"], ["z"])], [port("x", F, ("batch", "past")), port("y", F, ("batch", "total"))]),
        r"shapes \(batch, past\) and \(batch, total\) do not broadcast",
        "if total and past are the same, say --dim total=past"),
    "a product of one length": (
        model([node("MatMul", ["x", "y"], ["z"])], [port("x", F, ("rows", "in")), port("y", F, ("features", "out"))]),
        "cannot be multiplied", "say --dim features=in"),
    "a size that is a number": (
        model([node("Add", ["x", "w"], ["z"])], [port("x", F, ("batch", "width"))], stored={"w": np.ones(7, np.float32)}),
        "do not broadcast", "if width is always 7, say --dim width=7"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_what_is_wrong_is_said(what: str) -> None:
    made, message, hint = CASES[what]
    with pytest.raises(CaptureError, match=message) as caught:
        capture_onnx(made)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("what", ["sizes of one length", "a size that is a number"])
def test_the_hint_helps(what: str) -> None:
    made, _, hint = CASES[what]
    name, _, other = hint.rpartition("--dim ")[2].partition("=")
    capture_onnx(made, dims={name: int(other) if other.isdecimal() else other})


def test_all_that_cannot_be_read_is_named() -> None:
    nodes = [
        node("RandomNormalLike", ["x"], ["a"], name="noise"),
        node("NonZero", ["x"], ["b"], name="places"),
        node("Add", ["a", "x"], ["z"]),
    ]
    with pytest.raises(CaptureError, match=r"uses 2 operators .* at noise; NonZero .* at places"):
        capture_onnx(model(nodes))


def sound() -> bytes:
    random = np.random.default_rng(0)
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="/fc/MatMul"),
        node("Add", ["a", "b"], ["c"]),
        node("Softmax", ["c"], ["d"], axis=-1),
        node("Reshape", ["d", "s"], ["e"]),
        node("Transpose", ["e"], ["z"], perm=[1, 0]),
    ]
    stored = {
        "w": random.standard_normal((4, 6)).astype(np.float32),
        "b": np.zeros(6, np.float32),
        "s": np.array([-1, 3]),
    }
    return model(nodes, [port("x", F, ("n", 4))], stored=stored).SerializeToString()


def test_any_bytes_end_in_a_graph_or_in_a_sentence() -> None:
    """A sound file with bytes changed, cut out and doubled: nothing but errors of planish."""
    random = np.random.default_rng(1)
    data = np.frombuffer(sound(), np.uint8)
    read = refused = 0
    for _ in range(400):
        changed = data.copy()
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(0, len(changed)))
            match random.integers(0, 3):
                case 0:
                    changed[at] = random.integers(0, 256)
                case 1:
                    changed = np.delete(changed, slice(at, at + int(random.integers(1, 9))))
                case 2:
                    changed = np.insert(changed, at, changed[at : at + int(random.integers(1, 9))])
            changed = changed if len(changed) else data.copy()
        proto = ModelProto()
        try:
            proto.ParseFromString(changed.tobytes())
        except Exception:  # no protobuf any more, which the command line's tests look at
            continue
        with contextlib.suppress(PlanishError):
            refused += 1
            capture_onnx(proto)
            read, refused = read + 1, refused - 1
    assert read > 10
    assert refused > 10


def test_a_model_that_is_sound() -> None:
    graph = capture_onnx(onnx.load_from_string(sound())).graph
    assert next(n.op for n in graph.nodes if n.op != "constant") == "linear"
