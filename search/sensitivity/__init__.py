"""How much quality each choice costs: several methods behind one interface (``table.Sensitivity``)."""

from __future__ import annotations

from .fisher import Fisher
from .hessian import Hessian
from .measured import Measured
from .pairwise import pairwise, worth_measuring
from .table import Batch, Choice, Job, Losses, Sensitivity, Table

#: The methods by name; each is made without arguments.
METHODS: dict[str, type[Measured] | type[Fisher]] = {m.name: m for m in (Measured, Fisher, Hessian)}

__all__ = [
    "METHODS",
    "Batch",
    "Choice",
    "Fisher",
    "Hessian",
    "Job",
    "Losses",
    "Measured",
    "Sensitivity",
    "Table",
    "pairwise",
    "worth_measuring",
]
