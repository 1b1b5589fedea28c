"""What is known about an op without running it: the schema, the registry, and what type inference is made of.

No torch here. The vocabulary is in ``ops.py`` and the modules beside it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .dims import Dim, floordiv
from .errors import PassError
from .graph import Node, Value
from .types import DType, TensorType

REQUIRED = object()
#: Ops that i4 data may pass through, and those that read it.
_TAKES_I4 = frozenset({"constant", "fused", "reshape", "dequantize", "qlinear"})
Infer = Callable[[Node], Sequence[TensorType]]


@dataclass(frozen=True)
class Cost:
    """Arithmetic operations and the bytes that must move at least once."""

    flops: Dim
    bytes: Dim


@dataclass(frozen=True)
class OpSchema:
    """What is known about an op without running it.

    Attributes:
        name, version: identity; the version rises when the meaning changes and is recorded in every artifact.
        inputs: names of the operands; a trailing ``?`` marks one that may be absent, ``*`` any number.
        attributes: name -> default (``REQUIRED`` if there is none).
        infer: the output types.
        elementwise: output element i depends on element i of the broadcast operands alone.
        commutative: the two operands may be swapped.
        view: the output can share the storage of operand 0 (read by the memory planner alone).
        flops: operations per output element, or a function of the node.
        doc: one line.
    """

    name: str
    inputs: tuple[str, ...]
    infer: Infer
    attributes: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    elementwise: bool = False
    commutative: bool = False
    view: bool = False
    flops: int | Callable[[Node], Dim] = 0
    doc: str = ""


OPS: dict[str, OpSchema] = {}


def register(schema: OpSchema) -> OpSchema:
    """Add an op to the vocabulary.

    Raises:
        ValueError: the name is taken.
    """
    if schema.name in OPS:
        raise ValueError(f"op {schema.name!r} is registered twice")
    OPS[schema.name] = schema
    return schema


def schema(op: str) -> OpSchema:
    """The schema of ``op``.

    Raises:
        PassError: no such op; names the nearest.
    """
    try:
        return OPS[op]
    except KeyError:
        near = difflib.get_close_matches(op, OPS, 1)
        raise PassError(f"there is no op {op!r}", f"did you mean {near[0]!r}?" if near else None) from None


def normalise(op: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the schema's order with defaults filled in, lists as tuples.

    Raises:
        PassError: an attribute is unknown or a required one is missing.
    """
    spec = schema(op)
    for name in attrs:
        if name not in spec.attributes:
            near = difflib.get_close_matches(name, spec.attributes, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(spec.attributes) or 'none'}"
            raise PassError(f"op {op!r} has no attribute {name!r}", hint)
    complete = {}
    for name, default in spec.attributes.items():
        value = attrs.get(name, default)
        if value is REQUIRED:
            raise PassError(f"op {op!r} needs the attribute {name!r}")
        complete[name] = tuple(value) if isinstance(value, list) else value
    return complete


def infer(node: Node) -> Sequence[TensorType]:
    """Output types of ``node``.

    Raises:
        PassError: the operands do not fit the op.
    """
    spec = schema(node.op)
    required = max((i + 1 for i, n in enumerate(spec.inputs) if not n.endswith(("?", "*"))), default=0)
    most = math.inf if any(n.endswith("*") for n in spec.inputs) else len(spec.inputs)
    present = len(node.inputs)
    if not required <= present <= most:
        raise PassError(f"{node.op} takes {', '.join(spec.inputs) or 'no operands'}, not {present} operands")
    for name, value in zip(spec.inputs, node.inputs, strict=False):
        if value is None and not name.endswith(("?", "*")):
            raise PassError(f"{node.op}: operand {name!r} is missing")
    types = spec.infer(node)
    if node.op not in _TAKES_I4 and any(t.dtype is DType.i4 for t in (*(v.type for v in node.operands), *types)):
        raise fail(node, "i4 is for weights alone, which dequantize turns into numbers to compute with")
    return types


def cost(node: Node) -> Cost:
    """Operations and bytes of ``node``; a fused region moves only what crosses its border."""
    read = sum((_bytes_read(node, v, i) for i, v in enumerate(node.inputs) if v is not None), start=0)
    moved = read + sum((v.type.bytes for v in node.outputs), start=0)
    if node.op == "fused":
        return Cost(sum((cost(n).flops for n in node.regions[0].nodes), start=0), moved)
    flops = schema(node.op).flops
    total = flops(node) if callable(flops) else node.outputs[0].type.elements * flops
    return Cost(total, 0 if schema(node.op).view or node.op == "constant" else moved)


def _bytes_read(node: Node, value: Value, number: int) -> Dim:
    """Bytes that ``node`` reads of its operand: of a table that is looked up in, the rows alone."""
    if node.op == "fused":
        body = node.regions[0]
        inner = body.inputs[number]
        readers = inner.users
        if inner not in body.outputs and readers and all(_looks_up(r, inner) for r in readers):
            return sum((r.output.type.bytes for r in readers), start=0)
    elif _looks_up(node, value):
        return node.output.type.bytes
    if value.dtype is DType.i4:  # kernels read two to a byte
        return floordiv(value.type.elements + 1, 2)
    return value.type.bytes


def _looks_up(node: Node, value: Value) -> bool:
    return (
        node.op in ("embedding", "gather", "take_along") and node.inputs[0] is value and node.inputs.count(value) == 1
    )


def is_elementwise(node: Node) -> bool:
    """Whether the op of ``node`` works element by element."""
    return schema(node.op).elementwise


def define(name: str, inputs: str, infer: Infer, doc: str, **options: Any) -> None:
    """Register an op: ``inputs`` are the names of its operands, ``attrs`` its attributes, the rest are fields of the schema."""
    attributes = options.pop("attrs", {})
    register(OpSchema(name, tuple(inputs.split()), infer, attributes, doc=doc, **options))


# -- inference helpers ----------------------------------------------------------------------------------------------------
def fail(node: Node, why: str) -> PassError:
    where = f" at {node.name}" if node.name else ""
    return PassError(f"{node.op}{where}: {why}")


def broadcast(node: Node, shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape that ``shapes`` broadcast to, as numpy does it; symbolic sizes must be provably equal or 1."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        size: Dim = 1
        for shape in shapes:
            at = axis - (rank - len(shape))
            if at < 0 or shape[at] == 1 or shape[at] == size:
                continue
            if size != 1:
                raise fail(node, f"shapes {' and '.join(str(s) for s in shapes)} do not broadcast")
            size = shape[at]
        result.append(size)
    return tuple(result)


def type_of(value: Value | None) -> TensorType:
    assert value is not None
    return value.type


def same_dtype(node: Node, values: Sequence[Value | None]) -> DType:
    dtypes = {type_of(v).dtype for v in values if v is not None}
    if len(dtypes) != 1:
        raise fail(node, f"operands have different element types: {', '.join(sorted(dtypes))}")
    return dtypes.pop()


def _elementwise(node: Node) -> list[TensorType]:
    dtype = same_dtype(node, node.inputs)
    return [TensorType(dtype, broadcast(node, [v.shape for v in node.operands]))]


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis.

    Raises:
        PassError: out of range.
    """
    if not -rank <= axis < max(rank, 1):
        raise PassError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def like(node: Node) -> list[TensorType]:
    return [TensorType(type_of(node.inputs[0]).dtype, type_of(node.inputs[0]).shape)]
