"""What a pass is, what it is given and what it hands back; and what may watch it run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .graph import Graph, Node

if TYPE_CHECKING:
    from .target import Target


NoteKind = Literal["decision", "miss", "change", "warning"]


@dataclass(frozen=True)
class Note:
    """One line of the report.

    Attributes:
        text: a plain sentence.
        kind: ``decision`` (what was chosen and why), ``miss`` (a rule that never fired), ``change`` (the target computes
            something in another way than the plan says) or ``warning``.
        node: name of the node it is about; empty for the whole graph.
        by: the pass that wrote it; filled in by the pipeline.
    """

    text: str
    kind: NoteKind = "decision"
    node: str = ""
    by: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.by, self.node, self.text) if part)


@dataclass(frozen=True)
class PassResult:
    """What a pass did: whether the graph changed, the notes that explain its decisions, and the seconds it took (filled in
    by the pipeline, instruments not counted)."""

    changed: bool
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


@dataclass
class PassContext:
    """What every pass of one run shares.

    Attributes:
        target: what the graph is compiled for; None before a target is chosen.
        options: options of the whole compilation that more than one pass reads.
        data: results handed from pass to pass or in from outside (calibration statistics, the plan).
        notes: the report so far, in order.
        progress: called with (what, done, total) as work proceeds; None where nobody looks.
        node: the node being worked on; an error names it. Set it through :meth:`at`.
    """

    target: Target | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    progress: Callable[[str, int, int], None] | None = None
    node: Node | None = None

    def at(self, node: Node | None) -> None:
        """Say which node is being worked on, so that an error can name it."""
        self.node = node

    def note(self, text: str, node: Node | None = None, kind: NoteKind = "decision") -> None:
        """Record a decision the moment it is made; the pipeline adds the name of the pass."""
        self.notes.append(Note(text, kind, node.name if node is not None else ""))

    def advance(self, what: str, done: int, total: int) -> None:
        """Report progress: ``done`` of ``total`` units of ``what``."""
        if self.progress is not None:
            self.progress(what, done, total)


class Pass(Protocol):
    """A change to a graph: a frozen dataclass whose fields are its options.

    A pass that changes the numbers on purpose (quantisation) says so with ``lossy: ClassVar[bool] = True``; the numeric
    check then only reports.
    """

    @property
    def name(self) -> str:
        """Kebab-case; in a pass ``name: ClassVar[str] = "..."``. Enters the cache key."""

    @property
    def version(self) -> int:
        """Raised when the pass gives another result; in a pass ``version: ClassVar[int] = 1``. Enters the cache key."""

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Change ``graph`` in place.

        Raises:
            PassError: the pass cannot go on; the pipeline adds the name of the pass and the node.
        """


class Instrument(Protocol):
    """Watches every pass of a pipeline: verification, dumps, timing, numeric checks."""

    def before(self, p: Pass, graph: Graph) -> None:
        """Called with the graph that ``p`` is about to change."""

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        """Called with the graph as ``p`` left it."""
