"""Where this machine's caches lie: built kernels, measured times, journals of searches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """``$PLANISH_CACHE_DIR``, else ``~/.cache/planish``."""
    given = os.environ.get("PLANISH_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planish"
