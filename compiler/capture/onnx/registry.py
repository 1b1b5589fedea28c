"""Which function reads which operator.

A handler is ``handler(at, *operands, **attributes)``: ``at`` is the :class:`~.importing.Importer`, operands come in the order of
the ONNX operator (None for one that is absent), attributes by name (numbers, strings, lists of them, numpy arrays, or
``GraphProto`` for bodies). It returns a value, or a sequence of them, and raises :class:`Unsupported` with the reason it cannot.
An attribute that the handler does not know is an error, so that nothing is dropped in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..unsupported import Unsupported

Handler = Callable[..., Any]

#: The domain of the standard operators, and the other name it goes by.
STANDARD = ""
#: The domain of the operators that ONNX Runtime's own tools write.
MICROSOFT = "com.microsoft"


def domain_of(name: str) -> str:
    """The domain with one spelling for the standard one."""
    return STANDARD if name == "ai.onnx" else name


class TensorSequence(tuple[Any, ...]):
    """What a model calls a sequence: while it is read, the values themselves."""

    __slots__ = ()


class Absent:
    """An optional of a model that holds nothing; one that holds something is that itself."""


#: What a name may stand for besides a value of the graph.
NOT_TENSORS = (TensorSequence, Absent)


@dataclass(frozen=True)
class Entry:
    """A handler, the first opset whose form of the operator it reads, and whether it takes more than tensors; ``refused`` is
    why nothing can be read of the operator, where that is so."""

    since: int
    handler: Handler
    sequences: bool = False
    refused: str | None = None

    @cached_property
    def attributes(self) -> set[str] | None:
        """Names of the attributes it knows; None: any."""
        parameters = inspect.signature(self.handler).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    @cached_property
    def operands(self) -> int | None:
        """How many operands it takes at most; None: any number."""
        parameters = list(inspect.signature(self.handler).parameters.values())[1:]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return None
        return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)

    @cached_property
    def required(self) -> list[int]:
        """Places of the operands that it cannot do without: without a default, and not said to be None now and then."""
        parameters = list(inspect.signature(self.handler).parameters.values())[1:]
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p.default is p.empty and "None" not in str(p.annotation) for p in positional]
        return [i for i, must in enumerate(needed) if must]

    def check(self, operands: Sequence[Any], attributes: Mapping[str, Any]) -> None:
        """Return where the handler knows all it is given.

        Raises:
            Unsupported: it does not; says what.
        """
        if self.attributes is not None:
            unknown = sorted(set(attributes) - self.attributes)
            if unknown:
                raise Unsupported(f"its attribute {unknown[0]!r} is not supported")
        if self.operands is not None and len(operands) > self.operands:
            raise Unsupported(f"it has {len(operands)} inputs where {self.operands} are known")
        for number in self.required:
            if number >= len(operands) or operands[number] is None:
                raise Unsupported(f"its input number {number + 1} is missing")


HANDLERS: dict[tuple[str, str], list[Entry]] = {}


def op(*names: str, since: int = 1, domain: str = STANDARD, sequences: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler for operators of a domain as they are from opset ``since`` on, until a later entry takes over.

    One that takes ``sequences`` may be given a :class:`TensorSequence` or :class:`Absent` as an operand.
    """

    def add(handler: Handler) -> Handler:
        for name in names:
            entries = HANDLERS.setdefault((domain, name), [])
            if any(e.since == since for e in entries):
                raise ValueError(f"{name} of opset {since} is handled twice")
            entries.append(Entry(since, handler, sequences))
            entries.sort(key=lambda e: e.since)
        return handler

    return add


def refuse(*names: str, why: str, domain: str = STANDARD) -> None:
    """Say why operators that are known cannot be read.

    Args:
        names: the operators.
        why: as :class:`Unsupported` has it.
        domain: of the operators.
    """

    def handler(at: Any, *operands: Any, **attributes: Any) -> Any:
        raise Unsupported(why)

    for name in names:
        if (domain, name) in HANDLERS:
            raise ValueError(f"{name} is both read and refused")
        HANDLERS[domain, name] = [Entry(1, handler, True, why)]


def find(domain: str, name: str, version: int) -> Entry | None:
    """The entry for an operator in a version of its domain, None if there is none."""
    usable = [e for e in HANDLERS.get((domain_of(domain), name), ()) if e.since <= version]
    return usable[-1] if usable else None
