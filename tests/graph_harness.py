"""Graphs through passes, lowering and the toolchain to a loaded model, beside the interpreter: the oracle of the backend.

Many small graphs share one shared object: each is optimised and lowered alone, then their programs are joined, so a test
file costs a few compilations and not hundreds.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from unit_harness import host_binary

import planish
from planish.backends.cpu.backend import BACKEND
from planish.codegen.program import Buffer, Port, Program, Ref
from planish.codegen.unit import host_source, render_unit
from planish.compiler.artifact import HostPart, Package
from planish.compiler.dims import Dim, evaluate, symbol
from planish.compiler.errors import ToolchainError
from planish.compiler.graph import Graph, Symbol, Value
from planish.compiler.instruments import Verify
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.pipeline import Pipeline
from planish.compiler.plan import Plan
from planish.compiler.target import Target, find_target
from planish.compiler.types import DType, TensorType, bf16_to_float, float_to_bf16
from planish.driver import preset
from planish.passes.precision import CALIBRATION, PLAN
from planish.runtime.model import Model

#: The symbols of every graph of the harness, with their bounds: 0 is a size like any other.
BOUNDS = {"b": (0, 64), "s": (0, 512)}
B, S = symbol("b"), symbol("s")
Env = Mapping[str, int]
Data = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

#: Largest error of one element, relative to it, and relative to the largest finite one of its tensor.
TOLERANCE = {
    DType.f64: (1e-12, 1e-14), DType.f32: (3e-5, 3e-6), DType.f16: (2e-3, 1e-3), DType.bf16: (1.6e-2, 8e-3)
}  # fmt: skip


class Sketch:
    """A graph as a test writes it: ``g.input``, ``g.const``, ``g("op", x, attribute=...)``, ``g.output``."""

    def __init__(self) -> None:
        self.graph = Graph("sketch")
        self.graph.symbols = {name: Symbol(name, *bounds) for name, bounds in BOUNDS.items()}
        self.data: dict[str, Data] = {}
        self.rough: list[DType] | None = None  # by output: the type whose tolerance holds, where not its own
        self._rng = np.random.default_rng(7)

    def input(
        self, *shape: Dim, dtype: DType = DType.f32, low: int = -3, high: int = 4, data: Data | None = None
    ) -> Value:
        """An input; floats are normal, integers lie in [low, high)."""
        value = self.graph.add_input(f"x{len(self.graph.inputs)}", TensorType(dtype, tuple(shape)))
        self.data[value.name] = data or (lambda rng, size: random_array(rng, size, dtype, low, high))
        return value

    def const(self, array: Any, dtype: DType | None = None) -> Value:
        """A constant; a float array becomes f32, or bf16 where asked for."""
        array = np.asarray(array)
        if dtype is DType.bf16:
            array = float_to_bf16(array.astype(np.float32))
        elif dtype is not None:
            array = array.astype(dtype.numpy)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        return self.graph.add_constant(array, "c", dtype)

    def random(self, *shape: int, dtype: DType = DType.f32, low: int = -3, high: int = 4) -> Value:
        """A constant of random numbers."""
        return self.graph.add_constant(random_array(self._rng, shape, dtype, low, high), "c", dtype)

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.graph.insert(op, inputs, attrs, name=f"{op}{len(self.graph)}").outputs[0]

    def both(self, op: str, *inputs: Value | None, **attrs: Any) -> list[Value]:
        """All results of an op that has several."""
        return self.graph.insert(op, inputs, attrs, name=f"{op}{len(self.graph)}").outputs

    def output(self, *values: Value) -> None:
        """Declare the outputs."""
        self.graph.outputs = list(values)

    def inputs(self, env: Env, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs at these sizes."""
        rng = np.random.default_rng(seed + 1)
        return {v.name: self.data[v.name](rng, shape_of(v, env)) for v in self.graph.inputs}


def shape_of(value: Value, env: Env) -> tuple[int, ...]:
    """The sizes of ``value`` for these symbols."""
    return tuple(evaluate(d, env) for d in value.shape)


