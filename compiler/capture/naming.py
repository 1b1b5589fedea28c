"""Names of run-time dimensions, and the bounds they get when nobody states any."""

from __future__ import annotations

import keyword

#: The upper bound a dimension gets where neither the caller nor the source bounds it.
DEFAULT_UPPER = 4096


def identifier(wish: str) -> str:
    """``wish`` as a name that dimensions may have: a Python identifier that is no keyword and no function of dimensions."""
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in wish)
    return f"d_{name}" if not name.isidentifier() or keyword.iskeyword(name) or name in ("min", "max") else name
