"""Registered custom ops where torch is: their schemas, their meaning, and the nodes they are captured as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .. import custom_ops
from ..custom_ops import RESULT_TYPES, CustomOp, Parameter, custom_op
from ..errors import UsageError
from ..graph import Value
from ..ops import REQUIRED
from ..reference import REFERENCE, TORCH
from ..types import DType, TensorType
from .symbols import Unsupported
from .weights import dtype_of

if TYPE_CHECKING:
    from .lowering import Lowering

#: Namespaces of torch itself: an op of any other is somebody's own.
OWN = frozenset({"aten", "prim", "prims", "quantized", "_c10d_functional", "profiler", "higher_order"})

_KINDS = {
    "Tensor": "tensor", "int": "int", "SymInt": "int", "float": "float", "bool": "bool", "str": "str", "number": "float",
    "Scalar": "float", "ScalarType": "dtype", "List[Tensor]": "tensors", "List[int]": "ints", "List[SymInt]": "ints",
    "List[float]": "floats", "List[bool]": "bools",
}  # fmt: skip
#: Why an op that writes to its arguments is not captured.
WRITES = "a custom op that writes to its arguments; one that returns its results can be"
_STORAGE = frozenset({"Layout", "Device", "MemoryFormat"})


def overload_of(name: Any) -> torch._ops.OpOverload:
    """The torch op that ``name`` is, names, or wraps.

    Raises:
        UsageError: there is none, or several overloads.
    """
    if isinstance(name, torch._ops.OpOverload):
        return name
    wrapped = getattr(name, "_opoverload", None)  # what torch.library.custom_op returns
    if isinstance(wrapped, torch._ops.OpOverload):
        return wrapped
    if isinstance(name, torch._ops.OpOverloadPacket):
        name = str(name).replace(".", "::", 1)
    if not isinstance(name, str) or "::" not in name:
        raise UsageError(f"{name!r} names no torch op", 'write it as torch does: "mylib::soft_cap"')
    space, _, rest = name.partition("::")
    stem, _, overload = rest.partition(".")
    try:
        packet = getattr(getattr(torch.ops, space), stem)
        there = packet.overloads()
    except (AttributeError, RuntimeError):
        raise UsageError(
            f"torch has no op {name!r}", "define or import it (torch.library.custom_op) before it is registered"
        ) from None
    wanted = overload or "default"
    if wanted not in there:
        spelled = [f"{space}::{stem}.{o}" if o != "default" else f"{space}::{stem}" for o in there]
        raise UsageError(f"the op {space}::{stem} has no overload {wanted!r}", f"register {' or '.join(spelled)}")
    found: torch._ops.OpOverload = getattr(packet, wanted)
    return found


def read_schema(
    name: Any, text: str | None = None
) -> tuple[torch._ops.OpOverload | None, str, tuple[Parameter, ...], int]:
    """The overload, its full name, its arguments, and how many tensors it returns.

    Args:
        name: as ``register_op`` takes it.
        text: the schema of an op that torch does not have; the overload is None then.

    Raises:
        UsageError: there is no such op, or it is not of the kind that can be a node: it writes to its arguments, takes or
            returns something that is neither a tensor nor a number.
    """
    if text is None:
        overload = overload_of(name)
        schema, full = overload._schema, overload.name()
    else:
        overload, schema, full = None, _parsed(name, text), str(name)
    if schema.is_mutable:
        raise UsageError(
            f"the op {full} writes to its arguments, which no node of a graph may",
            "give it a variant that returns its results (mutates_args=())",
        )
    parameters = []
    for a in schema.arguments:
        optional = isinstance(a.type, torch.OptionalType)
        spelled = str(a.real_type if hasattr(a, "real_type") else a.type)
        bare = spelled.removeprefix("Optional[").removesuffix("]") if optional else spelled
        if bare in _STORAGE:
            raise UsageError(f"the op {full} takes {a.name!r}, a {bare}, which says where or how a tensor is stored")
        kind = _KINDS.get(bare)
        if kind is None or a.name == RESULT_TYPES:
            raise UsageError(f"the op {full} takes {a.name!r} of the type {spelled}, which a node cannot hold")
        default = _plain(a.default_value, kind) if a.has_default_value() else REQUIRED
        parameters.append(Parameter(a.name, kind, optional, default, a.kwarg_only))
    tensors = [p.name for p in parameters if p.is_operand]
    lists = [p.name for p in parameters if p.kind == "tensors"]
    if lists and lists != tensors[-1:]:
        raise UsageError(f"the op {full} takes the list of tensors {lists[0]!r} in front of other tensors")
    returned = [str(r.type) for r in schema.returns]
    if not returned or any(r != "Tensor" for r in returned):
        raise UsageError(
            f"the op {full} returns {', '.join(returned) or 'nothing'}", "it must return one or more tensors"
        )
    return overload, full, tuple(parameters), len(returned)


def _parsed(name: Any, text: str) -> Any:
    if not isinstance(name, str) or "::" not in name.strip(":"):
        raise UsageError(f"{name!r} names no operator", 'write domain and type: "com.acme::SoftCap"')
    try:
        return torch._C.parse_schema("planish::op" + text[text.index("(") :])
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"the schema of the op {name} cannot be read: {str(error).strip().splitlines()[0]}",
            'for example schema="(Tensor x, float cap=30.0) -> Tensor"',
        ) from error


def _plain(value: Any, kind: str) -> Any:
    """A value of torch as an attribute of a node."""
    if kind == "dtype" and value is not None:
        return dtype_of(value) if isinstance(value, torch.dtype) else value
    return tuple(value) if isinstance(value, (list, tuple)) else value


def announce(op: CustomOp, remove: bool = False) -> None:
    """Make the meaning of ``op`` known to the interpreter (or no longer).

    Raises:
        UsageError: planish captures this op of torch itself.
    """
    from .lowering import HANDLERS

    if remove:
        REFERENCE.pop(op.op, None)
        return
    if str(op.torch_op) in HANDLERS:
        raise UsageError(f"planish captures {op.name} itself", "only ops that it does not know can be registered")
    meaning = op.reference or op.torch_op
    if meaning is None:
        REFERENCE[op.op] = partial(_as_its_kernel, op)
        return
    as_torch = [p.name for p in op.attributes if p.kind == "dtype"]

    def reference(attrs: Mapping[str, Any], *operands: Any) -> Any:
        given = {**attrs, **{n: TORCH[attrs[n]] for n in as_torch if attrs[n] is not None}}
        return op.call(meaning, [None if t is None else t.contiguous() for t in operands], given)

    REFERENCE[op.op] = reference


def _as_its_kernel(op: CustomOp, attrs: Mapping[str, Any], *operands: Any) -> Any:
    """The results of an op that means what its kernel computes."""
    from ..custom_parts import parts_graph
    from ..interpret import Interpreter

    dtypes = {TORCH[d]: d for d in DType if d is not DType.i4}
    several = any(p.kind == "tensors" for p in op.operands)
    given = list(operands) if several else [*operands, *[None] * (len(op.operands) - len(operands))]
    types = [None if t is None else TensorType(dtypes[t.dtype], tuple(t.shape)) for t in given]
    graph = parts_graph(op, types, {name: a for name, a in attrs.items() if name != RESULT_TYPES})
    made = Interpreter(graph)([t for t in given if t is not None])
    return made[0] if op.results == 1 else tuple(made)


def handler_of(target: Any) -> Callable[..., Any] | None:
    """What captures calls of ``target``: None where nobody registered it. Plugins are looked through once."""
    if not is_custom(target):
        return None
    op = custom_op(target.name())
    if op is None:
        from ..plugins import load_ops

        load_ops()
        op = custom_op(target.name())
    return None if op is None else _handler(op)


def is_custom(target: Any) -> bool:
    """Whether ``target`` is a torch op that is not torch's own, or one of torch's that somebody registered."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target.namespace not in OWN or custom_op(target.name()) is not None


