"""``planish explain``: why each layer of a compiled model has the precision it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from ..runtime.archive import Archive
from .loading import existing
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_heading, print_json, print_table, quoted, seconds, size


def explain(
    artifact: ArtifactFile,
    layer: Annotated[
        str | None,
        typer.Argument(metavar="[LAYER]", help="One layer, a module or a glob of them; default: all in a table."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say why each layer has its precision.

    Without LAYER a table: precision, time against float, share of the loss, and why. With LAYER its sensitivity, what every
    candidate costs and loses, what the solver traded and what held it back. Nothing of the model is run.
    """
    archive = Archive(existing(artifact))
    try:
        manifest, report = archive.manifest, archive.report()
    finally:
        archive.close()
    from ..search.record import record_of

    record = record_of(report)
    if record is None:
        _without_search(str(artifact), manifest, layer, json)
        return
    from ..search.explain import as_data, lines, select

    units = list(record.units) if layer is None else select(record, layer)
    if json:
        told = {
            "artifact": str(artifact), "searched": True, "complete": record.complete, "budget": record.asked.budget,
            "proof": [p.model_dump() for p in record.proof], "units": as_data(record, units),
            "never_slower": list(record.never_slower),
        }  # fmt: skip
        print_json(told)
        return
    from .search_result import search_facts

    if layer is not None:
        for unit in units:
            _one(record, unit)
        return
    print_heading(f"{artifact}: {record.in_words() or 'the search had decided nothing yet'}")
    print_facts(search_facts(report))
    if units:
        print_heading("unit by unit")
        rows = [
            (
                line.name, line.precision, seconds(line.seconds) if line.seconds is not None else "–",
                f"{line.speedup:.2f}x" if line.speedup else "", f"{line.share:.1%}" if line.share else "", line.why,
            )
            for line in lines(record)
        ]  # fmt: skip
        print_table(rows, ("unit", "precision", "time", "to float", "of the loss", "why"), right=(2, 3, 4))
        telling = next((u for u in units if u.held_back), units[0])
        print_facts([("next", f"planish explain {quoted(artifact)} {quoted(telling.name)}")])


def _one(record: Any, unit: Any) -> None:
    """One unit: what is known of it, then its candidates."""
    from ..search.explain import candidates, facts
    from ..search.report.sensitivity_map import loss_in_words

    print_heading(unit.name)
    print_facts(facts(record, unit))
    found = candidates(record, unit)
    base = next((c for c in found if c.precision == "f32"), None)
    rows = [
        (
            ("> " if c.chosen else "  ") + c.precision, seconds(c.seconds) if c.seconds is not None else "–",
            f"{base.seconds / c.seconds:.2f}x" if base and base.seconds and c.seconds else "",
            size(c.bytes) if c.bytes is not None else "–", *(loss_in_words(v) for v in c.loss.values()), c.verdict,
        )
        for c in found
    ]  # fmt: skip
    losses = [f"loses ({term})" for term in record.terms]
    print_table(rows, ("  candidate", "time", "to float", "size", *losses, ""), right=range(1, 4 + len(losses)))


def _without_search(name: str, manifest: Mapping[str, Any], layer: str | None, json: bool) -> None:
    """What can be said of a model that was compiled by a plan."""
    layers: Mapping[str, str] = manifest["plan"].get("layers") or {}
    rules = manifest["plan"].get("rules") or []
    if layer is not None:
        from ..compiler.plan import Rule, find_precision

        f32 = find_precision("f32")
        layers = {
            n: p for n, p in layers.items() if n == layer or Rule(layer, f32).matches(n) or n.startswith(f"{layer}.")
        }
        if not layers:
            known = manifest["plan"].get("layers") or {}
            hint = nearest(layer, known, "planish inspect lists what there is")
            raise UsageError(f"no layer that a plan decides is called {layer!r}", hint)
    if json:
        print_json({"artifact": name, "searched": False, "rules": rules, "layers": layers})
        return
    plan = ", ".join(f"{r['match']}={_name(r['precision'])}" for r in rules) or "f32 throughout"
    print_heading(f"{name} was compiled without a search: its precisions are those of the plan")
    print_facts(
        [("plan", plan), ("hint", "compile with --budget and --calibration to have precision found and proved")]
    )
    print_table(list(layers.items()), ("layer", "precision"))


def _name(precision: Any) -> str:
    return str(precision.get("name", precision)) if isinstance(precision, Mapping) else str(precision)
