"""Registered ops with a C++ kernel on the CPU: operands in the types and the order that the kernel takes, and the launch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...codegen.custom import CPP_TYPE, RUN_TIME
from ...codegen.program import Ref
from ...codegen.specs import CustomSpec
from ...compiler.custom_ops import CppKernel, CustomOp, custom_op, widened
from ...compiler.dims import Dim, Expr
from ...compiler.errors import LoweringError, ToolchainError
from ...compiler.graph import Graph, Node, Value
from ...compiler.types import DType
from .regions import Region

if TYPE_CHECKING:
    from .lower import Lowering

_NARROW = frozenset({DType.bf16, DType.f16})


def cpp_op(node: Node) -> CustomOp | None:
    """The registered op of ``node`` if its kernel is C++."""
    op = custom_op(node.op) if "." in node.op else None
    return op if op is not None and isinstance(op.kernel, CppKernel) else None


def widen(graph: Graph, node: Node, op: CustomOp) -> bool:
    """Compute in f32 what would be bf16 or f16: casts in front of the operands and behind the results.

    Raises:
        LoweringError: a result stays narrow whatever the operands are.
    """
    values = [*node.operands, *node.outputs]
    if not any(v.dtype in _NARROW for v in values):
        return False

    def cast(value: Value | None, dtype: DType) -> Value | None:
        if value is None or value.dtype is dtype:
            return value
        return graph.derive(node, "cast", [value], {"dtype": dtype})

    operands = [cast(v, DType.f32) if v is not None and v.dtype in _NARROW else v for v in node.inputs]
    wide = graph.insert(
        node.op, operands, widened(op, node.attrs), before=node, name=node.name, location=node.location,
        sources=node.sources,
    )  # fmt: skip
    for old, new in zip(node.outputs, wide.outputs, strict=True):
        if new.dtype in _NARROW:
            raise LoweringError(
                f"the op {op.name}: its infer says {new.type} for operands in f32, but kernels compute in f32",
                "let infer return the element type of an operand",
            )
        back = cast(new, old.dtype)
        assert back is not None
        graph.replace(old, back)
    graph.erase(node)
    return True


def lower_custom(low: Lowering, node: Node, op: CustomOp) -> None:
    """One launch of the op's function; operands lie row-major without gaps.

    Raises:
        LoweringError: more axes are to be shared out than the result has.
    """
    kernel = op.kernel
    assert isinstance(kernel, CppKernel)
    pointers: list[Ref] = []
    dims: list[Dim] = []
    operands: list[tuple[Any, int] | None] = []
    padded = [*node.inputs, *[None] * (len(op.operands) - len(node.inputs))]
    for value in padded:
        if value is None:
            operands.append(None)
            pointers.append(Ref(None))
            continue
        view = low.materialise(value)
        operands.append((_storage(low, value, op), value.type.rank))
        pointers.append(low.ref(view, value.dtype.size))
        dims.extend(value.shape)
    results: list[tuple[Any, int]] = []
    for value in node.outputs:
        results.append((_storage(low, value, op), value.type.rank))
        pointers.append(low.ref(low.allocate(value), value.dtype.size))
        dims.extend(value.shape)
    if kernel.parallel > results[0][1]:
        raise LoweringError(
            f"the kernel of the op {op.name} shares out {kernel.parallel} axes of a result of rank {results[0][1]}"
        )
    attributes: list[tuple[str, Any]] = []
    for p in op.attributes:
        fixed, varying = _fixed(node.attrs[p.name])
        attributes.append((f"{p.kind}?" if p.optional else p.kind, fixed))
        dims.extend(varying)
    spec = CustomSpec(
        op.name, str(kernel.source), kernel.function, tuple(operands), tuple(results), tuple(attributes),
        kernel.parallel, op.flops,
    )  # fmt: skip
    low.launch(Region.of(node), spec, pointers, dims, "f32")


def _storage(low: Lowering, value: Value, op: CustomOp) -> str:
    storage: str = low.storage(value)
    if storage not in CPP_TYPE:
        raise LoweringError(f"the kernel of the op {op.name} cannot take {value.type}")
    return storage


def _fixed(value: Any) -> tuple[Any, list[Dim]]:
    """An attribute with run-time dimensions marked, and those dimensions."""
    if isinstance(value, Expr):
        return RUN_TIME, [value]
    if isinstance(value, tuple):
        return tuple(RUN_TIME if isinstance(v, Expr) else v for v in value), [v for v in value if isinstance(v, Expr)]
    return value, []


def explained(error: ToolchainError, specs: Iterable[object]) -> ToolchainError:
    """A failure of the compiler that lies in the kernel of a registered op, in words that name the op and its line."""
    for op, function in {(s.op, s.function) for s in specs if isinstance(s, CustomSpec)}:
        inside = re.search(rf"(?<!for the op ){re.escape(op)}:(\d+):(?:\d+:)? (?:fatal )?error: (.+)", error.message)
        if inside is not None:
            return ToolchainError(
                f"the C++ kernel of the op {op} does not compile, line {inside.group(1)}: {inside.group(2)}", error.hint
            )
        call = re.search(rf"for the op {re.escape(op)}:\d+:(?:\d+:)? (?:fatal )?error: (.+)", error.message)
        if call is not None:
            return ToolchainError(
                f"the C++ kernel {function} of the op {op} cannot be called with the op's arguments: {call.group(1)}",
                f"planish.CppKernel says what it is called with; {error.hint}",
            )
    return error
