"""How the linears or convolutions that read one value are computed in a low precision: smoothing, range and weights.

A recipe is made from the float weights and the statistics of the input alone, whatever the rest of the plan says, so that one
search makes it once (``weights.store``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.graph import Graph, Node, Value
from ..compiler.precision import Precision
from ..compiler.types import bf16_to_float, float_to_bf16
from .observers import Observer, Range, find_observer, observers
from .observers.histogram import ChannelHistograms, Histogram
from .weights import Method, QuantisedWeight, Reaching, default_method, find_method
from .weights.hessian import smoothed
from .weights.rtn import fake_quantize_rows
from .weights.smoothquant import Smoothing, choose
from .weights.static_range import StaticInput, choose_range, choose_smoothed
from .weights.store import WeightStore


@dataclass(frozen=True)
class Request:
    """Nodes that read one value, and how they are to be computed.

    Attributes:
        nodes: linears, convolutions of one geometry, lookups, or one attention; in the graph's order.
        precision: of all of them.
        weights, observer: names of methods; None is the default.
        operand: which one of an attention's, 0 for its queries, 1 for its keys; None for other nodes.
    """

    nodes: tuple[Node, ...]
    precision: Precision
    weights: str | None = None
    observer: str | None = None
    operand: int | None = None

    @property
    def value(self) -> Value:
        """The value they read (of a lookup, its ids)."""
        first = self.nodes[0]
        value = first.inputs[int(first.op in ("embedding", "gather")) if self.operand is None else self.operand]
        assert value is not None
        return value

    @property
    def channels(self) -> int:
        """How many elements of the input one output is made of."""
        weight = self.nodes[0].inputs[1]
        assert weight is not None
        return int(np.prod([int(d) for d in weight.shape[1:]]))

    def statistics_key(self, graph: Graph) -> tuple:
        """What tells the statistics of their input from those of others, in every graph of one model: who reads it, and of a
        convolution the windows it looks at."""
        first = self.nodes[0]
        geometry: tuple = ()
        if first.op == "conv":
            geometry = (tuple(first.inputs[1].shape[2:]), *(v for k, v in first.attrs.items() if k != "groups"))  # type: ignore[union-attr]
        read = tuple(
            (u.op, u.name, str(u.inputs[1].type) if len(u.inputs) > 1 and u.inputs[1] is not None else "")
            for u in self.value.users
        )
        return self.value.name, str(self.value.type), read, geometry


@dataclass
class Statistics:
    """What reached a linear or convolution.

    Attributes:
        rows: f32 ``[M, K]``, a bounded sample in which each row seen had the same chance; of a convolution, windows.
        extremes: f32 ``[E, K]``, the rows that reached furthest, channels measured by what they had reached till then.
        low, high: f32 ``[K]``, exact ends of each channel; of a convolution ``[1]``, of the whole input.
        seen: how many rows there were.
        channels: histograms of the channels; None if nobody asked.
        tensor: the histogram of a convolution's input; None for linears.
        moment: f32 ``[K, K]``, the mean of ``x^T x``; None if nobody asked.
    """

    rows: np.ndarray | None = None
    extremes: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    seen: int = 0
    channels: ChannelHistograms | None = None
    tensor: Histogram | None = None
    moment: np.ndarray | None = None

    def merge(
        self, sample: np.ndarray, low: np.ndarray, high: np.ndarray, seen: int, rng: np.random.Generator, most: int
    ) -> None:
        """Take in ``sample``, drawn from ``seen`` rows that lie between ``low`` and ``high``; at most ``most`` rows stay."""
        if self.rows is None or self.low is None or self.high is None:
            self.rows, self.low, self.high, self.seen = sample.copy(), low, high, seen
            return
        kept = self.rows
        if len(kept) + len(sample) > most:
            # as many of either as fall to it when `most` are drawn from all rows; both are even samples themselves
            fresh = int(rng.hypergeometric(seen, self.seen, most))
            sample = sample[rng.choice(len(sample), fresh, replace=False)]
            kept = kept[rng.choice(len(kept), most - fresh, replace=False)]
        self.rows, self.seen = np.concatenate([kept, sample]), self.seen + seen
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def keep_extremes(self, rows: np.ndarray, most: int) -> None:
        """Of ``rows`` and those kept, keep the ``most`` that reach furthest (after :meth:`merge`).

        A row is measured by the mean of the eighth powers of its channels, each relative to the furthest that channel has
        reached: high where many of them are near their ends, or one is alone there."""
        assert self.low is not None and self.high is not None
        reach = np.maximum(np.maximum(-self.low, self.high), np.finfo(np.float32).tiny)
        kept = rows if self.extremes is None else np.concatenate([self.extremes, rows])
        if len(kept) > most:
            far = np.square(np.square(np.square(kept / reach))).mean(axis=1)
            kept = kept[np.sort(np.argpartition(-far, most)[:most])]
        self.extremes = kept.copy()


@dataclass(frozen=True)
class Needs:
    """Which statistics a request needs."""

    rows: bool
    histogram: bool
    moment: bool


@dataclass(frozen=True)
class Recipe:
    """The outcome.

    Attributes:
        smoothing: of the channels of the input; None without.
        range: the quantisation of a static input; None where it is dynamic or float.
        weights: one for each node, ``[N, K]`` with the smoothing in them.
        before, after: squared error of the outputs on calibration rows relative to their energy, rounded plainly and as it is;
            None without calibration data.
        words: what was chosen.
    """

    smoothing: Smoothing | None
    range: Range | None
    weights: tuple[QuantisedWeight, ...]
    before: float | None
    after: float | None
    words: str


def is_static(precision: Precision) -> bool:
    """Whether activations are quantised with a scale found at compile time."""
    return not precision.activation.is_float and not precision.activation.dynamic


def method_of(request: Request, calibrated: bool) -> Method:
    """The method that makes the weights.

    Raises:
        UsageError: there is none of that name.
    """
    return find_method(request.weights or default_method(request.precision, calibrated))


def needs(graph: Graph, request: Request) -> Needs:
    """Which statistics ``request`` needs, if there is data."""
    if request.operand is not None:
        return Needs(True, True, False)
    if request.nodes[0].op not in ("linear", "conv") or request.precision.weight.is_float:
        return Needs(False, False, False)
    linear = request.nodes[0].op == "linear"
    return Needs(True, is_static(request.precision), linear and method_of(request, True).wants_hessian)


def weight_of(graph: Graph, node: Node) -> np.ndarray:
    """The weight of a linear f32 ``[N, K]``, of a convolution ``[O, I * taps]``, or the table of a lookup."""
    array = _held(graph, node)
    wide = bf16_to_float(array) if array.dtype == np.uint16 else np.asarray(array, np.float32)
    return wide.reshape(len(wide), -1)


def _held(graph: Graph, node: Node) -> np.ndarray:
    array = graph.array(node.inputs[0 if node.op in ("embedding", "gather") else 1])
    assert array is not None
    return array


def recipe_key(graph: Graph, request: Request, store: WeightStore) -> tuple:
    """What tells a recipe from others in ``store``."""
    sources = tuple(s for n in request.nodes for s in (n.name, *n.sources))
    if request.operand is not None:
        return "scores", sources, request.operand, request.observer
    weights = tuple(store.digest(_held(graph, n)) for n in request.nodes)
    return "recipe", sources, request.precision, request.weights, request.observer, weights


def make_recipe(graph: Graph, request: Request, statistics: Statistics | None) -> Recipe:
    """The recipe of ``request``; without ``statistics`` weights are rounded to nearest and nothing is smoothed.

    Raises:
        UsageError: a static input without calibration data; or a method or observer is unknown.
    """
    if statistics is not None and (statistics.rows is None or not len(statistics.rows)):
        statistics = None
    if request.operand is not None:
        return _of_scores(request, statistics)
    weights = [weight_of(graph, n) for n in request.nodes]
    if request.nodes[0].op in ("embedding", "gather"):
        made = find_method("rtn").quantize(weights[0], None, request.precision.weight)
        return Recipe(None, None, (made,) * len(request.nodes), None, None, "rows of the table rounded to nearest")
    if is_static(request.precision) and statistics is None:
        raise _uncalibrated(request)
    method = method_of(request, statistics is not None)
    asked = _asked(request.observer)
    if request.nodes[0].op == "conv":
        assert statistics is not None
        return _of_convolutions(request, weights, statistics, method, asked)
    return _of_linears(request, weights, statistics, method, asked)


def _uncalibrated(request: Request) -> UsageError:
    return UsageError(
        f"{request.nodes[0].name} in {request.precision} needs example data: the range of its input is fixed at compile time",
        "give calibration data, or take w8a8-dynamic",
    )


def _of_scores(request: Request, statistics: Statistics | None) -> Recipe:
    """A range for the queries or the keys of an attention.

    It is symmetric, since a zero point would bring sums of the other one's rows into the scores; and all that was seen unless
    another observer is asked for, since what saturates would be among the largest scores, which decide what a query attends to.
    """
    if statistics is None or statistics.channels is None:
        raise _uncalibrated(request)
    histogram = statistics.channels.tensor()
    name = request.observer or "minmax"
    low, high = find_observer(name).range(histogram, symmetric=True)
    fixed = Range.over(low, high, symmetric=True, observer=name)
    whole = ("queries", "keys")[request.operand or 0]
    return Recipe(None, fixed, (), None, None, f"{whole} with a {_range_words(fixed)}")


def _asked(name: str | None) -> Sequence[Observer]:
    return list(observers().values()) if name is None else [find_observer(name)]


def _of_linears(
    request: Request,
    weights: list[np.ndarray],
    statistics: Statistics | None,
    method: Method,
    asked: Sequence[Observer],
) -> Recipe:
    precision = request.precision
    if statistics is None:
        made = tuple(method.quantize(w, None, precision.weight) for w in weights)
        return Recipe(None, None, made, None, None, f"weights by {_names(made)}")
    rows, low, high = statistics.rows, statistics.low, statistics.high
    assert rows is not None and low is not None and high is not None
    smoothing, fixed, before = Smoothing(), None, None
    if is_static(precision):
        assert statistics.channels is not None
        extremes = rows[:0] if statistics.extremes is None else statistics.extremes
        chosen = choose_smoothed(rows, extremes, statistics.channels, weights, asked, smooth=method.smooths)
        smoothing, fixed, before = chosen.smoothing, chosen.range, chosen.plain_error
    elif precision.activation.dynamic and method.smooths:
        smoothing = choose(rows, low, high, weights, precision.weight)
        before = smoothing.plain_error
    exact, rounded = _through(rows, smoothing, fixed, precision)
    moment = None
    if statistics.moment is not None and method.wants_hessian:
        noise = np.square(rounded - exact).mean(axis=0)
        moment = smoothed(statistics.moment, smoothing.scale, noise)
    reaching = Reaching(exact, rounded, moment)
    scaled = [w if smoothing.scale is None else w * smoothing.scale for w in weights]
    made = tuple(method.quantize(w, reaching, precision.weight) for w in scaled)
    after = _error(reaching, scaled, made)
    if before is None:
        plain = find_method("rtn")
        plainly = Reaching(rows, _through(rows, Smoothing(), fixed, precision)[1])
        before = _error(plainly, weights, [plain.quantize(w, None, precision.weight) for w in weights])
    words = [] if precision.activation.is_float else [smoothing.words()]
    words += [_range_words(fixed)] if fixed is not None else []
    return Recipe(smoothing, fixed, made, before, after, ", ".join([*words, f"weights by {_names(made)}"]))


def _through(
    rows: np.ndarray, smoothing: Smoothing, fixed: Range | None, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Calibration rows as the smoothed weights see them: exact, and rounded as they are multiplied. An offset comes back behind
    the product with the rounded weights, so it counts as part of the rows."""
    exact = smoothing.scaled(rows)
    if precision.activation.is_float:
        return exact, bf16_to_float(float_to_bf16(exact)) if precision.activation.dtype == "bf16" else exact
    offset = smoothing.offset(exact)
    shifted = exact if offset is None else exact - offset
    rounded = fake_quantize_rows(shifted) if fixed is None else fixed.rounded(shifted)
    return exact, rounded if offset is None else rounded + offset


