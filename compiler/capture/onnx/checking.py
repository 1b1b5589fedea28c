"""Whether a model's graph makes sense: in order, without cycles, of operators that fit their schemas, consistent in its types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from ...errors import CaptureError
from .registry import STANDARD, domain_of

#: Elements of a weight up to which it may decide a shape.
SMALL = 1024
#: What onnx puts in front of what it says.
_TAGS = re.compile(r"\[\w+Error\]\s*|Inference error\(s\):\s*|\(op_type:([\w.]+)(?:, node name: ([^)]*))?\):?\s*")


def check_graph(proto: ModelProto, opsets: Mapping[str, int], name: str) -> None:
    """Return for a model whose graph can be read node by node.

    Args:
        proto: the model.
        opsets: version per domain.
        name: of the model, for messages.

    Raises:
        CaptureError: it has a cycle, is out of order, uses what nothing computes, names a domain without a version, gives an
            operator attributes of another kind than it takes, or its types do not fit together.
    """
    _check_functions(proto.functions, name)
    _check_order(proto.graph, set(), name)
    versions = {**opsets, **{domain_of(f.domain): 1 for f in proto.functions if domain_of(f.domain) not in opsets}}
    for node in _nodes(proto.graph.node):
        _check_node(node, versions, name)
    _check_types(proto, name)


# -- text ----------------------------------------------------------------------------------------------------------------
def is_text(message: Message) -> bool:
    """Whether every name in a model is text: what is no UTF-8 arrives as bytes, and the file is damaged then."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if any(isinstance(v, bytes) for v in ([value] if isinstance(value, (str, bytes)) else value)):
                return False
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                if isinstance(inner, TensorProto):  # whose data, which may be large, is not looked at
                    if isinstance(inner.name, bytes):
                        return False
                elif not is_text(inner):
                    return False
    return True


# -- functions of the model ----------------------------------------------------------------------------------------------
def _check_functions(functions: Sequence[FunctionProto], name: str) -> None:
    """No function calls itself, by whatever way: inference of types would never end."""
    calls = {
        (domain_of(f.domain), f.name): {(domain_of(n.domain), n.op_type) for n in _nodes(f.node)} for f in functions
    }
    done: set[tuple[str, str]] = set()
    for start in calls:
        path: list[tuple[str, str]] = []
        todo = [(start, 0)]
        while todo:
            at, depth = todo.pop()
            del path[depth:]
            if at in path:
                raise CaptureError(f"{name} is inconsistent: its function {'::'.join(at)} calls itself")
            if at in done or at not in calls:
                continue
            path.append(at)
            todo.extend((called, depth + 1) for called in calls[at])
        done.add(start)


def _nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)


# -- order ---------------------------------------------------------------------------------------------------------------
def _check_order(graph: GraphProto, outer: set[str], name: str) -> None:
    """Every node reads what nodes before it compute."""
    computed = {n for node in graph.node for n in node.output if n}
    given = [i.name for i in graph.input]
    double = next((n for n in given if given.count(n) > 1), None)
    if double is not None:
        raise CaptureError(f"{name} has two inputs called {double!r}")
    seen = outer | set(given) | {t.name for t in graph.initializer}
    seen |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        label = node.name or node.op_type
        for needed in node.input:
            if needed and needed not in seen:
                if needed in computed and _has_cycle(graph):
                    raise CaptureError(
                        f"{name} has a cycle: the node {label!r} reads {needed!r}, which is computed from what it gives"
                    )
                if needed in computed:
                    raise CaptureError(
                        f"{name} is not in order: the node {label!r} reads {needed!r}, which is computed after it",
                        "sort its nodes; onnx.checker.check_model says more",
                    )
                raise CaptureError(f"{name} is incomplete: the node {label!r} reads {needed!r}, which nothing computes")
        again = next((n for n in node.output if n and n in seen and n not in outer), None)
        if again is not None:
            raise CaptureError(f"{name} computes {again!r} twice, the second time in the node {label!r}")
        seen |= {n for n in node.output if n}
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_order(attribute.g, seen, name)
    missing = [o.name for o in graph.output if o.name not in seen]
    if missing:
        raise CaptureError(f"{name} is incomplete: nothing computes its output {missing[0]!r}")


