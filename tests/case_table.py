"""A table of sketches: the decorated functions of a test file, each compiled once and checked at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from graph_harness import Compiled, Env, Sketch, compile_sketches

from planish.backends.cpu import isa
from planish.compiler.graph import Value

#: Sizes at which every case runs: usual ones, ones, primes, and no rows at all.
SIZES: tuple[Env, ...] = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 67}, {"b": 0, "s": 3})

Write = Callable[[Sketch], "Value | Sequence[Value]"]


class Table:
    """Cases by name. ``@table.case`` adds a function that writes a graph and returns its outputs."""

    def __init__(self) -> None:
        self.sketches: dict[str, Sketch] = {}

    def add(self, name: str, write: Write) -> None:
        """Add a case."""
        assert name not in self.sketches, name
        sketch = Sketch()
        outputs = write(sketch)
        sketch.output(*([outputs] if isinstance(outputs, Value) else outputs))
        self.sketches[name] = sketch

    def case(self, write: Write) -> Write:
        """Add a case under the function's name."""
        self.add(write.__name__, write)
        return write

    def each(self, **variants: object) -> Callable[[Callable[..., Value | Sequence[Value]]], None]:
        """Add a case per keyword: the function gets the keyword's value as its second argument."""

        def add(write: Callable[..., Value | Sequence[Value]]) -> None:
            for key, value in variants.items():
                self.add(f"{write.__name__}_{key}", lambda g, value=value: write(g, value))  # type: ignore[misc]

        return add

    @cache  # noqa: B019 - tables live as long as the test process
    def compiled(self, level: str, precision: str | None = None) -> Compiled:
        """All cases, compiled for a level."""
        return compile_sketches(self.sketches, level, precision=precision, threads=2)

    def check(self, name: str, level: str, sizes: Sequence[Env] = SIZES, slack: float = 1.0) -> None:
        """Compare one case with the interpreter at every size."""
        compiled = self.compiled(level)
        for env in sizes:
            compiled.check(name, env, slack=slack)

    def check_all(
        self, level: str, sizes: Callable[[str], Sequence[Env]] = lambda name: SIZES, slack: float = 1.0
    ) -> None:
        """Compare every case at a level; reports all that differ.

        Raises:
            AssertionError: the cases that differ, one a line.
        """
        failures = []
        for name in self.sketches:
            try:
                self.check(name, level, sizes(name), slack)
            except Exception as error:  # all of them are wanted, not the first
                failures.append(f"{name}: {error}")
        assert not failures, "\n".join(failures)


#: The levels below this machine's own, which the slow tests run as well.
LOWER = [level for level in isa.available() if level != isa.detect()]
