"""QDQ and QOperator forms of the standard."""

from __future__ import annotations