def _has_cycle(graph: GraphProto) -> bool:
    """Whether no order of the nodes would do (Kahn 1962)."""
    maker = {n: i for i, node in enumerate(graph.node) for n in node.output if n}
    waits = [{maker[n] for n in node.input if n in maker} for node in graph.node]
    readers: dict[int, list[int]] = {}
    for i, needs in enumerate(waits):
        for need in needs:
            readers.setdefault(need, []).append(i)
    ready = [i for i, needs in enumerate(waits) if not needs]
    left = len(waits)
    while ready:
        at = ready.pop()
        left -= 1
        for reader in readers.get(at, ()):
            waits[reader].discard(at)
            if not waits[reader]:
                ready.append(reader)
    return left > 0


# -- operators -----------------------------------------------------------------------------------------------------------
def _check_node(node: NodeProto, versions: Mapping[str, int], name: str) -> None:
    """Its domain has a version, and its attributes are of the kind that its operator takes."""
    domain = domain_of(node.domain)
    label = node.name or next(filter(None, node.output), "")
    if domain not in versions:
        raise CaptureError(
            f"{name} does not say of which version the domain {domain or 'ai.onnx'!r} is that {node.op_type} at {label} is of",
            "onnx.helper.make_opsetid(domain, version) is what its opset_import lacks",
        )
    if domain != STANDARD:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, versions[domain], domain)
    except Exception:  # unknown there, and the importer says so
        return
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is not None and not attribute.ref_attr_name and attribute.type != known.type.value:
            raise CaptureError(
                f"{name} is inconsistent: the attribute {attribute.name!r} of {node.op_type} at {label} is of the wrong kind"
            )


# -- types ---------------------------------------------------------------------------------------------------------------
def _check_types(proto: ModelProto, name: str) -> None:
    try:
        onnx.shape_inference.infer_shapes(_inferable(proto), check_type=True, strict_mode=True, data_prop=False)
    except Exception as error:  # it raises its own error types, which are no public names
        text = str(error).strip().splitlines()
        reason = next((line for line in reversed(text) if line.strip()), "its types do not fit")
        if "ypeInference" in str(error) or "type" in reason.lower() or "ShapeInference" in str(error):
            raise CaptureError(
                f"{name} is inconsistent: {_plainly(reason)}", "onnx.checker.check_model says more"
            ) from error


def _plainly(reason: str) -> str:
    """What onnx says without its tags, the operator in front."""
    where = ""
    for found in _TAGS.finditer(reason):
        if found.group(1):
            where = f"{found.group(1)}{f' at {found.group(2)}' if found.group(2) else ''}: "
    return where + _TAGS.sub("", reason).strip().rstrip(".")


def _inferable(proto: ModelProto) -> ModelProto:
    """The model as onnx's inference takes it: without the data of large weights, which it would copy three times over, and with
    the default axes of MeanVarianceNormalization written out, which it forgets."""
    twin = ModelProto(ir_version=proto.ir_version)
    twin.opset_import.extend(proto.opset_import)
    twin.functions.extend(proto.functions)
    graph = proto.graph
    twin.graph.name = graph.name
    for field in ("input", "output", "value_info", "node", "sparse_initializer"):
        getattr(twin.graph, field).extend(getattr(graph, field))
    for tensor in graph.initializer:
        made = twin.graph.initializer.add()
        if np.prod(tensor.dims, dtype=np.int64) <= SMALL:
            made.CopyFrom(tensor)
            continue
        made.name, made.data_type = tensor.name, tensor.data_type
        made.dims.extend(tensor.dims)
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="elsewhere")
    for node in twin.graph.node:
        if node.op_type == "MeanVarianceNormalization" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("axes", [0, 2, 3]))
    return twin
