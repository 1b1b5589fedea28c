"""One random module through the whole way: eager PyTorch, interpreted as captured, interpreted as lowered, compiled.

Many modules share one shared object, as in ``graph_harness``. How far results may lie apart is measured by the shaken
lanes of ``random_modules``; integers and booleans are equal.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from capture.oracle import flat_inputs, rebuilt
from graph_harness import BOUNDS, join, load_binary, optimised
from random_modules import NOISE, SIZES, Env, Loaded, Program, lanes_of
from torch import Tensor
from torch.utils import _pytree as pytree

from planish.backends.cpu import toolchain
from planish.backends.cpu.backend import BACKEND
from planish.codegen.program import Program as Lowered
from planish.codegen.unit import render_unit
from planish.compiler.capture.exporting import inference
from planish.compiler.capture.torch_export import Captured, capture
from planish.compiler.errors import CaptureError, ToolchainError
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret, to_torch
from planish.compiler.target import find_target
from planish.runtime.model import Model

#: How a refusal of torch itself starts; everything else that capture says is planish's.
TORCH_SAYS = ("torch.export cannot export", "the model does not work for every size", "dynamic_shapes does not fit",
              "the model takes a decision")  # fmt: skip
#: What is not agreement, worst first.
FAILURES = ("crash", "disagree", "error")


@dataclass(frozen=True)
class Outcome:
    """What became of one module.

    Attributes:
        status: ``ok``; ``skipped`` (torch cannot export it); ``refused`` (planish says that it cannot capture it);
            ``disagree``; ``error`` (an exception that is no plain refusal); ``crash`` (the process died).
        stage: how far it came.
        reason: one line.
    """

    status: str
    stage: str = ""
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.status in FAILURES


@dataclass
class Case:
    """A module on its way."""

    program: Program
    loaded: Loaded
    captured: Captured
    outcome: Outcome | None = None
    graph: Graph | None = None
    lowered: Lowered | None = None
    truth: dict[int, tuple[list[Any], list[list[Any]]]] = field(default_factory=dict)

    @property
    def sizes(self) -> Sequence[Env]:
        return self.program.sizes

    def feed(self, env: Env) -> dict[str, np.ndarray]:
        """The graph's inputs at these sizes."""
        return flat_inputs(self.captured, self.loaded.inputs(**env), {})

    def wanted(self, number: int) -> tuple[list[Any], list[list[Any]]]:
        """The leaves of eager's result at size ``number``, and those of the lanes."""
        if number not in self.truth:
            env = self.sizes[number]
            with torch.no_grad(), inference(self.loaded.model):
                plain = pytree.tree_leaves(self.loaded.model(*self.loaded.inputs(**env)))
            text = self.program.result or ", ".join(self.program.outputs)
            lanes = [pytree.tree_leaves(eval(text, {}, dict(values))) for values in lanes_of(self.program, env)]
            self.truth[number] = (plain, lanes)
        return self.truth[number]

    def compare(self, number: int, flat: Sequence[np.ndarray], reduced: bool) -> str | None:
        """The first difference between ``flat`` (the graph's outputs) and eager; None if there is none."""
        values = [to_torch(a, v.dtype) for a, v in zip(flat, self.captured.graph.outputs, strict=True)]
        got = pytree.tree_leaves(rebuilt(self.captured.structure, values))
        plain, lanes = self.wanted(number)
        if len(got) != len(plain):
            return f"{len(got)} outputs instead of {len(plain)}"
        precision = self.program.precision if reduced else "f32"
        for i, (have, want) in enumerate(zip(got, plain, strict=True)):
            if not isinstance(want, Tensor):
                why = None if want == have else f"{have} instead of {want}"
            else:
                why = difference(have, want, [lane[i] for lane in lanes], precision)
            if why:
                return f"output {i} at {dict(self.sizes[number])}: {why}"
        return None


def difference(got: Tensor, want: Tensor, lanes: Sequence[Tensor], precision: str) -> str | None:
    """Whether two results are further apart than rounding explains; says where."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if not want.is_floating_point():
        wrong = (got != want).nonzero()
        if not len(wrong):
            return None
        at = tuple(wrong[0].tolist())
        return f"{len(wrong)} of {want.numel()} differ, first {got[at]} instead of {want[at]} at {list(at)}"
    a, b = want.double(), got.double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return "NaN or infinity at other places"
    a, b = a[finite], b[finite]
    if not a.numel():
        return None
    spread = torch.stack([(s.double()[finite] - lanes[0].double()[finite]).abs() for s in lanes[1:]]).amax(0)
    apart, norm = (a - b).abs(), float(a.norm())
    if precision != "f32":
        distance, allowed = float(apart.norm()), 0.04 * norm + 1.5 * float(spread.norm()) + 1e-6
        if distance <= allowed:
            return None
        return f"off by {distance / max(norm, 1e-30):.2g} of its norm, {allowed / max(norm, 1e-30):.2g} is allowed"
    base = NOISE[want.dtype]
    limit = spread + 0.5 * spread.max() + base * (2 * a.abs() + 0.25 * a.abs().max()) + 1e-30
    wrong = (apart > limit).nonzero()
    if not len(wrong):
        return None
    at = int((apart / limit).argmax())
    return (
        f"{len(wrong)} of {a.numel()} differ, worst {float(b[at]):.7g} instead of {float(a[at]):.7g} "
        f"(allowed {float(limit[at]):.1g}) at flat index {at}"
    )


def one_line(error: BaseException) -> str:
    """An exception with the place it was raised."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/planish" in f.filename or "/tests/" not in f.filename
    ]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {text}{where}"


