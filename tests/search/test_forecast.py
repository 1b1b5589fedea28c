"""What is said of the time that is left."""

from __future__ import annotations

from planish.search.forecast import Forecast


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_steps_that_were_timed_tell_what_is_left() -> None:
    clock = Clock()
    forecast = Forecast(now=clock)
    forecast.expect("uniform", 3)
    assert forecast.seconds() is None and forecast.words() == ""
    forecast.begin("uniform")
    clock.at = 10.0
    forecast.begin("uniform")  # the first took 10 s: this one and the last take as long
    assert forecast.seconds() == 20.0
    clock.at = 14.0
    assert forecast.seconds() == 16.0
    forecast.begin("uniform")
    assert forecast.words() == " (about 7 s to the end)"


def test_other_steps_stand_in_for_those_that_were_never_done() -> None:
    clock = Clock()
    forecast = Forecast(now=clock)
    forecast.expect("uniform", 1)
    forecast.expect("trial", 12)
    forecast.begin("uniform")
    clock.at = 6.0
    forecast.end()
    assert forecast.seconds() == 72.0 and forecast.words() == " (about 1:12 min to the end)"
    forecast.begin("trial")
    clock.at = 8.0
    forecast.end()
    assert forecast.seconds() == 22.0  # a trial of its own says more than a build of another kind


def test_a_limit_in_seconds_is_kept() -> None:
    clock = Clock()
    forecast = Forecast(limit=30.0, now=clock)
    forecast.expect("uniform", 100)
    forecast.begin("uniform")
    clock.at = 5.0
    forecast.end()
    assert forecast.seconds() == 25.0


def test_steps_that_do_not_come_are_taken_back() -> None:
    clock = Clock()
    forecast = Forecast(now=clock)
    forecast.expect("trial", 5)
    forecast.begin("trial")
    clock.at = 2.0
    forecast.end()
    forecast.expect("trial", 0)
    assert forecast.seconds() == 0.0 and forecast.words() == ""
