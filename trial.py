"""Variants of a model, built and loaded in this process: what a search measures quality and time on."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.graph import Graph
from .compiler.plan import Plan
from .compiler.sizes import resized
from .compiler.target import LaunchCost, MeasureRequest, Target, backend
from .runtime.machine import default_threads
from .runtime.timing import interleaved

if TYPE_CHECKING:
    from .assembly import Artifact, Built
    from .search.workload import Workload

#: Seconds that one variant is timed for at one point of the workload.
SECONDS = 0.2
#: The percentile of the calls that counts: what else runs on a machine disturbs the quicker calls least.
QUIET = 20


class Variant:
    """One plan, built and loaded.

    Attributes:
        plan: what it was built from.
        built: graph, program and binary.
        artifact: the same as it would be saved.
        bytes: size of what it computes with: weights and code.
        concurrency: calls that it serves at a time, for scoring many samples.
    """

    def __init__(self, plan: Plan, built: Built, artifact: Artifact, threads: int) -> None:
        """Load it; ``threads`` is how many it may use."""
        self.plan, self.built, self.artifact = plan, built, artifact
        self.bytes = sum(member["bytes"] for member in artifact.manifest["members"].values())
        self.concurrency = default_threads()
        self._model = artifact.load(threads=threads, concurrency=self.concurrency)

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the graph's order (bf16 as ``uint16`` bits)."""
        return self._model.flat(inputs)

    def bound(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        """A call on ``inputs`` that does nothing but compute."""
        return self._model.bind(**inputs)

    def release(self) -> None:
        """Unload it; what was built stays."""
        self._model.close()

    def close(self) -> None:
        """Give its memory back, to the system too: the next variant is as large. It is of no use after."""
        self._model.close()
        del self.built, self.artifact
        release_memory()


def release_memory() -> None:
    """Free what only cycles hold (graphs are full of them), and hand back what the allocator keeps for later."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class Workbench:
    """Builds variants of one model and measures them at the points of a workload.

    Args:
        make: a plan to what was built and the artifact of it; told whether its weights will be wanted again.
        graph: whose inputs the workload's dims speak of.
        example: arrays by input name that are cut or repeated to the workload's sizes.
    """

    def __init__(
        self,
        make: Callable[[Plan, bool], tuple[Built, Artifact]],
        graph: Graph,
        target: Target,
        workload: Workload,
        example: Mapping[str, np.ndarray],
    ) -> None:
        self._make, self._target, self._workload = make, target, workload
        self._points = [resized(graph.inputs, example, dims) for dims in workload.dims]
        self._weights = workload.weights

    def build(self, plan: Plan, again: bool = True) -> Variant:
        """The model by ``plan``, loaded; its weights are kept for other builds unless not ``again``.

        Raises:
            PlanishError: as ``driver.build``.
        """
        built, artifact = self._make(plan, again)
        return Variant(plan, built, artifact, self._workload.threads)

    def clock(self, variants: Sequence[Variant]) -> list[float]:
        """Seconds of one call of each variant over the workload, timed in turns so that they share the machine's moods."""
        total = np.zeros(len(variants))
        for inputs, weight in zip(self._points, self._weights, strict=True):
            calls = {str(i): variant.bound(inputs) for i, variant in enumerate(variants)}
            times = interleaved(calls, SECONDS * len(variants))
            total += weight * np.array([times[str(i)].percentile(QUIET) for i in range(len(variants))])
        return [float(seconds) for seconds in total]

    def costs(self, variants: Sequence[Variant]) -> list[list[list[LaunchCost]]]:
        """What every launch costs: per variant, per point of the workload, in the order of the program."""
        requests = [
            MeasureRequest(variant.built.program, variant.built.binary, inputs, dims, self._workload.threads)
            for variant in variants
            for inputs, dims in zip(self._points, self._workload.dims, strict=True)
        ]
        found = backend(self._target.backend).measure(requests, self._target)
        points = len(self._points)
        return [found[i : i + points] for i in range(0, len(found), points)]
