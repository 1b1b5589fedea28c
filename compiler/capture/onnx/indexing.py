"""Lookups and scatters by ids."""

from __future__ import annotations