def _error(reaching: Reaching, weights: Sequence[np.ndarray], made: Sequence[QuantisedWeight]) -> float:
    lost, energy = 0.0, 0.0
    for weight, q in zip(weights, made, strict=True):
        want = reaching.exact @ weight.T
        lost += float(np.square(reaching.rounded @ q.dequantised().T - want).sum(dtype=np.float64))
        energy += float(np.square(want).sum(dtype=np.float64))
    return lost / (energy or 1.0)


def _of_convolutions(
    request: Request, weights: list[np.ndarray], statistics: Statistics, method: Method, asked: Sequence[Observer]
) -> Recipe:
    """A range for the input by the error of the outputs; kernels rounded to nearest. (Smoothing would put a multiplication in
    front of every window.)"""
    assert statistics.rows is not None and statistics.tensor is not None
    reached: list[np.ndarray] = []
    kernels: list[np.ndarray] = []
    owners: list[int] = []
    for i, (node, weight) in enumerate(zip(request.nodes, weights, strict=True)):
        groups = int(node.attrs["groups"])
        width = weight.shape[1]  # channels of a group times taps: windows lie group by group, as channels do
        for g in range(groups):
            reached.append(statistics.rows[:, g * width : (g + 1) * width])
            kernels.append(weight[g * len(weight) // groups : (g + 1) * len(weight) // groups])
            owners.append(i)
    chosen: StaticInput = choose_range(reached, statistics.tensor, kernels, asked)
    rounding = find_method("rtn")
    made: list[list[QuantisedWeight]] = [[] for _ in weights]
    lost, energy = 0.0, 0.0
    for x, kernel, i in zip(reached, kernels, owners, strict=True):
        reaching = Reaching(x, chosen.range.rounded(x))
        q = rounding.quantize(kernel, reaching, request.precision.weight)
        want = x @ kernel.T
        lost += float(np.square(reaching.rounded @ q.dequantised().T - want).sum())
        energy += float(np.square(want).sum())
        made[i].append(q)
    joined = tuple(
        QuantisedWeight(
            np.concatenate([q.values for q in qs]), np.concatenate([q.scale for q in qs]), qs[0].dtype, "rtn"
        )
        for qs in made
    )
    words = f"{_range_words(chosen.range)}, weights by rtn"
    if method.name == "gptq" and request.weights:
        words += " (gptq is for linears)"
    return Recipe(None, chosen.range, joined, chosen.plain_error, lost / (energy or 1.0), words)


def _range_words(fixed: Range) -> str:
    return f"range by {fixed.observer}" + (" with a zero point" if fixed.zero is not None else "")


def _names(made: Sequence[QuantisedWeight]) -> str:
    names = " and ".join(dict.fromkeys(q.method for q in made))
    remarks = "; ".join(dict.fromkeys(q.remark for q in made if q.remark))
    return f"{names} ({remarks})" if remarks else names
