"""From what was built to an artifact: units, weights, manifest and report put together, one target's or several targets'."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.artifact.companions import beside
from .compiler.artifact.parts import HostPart, NativePart
from .compiler.artifact.provenance import hash_bytes, tool_versions
from .compiler.artifact.writer import Package
from .compiler.custom_ops import custom_op
from .compiler.graph import Graph
from .compiler.ops import schema
from .compiler.pass_protocol import Note
from .compiler.pipeline import Pipeline, describe
from .compiler.plan import Plan
from .compiler.report import grouped, near_misses, op_counts
from .compiler.target import Target, backend
from .passes.precision import EXPANSION, PRECISION

if TYPE_CHECKING:
    from .backends.onnx.export import Exported
    from .compiler.capture.captured import Captured
    from .runtime.model import Model


@dataclass
class Artifact:
    """A compiled model: save it, or load it right away.

    Attributes:
        package: what goes into the file.
        graph: the graph as it was lowered, for inspection.
        report: how the compilation went: ``notes`` of the passes, ``seconds`` per phase, ``profile`` (phases within
            phases, with memory: ``compiler/profile.py``), how many ``launches``, and what stayed ``unfused`` and why
            (``compiler/report.py``).
        companions: name -> file of what :meth:`save` puts beside it: tokenizer and preprocessor of a Hugging Face folder.
        examples: the inputs that it was compiled with by name (bf16 as ``uint16`` bits); those of an ONNX model may be made up.
    """

    package: Package
    graph: Graph
    report: dict[str, Any] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)
    examples: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the file says about itself (``compiler/artifact/manifest.py`` lists the keys)."""
        return self.package.manifest

    @property
    def plan(self) -> Plan:
        """The precision plan the model was compiled with."""
        return Plan.of(self.report["plan"]) if self.report.get("plan") else Plan()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact: whole or not at all; and ``model.tokenizer/`` beside ``model.planish`` if there are companions.

        Raises:
            PlanishError: it cannot be written there.
        """
        with beside(path, self.companions):
            self.package.save(path)

    def load(self, threads: int | None = None, concurrency: int = 1) -> Model:
        """The model, running from a private temporary copy.

        Raises:
            ArtifactError: it needs an ISA that this CPU lacks, or an execution provider that is not installed.
        """
        from .runtime import load

        with self._saved() as path:
            return load(path, threads=threads, concurrency=concurrency)  # the loaded model keeps the file open

    def export(self, folder: str | os.PathLike[str], target: str | None = None) -> Exported:
        """Write the model for ONNX Runtime into ``folder``: ``model.onnx`` with ``model.onnx.data``, ``session.json`` and a
        ``run.py`` that needs numpy and ``onnxruntime`` alone; whole or not at all.

        Args:
            folder: made; an earlier export there is replaced.
            target: which variant, as ``onnx:openvino``; None: the first for ONNX Runtime.

        Raises:
            UsageError: there is no such variant, or at ``folder`` is something else.
            PlanishError: it cannot be written there.
        """
        from .backends.onnx.export import export
        from .runtime.archive import Archive

        with self._saved() as path:
            archive = Archive(path)
            try:
                return export(archive, folder, target)
            finally:
                archive.close()

    @contextlib.contextmanager
    def _saved(self) -> Iterator[str]:
        """A private copy that lives as long as the ``with``."""
        descriptor, path = tempfile.mkstemp(suffix=".planish")
        os.close(descriptor)
        try:
            self.package.save(path)
            yield path
        finally:
            os.unlink(path)


@dataclass(frozen=True)
class Built:
    """One variant: the program, its shared object and text."""

    program: Any
    binary: bytes
    source: str
    graph: Graph
    notes: tuple[Any, ...]
    pipeline: Pipeline
    data: dict[str, Any]


def package(
    captured: Captured,
    built: Built,
    plan: Plan,
    target: Target,
    model: Any,
    calibration: Sequence[Mapping[str, np.ndarray]],
) -> Artifact:
    """An artifact of one unit.

    Args:
        captured: the source model.
        built: what ``driver.build`` made of it.
        plan: by which.
        target: for which.
        model: what the user handed in; parameters of its ``forward`` that are left out are recorded.
        calibration: what the build was calibrated on.
    """
    family = backend(target.backend)
    unit = replace(
        family.part(built.program, built.binary, built.source, target), target=str(target), pipeline=str(built.pipeline)
    )
    hosts = []
    if isinstance(unit, NativePart) and (host := family.build_host()) is not None:
        hosts.append(HostPart(*host, unit.machine))
    notes = [*built.notes, *(Note(text, "change", by="lower") for text in unit.notes)]
    launches, apart = family.explain(built.graph, built.program)
    report = {
        "notes": [str(n) for n in notes],
        "launches": launches.as_dict(),
        "graph": {"captured": op_counts(captured.graph), "lowered": op_counts(built.graph)},
        "unfused": [group.as_dict() for group in grouped([*apart, *near_misses(built.notes)])],
        "plan": plan.to_data(),
        "precision": built.data.get(PRECISION, {}),
    }
    content = Package(
        name=captured.class_name or captured.graph.name,
        units=[unit],
        hosts=hosts,
        structure=captured.structure,
        plan={
            "rules": plan.to_data(),
            "expansion": built.data.get(EXPANSION, {}),
            "layers": built.data.get(PRECISION, {}),
        },
        pipeline=str(built.pipeline),
        passes={describe(p): p.version for p in built.pipeline},
        ops={op: schema(op).version for op in sorted(_ops(built.graph) | _custom(captured.graph))},
        tools={**tool_versions(), **family.tools()},
        source={"sha256": captured.source},
        calibration=_hash_of(calibration),
        absent_inputs=_absent(captured, model),
        report=report,
    )
    return Artifact(content, built.graph, {**report, "notes": notes})


#: What the report says of every variant where there are several.
_OF_A_VARIANT = ("launches", "graph", "unfused", "notes", "precision")


def joined(artifacts: Sequence[Artifact]) -> Artifact:
    """One artifact of the units of several, in their order; all are of one model by one plan.

    What an artifact says once is what the first says, and then, where there are several, under ``variants`` what each says
    (in the manifest's plan, by the unit's name; in the report, in the order of the units).
    """
    if len(artifacts) == 1:
        return artifacts[0]
    packages = [a.package for a in artifacts]
    first = packages[0]
    hosts = {host.machine: host for p in packages for host in p.hosts}
    variants = [
        {"unit": unit.name, "target": unit.target, **{key: p.report.get(key) for key in _OF_A_VARIANT}}
        for p in packages
        for unit in p.units
    ]
    plan = {
        **first.plan,
        "variants": {
            unit.name: {"expansion": p.plan["expansion"], "layers": p.plan["layers"]}
            for p in packages
            for unit in p.units
        },
    }
    content = replace(
        first,
        units=[unit for p in packages for unit in p.units],
        hosts=list(hosts.values()),
        plan=plan,
        passes={name: version for p in packages for name, version in p.passes.items()},
        ops=dict(sorted((op, version) for op, version in {o: v for p in packages for o, v in p.ops.items()}.items())),
        tools={name: version for p in packages for name, version in p.tools.items()},
        report={**first.report, "variants": variants},
    )
    told = {**artifacts[0].report, "variants": variants}
    told["notes"] = list(dict.fromkeys(note for a in artifacts for note in a.report["notes"]))
    return Artifact(content, artifacts[0].graph, told, artifacts[0].companions)


def _ops(graph: Graph) -> set[str]:
    found = {n.op for n in graph.nodes}
    for node in graph.nodes:
        for region in node.regions:
            found |= _ops(region)
    return found


def _custom(graph: Graph) -> set[str]:
    """Registered ops of the source: those taken apart are not in the graph any more, but the artifact stands on them."""
    return {n.op for n in graph.nodes if custom_op(n.op) is not None}


def _hash_of(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any] | None:
    if not batches:
        return None
    parts = [part for batch in batches for name in sorted(batch) for part in
             (name.encode(), str(batch[name].shape).encode(), np.ascontiguousarray(batch[name]).tobytes())]  # fmt: skip
    return {"sha256": hash_bytes(*parts), "batches": len(batches)}


def _absent(captured: Captured, model: Any) -> list[str]:
    """Parameters of the source's forward that this artifact was compiled without."""
    forward = getattr(model, "forward", None)
    if forward is None:
        return []
    given = {str(i.path[1]) for i in captured.inputs if len(i.path) > 1} | {i.name for i in captured.inputs}
    positional = {i.path[1] for i in captured.inputs if i.path[0] == "args" and len(i.path) > 1}
    return [
        name for position, (name, p) in enumerate(inspect.signature(forward).parameters.items())
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given and position not in positional
    ]  # fmt: skip
