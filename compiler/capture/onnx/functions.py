"""Operators that are defined by others: functions of the model, and bodies that the standard gives its own operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
from onnx import FunctionProto, NodeProto

from ...graph import Value
from ..unsupported import NotConstant, Unsupported
from .registry import TensorSequence, domain_of
from .types import ELEMENT_TYPES

if TYPE_CHECKING:
    from .importing import Importer

#: Functions within functions; a recursive one would never end.
MAX_DEPTH = 64


def inline(
    at: Importer,
    function: FunctionProto,
    node: NodeProto,
    operands: Sequence[Value | None],
    attributes: Mapping[str, Any],
) -> list[Any]:
    """Read the body of ``function`` in the place of ``node``; returns what it computes.

    Raises:
        Unsupported: it calls itself, or does not compute an output.
    """
    if len(at._outer) >= MAX_DEPTH:
        raise Unsupported("its definition goes round in a circle")
    given = {a.name: a for a in node.attribute}
    defaults = {a.name: a for a in function.attribute_proto}
    scope: dict[str, Any] = {}
    for number, name in enumerate(function.input):
        scope[name] = operands[number] if number < len(operands) else None
    absent = {name for name, value in scope.items() if value is None}
    body = [_bound(n, given, defaults, absent) for n in function.node]
    kept = at.node, at._path, at._location, at._scope, at.opsets, at._poisoned, len(at.failures)
    at.opsets = {**at.opsets, **{domain_of(o.domain): o.version for o in function.opset_import}}
    at._outer.append(node.name or at._path)
    at._poisoned = set()
    try:
        at.walk(body, scope)
    finally:
        at._outer.pop()
        at.node, at._path, at._location, at._scope, at.opsets, at._poisoned = kept[:6]
    failed = at.failures[kept[6] :]
    if failed:
        del at.failures[kept[6] :]
        first = failed[0]
        why = f"of its definition {first.op} is not supported" + (f": {first.why}" if first.why else "")
        if first.fixes or first.sizes:
            raise NotConstant(why, first.fixes, first.sizes)
        raise Unsupported(why)
    return [scope.get(name) for name in function.output]


def _bound(node: NodeProto, given: Mapping[str, Any], defaults: Mapping[str, Any], absent: set[str]) -> NodeProto:
    """A node of a function's body with the attributes of the call in place; operands that are absent are empty."""
    twin = NodeProto()
    twin.CopyFrom(node)
    del twin.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy = twin.attribute.add()
            copy.CopyFrom(attribute)
            if attribute.HasField("g"):
                for i, inner in enumerate(attribute.g.node):
                    copy.g.node[i].CopyFrom(_bound(inner, given, defaults, absent))
            continue
        source = given.get(attribute.ref_attr_name, defaults.get(attribute.ref_attr_name))
        if source is not None:
            copy = twin.attribute.add()
            copy.CopyFrom(source)
            copy.name = attribute.name
    for number, name in enumerate(node.input):
        if name in absent:
            twin.input[number] = ""
    return twin


def definition(node: NodeProto, operands: Sequence[Value | None], opsets: Mapping[str, int]) -> FunctionProto | None:
    """The body that the standard gives an operator for operands of these types, None if it gives none."""
    domain = domain_of(node.domain)
    version = opsets.get(domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except Exception:  # unknown there as well
        return None
    if schema.has_function:
        known = [v for v in schema.function_opset_versions if v <= version]
        return _parsed(schema.get_function_with_opset_version(known[-1]), schema) if known else None
    if not schema.has_context_dependent_function:
        return None
    types = [_type(value) for value in operands]
    known = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    if not known:
        return None
    text = schema.get_context_dependent_function_with_opset_version(
        known[-1], node.SerializeToString(), [t.SerializeToString() for t in types]
    )
    return _parsed(text, schema)


def _type(operand: Any) -> onnx.TypeProto:
    """The type of an operand as ONNX has it; empty for one that is absent."""
    if isinstance(operand, TensorSequence):
        return onnx.helper.make_sequence_type_proto(_type(operand[0])) if operand else onnx.TypeProto()
    if not isinstance(operand, Value):
        return onnx.TypeProto()
    shape = [d if isinstance(d, int) else str(d) for d in operand.shape]
    return onnx.helper.make_tensor_type_proto(ELEMENT_TYPES[operand.dtype], shape)


def _parsed(text: bytes, schema: onnx.defs.OpSchema) -> FunctionProto:
    """A body with the defaults of the operator's attributes, which stand in the schema alone."""
    function = FunctionProto()
    function.ParseFromString(text)
    stated = {a.name for a in function.attribute_proto}
    defaults = [a.default_value for name, a in schema.attributes.items() if name not in stated]
    function.attribute_proto.extend(d for d in defaults if d.type)
    return function
