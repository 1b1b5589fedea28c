"""Ops of a user: what ``planish.register_op`` is told of a torch op that planish does not know.

A torch custom op (``torch.library.custom_op``) is a black box to a compiler. Registered, it is a node like any other: its
operands and attributes are those of its torch schema, its type what its fake implementation says (or ``infer``), its meaning
the op itself (or ``reference``), and its kernel one of three::

    planish.register_op("mylib::soft_cap", "cap * tanh(x / cap)")                     # an expression: fuses like any op

    planish.register_op("mylib::glu", lambda op, x, dim: ...)                         # made of planish's own ops: fuses too

    planish.register_op("mylib::scan", planish.CppKernel(source, "scan", parallel=1), flops=2)      # C++

The first two are taken apart before anything else happens (``passes/custom.py``), so the rest of the compiler sees ops it knows;
C++ stays one node and is compiled into the artifact at the artifact's own ISA level. An artifact needs neither torch nor the
package that registered the op.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PassError, PlanishError, UsageError
from .expressions import check_expression
from .graph import Node, Value
from .ops import OPS, REQUIRED, OpSchema
from .types import DType, TensorType

__all__ = [
    "CppKernel", "CustomOp", "Parameter", "custom_op", "forget", "operands_of", "register_op", "registered",
    "registered_ops", "result_types", "widened",
]  # fmt: skip

#: The attribute that keeps the types torch's fake implementation gave, where no ``infer`` is registered: per result the name
#: of its element type and its sizes.
RESULT_TYPES = "result_types"

Infer = Callable[..., Any]


@dataclass(frozen=True)
class CppKernel:
    """A kernel in C++17. The function named is called with, in this order:

    * per operand of the op ``const T* data, const int64_t* sizes``: the elements in row-major order without gaps. ``T`` is the
      C++ type of the element type (``float``, ``double``, ``int64_t``, ``int32_t``, ``int16_t``, ``int8_t``, ``uint8_t``,
      ``bool``); bf16 and f16 arrive as ``float``. For an absent optional operand both are ``nullptr``;
    * per result ``T* data, const int64_t* sizes``: uninitialised memory that it has to fill;
    * per attribute of the op its value: ``int64_t``, ``double``, ``bool``, ``const char*``; of a list ``const int64_t*`` (or
      ``const double*``) ``data, int64_t count``; of one that may be None a pointer, null for None;
    * ``int64_t begin, int64_t end``: the part of the work to do. The indices over the first ``parallel`` axes of the first
      result, counted row-major, are shared out; parts run at the same time on several threads. With ``parallel=0`` there is one
      call, with 0 and 1.

    It may be an overload or a template, returns nothing, throws nothing (it is compiled without exceptions) and keeps no state.
    Includes must be of system headers. Plain loops are vectorised for the ISA level at hand (``-O3`` and its flags); macros
    such as ``__AVX512F__`` tell it.

    Attributes:
        source: the C++ text, or the path of a file that holds it.
        function: the name of the function; it may be qualified.
        parallel: how many leading axes of the first result are shared out among threads.

    Raises:
        UsageError: the file cannot be read, the function is not in the text, or it includes a file that only you have.
    """

    source: str | Path
    function: str
    parallel: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.source, Path):
            try:
                object.__setattr__(self, "source", self.source.read_text())
            except OSError as error:
                raise UsageError(f"the kernel {str(self.source)!r} cannot be read: {error.strerror}") from error
        text = str(self.source)
        if not re.fullmatch(r"[A-Za-z_]\w*(::[A-Za-z_]\w*)*", self.function):
            raise UsageError(f"{self.function!r} is no name of a C++ function")
        if not re.search(rf"\b{self.function.rpartition('::')[2]}\b", text):
            raise UsageError(f"the C++ text holds no function {self.function!r}")
        local = re.search(r'^\s*#\s*include\s*"([^"]+)"', text, re.M)
        if local is not None:
            raise UsageError(
                f"the C++ text includes {local.group(1)!r}, which the artifact could not be built from again",
                "put its text into the source; only system headers (#include <...>) can be included",
            )
        if self.parallel < 0:
            raise UsageError(f"parallel={self.parallel} is no number of axes")


@dataclass(frozen=True)
class Parameter:
    """One argument of a torch op.

    Attributes:
        name: as in the op's schema.
        kind: ``tensor``, ``tensors``, or the type of an attribute: ``int``, ``float``, ``bool``, ``str``, ``dtype``, ``ints``,
            ``floats``, ``bools``.
        optional: whether it may be None.
        default: ``REQUIRED`` if there is none.
        keyword_only: whether it is given by name alone.
    """

    name: str
    kind: str
    optional: bool = False
    default: Any = REQUIRED
    keyword_only: bool = False

    @property
    def is_operand(self) -> bool:
        return self.kind in ("tensor", "tensors")


@dataclass(frozen=True)
class CustomOp:
    """A registered op; what ``register_op`` returns and an entry point of ``planish.ops`` may name.

    Attributes:
        name: of the torch op, ``mylib::soft_cap``.
        kernel, infer, reference, version, flops, doc: see :func:`register_op`.
        parameters: its arguments, in the order of its schema.
        results: how many tensors it returns.
        origin: ``file:line`` that registered it; module: the Python module.
        torch_op: the overload itself; None for an operator of ONNX alone.
    """

    name: str
    kernel: str | Callable[..., Any] | CppKernel
    parameters: tuple[Parameter, ...]
    results: int
    infer: str | Infer | None = None
    reference: Callable[..., Any] | None = None
    version: int = 1
    flops: int = 1
    doc: str = ""
    origin: str = ""
    module: str = ""
    torch_op: Any = None

    @property
    def op(self) -> str:
        """Its name in the IR, in manifests and in reports: ``mylib.soft_cap``."""
        return self.name.replace("::", ".")

    @property
    def operands(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.is_operand)

    @property
    def attributes(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if not p.is_operand)

    def call(self, function: Callable[..., Any], operands: Sequence[Any], attrs: Mapping[str, Any], *first: Any) -> Any:
        """``function`` with the arguments of the op as torch would give them: positional ones by position.

        Args:
            function: what is called.
            operands: of a node, in order; a list of tensors takes all that are left.
            attrs: of a node.
            first: further arguments in front.
        """
        left = list(operands)
        args: list[Any] = list(first)
        keywords: dict[str, Any] = {}
        for p in self.parameters:
            value: Any
            if p.kind == "tensors":
                value, left = left, []
            elif p.is_operand:
                value = left.pop(0) if left else None
            else:
                value = attrs[p.name]
                value = list(value) if isinstance(value, tuple) else value
            if p.keyword_only:
                keywords[p.name] = value
            else:
                args.append(value)
        return function(*args, **keywords)

    def schema(self) -> OpSchema:
        """The same for the vocabulary of the IR."""
        attributes: dict[str, Any] = {p.name: p.default for p in self.attributes}
        if self.infer is None:
            attributes[RESULT_TYPES] = REQUIRED
        suffix = {"tensors": "*"}
        inputs = tuple(p.name + suffix.get(p.kind, "?" if p.optional else "") for p in self.operands)
        return OpSchema(
            self.op, inputs, self._types, attributes, version=self.version, flops=self._flops, doc=self.doc or self.name
        )

    def _flops(self, node: Node) -> Any:
        return node.outputs[0].type.elements * self.flops

    def _types(self, node: Node) -> list[TensorType]:
        if self.infer is None:
            return [TensorType(DType(dtype), tuple(shape)) for dtype, *shape in node.attrs[RESULT_TYPES]]
        types = [None if v is None else v.type for v in node.inputs]
        if isinstance(self.infer, str):
            at = next(i for i, p in enumerate(self.operands) if p.name == self.infer)
            like = types[at]
            assert like is not None, "checked when it was registered"
            return [like] * self.results
        try:
            found = self.call(self.infer, types, node.attrs)
        except PlanishError:
            raise
        except Exception as error:
            raise PassError(f"the infer of the op {self.name} failed: {type(error).__name__}: {error}") from error
        given = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(given) != self.results or not all(isinstance(t, TensorType) for t in given):
            raise PassError(
                f"the infer of the op {self.name} returned {found!r}",
                "it must return a TensorType" if self.results == 1 else f"it must return {self.results} TensorTypes",
            )
        return [TensorType(DType(t.dtype), tuple(t.shape)) for t in given]


_REGISTRY: dict[str, CustomOp] = {}


def register_op(
    name: Any,
    kernel: str | Callable[..., Any] | CppKernel,
    *,
    schema: str | None = None,
    infer: str | Infer | None = None,
    reference: Callable[..., Any] | None = None,
    version: int = 1,
    flops: int = 1,
    doc: str = "",
    replace: bool = False,
) -> CustomOp:
    """Teach planish an op of torch or ONNX that it does not know, so that models that use it can be captured, compiled and run.

    Every function below takes the arguments of the op itself, in the order of its schema.

    Args:
        name: of the torch op, ``"mylib::soft_cap"``, or what ``torch.library.custom_op`` returned; or domain and type of an
            operator of ONNX, ``"com.acme::SoftCap"``.
        kernel: how it is computed:

            * text: an elementwise expression over the names of the op's arguments, with Python's operators, numbers, and every
              elementwise op of planish as a function (``"cap * tanh(x / cap)"``). It fuses into its neighbours;
            * a function ``kernel(op, x, cap)`` that builds it from planish's ops and returns the result (several as a tuple):
              operands are values of the graph, attributes numbers (or run-time dimensions), ``op.mul(a, b)`` adds a node. It is
              optimised and fuses as if the model had been written so;
            * a :class:`CppKernel`.
        schema: of an operator that torch does not have, as torch writes one: ``"(Tensor x, float cap=30.0) -> Tensor"``. Tensors
            are the inputs in their order, the others the attributes by name.
        infer: types of the results: a function of ``TensorType``s that returns one (or several), or the name of the operand that
            the result is like. None takes what the op's fake implementation (``register_fake``) says where it is captured, or
            without a torch op what the kernel gives.
        reference: its meaning in torch code; None is the torch op itself, or without one the kernel. Checks and folding of
            constants use it.
        version: to be raised when its meaning changes; artifacts record it.
        flops: arithmetic operations per element of the first result, for reports and for sharing out work.
        doc: one line.
        replace: take the place of an op registered before under this name, as in a notebook.

    Returns:
        The registered op.

    Raises:
        UsageError: there is no such torch op, it writes to its arguments, it is registered or captured already, or a part
            does not fit its schema.
    """
    from .capture.custom import read_schema

    frame = sys._getframe(1)
    torch_op, full, parameters, results = read_schema(name, schema)
    op = CustomOp(
        full, kernel, parameters, results, infer, reference, version, flops, doc,
        f"{frame.f_code.co_filename}:{frame.f_lineno}", str(frame.f_globals.get("__name__", "")), torch_op,
    )  # fmt: skip
    _check(op)
    known = _REGISTRY.get(full)
    if known is not None and not replace and known.origin != op.origin:  # a module that is imported again is no clash
        raise UsageError(
            f"the op {full} is registered twice: at {known.origin} and at {op.origin}",
            "remove one of the two, or register the second with replace=True",
        )
    if known is None and op.op in OPS:
        raise UsageError(f"the name {op.op!r} is taken by an op of planish")
    from .capture.custom import announce

    announce(op)
    _REGISTRY[full] = op
    OPS[op.op] = op.schema()
    return op


def _check(op: CustomOp) -> None:
    """Hold the parts of a registration against the op's schema.

    Raises:
        UsageError: a part does not fit; says which.
    """
    names = [p.name for p in op.operands]
    if isinstance(op.infer, str):
        like = next((p for p in op.operands if p.name == op.infer), None)
        if like is None or like.kind != "tensor" or like.optional:
            raise UsageError(
                f"the op {op.name} has no operand {op.infer!r} that its result could be like",
                f"its operands are {', '.join(names)}",
            )
    elif op.infer is not None and not callable(op.infer):
        raise UsageError(
            f"the infer of the op {op.name} is {op.infer!r}", "it is a function, or the name of an operand"
        )
    if op.reference is not None and not callable(op.reference):
        raise UsageError(f"the reference of the op {op.name} is {op.reference!r}, which cannot be called")
    if not isinstance(op.version, int) or op.version < 1:
        raise UsageError(f"the version of the op {op.name} is {op.version!r}", "it is a number, 1 at first")
    if op.torch_op is None and isinstance(op.kernel, CppKernel):
        for missing in ("infer", "reference"):
            if getattr(op, missing) is None:
                raise UsageError(
                    f"the op {op.name} has a C++ kernel and no {missing}, and there is no torch op to take it from",
                    f"give {missing}=...",
                )
    if isinstance(op.kernel, str):
        if op.results != 1 or any(p.kind == "tensors" or p.optional for p in op.operands):
            raise UsageError(
                f"an expression cannot say what the op {op.name} does: it has several results, lists or optional operands",
                "write the kernel as a function that takes op and the op's arguments",
            )
        check_expression(op.kernel, names, [p.name for p in op.attributes], op.name)
    elif isinstance(op.kernel, CppKernel):
        lists = [p.name for p in op.operands if p.kind == "tensors"]
        if lists:
            raise UsageError(
                f"the C++ kernel of the op {op.name} cannot take the list of tensors {lists[0]!r}",
                "write the kernel as a function that takes op and the op's arguments",
            )
    elif not callable(op.kernel):
        raise UsageError(
            f"the kernel of the op {op.name} is {op.kernel!r}",
            "it is an expression, a function that takes op and the op's arguments, or a planish.CppKernel",
        )


def custom_op(op: str) -> CustomOp | None:
    """The registered op whose name in the IR (``mylib.soft_cap``) or in torch (``mylib::soft_cap``) is ``op``."""
    if "::" in op:
        return _REGISTRY.get(op)
    return next((o for o in _REGISTRY.values() if o.op == op), None)


def registered() -> list[CustomOp]:
    """What is registered so far."""
    return list(_REGISTRY.values())


def registered_ops() -> dict[str, CustomOp]:
    """Every registered op by its torch name; those of plugins too."""
    from .plugins import load_ops

    load_ops()
    return dict(sorted(_REGISTRY.items()))


def forget(op: CustomOp) -> None:
    """Undo a registration, for tests."""
    from .capture.custom import announce

    if _REGISTRY.get(op.name) == op:
        del _REGISTRY[op.name], OPS[op.op]
        announce(op, remove=True)


def widened(op: CustomOp, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """``attrs`` of a node with narrow floats among the types of its results made f32."""
    if RESULT_TYPES not in attrs:
        return dict(attrs)
    narrow = (DType.bf16, DType.f16)
    types = tuple((DType.f32.value if DType(d) in narrow else d, *shape) for d, *shape in attrs[RESULT_TYPES])
    return {**attrs, RESULT_TYPES: types}


def result_types(types: Sequence[TensorType]) -> tuple[tuple[Any, ...], ...]:
    """The attribute ``RESULT_TYPES`` for ``types``."""
    return tuple((t.dtype.value, *t.shape) for t in types)


def operands_of(op: CustomOp, arguments: Mapping[str, Any]) -> list[Value | None]:
    """The operands of a node from the op's arguments by name; trailing absent ones are left out."""
    found: list[Value | None] = []
    for p in op.operands:
        given = arguments[p.name]
        found.extend(given if p.kind == "tensors" else [given])
    while found and found[-1] is None:
        found.pop()
    return found
