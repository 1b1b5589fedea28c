"""Resize, grid sampling, and what else reads between elements."""

from __future__ import annotations
