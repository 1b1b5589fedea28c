"""Which samples to calibrate on, and which to estimate losses on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ..compiler.dims import evaluate, product
from ..compiler.graph import Graph
from ..compiler.sizes import sizes_of
from .samples import Samples
from .units import Unit, nodes_of

#: Rows that a weight method and an observer should see for every input channel of a layer: with fewer, ranges are those of the
#: sample and a Hessian has no full rank, so the layer is fitted to the calibration data alone.
ROWS_PER_CHANNEL = 4
#: Samples at most, whatever their rows.
MOST = 2048


def calibrated_on(samples: Samples, graph: Graph, units: Sequence[Unit], least: int, seed: int) -> Samples:
    """``least`` samples, or as many as give the layers rows enough.

    A sample of a language model has a row for every token, one of a convolution a row for every position; where a sample is a
    single row it takes hundreds of them.

    Args:
        samples: the calibration split.
        graph: the decision graph, and its units.
        least: samples that an effort asks for.
        seed: which samples.
    """
    first = samples.batches[0]
    sizes = sizes_of(graph.inputs, first.inputs)
    wanted = []
    for unit in units:
        if unit.kind not in ("linear", "conv"):
            continue
        for node in nodes_of(graph, unit):
            shape = node.output.shape
            x, weight = node.inputs[0], node.inputs[1]
            if x is None or weight is None:
                continue
            outer = product(shape[:-1]) if unit.kind == "linear" else product((shape[0], *shape[2:]))
            rows = max(evaluate(outer, sizes) / first.rows, 1)
            channels = int(weight.shape[-1]) if unit.kind == "linear" else evaluate(product(weight.shape[1:]), {})
            wanted.append(ROWS_PER_CHANNEL * channels / rows)
    count = max(least, min(int(median(wanted)) if wanted else 0, MOST))
    return samples.sample(count, seed)


def estimated_on(samples: Samples, calibrated: Samples, count: int, seed: int) -> Samples:
    """``count`` samples for estimating losses: others than those calibrated on, where there are enough, because ranges and
    weights that were fitted to a sample lose less on it than on the next.

    Args:
        samples: the calibration split.
        calibrated: the part of it that weights and ranges are made from.
        count: how many.
        seed: which.
    """
    used = set(calibrated.ids)
    others = [i for i in samples.ids if i not in used]
    return (samples.take(others) if len(others) >= count else samples).sample(count, seed)
