"""The data of a search: samples, batches of them, how they are read and divided."""

from __future__ import annotations

from .batches import BATCH, Batch, Sample, Samples
from .reading import load_samples
from .splits import Splits, split

__all__ = ["BATCH", "Batch", "Sample", "Samples", "Splits", "load_samples", "split"]
