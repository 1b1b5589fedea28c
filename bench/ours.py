"""planish: one artifact for each precision, compiled in the project's environment, run here with numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .contender import Contender, Precision, Runner
from .data import Inputs, Shape
from .machine import CACHE

ARTIFACTS = CACHE / "artifacts"
#: precision as planish.compile takes it -> the class it competes in
PRECISIONS: dict[str, Precision] = {"f32": "f32", "bf16": "bf16", "w8a8-dynamic": "int8"}


class Planish(Contender):
    """An artifact with a dynamic batch and length: the same file at every shape."""

    own: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("planish.runtime",)

    def __init__(self, plan: str, precision: Precision, path: Path | None = None) -> None:
        self.plan = plan
        self.name = f"planish {plan}"
        self.precision = precision
        self.path = path or ARTIFACTS / f"minilm-{plan}.planish"

    @property
    def prepared(self) -> bool:
        """Whether ``bench.artifacts`` has compiled it."""
        return self.path.exists()

    def open(self, shape: Shape | None, threads: int) -> Runner:
        """Load the artifact; every call allocates a fresh output, as a user's would."""
        import planish

        model: Any = planish.load(str(self.path), threads=threads)
        if shape is not None:
            model.warmup(batch=shape[0], seq=shape[1])

        def run(inputs: Inputs) -> npt.NDArray[np.float32]:
            hidden: npt.NDArray[np.float32] = model(**inputs)["last_hidden_state"]
            return hidden

        return run


def contenders() -> list[Contender]:
    """One for each precision."""
    return [Planish(plan, precision) for plan, precision in PRECISIONS.items()]
