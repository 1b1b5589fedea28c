"""Attention and rotary embedding of the standard."""

from __future__ import annotations
