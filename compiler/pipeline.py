"""Passes in order: named positions, slots that the target fills, and the text form ``canonicalize,fuse{max-nodes=8}``.

Grammar of the text form (white space is free)::

    pipeline = [item {"," item}]        item  = rules | slot
    rules    = pass {"+" pass}          slot  = "@" name ["(" pipeline ")"]
    pass     = name ["{" [option {"," option}] "}"]             option = name ["=" value]

``a+b`` are rewrite rules that run together to one fixed point; ``@fuse`` is a place that the target fills.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from .errors import PassError, PlanishError, UsageError, VerifyError
from .graph import Graph, Node
from .options import Scanner, make, nearest, print_options
from .pass_protocol import Instrument, Note, Pass, PassContext, PassResult
from .profile import record
from .rewrite import RewriteRule, RuleSet

__all__ = [
    "CUSTOM",
    "Instrument",
    "Note",
    "Pass",
    "PassContext",
    "PassResult",
    "Pipeline",
    "PipelineResult",
    "Placed",
    "Slot",
    "after",
    "as_pass",
    "before",
    "describe",
]

#: The slot where a user's passes go when no place is named.
CUSTOM = "custom"


@dataclass(frozen=True)
class Slot:
    """A named place in a pipeline; ``passes`` is what fills it."""

    name: str
    passes: tuple[Pass, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A pass with the place where it belongs: what :func:`after` and :func:`before` return."""

    where: Literal["after", "before"]
    anchor: str
    p: Pass


def after(name: str, p: object) -> Placed:
    """``p`` right behind the pass or slot ``name`` (``name#2`` is its second occurrence)."""
    return Placed("after", name, as_pass(p))


def before(name: str, p: object) -> Placed:
    """``p`` right in front of the pass or slot ``name`` (``name#2`` is its second occurrence)."""
    return Placed("before", name, as_pass(p))


