"""What came of a compilation: speed and quality of the file just written, on the source's own example."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..compiler.capture.onnx_files import is_onnx
from ..errors import PlanishError
from ..runtime.timing import interleaved
from .compare import compare
from .feed import Signature, Sizes, by_name, fitted, resized, shown
from .loading import open_model
from .output import seconds
from .source import Source
from .verify import run_source, source_call


@dataclass(frozen=True)
class Measured:
    """Figures of an artifact beside its source.

    Attributes:
        why_not: why nothing could be measured here; the figures are then zero.
        sizes: sizes of the dynamic dimensions at which speed was measured.
        planish, source: seconds of the best call of each, with ``threads`` threads.
        runtime: what runs the source.
        judged: sizes at which quality was measured: those of the example.
        cosine, min_cosine, max_abs: of the worst output; ``min_cosine`` is that of the worst row.
        source_bytes: what the parameters and buffers of the source take.
        busy: whether more wanted to run than there are cores, so that the times are too long.
    """

    why_not: str = ""
    sizes: str = ""
    threads: int = 0
    planish: float = 0.0
    source: float = 0.0
    runtime: str = "PyTorch"
    judged: str = ""
    cosine: float = 0.0
    min_cosine: float = 0.0
    max_abs: float = 0.0
    source_bytes: int = 0
    busy: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """Speed and quality in words."""
        if self.why_not:
            return [("speed", f"not measured: {self.why_not}")]
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        quality = f"cosine {self.cosine:.6f} with the float source on its example ({self.judged})"
        speed = f"{seconds(self.planish)} a call at {self.sizes} with {threads}; {self.runtime} {seconds(self.source)}"
        if self.runtime == "the interpreter":  # which is for checking, not for speed
            speed = speed.partition(";")[0]
            quality = quality.replace(
                "the float source", "what was read of the source (ONNX Runtime cannot run it here)"
            )
        elif self.busy:  # the source suffers more from a busy machine: a ratio would flatter
            speed += "\nother programs are running, so both times are too long; planish bench tells more"
        else:
            speed += f" ({self.source / self.planish:.1f}x)"
        return [
            ("speed", speed),
            ("quality", f"{quality}, worst row {self.min_cosine:.6f}, largest difference {self.max_abs:.3g}"),
        ]


def measure_result(
    path: Path, source: Source, at: Mapping[str, int] | None = None, threads: int | None = None
) -> Measured:
    """Load the file, run it beside its source for a second, compare their outputs.

    Args:
        path: the artifact.
        source: what it was compiled from.
        at: sizes of the dynamic dimensions to time; those that are missing are the usual ones.
        threads: to time; None: what the process may use.
    """
    weights = _source_bytes(source)
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    try:
        model = open_model(path, threads)
    except PlanishError as error:  # compiled for another machine
        return Measured(why_not=error.message, source_bytes=weights)
    import torch

    with model:
        signature = Signature.of(model.manifest)
        if signature.inputs and not any(source.eager()[1:]):
            return Measured(why_not="the source carries no example inputs", source_bytes=weights)
        example = fitted(signature, by_name(signature, *source.eager()[1:]))
        sizes: Sizes = {**signature.sizes_of(example), **signature.usual(), **(at or {})}
        arrays = resized(signature, example, sizes)
        used = int(model.threads)
        call = source_call(source, signature, arrays, used)
        before = torch.get_num_threads()
        torch.set_num_threads(used)
        try:
            with torch.inference_mode():
                times = interleaved({"planish": lambda: model(**arrays), "source": call}, seconds=1.5, least=8)
        finally:
            torch.set_num_threads(before)
        found = compare(model(**example), run_source(source, signature, example))
    return Measured(
        sizes=shown(sizes),
        threads=used,
        planish=times["planish"].best,
        source=times["source"].best,
        runtime=source.runtime,
        judged=shown(signature.sizes_of(example)),
        cosine=min((d.cosine for d in found), default=1.0),
        min_cosine=min((d.min_cosine for d in found), default=1.0),
        max_abs=max((d.max_abs for d in found), default=0.0),
        source_bytes=weights,
        busy=busy,
    )


def _source_bytes(source: Source) -> int:
    import torch

    model = source.model
    if isinstance(model, torch.nn.Module):
        unique = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
        return sum(t.numel() * t.element_size() for t in unique.values())
    if is_onnx(model):
        from ..compiler.capture.onnx.reading import bytes_on_disk

        return bytes_on_disk(Path(model))
    if isinstance(model, (str, Path)):
        return Path(model).stat().st_size
    return sum(t.numel() * t.element_size() for t in model.state_dict.values())
