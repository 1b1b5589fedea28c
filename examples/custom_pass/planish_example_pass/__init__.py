"""Two passes for planish: a rewrite rule, and a pass with an option that only looks.

Installed (``pip install ./examples/custom_pass``) they appear in ``planish passes``. They run when asked for::

    planish compile FILE.py:model --pass form-mish --pass 'count-ops{top=5}@after=fuse'

or, without installing anything, as ``--pass examples/custom_pass/planish_example_pass/__init__.py:FormMish``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import planish


class FormMish(planish.RewriteRule):
    """``x * tanh(log(1 + exp(x)))`` is Mish (Misra 2019): one op instead of five, and exp(x) no longer overflows."""

    name = "form-mish"

    def pattern(self, op: Any, x: Any) -> Any:
        """The spelling that this rule looks for, with either order of the factors and of the sum."""
        return op.mul(x, op.tanh(op.log(op.add(op.exp(x), 1.0))))

    def check(self, m: Any) -> str | None:
        """Why not, where it does not apply."""
        return None if m.x.type.dtype in planish.floats else "only floats"

    def rewrite(self, op: Any, m: Any) -> Any:
        """What takes its place."""
        return op.mish(m.x)


@dataclass(frozen=True)
class CountOps:
    """Writes into the report which ops the graph consists of.

    Attributes:
        top: how many of the most frequent ops to name.
    """

    name: ClassVar[str] = "count-ops"
    version: ClassVar[int] = 1
    top: int = 3

    def run(self, graph: Any, context: planish.PassContext) -> planish.PassResult:
        """Count, note, change nothing."""
        counts = Counter(node.op for node in graph.nodes)
        listed = ", ".join(f"{count} {op}" for op, count in counts.most_common(self.top))
        context.note(f"{sum(counts.values())} nodes: {listed}")
        return planish.PassResult(changed=False)
