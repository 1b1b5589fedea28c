"""Operators of other domains that somebody registered (``planish.register_op``), by hand or in a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ... import custom_ops
from ...custom_ops import RESULT_TYPES, CustomOp, Parameter, custom_op
from ...custom_parts import parts_graph
from ...graph import Value
from ...ops import REQUIRED
from ..unsupported import Unsupported

if TYPE_CHECKING:
    from .importing import Importer


def find_custom(domain: str, name: str) -> CustomOp | None:
    """The registered op for an operator of a domain; plugins are looked through once."""
    full = f"{domain}::{name}"
    found = custom_op(full)
    if found is None and domain:
        from ...plugins import load_ops

        load_ops()
        found = custom_op(full)
    return found


def read_custom(
    at: Importer, op: CustomOp, operands: Sequence[Value | None], attributes: Mapping[str, Any]
) -> list[Value]:
    """The results of a registered op.

    Raises:
        Unsupported: operands or attributes are not those that it was registered with.
        PassError: its kernel failed.
    """
    unknown = sorted(set(attributes) - {p.name for p in op.attributes})
    if unknown:
        raise Unsupported(f"its attribute {unknown[0]!r} is not in the schema it was registered with")
    attrs: dict[str, Any] = {p.name: _attribute(p, attributes) for p in op.attributes}
    inputs = _operands(op, operands)
    if op.infer is None:
        types = [None if v is None else v.type for v in inputs]
        made = parts_graph(op, types, attrs, at.graph.symbols)
        attrs[RESULT_TYPES] = custom_ops.result_types([v.type for v in made.outputs])
    while inputs and inputs[-1] is None:
        inputs.pop()
    return list(at.insert(op.op, inputs, attrs).outputs)


def _attribute(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    value = given.get(parameter.name, parameter.default)
    if value is REQUIRED:
        raise Unsupported(f"it has no attribute {parameter.name!r}")
    if parameter.kind in ("ints", "floats", "bools") and value is not None:
        return tuple(bool(v) if parameter.kind == "bools" else v for v in value)
    return bool(value) if parameter.kind == "bool" and value is not None else value


def _operands(op: CustomOp, given: Sequence[Value | None]) -> list[Value | None]:
    """Operands as the op has them: absent ones at the end are None."""
    single = [p for p in op.operands if p.kind != "tensors"]
    several = len(single) < len(op.operands)
    if len(given) > len(single) and not several:
        raise Unsupported(f"it has {len(given)} inputs where {len(single)} were registered")
    inputs = [*given, *[None] * (len(single) - len(given))]
    missing = next((p.name for p, v in zip(single, inputs, strict=False) if v is None and not p.optional), None)
    if missing is not None:
        raise Unsupported(f"its input {missing!r} is absent")
    return inputs
