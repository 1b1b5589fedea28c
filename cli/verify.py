"""``planish verify``: a compiled model against the source it came from, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..compiler.errors import PlanishError
from .compare import Difference, compare
from .feed import Arrays, Signature, Sizes, by_name, fitted, from_file, resized, shown, variants
from .loading import open_model
from .options import ArtifactFile, Debug, Dims, Fix, Json, Task, Threads, parse_dims, parse_fixed
from .output import print_facts, print_heading, print_json, print_table
from .source import Source, load_source

#: Precision -> the least cosine of an output that a sound compilation reaches. These bars catch a model that is wrong;
#: whether it is good enough for a purpose is for --min-cosine and its siblings to say.
SANITY = {"f32": 0.99999, "bf16": 0.995, "w8a8": 0.97}


@dataclass(frozen=True)
class Case:
    """One set of inputs, and how far each output is from the source's."""

    sizes: Sizes
    differences: tuple[Difference, ...]


def verify(
    artifact: ArtifactFile,
    against: Annotated[str, typer.Option("--against", metavar="MODEL", help="The source to compare with.")],
    input: Annotated[
        Path | None, typer.Option("--input", "-i", metavar="IN.npz", help="Other inputs than the source's.")
    ] = None,
    task: Task = None,
    fix: Fix = None,
    dims: Dims = None,
    min_cosine: Annotated[float | None, typer.Option(help="Bar: the least cosine of any row of an output.")] = None,
    max_relative: Annotated[
        float | None, typer.Option(help="Bar: norm of the difference over that of the source.")
    ] = None,
    max_abs: Annotated[float | None, typer.Option(help="Bar: the largest absolute difference.")] = None,
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a compiled model with its source.

    Prints numbers for each output, names the worst case, and exits with 3 if a bar is missed. The inputs are the
    source's example, also cut to other sizes of the dynamic dimensions.
    """
    source = load_source(against, task, fixed=parse_fixed(fix))
    with open_model(artifact, threads) as model:
        signature = Signature.of(model.manifest)
        example = fitted(signature, by_name(signature, *source.eager()[1:])) if input is None else from_file(input)
        wanted = parse_dims(dims)
        signature.check(wanted)
        all_sizes = (
            [{**signature.sizes_of(example), **wanted}]
            if wanted or input
            else variants(signature, signature.sizes_of(example))
        )
        cases = [check(model, source, signature, example, sizes) for sizes in all_sizes]
        bars = _bars(model.manifest, min_cosine, max_relative, max_abs)
    missed = _missed(cases, bars)
    if json:
        print_json(
            {
                "cases": [{"sizes": c.sizes, "outputs": [d.as_dict() for d in c.differences]} for c in cases],
                "bars": bars,
                "missed": missed,
                "passed": not missed,
            }
        )
    else:
        show(cases, bars, missed)
    if missed:
        raise typer.Exit(3)


def check(model: Any, source: Source, signature: Signature, example: Arrays, sizes: Sizes) -> Case:
    """Run the compiled model and its source on the same inputs.

    Raises:
        PlanishError: the outputs cannot be compared, or the source fails on these inputs.
    """
    arrays = resized(signature, example, sizes)
    expected = run_source(source, signature, arrays)
    try:
        return Case(sizes, tuple(compare(model(**arrays), expected)))
    except ValueError as error:
        raise PlanishError(str(error), "is this the source the artifact was compiled from?") from error


def run_source(source: Source, signature: Signature, arrays: Arrays) -> Any:
    """The source's own outputs for inputs given under the names of the compiled model."""
    import torch

    call = source_call(source, signature, arrays)
    with torch.inference_mode():
        return call()


def source_call(source: Source, signature: Signature, arrays: Arrays, threads: int | None = None) -> Any:
    """The source as a function without arguments, fed with ``arrays`` in the places of its example inputs."""
    import torch
    from torch.utils import _pytree as pytree

    model, args, kwargs = source.eager(threads)
    names = [p.name for p in signature.inputs]
    rest = iter([name for name in names if name not in kwargs])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    if (
        not args and not kwargs
    ):  # an exported program that carries no example: its inputs are in the order of the artifact's
        return lambda: model(*(tensors[name] for name in names))

    def fill(value: Any) -> Any:
        return tensors[next(rest)] if isinstance(value, torch.Tensor) else value

    new_args = pytree.tree_map(fill, args)
    new_kwargs = {name: tensors[name] if name in tensors else pytree.tree_map(fill, v) for name, v in kwargs.items()}
    return lambda: model(*new_args, **new_kwargs)


def lowest_precision(manifest: Any) -> str:
    """The coarsest of the precisions that a manifest's plan uses: w8a8, bf16 or f32."""
    text = str(manifest.get("plan") or manifest.get("precision") or "f32")
    return next((name for name in ("w8a8", "bf16") if name in text), "f32")


def _bars(
    manifest: Any, min_cosine: float | None, max_relative: float | None, max_abs: float | None
) -> dict[str, float]:
    given = {"min_cosine": min_cosine, "max_relative": max_relative, "max_abs": max_abs}
    bars = {name: bar for name, bar in given.items() if bar is not None}
    return bars or {"sanity_cosine": SANITY[lowest_precision(manifest)]}


def _missed(cases: list[Case], bars: dict[str, float]) -> list[str]:
    """A sentence for each bar that is missed, with the case that misses it most."""
    found = []
    everything = [(c, d) for c in cases for d in c.differences]
    for bar, limit in bars.items():
        figure = {
            "min_cosine": "min_cosine",
            "sanity_cosine": "cosine",
            "max_relative": "relative",
            "max_abs": "max_abs",
        }[bar]
        low = bar.endswith("cosine")
        case, worst = (min if low else max)(everything, key=lambda item: getattr(item[1], figure))
        value = getattr(worst, figure)
        if value < limit if low else not value <= limit:
            sign = "below" if low else "above"
            found.append(
                f"{figure.replace('_', ' ')} of {worst.output!r} at {shown(case.sizes)} is {value:.6g}, {sign} {limit:g}"
            )
    for case, d in everything:
        if d.nonfinite:
            found.append(
                f"{d.nonfinite} elements of {d.output!r} at {shown(case.sizes)} are NaN or infinite in one of the two only"
            )
    return found


def show(cases: list[Case], bars: dict[str, float], missed: list[str]) -> None:
    """A line for each case and output, then the worst element, then the verdict."""
    rows = [
        (shown(c.sizes), d.output, f"{d.max_abs:.3g}", f"{d.relative:.3g}", f"{d.cosine:.6f}", f"{d.min_cosine:.6f}")
        for c in cases
        for d in c.differences
    ]
    print_table(rows, ("sizes", "output", "max abs", "relative", "cosine", "worst row"), right=(2, 3, 4, 5))
    case, worst = max(
        ((c, d) for c in cases for d in c.differences), key=lambda item: (item[1].max_abs, item[1].relative)
    )
    place = f"{worst.output}[{', '.join(map(str, worst.worst))}]" if worst.worst else worst.output
    limits = ", ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in bars.items())
    print_facts(
        [
            ("worst", f"{place} at {shown(case.sizes)}: {worst.got:.6g} instead of {worst.expected:.6g}"),
            (
                "bar",
                limits
                + ("  (catches a wrong model; set --min-cosine for a quality bar)" if "sanity_cosine" in bars else ""),
            ),
        ]
    )
    print_heading("missed: " + "; ".join(missed) if missed else "passed")