# -- the stages --------------------------------------------------------------------------------------------------------
def prepare(program: Program, level: str) -> Case | Outcome:
    """Everything before the C++ compiler; an outcome if it ends there."""
    stage = "load"
    try:
        loaded = program.load()
        stage = "capture"
        try:
            captured = capture(loaded.model, loaded.inputs(**program.sizes[0]), dynamic_shapes=loaded.shapes)
        except CaptureError as error:
            text = str(error)
            return Outcome("skipped" if text.startswith(TORCH_SAYS) else "refused", stage, " ".join(text.split())[:300])
        case = Case(program, loaded, captured)
        stage = "interpreted"
        for number, env in enumerate(case.sizes):
            why = case.compare(number, interpret(captured.graph, case.feed(env)), False)
            if why:
                return Outcome("disagree", stage, why)
        stage = "passes"
        plan = None if program.precision == "f32" else program.precision
        calibration = [captured.examples] if plan else []
        case.graph = optimised(captured.graph, level, plan, calibration=calibration)
        stage = "interpreted as lowered"
        for number, env in enumerate(case.sizes):
            why = case.compare(number, interpret(case.graph, case.feed(env)), True)
            if why:
                return Outcome("disagree", stage, why)
        stage = "lower"
        case.lowered = BACKEND.lower(case.graph, find_target(f"cpu:{level}"))
        render_unit(case.lowered)
    except Exception as error:  # whatever it is, it is a finding
        return Outcome("error", stage, one_line(error))
    return case


def load(lowered: Lowered, flags: Sequence[str], threads: int) -> Model:
    """A program, built with these compiler flags and loaded; its outputs come back in a dict."""
    source = render_unit(lowered)
    try:
        binary = toolchain.build(source, lowered.isa, extra_flags=tuple(flags)).read_bytes()
    except ToolchainError:  # without optimisation g++ 12 fails now and then: "unrecognizable insn"
        if "-O0" not in flags:
            raise
        binary = toolchain.build(source, lowered.isa, extra_flags=("-O1",)).read_bytes()
    return load_binary(lowered, binary, source, threads)


def run_together(cases: Mapping[str, Case], level: str, flags: Sequence[str], threads: int) -> None:
    """Compile these cases into one object, run it at every size, and set their outcomes.

    Where the object as a whole fails, its halves are tried, so that the case that is to blame is found.
    """
    try:
        model = load(join({name: case.lowered for name, case in cases.items() if case.lowered}, level), flags, threads)
        results = []
        for number, env in enumerate(SIZES):
            feed: dict[str, Any] = {f"probe.{s}": np.zeros(env[s], np.uint8) for s in BOUNDS}
            for name, case in cases.items():
                own = case.sizes[number % len(case.sizes)]
                feed |= {f"{name}.{key}": array for key, array in case.feed(own).items()}
            results.append(dict(model(**feed)))
    except Exception as error:
        if len(cases) == 1:
            next(iter(cases.values())).outcome = Outcome("error", "compiled", one_line(error))
            return
        names = list(cases)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            run_together({n: cases[n] for n in half}, level, flags, threads)
        return
    for name, case in cases.items():
        case.outcome = Outcome("ok", "compiled")
        for number, outputs in enumerate(results):
            flat = [outputs[f"{name}.{i}"] for i in range(len(case.captured.graph.outputs))]
            why = case.compare(number % len(case.sizes), flat, True)
            if why:
                case.outcome = Outcome("disagree", "compiled", why)
                break


def check(
    programs: Mapping[str, Program], level: str, *, flags: Sequence[str] = ("-O1",), threads: int = 1, per_object: int = 24,
    seen: Callable[[str, Outcome], None] = lambda name, outcome: None,
) -> dict[str, Outcome]:  # fmt: skip
    """What becomes of every module.

    Args:
        programs: by name (letters and digits).
        level: the ISA level.
        flags: for the C++ compiler, behind its own: what is built once and run thrice need not be fast.
        threads: of the compiled model.
        per_object: how many modules share a shared object.
        seen: called as soon as the outcome of a module is known.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: dict[str, Case] = {}

    def flush() -> None:
        if waiting:
            run_together(waiting, level, flags, threads)
        for name, case in waiting.items():
            assert case.outcome is not None
            outcomes[name] = case.outcome
            seen(name, case.outcome)
        waiting.clear()

    for name, program in programs.items():
        found = prepare(program, level)
        if isinstance(found, Outcome):
            outcomes[name] = found
            seen(name, found)
        else:
            waiting[name] = found
        if len(waiting) >= per_object:
            flush()
    flush()
    return outcomes
