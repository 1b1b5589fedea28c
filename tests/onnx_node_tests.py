"""The node tests of the ONNX project (they ship in the ``onnx`` package) through the importer and the interpreter.

    python tests/onnx_node_tests.py [--why] [OPERATOR ...]

prints how many pass by operator, and with ``--why`` the reason of each that does not.
"""

from __future__ import annotations

import argparse
import collections
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from planish.compiler.capture.captured import Captured
from planish.compiler.capture.onnx.capture import NotFixed, capture_onnx
from planish.compiler.errors import PlanishError
from planish.compiler.interpret import interpret

#: Opsets of the tests that count.
OPSETS = range(13, 24)
#: Element types of the tests that count.
ELEMENT_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16,
     TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)  # fmt: skip
#: The element types among them that the IR has no counterpart of.
FOREIGN = frozenset({TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64})

Data = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: ``test_`` and what ONNX calls it.
        op: the operator it is of.
        model: of one node, or of the nodes that define the operator.
        data: sets of inputs and expected outputs.
        rtol, atol: how near the outputs must be.
    """

    name: str
    op: str
    model: ModelProto
    data: Sequence[Data]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: "pass", "fail" (a wrong result, or an error that is not planned) or "refused" (a plain error).
        why: the reason, of the latter two.
        fixed: the inputs that had to be constants.
    """

    kind: str
    why: str = ""
    fixed: tuple[str, ...] = ()


@cache
def _all() -> tuple[Case, ...]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return tuple(Case(c.name, _op(c), c.model, c.data_sets, c.rtol, c.atol) for c in found if _counts(c.model))


def _counts(model: ModelProto | None) -> bool:
    if model is None:
        return False
    versions = {o.domain: o.version for o in model.opset_import}
    if set(versions) - {"", "ai.onnx"} or versions.get("", versions.get("ai.onnx")) not in OPSETS:
        return False
    ports = [*model.graph.input, *model.graph.output]
    return all(
        p.type.WhichOneof("value") == "tensor_type" and p.type.tensor_type.elem_type in ELEMENT_TYPES for p in ports
    )


@cache
def _operators() -> dict[str, str]:
    """Operators by their names without capitals and underscores."""
    found = {s.name.lower(): s.name for s in onnx.defs.get_all_schemas()}
    shorthands = {"nllloss": "NegativeLogLikelihoodLoss", "sce": "SoftmaxCrossEntropyLoss", "mvn": "MeanVarianceNormalization",
                  "clip": "Clip", "shape": "Shape"}  # fmt: skip
    return found | shorthands


def _op(case: Any) -> str:
    """The operator a test is of: its only node, or, where that is expanded to its definition, the longest name that the test's
    starts with."""
    nodes = case.model.graph.node
    if len(nodes) == 1:
        return str(nodes[0].op_type)
    words = case.name.removeprefix("test_").split("_")
    for count in range(len(words), 0, -1):
        found = _operators().get("".join(words[:count]))
        if found:
            return found
    return str(nodes[-1].op_type)


def cases(*op_types: str) -> list[Case]:
    """The tests of opset 13 to 23 on tensors of floats, integers and truth values, of these operators or of all."""
    return [c for c in _all() if not op_types or c.op in op_types]


def captured_with_fixes(case: Case, data: Data) -> tuple[Captured, dict[str, np.ndarray]]:
    """The model of a case in the IR; an input that decides a shape is a constant from its data, as ``--fix`` makes it.

    Returns:
        what was captured, and the inputs that were fixed.

    Raises:
        PlanishError: it is refused.
    """
    by_name = dict(zip([i.name for i in case.model.graph.input], data[0], strict=True))
    fixed: dict[str, np.ndarray] = {}
    while True:
        try:
            return capture_onnx(case.model, fixed=fixed), fixed
        except NotFixed as problem:
            more = [name for name in problem.fixes if name not in fixed]
            if not more:
                raise
            fixed |= {name: by_name[name] for name in more}


def difference(want: Sequence[np.ndarray], got: Sequence[np.ndarray], case: Case) -> str | None:
    """None where ``got`` is what the case expects, as ONNX's own runner compares; else the first difference."""
    if len(want) != len(got):
        return f"{len(got)} outputs instead of {len(want)}"
    for number, (a, b) in enumerate(zip(want, got, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {number}: {b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
        with np.errstate(all="ignore"):
            near = np.isclose(b, a, rtol=case.rtol, atol=case.atol, equal_nan=True)
        if not near.all():
            at = tuple(int(i) for i in np.argwhere(~near)[0])
            return f"output {number}: {int((~near).sum())} of {a.size} differ, first {b[at]} instead of {a[at]} at {list(at)}"
    return None


def outcome(case: Case) -> Outcome:
    """A case through capture and interpreter."""
    fixed: tuple[str, ...] = ()
    for data in case.data:
        try:
            captured, values = captured_with_fixes(case, data)
        except PlanishError as problem:
            return Outcome("refused", str(problem))
        except Exception as error:
            return Outcome("fail", f"capture: {type(error).__name__}: {error}")
        fixed = tuple(values)
        feed = {i.name: a for i, a in zip(case.model.graph.input, data[0], strict=True) if i.name not in values}
        try:
            got = interpret(captured.graph, {n: feed[n] for n in (i.name for i in captured.inputs)})
        except Exception as error:
            return Outcome("fail", f"interpreter: {type(error).__name__}: {error}", fixed)
        why = difference(data[1], got, case)
        if why:
            return Outcome("fail", why, fixed)
    return Outcome("pass", "", fixed)


def is_foreign(case: Case) -> bool:
    """Whether a tensor of it has an element type that the IR lacks."""
    ports = [*case.model.graph.input, *case.model.graph.output, *case.model.graph.value_info]
    return any(p.type.tensor_type.elem_type in FOREIGN for p in ports)


def outcomes(*op_types: str) -> Iterator[tuple[Case, Outcome]]:
    """Every case of these operators, or of all, with what became of it."""
    for case in cases(*op_types):
        yield case, outcome(case)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OPERATOR")
    parser.add_argument("--why", action="store_true", help="the reason of each that does not pass")
    options = parser.parse_args()
    table: dict[str, collections.Counter[str]] = {}
    reasons: list[str] = []
    for case, result in outcomes(*options.ops):
        table.setdefault(case.op, collections.Counter())[result.kind] += 1
        if result.kind != "pass":
            reasons.append(f"{result.kind:8}{case.name}: {result.why}")
    total: collections.Counter[str] = collections.Counter()
    for op, counts in sorted(table.items()):
        total += counts
        missing = ", ".join(f"{counts[k]} {k}" for k in ("fail", "refused") if counts[k])
        if missing:
            print(f"{op:34}{counts['pass']:4} of {counts.total():4}   {missing}")
    if options.why:
        print("\n".join(reasons))
    print(f"{total['pass']} of {total.total()} pass, {total['fail']} fail, {total['refused']} are refused")


if __name__ == "__main__":
    main()
