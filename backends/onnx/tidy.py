"""The last look at the nodes of a model: what ONNX Runtime would join into something slower is spelt so that it does not."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto


def keep_sums_apart(nodes: Iterable[NodeProto]) -> None:
    """Write the addition in front of a LayerNormalization as Sum, in place.

    ONNX Runtime joins Add and LayerNormalization into SkipLayerNormalization when a session is opened; for a provider that is
    slower in it (its CPU provider takes eight times as long) this keeps the two apart. Sum is the same and is left alone.
    """
    made = {name: node for node in nodes for name in node.output}
    for node in nodes:
        before = made.get(node.input[0]) if node.op_type == "LayerNormalization" and not node.domain else None
        if before is not None and before.op_type == "Add" and not before.domain:
            before.op_type = "Sum"
