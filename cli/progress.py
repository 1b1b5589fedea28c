"""What is being done and how long it will take: one line on the terminal; nothing where stderr is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Report = Callable[[str, int, int], None]
#: A step has to have lasted this long before what is left of it is told.
PATIENCE = 2.0


@dataclass
class Clock:
    """Turns (what, done, total) into a line with the time left.

    Attributes:
        now: the clock.
    """

    now: Callable[[], float] = time.monotonic
    _began: float | None = None
    _step: str = ""
    _step_began: float = 0.0
    _first: int = 0
    _last: str = field(default="")

    def line(self, what: str, done: int, total: int) -> str:
        """The line for this moment; that of the moment before where ``what`` is empty."""
        now = self.now()
        if self._began is None:
            self._began = now
        if not what:
            return self._last
        step = f"{what}/{total}"
        if step != self._step or done < self._first:
            self._step, self._step_began, self._first = step, now, done
        text = f"{what} ({min(done + 1, total)} of {total})" if total else what
        elapsed, through = now - self._step_began, done - self._first
        parts = [f"{duration(now - self._began)} so far"] if now - self._began >= PATIENCE else []
        if total and through > 0 and elapsed >= PATIENCE:
            parts.append(f"about {duration(elapsed / through * (total - done))} left of this step")
        self._last = f"{text}  {', '.join(parts)}".rstrip()
        return self._last


def duration(seconds: float) -> str:
    """Seconds for people: ``8 s``, ``1:05 min``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


@contextlib.contextmanager
def progress(silent: bool) -> Iterator[Report | None]:
    """A line on the terminal that says what is being done and how long is left; None where nobody would see it."""
    from rich.console import Console

    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield None
        return
    clock = Clock()
    with console.status("capturing the model") as status:

        def report(what: str, done: int, total: int) -> None:
            line = clock.line(what, done, total)
            if line:
                status.update(line)

        yield report
