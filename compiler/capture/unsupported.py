"""The reason a handler gives for what it cannot say in the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence


class Unsupported(Exception):
    """An operation, argument or expression without a counterpart in the vocabulary; the message completes a sentence."""


class NotConstant(Unsupported):
    """A tensor that decides a shape, or an attribute, is computed from ``inputs`` of the model, or from ``sizes`` that vary."""

    def __init__(self, what: str, inputs: Sequence[str], sizes: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.inputs = tuple(inputs)
        self.sizes = tuple(sizes)
