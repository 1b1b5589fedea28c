"""How much quality each choice costs: several methods behind one interface (``table.Sensitivity``)."""

from __future__ import annotations

from .measured import Measured
from .table import Batch, Choice, Job, Losses, Sensitivity, Table

#: The methods by name.
METHODS: dict[str, type] = {m.name: m for m in (Measured,)}

__all__ = ["METHODS", "Batch", "Choice", "Job", "Losses", "Measured", "Sensitivity", "Table"]
