"""Capture an ONNX model: a file or a ``ModelProto`` to a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from ... import dims as dims_of
from ...dims import Dim
from ...errors import CaptureError, UsageError
from ...graph import Graph, Symbol, Value
from ...options import nearest
from ...profile import phase
from ...specialise import DimWish, wishes_in_words
from ...types import DType, TensorType
from ..captured import Captured, CapturedInput
from ..naming import DEFAULT_UPPER, identifier
from ..unsupported import Unsupported
from . import (  # noqa: F401  (they register their handlers)
    attention,
    control,
    elementwise,
    indexing,
    joining,
    machine_learning,
    microsoft,
    microsoft_attention,
    microsoft_quantized,
    normalization,
    pooling,
    products,
    quantization,
    recurrence,
    reductions,
    regions,
    resampling,
    sampling,
    sequences,
    shapes,
    signals,
    windows,
)
from .failing import NotFixed, all_failures, guesses
from .importing import Failure, Importer
from .inputs import checked_examples, example_inputs, in_words, usual_sizes
from .narrowing import caps
from .reading import OnnxModel, read_model, source_digest
from .types import dtype_of, plain

#: How often a model that does not fit together is read again to find out which of its dimensions are one.
MOST_GUESSES = 8


def capture_onnx(
    source: Any,
    *,
    examples: Mapping[str, Any] | Sequence[Any] | None = None,
    dims: Mapping[str, DimWish] | None = None,
    fixed: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Captured:
    """Read an ONNX model into the IR.

    Args:
        source: the path of a ``.onnx`` file, or a ``ModelProto``.
        examples: an array for each input, by name or in the order of the inputs; None: made up from the types of the inputs and
            what reads them.
        dims: run-time dimension by the name that the file gives it -> its size, its bounds (inclusive), or the name of another
            dimension that it equals. Bounds are 1 and 4096 where nobody states them.
        fixed: inputs that decide shapes (axes, target sizes) by name -> what they are from now on; they are no inputs of the
            result.
        seed: of examples that are made up.

    Returns:
        What was captured; outputs nest as a dict by name.

    Raises:
        CaptureError: no ONNX model, a damaged one, or one with operators that are not read (all of them are named).
        UsageError: a name in ``dims``, ``fixed`` or ``examples`` is not the model's.
    """
    with phase("read ONNX"):
        model = read_model(source)
    reader = _Reader(model, dims or {}, fixed or {})
    with phase("lower into IR"):
        failures = reader.run()
        while failures and (caps := reader.caps()):
            narrowed = _Reader(model, dims or {}, fixed or {}, {**reader.bounded, **caps})
            again = narrowed.run()
            if len(again) >= len(failures):
                break
            reader, failures = narrowed, again
    if failures:
        raise all_failures(failures, _equal_sizes(reader, dims or {}, fixed or {}, failures))
    return reader.captured(examples, seed)


def _equal_sizes(
    reader: _Reader, dims: Mapping[str, DimWish], fixed: Mapping[str, Any], failures: Sequence[Failure]
) -> str | None:
    """What would let more of the model be read: two names of one size, or a size that is a number. Found by trying."""
    named = {symbol: given for given, symbol in reader.names.items()}
    tried = [g for g in guesses(failures, named) if isinstance(g[1], int) or g[1] in named]
    for name, other in tried[:MOST_GUESSES]:
        one, same = named[name], other if isinstance(other, int) else named[other]
        again = _Reader(reader.model, {**dims, one: same}, fixed).run()
        if failures[0].node not in {f.node for f in again}:
            said = f"if {one} and {same} are the same" if isinstance(same, str) else f"if {one} is always {same}"
            return f"{said}, say --dim {one}={same}"
    return None


class _Reader:
    """One walk over a model.

    Args:
        model: the model.
        wishes, fixed: see :func:`capture_onnx`.
        bounded: the greatest size of symbols that nobody bounds.
    """

    def __init__(
        self, model: OnnxModel, wishes: Mapping[str, DimWish], fixed: Mapping[str, Any],
        bounded: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.bounded = dict(bounded or {})
        proto = model.proto
        self.graph = Graph(identifier(proto.graph.name or "main"))
        local = {(f.domain, f.name): f for f in proto.functions}
        opsets = model.opsets
        for function in proto.functions:
            opsets.setdefault(function.domain, 1)
        self.importer = Importer(self.graph, opsets, local)
        self.inputs: list[CapturedInput] = []
        self.notes: list[str] = []
        self._wishes, self._fixed = dict(wishes), dict(fixed)
        self.names: dict[str, str] = {}
        self._assumed: set[str] = set()
        self._alone = {d.dim_param for i in proto.graph.input for d in i.type.tensor_type.shape.dim}
        self.scope: dict[str, Any] = {}

    def run(self) -> list[Failure]:
        """Walk the model; returns what could not be read."""
        graph = self.model.proto.graph
        stored = {t.name for t in graph.initializer}
        own = [i for i in graph.input if i.name not in stored]  # before IR version 4 weights were inputs too
        self._check_names([i.name for i in own])
        for info in own:
            self._input(info)
        self._check_wishes()
        for tensor in graph.initializer:
            array, dtype = self.model.array(tensor)
            value = self.scope[tensor.name] = self.importer.constant(array, dtype, tensor.name)
            if tensor.data_type == TensorProto.UINT4:
                self.importer.unsigned4.add(value)
        for sparse in graph.sparse_initializer:
            raise CaptureError(f"the sparse tensor {sparse.values.name!r} is not supported", "store it densely")
        self.importer.walk(graph.node, self.scope)
        return self.importer.failures

    def caps(self) -> dict[str, int]:
        """The greatest sizes of symbols that nobody bounds, where tables of the model end (:func:`caps`)."""
        return caps(self.graph, self._assumed)

    def _check_names(self, names: Sequence[str]) -> None:
        for name in self._fixed:
            if name not in names:
                raise UsageError(f"the model has no input {name!r} that could be fixed", nearest(name, names))

    def _input(self, info: ValueInfoProto) -> None:
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            what = (kind or "unknown").removesuffix("_type").replace("_", " ")
            raise CaptureError(
                f"the input {info.name!r} is {'an' if what[0] in 'aou' else 'a'} {what}, and inputs are tensors"
            )
        tensor = info.type.tensor_type
        try:
            dtype = dtype_of(tensor.elem_type)
        except Unsupported as problem:
            raise CaptureError(f"the input {info.name!r}: {problem} is not supported") from problem
        if info.name in self._fixed:
            array = self._fixed_to(info, dtype)
            self.scope[info.name] = self.importer.constant(array, dtype, info.name)
            self.notes.append(f"the input {info.name!r} is fixed")
            return
        if not tensor.HasField("shape"):
            raise CaptureError(
                f"the input {info.name!r} has no shape, not even a number of axes",
                "write one into the file, for example with onnx.helper.make_tensor_value_info",
            )
        shape = tuple(self._dim(info.name, axis, d) for axis, d in enumerate(tensor.shape.dim))
        self.scope[info.name] = self.graph.add_input(info.name, TensorType(dtype, shape))
        self.inputs.append(CapturedInput(info.name, ("kwargs", info.name)))

    def _fixed_to(self, info: ValueInfoProto, dtype: DType) -> np.ndarray:
        """What an input is fixed to, in its element type and with its number of axes."""
        array = np.asarray(self._fixed[info.name])
        if dtype is not DType.bf16 and array.dtype != dtype.numpy:
            with np.errstate(all="ignore"):
                cast = array.astype(dtype.numpy)
            if dtype.is_integer and not np.array_equal(cast, array):
                raise UsageError(f"the input {info.name!r} is fixed to {array.tolist()}, which is no {dtype}")
            array = cast
        array = plain(array, dtype)
        tensor = info.type.tensor_type
        rank = len(tensor.shape.dim) if tensor.HasField("shape") else array.ndim
        if array.ndim != rank and array.size == 1:
            array = array.reshape((1,) * rank)
        if array.ndim != rank:
            raise UsageError(
                f"the input {info.name!r} has {rank} axes, and what it is fixed to has {array.ndim}",
                "give a nested list of as many levels",
            )
        for axis, d in enumerate(tensor.shape.dim):
            if d.HasField("dim_value") and d.dim_value >= 0 and d.dim_value != array.shape[axis]:
                raise UsageError(
                    f"the input {info.name!r} has {d.dim_value} elements along axis {axis}, and is fixed to {array.shape[axis]}"
                )
        return array

    def _dim(self, owner: str, axis: int, dim: Any) -> Dim:
        if dim.HasField("dim_value"):
            if dim.dim_value >= 0:
                return int(dim.dim_value)
            return self._named(f"{owner}_{axis}")  # some tools write -1 for what varies
        return self._named(dim.dim_param or f"{owner}_{axis}")

    def _named(self, given: str, seen: tuple[str, ...] = ()) -> Dim:
        """The dimension that the file calls ``given``: a name, or an expression of names ("past + 1")."""
        wish = self._wishes.get(given)
        if isinstance(wish, int):
            self.names[given] = ""
            return wish
        if isinstance(wish, str):
            if wish in (given, *seen):
                raise UsageError(f"the dimension {given!r} is said to equal itself")
            self.names[given] = ""
            if wish not in self._alone:
                hint = nearest(wish, sorted(filter(None, self._alone)))
                raise UsageError(
                    f"the dimension {given!r} is said to equal {wish!r}, and there is no such dimension", hint
                )
            return self._named(wish, (*seen, given))
        if wish is None and (parsed := self._expression(given)) is not None:
            return dims_of.substitute(parsed, {s: self._named(s) for s in dims_of.symbols(parsed)})
        name = self.names.setdefault(given, self._unique(identifier(given)))
        if name not in self.graph.symbols:
            lower, upper = (1, DEFAULT_UPPER) if wish is None else (int(wish[0]), int(wish[1]))
            if name in self.bounded:
                upper = self.bounded[name]
                self.notes.append(f"the dimension {name!r} is at most {upper}: a table of the model ends there")
            elif wish is None:
                self.notes.append(f"the dimension {name!r} has no upper bound; {upper} is assumed")
            if wish is None:
                self._assumed.add(name)
            self.graph.symbols[name] = Symbol(name, lower, upper)
        return dims_of.symbol(name)

    def _expression(self, given: str) -> Dim | None:
        """``given`` as an expression of other names ("past + 1"), None where it is a name, if an odd one ("batch-size")."""
        if given.isidentifier():
            return None
        try:
            parsed = dims_of.parse(given)
        except ValueError:
            return None
        meant = any(mark in given for mark in (" ", "+", "*")) or dims_of.symbols(parsed) <= self._alone
        return parsed if meant else None

    def _unique(self, name: str) -> str:
        taken, result, count = set(self.names.values()), name, 1
        while result in taken:
            count += 1
            result = f"{name}_{count}"
        return result

    def _check_wishes(self) -> None:
        for name in self._wishes:
            if name not in self.names:
                hint = nearest(name, list(self.names), "" if self.names else "every dimension of this model is fixed")
                raise UsageError(f"the model has no dimension {name!r}", hint)

    def captured(self, examples: Mapping[str, Any] | Sequence[Any] | None, seed: int) -> Captured:
        """The result of a walk without failures."""
        names: list[str] = []
        for info in self.model.proto.graph.output:
            value = self.scope[info.name]
            if not isinstance(value, Value):
                raise CaptureError(f"the output {info.name!r} is no tensor, and outputs are tensors")
            self.graph.outputs.append(value)
            names.append(info.name)
        if not names:
            raise CaptureError(f"{self.model.name} returns nothing")
        self.graph.sweep()
        products.absorb_biases(self.graph)
        self.graph.sweep()
        structure = {
            "kind": "dict",
            "keys": names,
            "items": [{"kind": "tensor", "index": i} for i in range(len(names))],
        }
        source = self._digest()
        self.graph.meta.update(structure=structure, output_names=names, source=source)
        if examples is None:
            arrays, words = example_inputs(self.graph, usual_sizes(self.graph), seed)
            if words:
                self.notes.append(in_words(words))
        else:
            arrays = checked_examples(self.graph, examples, self._fixed)
        taken = {"kind": "dict", "keys": [i.name for i in self.inputs],
                 "items": [{"kind": "tensor", "index": i} for i in range(len(self.inputs))]}  # fmt: skip
        call = {"kind": "tuple", "items": [{"kind": "tuple", "items": []}, taken]}
        name = self.model.proto.graph.name or "main"
        return Captured(
            self.graph, self.inputs, call, structure, names, arrays, source, self.notes, name, examples is None
        )

    def _digest(self) -> str:
        """Of the model and of what was decided about it."""
        source = source_digest(self.model, self.graph.constants)
        if not self._wishes and not self._fixed:
            return source
        parts = [f"{name}={np.asarray(array).tolist()}" for name, array in sorted(self._fixed.items())]
        return hashlib.sha256(" ".join([source, wishes_in_words(self._wishes), *parts]).encode()).hexdigest()


__all__ = ["DimWish", "ModelProto", "NotFixed", "capture_onnx"]
