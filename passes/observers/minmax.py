"""The whole range that was seen: nothing saturates on the calibration data, and one outlier sets the step for all."""

from __future__ import annotations

from .histogram import Histogram


class MinMax:
    """From the least to the greatest value."""

    name = "minmax"

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The ends of what was seen."""
        return histogram.low, histogram.high


OBSERVER = MinMax()
