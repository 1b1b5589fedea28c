"""Times, sizes and rates as people read them: three digits and a unit."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people, in powers of ten: ``23.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return (
                f"{count:.0f} B"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if abs(count) < 100
                else f"{count:.0f} {unit}"
            )
        count /= 1000
    raise AssertionError("unreachable")


def seconds(value: float) -> str:
    """A time for people: ``8.51 ms``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1 or unit == "us":
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    raise AssertionError("unreachable")


def rate(value: float, unit: str) -> str:
    """A rate for people: ``412 GOP/s``."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