def random_array(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, low: int = -3, high: int = 4
) -> np.ndarray:
    """Normal numbers, integers in [low, high), or coins; bf16 as bits."""
    if dtype is DType.bool:
        return rng.random(shape) < 0.5
    if dtype.is_integer:
        return rng.integers(max(low, np.iinfo(dtype.numpy).min), high, shape).astype(dtype.numpy)
    array = rng.standard_normal(shape)
    return float_to_bf16(array.astype(np.float32)) if dtype is DType.bf16 else array.astype(dtype.numpy)


def near(
    want: np.ndarray, got: np.ndarray, dtype: DType, slack: float = 1.0, rough: DType | None = None, floor: float = 0.0
) -> str | None:
    """None if ``got`` is ``want`` within a tolerance, else the first difference.

    Args:
        dtype: the element type; ``rough``: the type whose tolerance holds, if not that.
        slack: times the tolerance.
        floor: errors are measured against numbers of at least this size.
    """
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if not dtype.is_float:
        wrong = np.argwhere(want != got)
        if not len(wrong):
            return None
        at = tuple(int(i) for i in wrong[0])
        return f"{len(wrong)} of {want.size} differ, first {got[at]} instead of {want[at]} at {list(at)}"
    a, b = (bf16_to_float(v).astype(np.float64) if dtype is DType.bf16 else v.astype(np.float64) for v in (want, got))
    relative, absolute = (t * slack for t in TOLERANCE[rough or dtype])
    finite = np.isfinite(a)
    norm = float(np.abs(a[finite]).max(initial=floor))
    with np.errstate(invalid="ignore"):
        same = np.where(
            finite, np.abs(a - b) <= relative * np.abs(a) + absolute * norm, (a == b) | (np.isnan(a) & np.isnan(b))
        )
    if same.all():
        return None
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{int((~same).sum())} of {a.size} differ, first {b[at]} instead of {a[at]} at {list(at)}"


# -- compiling ---------------------------------------------------------------------------------------------------------
def optimised(
    graph: Graph, level: str, precision: Any = None, pipeline: Pipeline | None = None,
    calibration: Sequence[Mapping[str, np.ndarray]] = (),
) -> Graph:  # fmt: skip
    """A copy of ``graph`` behind the target's passes, with the invariants of the IR checked after each."""
    target = find_target(f"cpu:{level}")
    working = graph.copy()
    context = PassContext(target=target, data={PLAN: Plan.of(precision), CALIBRATION: list(calibration)})
    (preset(target) if pipeline is None else pipeline).run(working, context, [Verify()])
    return working


