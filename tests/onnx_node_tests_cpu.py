"""The node tests of the ONNX project that pass in the interpreter, through the CPU backend: many to a shared object.

python tests/onnx_node_tests_cpu.py [--why] [OPERATOR ...]
"""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from graph_harness import Compiled, Env, compile_sketches, optimised
from onnx_node_tests import Case, Outcome, captured_with_fixes, cases, difference, outcome

from planish.backends.cpu.backend import BACKEND
from planish.codegen.unit import render_unit
from planish.compiler.errors import LoweringError, PlanishError
from planish.compiler.graph import Graph
from planish.compiler.target import find_target
from planish.compiler.types import DType

#: Graphs to a shared object.
PER_OBJECT = 60


@dataclass
class _Sketch:
    """A captured graph with the inputs of its test, as the harness wants it."""

    graph: Graph
    data: dict[str, np.ndarray]
    rough: list[DType] | None = None

    def inputs(self, env: Env, seed: int = 0) -> dict[str, np.ndarray]:
        """The inputs of the test."""
        return self.data


def compiled(chosen: Sequence[Case]) -> tuple[Compiled, dict[str, Case]]:
    """Those of ``chosen`` that can be captured, compiled for this machine, and the cases by name."""
    sketches: dict[str, _Sketch] = {}
    by_name: dict[str, Case] = {}
    for case in chosen:
        try:
            captured, fixed = captured_with_fixes(case, case.data[0])
        except PlanishError:
            continue
        ports = zip(case.model.graph.input, case.data[0][0], strict=True)
        data = {p.name: np.asarray(a, order="C") for p, a in ports if p.name not in fixed}
        sketches[case.name] = _Sketch(captured.graph, {v.name: data[v.name] for v in captured.graph.inputs})
        by_name[case.name] = case
    level = find_target("cpu").level
    return compile_sketches(sketches, level, per_object=PER_OBJECT), by_name  # type: ignore[arg-type]


def lowering_refusal(case: Case) -> str | None:
    """Why the CPU backend has no kernel for a case that can be captured, without its names; None if it has."""
    captured, _ = captured_with_fixes(case, case.data[0])
    target = find_target("cpu:portable")
    try:
        render_unit(BACKEND.lower(optimised(captured.graph, target.level), target))
    except LoweringError as problem:
        return re.sub(r"(?<=convolution) \w+|(?<=recurrent) \w+", "", str(problem))
    return None


def outcomes_on_cpu(*op_types: str) -> list[tuple[Case, Outcome]]:
    """What becomes of every case that passes in the interpreter; "refused" is one without a kernel."""
    passing = [c for c in cases(*op_types) if outcome(c).kind == "pass"]
    together, by_name = compiled(passing)
    results = []
    for name, case in by_name.items():
        try:
            got = together.run(name, {"b": 1, "s": 1})
        except LoweringError as problem:
            results.append((case, Outcome("refused", str(problem))))
        except Exception as error:
            results.append((case, Outcome("fail", f"{type(error).__name__}: {error}")))
        else:
            why = difference(case.data[0][1], got, case)
            results.append((case, Outcome("fail", why) if why else Outcome("pass")))
    return results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OPERATOR")
    parser.add_argument("--why", action="store_true", help="the reason of each that does not pass")
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    for case, result in outcomes_on_cpu(*options.ops):
        counts[result.kind] += 1
        if result.kind != "pass" and options.why:
            print(f"{result.kind:8}{case.name}: {result.why.splitlines()[0]}")
    print(f"{counts['pass']} of {counts.total()} pass, {counts['fail']} fail, {counts['refused']} have no kernel")


if __name__ == "__main__":
    main()
