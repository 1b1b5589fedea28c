"""attention: the decomposed spellings of attention become one ``attention`` op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph import Graph
from ..compiler.pass_protocol import PassContext, PassResult


@dataclass(frozen=True)
class RecognizeAttention:
    """placeholder"""

    name: ClassVar[str] = "attention"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)