def join(programs: Mapping[str, Program], level: str) -> Program:
    """One program that runs ``programs`` one after the other; ports get the name of their program in front."""
    whole = Program(dict(BOUNDS), [], [], isa=level)
    for probe in BOUNDS:
        whole.buffers.append(Buffer(probe, "input", symbol(probe)))
        whole.inputs.append(Port(f"probe.{probe}", DType.u8, (symbol(probe),), len(whole.buffers) - 1))
    end = 0
    for name, program in programs.items():
        base, start = len(whole.buffers), -(-end // 64) * 64
        for buffer in program.buffers:
            offset = buffer.offset + start if buffer.kind == "weight" else buffer.offset
            whole.buffers.append(replace(buffer, name=f"{name}.{buffer.name}", offset=offset))
            if buffer.kind == "weight":
                assert isinstance(buffer.bytes, int)
                end = max(end, offset + buffer.bytes)
        whole.weights += program.weights
        whole.inputs += [replace(p, name=f"{name}.{p.name}", buffer=p.buffer + base) for p in program.inputs]
        whole.outputs += [replace(p, name=f"{name}.{i}", buffer=p.buffer + base) for i, p in enumerate(program.outputs)]
        for launch in program.launches:
            pointers = tuple(r if r.buffer is None else Ref(r.buffer + base, r.offset) for r in launch.pointers)
            scratch = None if launch.scratch is None else launch.scratch + base
            whole.launches.append(replace(launch, pointers=pointers, scratch=scratch))
    return whole


def load_program(program: Program, threads: int = 1) -> Model:
    """The program, built and loaded; its outputs come back in a dict."""
    return load_binary(program, *BACKEND.build(program), threads)


def load_binary(program: Program, binary: bytes, source: str, threads: int) -> Model:
    """A program that was built already, loaded; its outputs come back in a dict."""
    unit = BACKEND.part(program, binary, source, Target("cpu", program.isa))
    names = [port.name for port in program.outputs]
    structure = {"kind": "dict", "keys": names, "items": [{"kind": "tensor", "index": i} for i in range(len(names))]}
    host = HostPart(host_binary(), host_source(), platform.machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.planish"
        Package(name="test", units=[unit], hosts=[host], structure=structure).save(path)
        return planish.load(path, threads=threads)


@dataclass
class Compiled:
    """Sketches that share one shared object; a sketch that did not compile keeps its error."""

    sketches: Mapping[str, Sketch]
    graphs: dict[str, Graph]
    programs: dict[str, Program]
    models: dict[str, Model]
    errors: dict[str, Exception]
    _outputs: dict[tuple, dict[str, np.ndarray]] = field(default_factory=dict)

    def run(self, name: str, env: Env, seed: int = 0) -> list[np.ndarray]:
        """The outputs of one sketch on random inputs.

        Raises:
            Exception: why it did not compile.
        """
        if name in self.errors:
            raise self.errors[name]
        model = self.models[name]
        key = (id(model), tuple(env.items()), seed)
        if key not in self._outputs:
            feed: dict[str, Any] = {f"probe.{s}": np.zeros(env[s], np.uint8) for s in BOUNDS}
            for other, owner in self.models.items():
                if owner is model:
                    feed |= {f"{other}.{k}": v for k, v in self.sketches[other].inputs(env, seed).items()}
            self._outputs[key] = dict(model(**feed))
        outputs = self._outputs[key]
        return [outputs[f"{name}.{i}"] for i in range(len(self.sketches[name].graph.outputs))]

    def check(self, name: str, env: Env, seed: int = 0, slack: float = 1.0, floor: float = 0.0) -> None:
        """Compare with the interpreter on the graph as written, and on the graph as lowered.

        Raises:
            AssertionError: they differ; says where.
        """
        got = self.run(name, env, seed)
        sketch = self.sketches[name]
        inputs = sketch.inputs(env, seed)
        for stage, graph in (("as written", sketch.graph), ("as lowered", self.graphs[name])):
            want = interpret(graph, inputs)
            rough: Sequence[DType | None] = sketch.rough or [None] * len(want)
            for i, (value, a, b) in enumerate(zip(sketch.graph.outputs, want, got, strict=True)):
                why = near(a, b, value.dtype, slack, rough[i], floor)
                assert why is None, f"{name} at {dict(env)}, output {i}, against the graph {stage}: {why}"


def compile_sketches(
    sketches: Mapping[str, Sketch], level: str, *, precision: Any = None, pipeline: Pipeline | None = None, threads: int = 1,
    per_object: int = 40,
) -> Compiled:  # fmt: skip
    """Compile sketches, ``per_object`` to a shared object."""
    graphs: dict[str, Graph] = {}
    programs: dict[str, Program] = {}
    errors: dict[str, Exception] = {}
    target = find_target(f"cpu:{level}")
    for name, sketch in sketches.items():
        try:
            graphs[name] = optimised(sketch.graph, level, precision, pipeline)
            programs[name] = BACKEND.lower(graphs[name], target)
            render_unit(programs[name])
        except Exception as error:  # its own test reports it, the others go on
            errors[name] = error
            programs.pop(name, None)
    models: dict[str, Model] = {}
    names = list(programs)
    parts = [{n: programs[n] for n in names[i : i + per_object]} for i in range(0, len(names), per_object)]

    def load(part: Mapping[str, Program]) -> None:
        try:
            models.update(dict.fromkeys(part, load_program(join(part, level), threads)))
        except ToolchainError as error:
            if len(part) == 1:
                errors.update(dict.fromkeys(part, error))
                return
            for name, program in part.items():  # which of them is it?
                load({name: program})

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(load, parts))
    return Compiled(sketches, graphs, programs, models, errors)
