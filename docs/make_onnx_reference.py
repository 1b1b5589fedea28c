"""Write docs/onnx-ops.md from the importer's registry and the node tests of the ONNX project:
``python docs/make_onnx_reference.py``."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "onnx-ops.md"
sys.path.insert(0, str(ROOT / "tests"))  # the node tests are run there

import onnx  # noqa: E402
from onnx_node_tests import OPSETS, Case, Outcome, outcomes  # type: ignore[import-not-found]  # noqa: E402
from onnx_node_tests_cpu import lowering_refusal  # type: ignore[import-not-found]  # noqa: E402

from planish.compiler.capture.onnx import capture  # noqa: E402, F401  (it registers the handlers)
from planish.compiler.capture.onnx.reading import NEWEST, OLDEST  # noqa: E402
from planish.compiler.capture.onnx.registry import HANDLERS, MICROSOFT, STANDARD  # noqa: E402

#: Where the part that the registry alone decides ends.
OUTCOME = "## ONNX's own node tests"

HEAD = f"""\
# ONNX operators

Written by `make docs` from the importer's registry and from the outcome of ONNX's own node tests. See `docs/onnx.md` for how
models are read.

Opsets {OLDEST} to {NEWEST} of the standard are read. *read since*: the first opset whose form of the operator is read. An
operator that has no handler of its own is read by the definition that the standard gives it in simpler ones.

Element types are those of the IR: float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8, bool, and int4 as
weights. An input that decides the shape of a result (axes, target sizes, repeats, k) must be a constant: one that is an input
of the model is named by the error, and `--fix NAME=VALUE` (`fixed={{name: value}}`) makes it one.
"""


@cache
def standard() -> dict[str, list[onnx.defs.OpSchema]]:
    """The versions of every operator of the standard up to the newest opset that is read, oldest first."""
    found: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == STANDARD and schema.since_version <= NEWEST:
            found.setdefault(schema.name, []).append(schema)
    return {name: sorted(versions, key=lambda s: s.since_version) for name, versions in sorted(found.items())}


def since(name: str) -> int | None:
    """The first opset whose form of a standard operator is read, by a handler or by its definition; None: none is."""
    versions, entries = standard()[name], HANDLERS.get((STANDARD, name), ())
    if any(e.refused for e in entries):
        return None
    handled = [max(e.since, versions[0].since_version, OLDEST) for e in entries]
    defined = [max(s.since_version, OLDEST) for s in versions if defines(s)]
    return min([*handled, *defined], default=None)


def defines(schema: onnx.defs.OpSchema) -> bool:
    """Whether the standard gives this version of an operator a definition in simpler ones."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def refusal(domain: str, name: str) -> str:
    """Why nothing can be read of an operator."""
    entries = HANDLERS.get((domain, name))
    return entries[0].refused or "" if entries else "there is no handler, and no definition in the standard"


def listed(names: Iterable[str]) -> str:
    """Names in a row."""
    return ", ".join(f"`{n}`" for n in names)


def registry_part() -> list[str]:
    """What the registry decides: operators that are read, and those that are not."""
    lines = [HEAD, "## The standard", "", "| operator | read since | how |", "|---|---|---|"]
    missing: dict[str, list[str]] = {}
    for name in standard():
        first = since(name)
        if first is None:
            missing.setdefault(refusal(STANDARD, name), []).append(name)
            continue
        lines.append(f"| `{name}` | {first} | {'' if (STANDARD, name) in HANDLERS else 'by its definition'} |")
    lines.append("")
    titles = {MICROSOFT: "ONNX Runtime's own operators", "ai.onnx.ml": "Classical machine learning"}
    for domain in sorted({d for d, _ in HANDLERS} - {STANDARD}):
        known = {n: entries[0].refused for (d, n), entries in sorted(HANDLERS.items()) if d == domain}
        for name, why in known.items():
            if why:
                missing.setdefault(why, []).append(f"{domain}::{name}")
        read = listed(n for n, why in known.items() if not why)
        lines += [f"## {titles.get(domain, domain)}", "", f"Of the domain `{domain}`: {read}.", ""]
    lines += ["## What is not read", ""]
    lines += [f"- {listed(names)}: {why}" for why, names in sorted(missing.items())]
    lines += [
        "- Operators of other domains, unless the model defines them itself as functions or `planish.register_op` says what they",
        "  compute.", "",
    ]  # fmt: skip
    return lines


def reason(result: Outcome) -> str:
    """Why a case does not pass, without what is peculiar to it."""
    if result.kind == "fail":
        return "another result than ONNX expects"
    text = re.sub(r"^the model uses .* that cannot be read: ", "", result.why)
    text = re.sub(r" at [\w/.]+(, [\w/.]+)*( and \d+ more)?(?=;|$| \()", "", text)
    return re.sub(r"^the input '\w+': ", "", text)


def outcome_part(found: Sequence[tuple[Case, Outcome]], without_kernel: Mapping[str, str]) -> list[str]:
    """What the node tests say.

    Args:
        found: every case and what became of it.
        without_kernel: of the cases that pass, those that the CPU backend cannot lower, and why.
    """
    total, passed = Counter(c.op for c, _ in found), Counter(c.op for c, r in found if r.kind == "pass")
    fixed = sum(bool(r.fixed) for _, r in found if r.kind == "pass")
    counts = Counter(r.kind for _, r in found)
    lines = [
        OUTCOME, "",
        f"Of the {len(found)} tests of opset {OPSETS[0]} to {OPSETS[-1]} whose tensors hold floats, integers or truth values,",
        f"**{counts['pass']} ({100 * counts['pass'] / len(found):.1f} %) pass** through importer and interpreter,",
        f"{counts['refused']} are refused with a plain error, and {counts['fail']} give another result.",
        f"In {fixed} of those that pass an input that decides a shape is fixed.",
        f"The CPU target has kernels for {counts['pass'] - len(without_kernel)} of them.", "",
        "| operator | pass | of |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| `{op}` | {passed[op]} | {total[op]} |" for op in sorted(total)]
    failing = {c.name: reason(r) for c, r in found if r.kind != "pass"}
    lines += ["", "What does not pass, by reason:", "", *_by_reason(failing)]
    return [*lines, "", "What passes and has no kernel on the CPU target, by reason:", "", *_by_reason(without_kernel)]


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name.removeprefix("test_"))
    return [f"- {why} ({len(tests)}): {listed(tests)}" for why, tests in sorted(names.items())]


def text() -> str:
    """The whole page."""
    found = list(outcomes())
    refused = {c.name: lowering_refusal(c) for c, r in found if r.kind == "pass"}
    without = {name: why for name, why in refused.items() if why is not None}
    return "\n".join([*registry_part(), *outcome_part(found, without)]).rstrip() + "\n"


if __name__ == "__main__":
    REFERENCE.write_text(text())
    print(f"written: docs/{REFERENCE.name}")
