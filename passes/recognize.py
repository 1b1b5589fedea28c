"""x"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph import Graph
from ..compiler.pass_protocol import PassContext, PassResult


@dataclass(frozen=True)
class Recognize:
    """placeholder"""

    name: ClassVar[str] = "recognize"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)
