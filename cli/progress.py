"""What is being done and how long it will take: one line on the terminal; nothing where stderr is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Report = Callable[[str, int, int], None]
#: Seconds that a step has to have lasted before what is left of it is told.
PATIENCE = 2.0


class Clock:
    """Keeps what was reported last and puts it in words together with the time, whenever it is looked at.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._what, self._step, self._done, self._total = "", ("", 0), 0, 0
        self._step_began, self._first = self._began, 0

    def report(self, what: str, done: int, total: int) -> None:
        """Take note of progress: ``done`` of ``total`` parts of ``what``; 0 parts where they are not counted.

        What stands behind a colon is about the part (``building: 3 bf16``), and does not begin a new step.
        """
        if not what:
            return
        step = (what.partition(":")[0], total)
        if step != self._step or done < self._done:
            self._step_began, self._first = self._now(), done
        self._what, self._step, self._done, self._total = what, step, done, total

    def line(self, width: int | None = None) -> str:
        """What is being done, for how long, and about how long this step will still take; the times are never cut off."""
        total, step, whole = self._total, self._now() - self._step_began, self._now() - self._began
        text = f"{self._what} ({min(self._done + 1, total)} of {total})" if total else self._what
        parts = [f"{duration(whole)} so far"] if whole >= PATIENCE else []
        through = self._done - self._first
        if through > 0 and step >= PATIENCE and total > self._done:
            parts.append(f"about {duration(step / through * (total - self._done))} left of this step")
        times = "".join(f"  {part}" for part in [", ".join(parts)] if part)
        room = len(text) if width is None else max(12, width - len(times))
        return (text if len(text) <= room else text[: room - 1] + "…") + times

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.line(options.max_width - 1), no_wrap=True)


def duration(seconds: float) -> str:
    """Seconds for people: ``8 s``, ``1:05 min``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


@contextlib.contextmanager
def progress(silent: bool, first: str = "capturing the model") -> Iterator[Report | None]:
    """A line on the terminal that says what is being done and how long is left; None where nobody would see it.

    ``first``: what is being done until something is reported."""
    from rich.console import Console

    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield None
        return
    clock = Clock()
    clock.report(first, 0, 0)
    with console.status(clock):  # drawn anew several times a second
        yield clock.report