def as_pass(given: object) -> Pass:
    """``given`` as a pass: a pass or rule itself, a class of either that needs no options, or a list of rules.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(given, type):
        given = make(getattr(given, "name", given.__name__), given, {})
    if isinstance(given, (list, tuple)) and given:
        rules = [as_pass(g) for g in given]
        if all(isinstance(r, RewriteRule) for r in rules):
            return RuleSet(tuple(r for r in rules if isinstance(r, RewriteRule)))
    if callable(getattr(given, "run", None)):
        if isinstance(getattr(given, "name", None), str) and isinstance(getattr(given, "version", None), int):
            return given  # type: ignore[return-value]  # just checked, field by field
        raise UsageError(f"{given!r} cannot be a pass without a name and a version", "set name = '...' and version = 1")
    raise UsageError(
        f"{given!r} is no pass", "a pass is a RewriteRule, a list of them, or has name, version and run(graph, context)"
    )


def describe(p: Pass, *, defaults: bool = False) -> str:
    """The text form of one pass; with ``defaults`` every option is written out."""
    if isinstance(p, RuleSet):
        return "+".join(describe(r, defaults=defaults) for r in p.rules)
    return p.name + print_options(p, defaults=defaults)


@dataclass(frozen=True)
class PipelineResult:
    """Whether the graph changed, the seconds of each pass in order, and everything that was noted."""

    changed: bool
    seconds: tuple[tuple[str, float], ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes and slots; immutable, equal when the text forms are equal.

    Attributes:
        items: passes and slots in order; rules and lists of rules are made passes.
    """

    items: tuple[Any, ...] = field(default=())

    def __post_init__(self) -> None:
        items = tuple(i if isinstance(i, Slot) else as_pass(i) for i in self.items)
        object.__setattr__(self, "items", items)

    # -- reading ---------------------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Pass]:
        for item in self.items:
            if isinstance(item, Slot):
                yield from item.passes
            else:
                yield item

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __str__(self) -> str:
        return ",".join(_print_item(item) for item in self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(i.name for i in self.items if isinstance(i, Slot))

    @property
    def fingerprint(self) -> str:
        """Every pass with its version and all its options: equal fingerprints do the same. For cache keys."""
        return ",".join(_fingerprint(p) for p in self)

    # -- building --------------------------------------------------------------------------------------------------
    @staticmethod
    def parse(text: str, known: Mapping[str, Callable[..., Any]]) -> Pipeline:
        """Read the text form; ``known`` maps the name of each pass to its class.

        Raises:
            UsageError: a pass or option is unknown (the nearest is named), or the text does not fit the grammar.
        """
        scanner = Scanner(text)
        items = _parse_items(scanner, known)
        if scanner.peek():
            raise scanner.fail("','")
        return Pipeline(tuple(items))

    def after(self, name: str, p: object) -> Pipeline:
        """With ``p`` right behind the pass or slot ``name``.

        Raises:
            UsageError: nothing of that name is in the pipeline.
        """
        return self._insert(name, as_pass(p), 1)

    def before(self, name: str, p: object) -> Pipeline:
        """With ``p`` right in front of the pass or slot ``name``.

        Raises:
            UsageError: nothing of that name is in the pipeline.
        """
        return self._insert(name, as_pass(p), 0)

    def fill(self, slots: Mapping[str, Sequence[object]]) -> Pipeline:
        """With ``slots[name]`` appended to what the slot ``name`` holds.

        Raises:
            UsageError: the pipeline has no such slot.
        """
        for name in slots:
            if name not in self.slots:
                raise UsageError(f"the pipeline has no slot {name!r}", nearest(name, self.slots))
        return Pipeline(
            tuple(
                Slot(i.name, (*i.passes, *(as_pass(p) for p in slots.get(i.name, ())))) if isinstance(i, Slot) else i
                for i in self.items
            )
        )

    def extended(self, extra: Iterable[object]) -> Pipeline:
        """With a user's passes: placed ones where they say, the others in the slot ``custom`` (or in front of the first
        slot, or at the end), in the order given."""
        pipeline = self
        for given in extra:
            if isinstance(given, Placed):
                pipeline = pipeline._insert(given.anchor, given.p, 1 if given.where == "after" else 0)
            elif CUSTOM in pipeline.slots:
                pipeline = pipeline.fill({CUSTOM: [given]})
            else:
                at = next((i for i, item in enumerate(pipeline.items) if isinstance(item, Slot)), len(pipeline.items))
                pipeline = Pipeline((*pipeline.items[:at], as_pass(given), *pipeline.items[at:]))
        return pipeline

    def _insert(self, anchor: str, p: Pass, offset: int) -> Pipeline:
        name, _, number = anchor.partition("#")
        wanted = int(number) if number.isdigit() else 1
        seen = 0
        for i, item in enumerate(self.items):
            if item.name == name:
                seen += 1
                if seen == wanted:
                    return Pipeline((*self.items[: i + offset], p, *self.items[i + offset :]))
            for j, inner in enumerate(item.passes if isinstance(item, Slot) else ()):
                if inner.name == name:
                    seen += 1
                    if seen == wanted:
                        j += offset
                        filled = Slot(item.name, (*item.passes[:j], p, *item.passes[j:]))
                        return Pipeline((*self.items[:i], filled, *self.items[i + 1 :]))
        if seen:
            raise UsageError(f"{name!r} is in the pipeline {seen} times, so there is no {anchor!r}")
        raise UsageError(
            f"there is no pass {name!r} in the pipeline", nearest(name, {*self.slots, *(q.name for q in self)})
        )

    def until(self, name: str) -> Pipeline:
        """What comes in front of the first pass ``name``.

        Raises:
            UsageError: there is no such pass outside of a slot.
        """
        return Pipeline(self.items[: self._position(name)])

    def since(self, name: str) -> Pipeline:
        """The first pass ``name`` and all that comes behind it.

        Raises:
            UsageError: there is no such pass outside of a slot.
        """
        return Pipeline(self.items[self._position(name) :])

    def _position(self, name: str) -> int:
        at = next((i for i, item in enumerate(self.items) if item.name == name), None)
        if at is None:
            raise UsageError(f"there is no pass {name!r} in the pipeline", nearest(name, {p.name for p in self}))
        return at

    # -- running ---------------------------------------------------------------------------------------------------
    def run(
        self, graph: Graph, context: PassContext | None = None, instruments: Sequence[Instrument] = ()
    ) -> PipelineResult:
        """Run every pass on ``graph`` in place.

        Raises:
            PassError: a pass failed, or broke an invariant that an instrument checks; names the pass and the node.
        """
        context = context if context is not None else PassContext()
        changed, seconds, start = False, [], len(context.notes)
        for number, p in enumerate(self):
            context.advance(p.name, number, len(self))
            for instrument in instruments:
                instrument.before(p, graph)
            began, first, nodes = time.perf_counter(), len(context.notes), len(graph)
            result = _run_one(p, graph, context)
            result = replace(result, seconds=time.perf_counter() - began)
            record(p.name, result.seconds, nodes=(nodes, len(graph)))
            seconds.append((p.name, result.seconds))
            context.notes[first:] = [
                n if n.by else replace(n, by=p.name) for n in (*context.notes[first:], *result.notes)
            ]
            changed |= result.changed
            for instrument in instruments:
                _observe(instrument, p, graph, result)
        context.advance("", len(self), len(self))
        return PipelineResult(changed, tuple(seconds), tuple(context.notes[start:]))


def _run_one(p: Pass, graph: Graph, context: PassContext) -> PassResult:
    context.at(None)
    try:
        result = p.run(graph, context)
    except PassError as error:
        raise PassError(f"pass {p.name!r}: {_where(error, context)}{error.message}", error.hint) from error
    except VerifyError as error:
        raise PassError(f"pass {p.name!r} broke an invariant: {error.message}", error.hint) from error
    except PlanishError:
        raise  # says in its own words what the user did wrong
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PassError(f"pass {p.name!r} failed: {_where(error, context)}{reason}") from error
    if not isinstance(result, PassResult):
        raise PassError(f"pass {p.name!r} returned {result!r}", "run() must return PassResult(changed, notes)")
    return result


def _observe(instrument: Instrument, p: Pass, graph: Graph, result: PassResult) -> None:
    try:
        instrument.after(p, graph, result)
    except VerifyError as error:
        raise PassError(f"pass {p.name!r} broke an invariant: {error.message}", error.hint) from error


def _where(error: Exception, context: PassContext) -> str:
    """The node an error is about: the one named through ``context.at``, else the innermost local called ``node``."""
    node = context.node or _last_node(error.__traceback__)
    if node is None:
        return ""
    name = f"{node.name} ({node.op})" if node.name else node.op
    if name in str(error) or (node.name and node.name in str(error)):
        return ""
    return f"at {name}{', ' + node.location if node.location else ''}: "


def _last_node(trace: TracebackType | None) -> Node | None:
    found = None
    while trace is not None:
        local = trace.tb_frame.f_locals.get("node")
        found = local if isinstance(local, Node) else found
        trace = trace.tb_next
    return found


# -- the text form --------------------------------------------------------------------------------------------------------
def _print_item(item: Any) -> str:
    if isinstance(item, Slot):
        return f"@{item.name}" + (f"({','.join(describe(p) for p in item.passes)})" if item.passes else "")
    return describe(item)


def _fingerprint(p: Pass) -> str:
    if isinstance(p, RuleSet):
        return "+".join(_fingerprint(r) for r in p.rules)
    return f"{p.name}@{p.version}{print_options(p, defaults=True)}"


def _parse_items(scanner: Scanner, known: Mapping[str, Callable[..., Any]]) -> list[Any]:
    items: list[Any] = []
    while scanner.peek() not in ("", ")"):
        if scanner.take("@"):
            name, inside = scanner.word("the name of a slot"), list[Any]()
            if scanner.take("("):
                inside = _parse_items(scanner, known)
                if any(isinstance(i, Slot) for i in inside):
                    raise UsageError(f"the slot {name!r} holds another slot in {scanner.text!r}")
                if not scanner.take(")"):
                    raise scanner.fail("')'")
            items.append(Slot(name, tuple(inside)))
        else:
            rules = [_parse_pass(scanner, known)]
            while scanner.take("+"):
                rules.append(_parse_pass(scanner, known))
            items.append(rules[0] if len(rules) == 1 else as_pass(rules))
        if not scanner.take(","):
            break
    return items


def _parse_pass(scanner: Scanner, known: Mapping[str, Callable[..., Any]]) -> Any:
    name = scanner.word("the name of a pass")
    if name not in known:
        raise UsageError(f"there is no pass {name!r}", nearest(name, known, "planish passes lists them"))
    return make(name, known[name], scanner.options())
