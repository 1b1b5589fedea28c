"""The reason a handler gives for what it cannot say in the vocabulary."""

from __future__ import annotations


class Unsupported(Exception):
    """An operation, argument or expression without a counterpart in the vocabulary; the message completes a sentence."""
