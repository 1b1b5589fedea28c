"""If, Loop and Scan where they fold away or unroll; sequences and optionals on the way."""

from __future__ import annotations