def _handler(op: CustomOp) -> Callable[..., Any]:
    def handle(b: Lowering, /, **arguments: Any) -> Any:
        attrs: dict[str, Any] = {}
        for p in op.attributes:
            value = _plain(arguments[p.name], p.kind)
            if isinstance(value, Value) or (isinstance(value, tuple) and any(isinstance(v, Value) for v in value)):
                raise Unsupported(f"its argument {p.name!r} must be known when the model is captured")
            attrs[p.name] = value
        fakes = b.fake if isinstance(b.fake, (list, tuple)) else [b.fake]
        said = [TensorType(dtype_of(f.dtype), b.symbols.shape(f.shape)) for f in fakes]
        if op.infer is None:
            attrs[RESULT_TYPES] = custom_ops.result_types(said)
        node = b.insert(op.op, custom_ops.operands_of(op, arguments), attrs)
        for ours, theirs in zip(node.outputs, said, strict=True):
            if not _agree(ours.type, theirs):
                raise Unsupported(f"its infer says {ours.type}, its fake implementation {theirs}")
        return node.output if op.results == 1 else list(node.outputs)

    return handle


def _agree(a: TensorType, b: TensorType) -> bool:
    """Whether two types may be the same: sizes that are not both numbers are taken to be equal."""
    return a.dtype is b.dtype and a.rank == b.rank and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in zip(a.shape, b.shape, strict=True)
    )  # fmt: skip


def unregistered_hint(targets: Sequence[Any]) -> str | None:
    """What to do about the custom ops among ``targets``; None if there are none."""
    names = sorted({t.name() for t in targets if is_custom(t)})
    if not names:
        return None
    are = f"{names[0]} is a custom op" if len(names) == 1 else f"{', '.join(names)} are custom ops"
    return (
        f'{are}: planish.register_op("{names[0]}", kernel, reference=...) says how to compute it and what it means'
        f"{', likewise for the others' if len(names) > 1 else ''}; examples/custom_op shows how, and --ops FILE.py names the "
        "file that does it"
    )


__all__ = ["announce", "handler_of", "is_custom", "overload_of", "read_schema", "unregistered_hint"]
