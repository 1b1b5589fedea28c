"""Capture a PyTorch model: ``torch.export`` (non-strict), then one walk that lowers its graph into the IR."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ..errors import CaptureError, PlanishError, UsageError
from ..graph import Graph, Value
from ..profile import phase
from ..types import DType, TensorType
from . import (  # noqa: F401  (they register their handlers)
    aten_anchor,
    aten_bag,
    aten_create,
    aten_distance,
    aten_elementwise,
    aten_experts,
    aten_index,
    aten_order,
    aten_recurrent,
    aten_reduce,
    aten_resample,
    aten_scatter,
    aten_shape,
    aten_spatial,
)
from .admission import admit
from .captured import Captured, CapturedInput
from .custom import unregistered_hint
from .decomposing import decompose, decompositions
from .examples import DerivedShapes, Varying, arguments, parameter_names, varying_axes, widened
from .exporting import export, export_derived, load
from .locations import assign_names
from .lowering import HANDLERS, Failure, Lowering
from .mutation import needs_functionalization
from .structure import Structure, input_names, output_names, structure_of
from .symbols import SymbolTable, Unsupported, name_symbols
from .weights import dtype_of, to_numpy


def capture(
    model: torch.nn.Module | ExportedProgram | str | os.PathLike[str],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    name: str | None = None,
    debug: bool = False,
) -> Captured:
    """Read a model into the IR.

    Args:
        model: a module (exported in eval mode, its mode restored), an exported program, or the path of a ``.pt2`` file.
        args, kwargs: the example call, as ``torch.export.export`` takes it; a lone tensor or mapping means the only argument
            or the keywords. Not needed for a program that carries its own.
        dynamic_shapes: torch.export's notation; every symbol ends with bounds.
        name: of the graph; the model's class if None.
        debug: let torch's own logs through.

    Raises:
        CaptureError: the model cannot be exported, or holds ops that cannot be captured (all of them are listed).
        UsageError: the call makes no sense.
    """
    positional, keywords = arguments(args, kwargs)
    varying: list[Varying] = []
    notes: list[str] = []
    parameters: list[str] | None = None
    if isinstance(model, torch.nn.Module) and not isinstance(model, ExportedProgram):
        admit(model, positional, keywords)
        if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner: torch.nn.Module = model.module
            model = inner
        class_name = type(model).__name__
        shapes = dynamic_shapes
        if hasattr(shapes, "dynamic_shapes"):  # ShapesCollection, AdditionalInputs
            shapes = shapes.dynamic_shapes(model, positional, keywords)
        varying = varying_axes(model, positional, keywords, shapes)
        traced = widened(positional, keywords, varying)
        if traced is not None:
            notes.append("traced with sizes of 2 where the example has a varying size of 1")
        parameters = parameter_names(model, len(positional))
        example = (positional, keywords) if traced is None else traced
        with phase("torch.export"):
            if isinstance(shapes, DerivedShapes):
                program, shapes, narrowed = export_derived(model, example[0], example[1], shapes, debug)
                notes += narrowed
                varying = varying_axes(model, positional, keywords, shapes)
            else:
                program = export(model, example[0], example[1], shapes, debug)
    elif isinstance(model, (ExportedProgram, str, os.PathLike)):
        if dynamic_shapes is not None:
            raise UsageError(
                "dynamic_shapes is given to torch.export.export", "an exported program has its shapes already"
            )
        program = model if isinstance(model, ExportedProgram) else load(Path(model), debug)
        class_name = _root_class(program)
        if not positional and not keywords and program.example_inputs is not None:
            positional, keywords = program.example_inputs
    else:
        raise UsageError(
            f"a model is a torch.nn.Module, an ExportedProgram or the path of a .pt2 file, not {type(model).__name__}"
        )
    captured = _lower(program, varying, parameters, name or class_name, debug)
    captured.notes[:0] = notes
    captured.class_name = class_name
    captured.examples = _examples(captured, positional, keywords, program)
    return captured


def _root_class(program: ExportedProgram) -> str:
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        for entry in stack.values():
            path, kind = entry if isinstance(entry, tuple) else (None, "")
            name = str(getattr(kind, "__name__", kind)).rsplit(".", 1)[-1]
            if path == "" and name and not name.startswith("_empty"):  # sizes carry a stand-in of torch's
                return name
    return "main"


def _lower(
    program: ExportedProgram, varying: list[Varying], parameters: list[str] | None, name: str, debug: bool
) -> Captured:
    """Lower; what the vocabulary lacks is decomposed by torch, that and nothing else, and lowered again."""
    if needs_functionalization(program):
        with phase("decompose"):
            program = decompose(program, {}, debug)
    tried: set[Any] = set()
    first: list[Failure] = []
    while True:
        attempt = _Attempt(program, varying, parameters, name)
        try:
            with phase("lower into IR"):
                attempt.run()
        except Unsupported as problem:
            if first:
                raise _all_failures(first) from problem
            raise CaptureError(f"the model cannot be captured: {problem}") from problem
        failures = attempt.lowering.failures
        if not failures:
            with phase("hash the source"):
                return attempt.captured()
        first = first or failures
        table = decompositions([f.target for f in failures if f.target not in tried and not f.final])
        if not table:
            raise _all_failures(_as_written(first, failures))
        tried |= set(table)
        try:
            with phase("decompose"):
                program = decompose(program, table, debug)
        except CaptureError as error:
            raise _all_failures(first) from error


def _as_written(first: list[Failure], last: list[Failure]) -> list[Failure]:
    """What still fails, named as the model names it: an op that was decomposed in vain stands for its pieces."""
    places = {(f.location, f.path) for f in last}
    kept = [f for f in first if (f.location, f.path) in places]
    named = {(f.location, f.path) for f in kept}
    return kept + [f for f in last if (f.location, f.path) not in named]


def _all_failures(failures: list[Failure]) -> CaptureError:
    lines: dict[tuple[str, str], list[str]] = {}
    for f in failures:
        op = f.op.removesuffix(".default")
        where = f.location or "an unknown line"
        places = lines.setdefault((op, f.why), [])
        if where not in places:
            places.append(where)
    parts = [f"{op}{f' ({why})' if why else ''} at {_first(places)}" for (op, why), places in lines.items()]
    count = "an operation" if len(parts) == 1 else f"{len(parts)} operations"
    hint = unregistered_hint([f.target for f in failures if not f.why])
    return CaptureError(f"the model uses {count} that cannot be captured: " + "; ".join(parts), hint)


def _first(places: list[str]) -> str:
    more = f" and {len(places) - 3} more lines" if len(places) > 4 else ""
    return ", ".join(places[:3] if more else places) + more


class _Attempt:
    """One walk over one program."""

    def __init__(
        self, program: ExportedProgram, varying: list[Varying], parameters: list[str] | None, name: str
    ) -> None:
        self.program = program
        self.graph = Graph(name)
        self.holders: dict[str, fx.Node] = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
        self.inputs: list[CapturedInput] = []
        user = list(program.graph_signature.user_inputs)
        self.input_structure = structure_of(program.call_spec.in_spec, lambda i: {"kind": "tensor", "index": i})
        names = input_names(self.input_structure, parameters or self._positional())
        # a keyword argument and an attribute of a container may meet; flat names are made unique
        self.user = [(self._unique(names[i][0], i, names), names[i][1], arg) for i, arg in enumerate(user)]
        fakes = [(n, self._fake(arg)) for n, _, arg in self.user]
        wishes = {(v.leaf, v.axis): (v.name, v.exact) for v in varying if v.name is not None}
        self.symbols = SymbolTable(program.range_constraints, name_symbols(fakes, wishes))
        self.lowering = Lowering(self.graph, self.symbols)
        self.outputs: list[Any] = []

    @staticmethod
    def _unique(name: str, index: int, names: dict[int, tuple[str, tuple[Any, ...]]]) -> str:
        clash = any(other[0] == name for i, other in names.items() if i < index)
        return f"{name}.{index}" if clash else name

    def _positional(self) -> list[str]:
        entry = self.program.module_call_graph[0]
        names = getattr(entry.signature, "forward_arg_names", None) if entry.signature is not None else None
        return list(names or [])

    def _fake(self, argument: Any) -> Any:
        return (
            self.holders[argument].meta.get("val") if isinstance(argument, str) and argument in self.holders else None
        )

    def run(self) -> None:
        """Walk the program."""
        kept: dict[int, Any] = {}
        for index, (name, path, argument) in enumerate(self.user):
            fake = self._fake(argument)
            if isinstance(fake, torch.Tensor):
                if fake.layout is not torch.strided:
                    raise Unsupported(f"the input {name!r} is a {str(fake.layout).removeprefix('torch.')} tensor")
                try:
                    dtype = dtype_of(fake.dtype)
                except Unsupported as problem:
                    raise Unsupported(f"the input {name!r}: {problem}") from problem
                value = self.graph.add_input(name, TensorType(dtype, self.symbols.shape(fake.shape)))
                self.lowering.bind(self.holders[argument], value)
                kept[index] = {"kind": "tensor", "index": len(self.inputs)}
                self.inputs.append(CapturedInput(name, path))
            elif isinstance(fake, (torch.SymInt, torch.SymFloat, torch.SymBool)):
                raise Unsupported(f"the input {name!r} is a number that varies; give it as a tensor")
            else:
                kept[index] = {"kind": "constant", "value": fake if argument in self.holders else argument}
        self.input_structure = structure_of(self.program.call_spec.in_spec, lambda i: kept[i])
        self._bind_weights()
        self.outputs = list(self.lowering.walk(self.program.graph, self.program.graph_module))

    def _bind_weights(self) -> None:
        for spec in self.program.graph_signature.input_specs:
            target = spec.target
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR) and target is not None:
                stores = (self.program.state_dict, self.program.constants)
                tensor = next((s[target] for s in stores if target in s), None)
                if isinstance(tensor, torch.Tensor):
                    self.lowering.bind_tensor(self.holders[spec.arg.name], target, tensor)
            elif spec.kind not in (
                InputKind.USER_INPUT,
                InputKind.PARAMETER,
                InputKind.BUFFER,
                InputKind.CONSTANT_TENSOR,
            ):
                kind = spec.kind.name.lower().replace("_", " ")
                raise Unsupported(f"it holds a {kind} ({spec.target or spec.arg.name})")

    def captured(self) -> Captured:
        """The result of a walk without failures.

        Raises:
            CaptureError: the model writes to its buffers or inputs.
        """
        wanted = []
        for spec, output in zip(self.program.graph_signature.output_specs, self.outputs, strict=True):
            if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
                buffer = spec.kind is OutputKind.BUFFER_MUTATION
                name = spec.target if buffer else next((n for n, _, a in self.user if a == spec.target), spec.target)
                raise CaptureError(
                    f"the model writes to its {'buffer' if buffer else 'input'} {name!r}",
                    "only models that leave their buffers and inputs alone can be captured",
                )
            if spec.kind is OutputKind.USER_OUTPUT:
                wanted.append(output)
        leaves = [self._leaf(output) for output in wanted]
        if not self.graph.outputs:
            raise CaptureError("the model returns no tensor", "forward has to return what it computes")
        structure = structure_of(self.program.call_spec.out_spec, lambda i: leaves[i])
        self.graph.symbols = dict(self.symbols.symbols)
        self.graph.sweep()
        assign_names(self.graph)
        names = output_names(structure)
        source = _source_hash(self.program, self.graph)
        self.graph.meta.update(structure=structure, output_names=names, source=source)
        return Captured(
            self.graph, self.inputs, self.input_structure, structure, names, {}, source, list(self.symbols.notes)
        )

    def _leaf(self, output: Any) -> Structure:
        try:
            value = self.lowering.result(output)
            if isinstance(value, Value):
                self.graph.outputs.append(value)
                return {"kind": "tensor", "index": len(self.graph.outputs) - 1}
            if value is None or isinstance(value, (bool, int, float, str)):
                return {"kind": "constant", "value": value}
            self.lowering.node = next(iter(self.program.graph.nodes))
            self.graph.outputs.append(self.lowering.scalar(value, DType.i64))
            return {"kind": "int", "index": len(self.graph.outputs) - 1}
        except (Unsupported, PlanishError) as problem:
            raise CaptureError(f"an output of the model cannot be captured: {problem}") from problem


def _source_hash(program: ExportedProgram, graph: Graph) -> str:
    digest = hashlib.sha256(program.graph_module.code.encode())
    for value in graph.inputs:
        digest.update(f"{value.name}:{value.type}\n".encode())
    for symbol in graph.symbols.values():
        digest.update(f"{symbol.name} in [{symbol.lower}, {symbol.upper}]\n".encode())
    for ref in sorted(graph.constants):
        array = np.ascontiguousarray(graph.constants[ref])
        digest.update(f"{ref} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _examples(
    captured: Captured, args: tuple[Any, ...], kwargs: dict[str, Any], program: ExportedProgram
) -> dict[str, np.ndarray]:
    leaves = pytree.tree_leaves((args, kwargs))
    if len(leaves) != len(program.graph_signature.user_inputs):
        if not args and not kwargs:
            return {}
        raise UsageError(
            f"the example has {len(leaves)} inputs, but the program takes {len(program.graph_signature.user_inputs)}"
        )
    user = list(program.graph_signature.user_inputs)
    holders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    tensors = [
        leaf
        for leaf, argument in zip(leaves, user, strict=True)
        if isinstance(argument, str)
        and argument in holders
        and isinstance(holders[argument].meta.get("val"), torch.Tensor)
    ]
    return {entry.name: to_numpy(t).copy() for entry, t in zip(captured.inputs, tensors, strict=True)}


__all__ = ["HANDLERS", "Captured", "CapturedInput", "capture"]
