"""Reductions, arg reductions, softmax, running sums, sorting."""

from __future__ import annotations
