"""Lowering for ONNX Runtime: a graph behind the passes becomes one ONNX model with its weights beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from onnx import ModelProto, NodeProto, helper

from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node
from ...compiler.ops import cost, schema
from ...compiler.types import DType, TensorType
from . import (  # noqa: F401  (they register their ops)
    emit_arithmetic,
    emit_attention,
    emit_elementwise,
    emit_linear,
    emit_norm,
    emit_order,
    emit_quantised,
    emit_recurrent,
    emit_reduce,
    emit_shape,
    emit_spatial,
    emit_special,
)
from .emitter import Emitter, Takes, value_info
from .initializers import Placed
from .tidy import keep_sums_apart
from .unit import OnnxUnit

#: Providers that compute in f16 without casts around it.
HALF = frozenset({
    "CUDAExecutionProvider", "TensorrtExecutionProvider", "OpenVINOExecutionProvider", "QNNExecutionProvider",
    "CoreMLExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider",
})  # fmt: skip
#: Version of the ONNX file format by the least opset that needs it; nodes carry metadata from 10 on.
_IR_VERSION = {20: 10, 23: 11, 24: 12}


def lower(graph: Graph, *, provider: str, opset: int, takes: Takes | None = None) -> OnnxUnit:
    """The ONNX model of ``graph``. Pure: equal graphs give equal bytes.

    Args:
        graph: behind the passes.
        provider: name of the execution provider in ONNX Runtime.
        opset: version of the standard operators.
        takes: which forms the provider takes; None: the model is written in standard operators alone.

    Raises:
        LoweringError: a node cannot be written in ONNX, or the graph has states.
    """
    if graph.states:
        raise LoweringError(
            f"the model keeps the state {graph.states[0].name!r} from call to call, which an ONNX model cannot",
            "compile it for cpu, or hand the state in and out as an input and an output",
        )
    outputs = _output_names(graph)
    at = Emitter(graph, opset=opset, provider=provider, takes=takes, half=provider in HALF)
    for name in outputs:
        at.reserve(name)
    launches: list[Node] = []
    for node in graph.nodes:
        computes = not (schema(node.op).view or node.op in ("constant", "full", "arange"))
        at.emit(node, len(launches) if computes else None)
        if computes:
            launches.append(node)
    model, placed = _model(at, outputs)
    description = {
        "isa": provider,
        "symbols": [{"name": s.name, "min": s.lower, "max": s.upper} for s in graph.symbols.values()],
        "inputs": [_port(v.name, v.type) for v in graph.inputs],
        "outputs": [_port(name, v.type) for name, v in zip(outputs, graph.outputs, strict=True)],
        "states": [],
        "weights_bytes": placed.bytes,
        "weights": _mark_gathered(model, placed.index),
        "launches": [_launch(node) for node in launches],
    }
    return OnnxUnit(
        model.SerializeToString(deterministic=True),
        tuple(placed.weights),
        description,
        provider,
        tuple(at.notes),
    )


def _output_names(graph: Graph) -> list[str]:
    """A name for each output: that of the source model, else of the value; no two alike, and none that an input has."""
    given = graph.meta.get("output_names")
    wanted = list(given) if given and len(given) == len(graph.outputs) else [v.name for v in graph.outputs]
    taken = {v.name for v in graph.inputs}
    names: list[str] = []
    for want in wanted:
        name, count = want, 0
        while name in taken or not name:
            count += 1
            name = f"{want or 'output'}_{count}"
        taken.add(name)
        names.append(name)
    return names


def _model(at: Emitter, outputs: list[str]) -> tuple[ModelProto, Placed]:
    """The model, with the tensors that hold the outputs called after them, and where its weights lie."""
    graph = at.graph
    produced = {name for node in at.nodes for name in node.output}
    renamed: dict[str, str] = {}
    for want, value in zip(outputs, graph.outputs, strict=True):
        name = at.name(value)
        if name in produced and name not in renamed:
            renamed[name] = want
        else:  # an input, a constant, or an output that comes twice
            at.nodes.append(helper.make_node("Identity", [name], [want], name=at.fresh(f"{want}/Identity")))
    for node in at.nodes:
        _rename(node, renamed)
    nodes = _alive(at.nodes, set(outputs))
    if not at.takes("skip-layer-normalization"):
        keep_sums_apart(nodes)
    placed = at.initializers.place(_read(nodes))
    produced = {name for node in nodes for name in node.output}
    body = helper.make_graph(
        nodes,
        graph.name or "main",
        [value_info(v.name, v.type) for v in graph.inputs],
        [value_info(n, v.type) for n, v in zip(outputs, graph.outputs, strict=True)],
        placed.protos,
        value_info=[info for name, info in at.value_info.items() if name not in renamed and name in produced],
    )
    opsets = [helper.make_opsetid("", at.opset), *(helper.make_opsetid(d, 1) for d in sorted(at.domains))]
    model = helper.make_model(body, opset_imports=opsets, producer_name="planish", producer_version=_version())
    model.ir_version = max(ir for least, ir in _IR_VERSION.items() if at.opset >= least)
    for key, text in sorted(_metadata(graph).items()):
        model.metadata_props.add(key=key, value=text)
    return model, placed


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    for field in (node.input, node.output):
        for i, name in enumerate(field):
            if name in names:
                field[i] = names[name]
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            _rename(inner, names)


def _alive(nodes: list[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes that something reads, in order: an emitter may take over the work of one before it."""
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= _read([node])
    return kept[::-1]


def _read(nodes: Any) -> set[str]:
    """Names that nodes read, those in the bodies of loops included."""
    found: set[str] = set()
    for node in nodes:
        found |= set(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _read(attribute.g.node) | {o.name for o in attribute.g.output}
    return found


def _metadata(graph: Graph) -> dict[str, str]:
    data = {"planish.version": _version()}
    for key in ("plan", "source"):
        value = graph.meta.get(key)
        if value is not None:
            data[f"planish.{key}"] = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return data


def _version() -> str:
    try:
        return version("planish")
    except PackageNotFoundError:  # run from its sources
        return "0"


def _port(name: str, type: TensorType) -> dict[str, Any]:
    return {"name": name, "dtype": type.dtype.value, "shape": [str(d) for d in type.shape]}


def _launch(node: Node) -> dict[str, Any]:
    spent = cost(node)
    text = repr((node.op, [(k, str(v)) for k, v in node.attrs.items()], [str(v.type) for v in node.operands]))
    return {
        "label": node.name or node.op,
        "kernel": node.op,
        "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        "precision": _precision(node),
        "sources": list(node.sources),
        "flops": str(spent.flops),
        "bytes": str(spent.bytes),
    }


def _precision(node: Node) -> str:
    """What a node computes in: the narrowest of its operands' numbers."""
    types = [v.dtype for v in node.operands] or [v.dtype for v in node.outputs]
    if node.op in ("qlinear", "qconv"):
        weight = types[1 if node.inputs[1] is None else 2]
        return {DType.i8: "w8", DType.i4: "w4"}[weight] + ("a16" if node.inputs[1] is None else "a8")
    return types[0].value


def _mark_gathered(model: ModelProto, index: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The index of the weights, with those marked that are only looked up row by row."""
    looked_up: set[str] = set()
    streamed: set[str] = set()
    for node in model.graph.node:
        for number, read in enumerate(node.input):
            (looked_up if node.op_type == "Gather" and number == 0 else streamed).add(read)
    return [{**entry, "gathered": entry["name"] in looked_up - streamed} for entry in index]
