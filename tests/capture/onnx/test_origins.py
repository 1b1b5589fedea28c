"""Module paths from what exporters write into a file."""

from __future__ import annotations

import pytest
from onnx import helper

from planish.compiler.capture.onnx.origins import origin


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/encoder/layer.0/output/dense/MatMul", "encoder.layer.0.output.dense"),
        ("/classifier/classifier.1/Gemm", "classifier.1"),
        ("/features/features.0/features.0.2/Conv", "features.0.2"),
        ("/layer/layers.0/fc/MatMul", "layer.layers.0.fc"),
        ("/MatMul", "MatMul"),
        ("MatMul_12", "MatMul_12"),
        ("", "y"),
    ],
)
def test_names_of_the_older_exporter(name: str, path: str) -> None:
    assert origin(helper.make_node("MatMul", ["x", "w"], ["y"], name=name), []) == (path, None)


def test_metadata_of_the_newer_exporter() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="node_linear")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'encoder', 'encoder.layer.0', 'linear_3']")
    node.metadata_props.add(
        key="pkg.torch.onnx.stack_trace",
        value='File "a.py", line 3, in forward\n    x\nFile "b.py", line 7, in forward\n    y',
    )
    assert origin(node, []) == ("encoder.layer.0", "b.py:7")


def test_metadata_that_makes_no_sense_is_left_out() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="[oops")
    assert origin(node, ["/outer/call"]) == ("outer.call.m", None)
