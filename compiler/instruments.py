"""What can watch a pipeline: verification, dumps, timing. (The numeric check is in ``numeric_check``: it needs torch.)"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import PlanishError
from .graph import Graph
from .pass_protocol import Pass, PassResult
from .pipeline import describe
from .text import print_graph
from .verify import verify


class Verify:
    """Checks every invariant after each pass; the pipeline's error then names the pass."""

    def before(self, p: Pass, graph: Graph) -> None:
        pass

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        verify(graph)


@dataclass
class Dump:
    """Writes the graph to ``directory``: ``00-input.txt``, then one numbered file per pass, headed by its notes."""

    directory: Path
    provenance: bool = True
    written: list[Path] = field(default_factory=list)

    def before(self, p: Pass, graph: Graph) -> None:
        if not self.written:
            self._write("input", graph, "")

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        head = f"// {describe(p)}: {'changed' if result.changed else 'no change'}\n"
        self._write(p.name, graph, head + "".join(f"//   {note}\n" for note in result.notes))

    def _write(self, name: str, graph: Graph, head: str) -> None:
        path = Path(self.directory) / f"{len(self.written):02d}-{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)[:80]}.txt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + print_graph(graph, provenance=self.provenance))
        except OSError as error:
            raise PlanishError(f"{path} cannot be written: {error.strerror}") from error
        self.written.append(path)


@dataclass
class Time:
    """Seconds and node counts per pass: ``rows`` holds (pass, seconds, nodes before, nodes after)."""

    rows: list[tuple[str, float, int, int]] = field(default_factory=list)
    _nodes: int = 0

    def before(self, p: Pass, graph: Graph) -> None:
        self._nodes = len(graph)

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        self.rows.append((p.name, result.seconds, self._nodes, len(graph)))

    def __str__(self) -> str:
        width = max((len(row[0]) for row in self.rows), default=0)
        return "\n".join(f"{name:{width}}  {s * 1e3:8.1f} ms  {a:5d} -> {b:5d} nodes" for name, s, a, b in self.rows)
