"""Losses as inference models hold them."""

from __future__ import annotations
