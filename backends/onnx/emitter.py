"""From a graph to an ONNX model: the registry of emitters, one per op, and what they append to.

An emitter is a function ``(at, node) -> names`` that appends ONNX nodes and says which tensors hold the results of ``node``::

    @emits("relu")
    def relu(at, node):
        return at.compute("Relu", at.inputs(node), node.inputs[0].dtype)

Equal nodes are appended once. Every ONNX node is named after the module of the source model that it came from
(``encoder.layer.0/MatMul_0``) and carries the names of all of them in its metadata ``planish.sources``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...compiler.deferred import Constant
from ...compiler.dims import Dim
from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node, Value
from ...compiler.types import DType, TensorType, float_to_bf16
from .element_types import ONNX_TYPE, work_type
from .initializers import Initializers
from .sizes import Sizes

#: What an emitter gives back: the name of the only result, or the names of all (None: nobody reads it).
Emitted = str | Sequence[str | None] | None
EmitFunction = Callable[["Emitter", Node], Emitted]

EMITTERS: dict[str, EmitFunction] = {}
#: Tells whether the provider takes a form, as (name of the form, element type); see ``forms.py``.
Takes = Callable[[str, str], bool]


def emits(*ops: str) -> Callable[[EmitFunction], EmitFunction]:
    """Register the emitter of ``ops``.

    Raises:
        ValueError: one of them has an emitter already.
    """

    def add(function: EmitFunction) -> EmitFunction:
        for op in ops:
            if op in EMITTERS:
                raise ValueError(f"the op {op!r} has two emitters")
            EMITTERS[op] = function
        return function

    return add


class _Scope:
    """The nodes of a graph under construction, and those of them that may be shared, by what they are."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.known: dict[tuple[Any, ...], tuple[str, ...]] = {}


class Emitter:
    """Walks one graph and appends to one ONNX model.

    Args:
        graph: what is emitted.
        opset: version of the standard operators to write for; at least 20.
        provider: name of the execution provider in ONNX Runtime.
        takes: which forms the provider takes; None: none, so that everything is written in standard operators.
        half: the provider computes in f16 natively; else f16 is computed in f32 and rounded.

    Attributes:
        mends: NaN is put back where ONNX Runtime's own kernels are known to lose it; another provider's operators stand as
            they are, since what mends them might not run there.
        sizes: sizes known at run time only, as tensors.
        notes: sentences for the report, appended by emitters.
    """

    def __init__(
        self, graph: Graph, *, opset: int = 21, provider: str = "CPUExecutionProvider", takes: Takes | None = None,
        half: bool = False,
    ) -> None:  # fmt: skip
        self.graph = graph
        self.opset = opset
        self.provider = provider
        self.half = half
        self.mends = provider == "CPUExecutionProvider"
        self.notes: list[str] = []
        self.domains: set[str] = set()
        self.sizes = Sizes(self)
        self.initializers = Initializers()
        self.value_info: dict[str, ValueInfoProto] = {}
        self._takes = takes or (lambda form, dtype: False)
        self._scopes = [_Scope()]
        self._counts: dict[str, int] = {}
        self._taken: set[str] = {v.name for v in graph.inputs}
        self._names: dict[Value, str] = {v: v.name for v in graph.inputs}
        self._dtypes: dict[str, DType] = {v.name: v.dtype for v in graph.inputs}
        self._node: Node | None = None
        self._launch: int | None = None

    # -- reading -------------------------------------------------------------------------------------------------------
    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes of the whole model so far, in order."""
        return self._scopes[0].nodes

    def takes(self, form: str, dtype: str = "f32") -> bool:
        """Whether the provider takes a lowering form, as its table says."""
        return self._takes(form, dtype)

    def name(self, value: Value) -> str:
        """The tensor that holds ``value``; a constant becomes an initializer when it is first read."""
        if value not in self._names:
            node = value.node
            if node is None or node.op != "constant":
                raise LoweringError(f"%{value.name} is read before it is written")
            ref = node.attrs["ref"]
            self._names[value] = self.constant(self.graph.constants[ref], ref, value.dtype, shape=value.shape)
        return self._names[value]

    def bind(self, value: Value, name: str) -> None:
        """Say that a tensor holds ``value``, whose node comes later; that node is then not emitted."""
        self._names[value] = name

    def inputs(self, node: Node) -> list[str | None]:
        """The tensors that hold the operands of ``node``; None for one that is absent."""
        return [None if v is None else self.name(v) for v in node.inputs]

    def dtype(self, name: str) -> DType | None:
        """The element type of a tensor, where it is known."""
        return self._dtypes.get(name)

    def note_dtype(self, name: str, dtype: DType | None) -> None:
        """Keep the element type of a tensor in mind, so that casts of it to that type cost nothing."""
        if dtype is not None:
            self._dtypes[name] = dtype

    # -- appending -----------------------------------------------------------------------------------------------------
    def op(
        self, op_type: str, inputs: Sequence[str | None], *, outputs: int = 1, domain: str = "", hint: str = "",
        dtype: DType | None = None, **attrs: Any,
    ) -> Any:  # fmt: skip
        """Append an ONNX node, unless an equal one is there.

        Args:
            op_type: the operator.
            inputs: names of tensors; None for an absent one, trailing ones are dropped.
            outputs: how many results are wanted.
            domain: of the operator; empty for the standard one.
            hint: what to call the result.
            dtype: element type of the first result, where that is to be known.
            attrs: attributes; those that are None are left out.

        Returns:
            The name of the result; a tuple of names if ``outputs`` is not 1.
        """
        names = ["" if i is None else i for i in inputs]
        while names and not names[-1]:
            names.pop()
        proto = helper.make_node(op_type, names, [], domain=domain, **{k: v for k, v in attrs.items() if v is not None})
        has_body = any(a.HasField("g") for a in proto.attribute)
        key = (
            domain,
            op_type,
            tuple(names),
            outputs,
            *(a.SerializeToString(deterministic=True) for a in proto.attribute),
        )
        if not has_body:
            for scope in self._scopes:
                if key in scope.known:
                    found = scope.known[key]
                    return found[0] if outputs == 1 else found
        source = self._source()
        proto.name = self.fresh(f"{source}/{op_type}" if source else op_type)
        results = tuple(
            self.fresh(hint) if hint and not i else self.fresh(f"{proto.name}_out" + (f"_{i}" if i else ""), plain=True)
            for i in range(outputs)
        )
        proto.output.extend(results)
        if self._node is not None and self._node.sources:
            proto.metadata_props.add(key="planish.sources", value=json.dumps(self._node.sources))
        if self._launch is not None:
            proto.metadata_props.add(key="planish.launch", value=str(self._launch))
        if domain:
            self.domains.add(domain)
        self._scopes[-1].nodes.append(proto)
        self._scopes[-1].known[key] = results
        if dtype is not None:
            self._dtypes[results[0]] = dtype
        return results[0] if outputs == 1 else results

    def cast(self, name: str, dtype: DType) -> str:
        """``name`` converted to ``dtype``; itself where it is known to be of that type."""
        if self._dtypes.get(name) is dtype:
            return name
        return self.op("Cast", [name], to=ONNX_TYPE[dtype], dtype=dtype)

    def work(self, dtype: DType, *ops: str) -> DType:
        """The element type in which the provider computes ``ops`` (standard operators) on data of ``dtype``."""
        return work_type(dtype, ops, self.half)

    def wide(self, dtype: DType) -> DType:
        """``dtype``, or f32 for the 16-bit floats: in what a decomposition is computed, so that it is rounded once."""
        return DType.f32 if dtype in (DType.f16, DType.bf16) else dtype

    def compute(
        self, op_type: str, inputs: Sequence[str | None], dtype: DType, *, result: DType | None = None,
        rest: Sequence[str | None] = (), **attrs: Any,
    ) -> str:  # fmt: skip
        """Append a standard operator on data of ``dtype``, through a wider type where the provider has no kernel for it.

        Args:
            op_type: the operator.
            inputs: its inputs of ``dtype``.
            dtype: element type of the data and of the result.
            result: element type of the result where it is another one whatever the data (an index, a bool).
            rest: inputs behind those that are no data: shapes, axes, indices.
            attrs: attributes.
        """
        work = self.work(dtype, op_type)
        cast = [None if i is None else self.cast(i, work) for i in inputs]
        done = self.op(op_type, [*cast, *rest], dtype=result or work, **attrs)
        return done if result is not None else self.cast(done, dtype)

    def constant(
        self, array: Constant, hint: str = "", dtype: DType | None = None, *, shape: Sequence[Any] | None = None
    ) -> str:
        """An initializer.

        Args:
            array: the data; bf16 as uint16 bits and i4 as int8 numbers where ``dtype`` says so.
            hint: what to call it.
            dtype: element type; None reads it off the array.
            shape: its shape, where not that of the array.
        """
        kind = dtype or DType.of(np.empty(0, array.dtype))
        name = self.initializers.add(array, kind, tuple(array.shape if shape is None else shape), hint, self.fresh)
        self._dtypes[name] = kind
        return name

    def scalar(self, number: Any, dtype: DType) -> str:
        """A constant without axes."""
        return self.constant(number_array(number, dtype), "number", dtype)

    def filled(self, number: Any, dtype: DType, shape: Sequence[int]) -> str:
        """A constant with one number everywhere."""
        return self.constant(np.full(shape, number_array(number, dtype)), "full", dtype)

    def fill(self, number: Any, dtype: DType) -> TensorProto:
        """The attribute ``value`` of ConstantOfShape."""
        return TensorProto(data_type=ONNX_TYPE[dtype], dims=[1], raw_data=number_array(number, dtype).tobytes())

    def ints(self, *numbers: int) -> str:
        """A constant int64 vector: axes, shapes, indices."""
        return self.constant(np.array(numbers, np.int64), "ints")

    def dims(self, dims: Sequence[Dim]) -> str:
        """An int64 vector of sizes; those that depend on symbols are computed from the shapes of the inputs, once."""
        return self.sizes.vector(dims)

    def dim(self, dim: Dim, dtype: DType = DType.i64) -> str:
        """One size as a scalar tensor."""
        if isinstance(dim, int):
            return self.scalar(dim, dtype)
        return self.cast(self.op("Squeeze", [self.sizes.one(dim)], dtype=DType.i64), dtype)

    def reshape(self, name: str, shape: Sequence[Dim], given: Sequence[Dim] | None = None) -> str:
        """``name`` in another shape; ``given`` is the shape it has, where the caller knows it."""
        literal = self.sizes.literal_shape(shape, given)
        if literal is not None:
            return self.op("Reshape", [name, self.ints(*literal)], dtype=self._dtypes.get(name))
        return self.op("Reshape", [name, self.dims(shape)], allowzero=1, dtype=self._dtypes.get(name))

    def declare(self, name: str, dtype: DType, shape: Sequence[Dim]) -> None:
        """Say the type of a tensor that shape inference cannot find: of operators outside the standard domain."""
        self._dtypes[name] = dtype
        self.value_info[name] = value_info(name, TensorType(dtype, tuple(shape)))

    def body(
        self, inputs: Sequence[tuple[DType, Sequence[Dim] | None]], build: Callable[..., Sequence[str]],
        outputs: Sequence[tuple[DType, Sequence[Dim] | None]],
    ) -> GraphProto:  # fmt: skip
        """The body of a Loop, Scan or If.

        Args:
            inputs: element type and shape (None: unknown) of each input.
            build: called with the names of the inputs, appends nodes, gives the names of the outputs. It may read every
                tensor of the surrounding graph.
            outputs: element type and shape of each output.
        """
        names = [self.fresh("body_in") for _ in inputs]
        for name, (dtype, _) in zip(names, inputs, strict=True):
            self._dtypes[name] = dtype
        self._scopes.append(_Scope())
        results = []
        for result in build(*names):  # an output of a body is made in it, once
            results.append(self.fresh("body_out"))
            self._scopes[-1].nodes.append(helper.make_node("Identity", [result], [results[-1]]))
        nodes = self._scopes.pop().nodes

        def ports(names: Sequence[str], types: Sequence[tuple[DType, Sequence[Dim] | None]]) -> list[ValueInfoProto]:
            return [
                value_info(n, TensorType(d, tuple(s)))
                if s is not None
                else helper.make_tensor_value_info(n, ONNX_TYPE[d], None)
                for n, (d, s) in zip(names, types, strict=True)
            ]

        return helper.make_graph(nodes, self.fresh("body"), ports(names, inputs), ports(results, outputs))

    # -- the walk ------------------------------------------------------------------------------------------------------
    def emit(self, node: Node, launch: int | None = None) -> None:
        """Append what computes ``node``.

        Raises:
            LoweringError: it cannot be written in ONNX.
        """
        if node.op == "constant" or (node.outputs and all(v in self._names for v in node.outputs)):
            return
        function = EMITTERS.get(node.op)
        if function is None:
            raise LoweringError(
                f"{describe_node(node)} cannot be written in ONNX: there is no form of {node.op!r} for it"
            )
        self._node, self._launch = node, launch
        try:
            emitted = function(self, node)
        finally:
            self._node = self._launch = None
        names = [emitted] if emitted is None or isinstance(emitted, str) else list(emitted)
        for value, name in zip(node.outputs, names, strict=True):
            if name is not None:
                self._names[value] = name
                self._dtypes[name] = value.dtype
                self.value_info.setdefault(name, value_info(name, value.type))

    def _source(self) -> str:
        node = self._node
        if node is None:
            return ""
        return node.name or (node.sources[0] if node.sources else "")

    def fresh(self, stem: str, plain: bool = False) -> str:
        """A name that nothing else has; with ``plain`` the stem itself where that is free."""
        while True:
            count = self._counts.get(stem, 0)
            self._counts[stem] = count + 1
            name = stem if plain and not count else f"{stem}_{count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def reserve(self, name: str) -> None:
        """Keep a name from being given to anything else: those of the outputs of the model."""
        self._taken.add(name)


def number_array(number: Any, dtype: DType) -> np.ndarray:
    """A number as an array without axes (bf16 as bits); an integer out of range wraps around, as in the reference."""
    if dtype is DType.bf16:
        return float_to_bf16(np.asarray(number, np.float32))
    if dtype.is_integer:
        bits = 8 * dtype.size
        number = int(number) & ((1 << bits) - 1)
        if dtype is not DType.u8 and number >= 1 << (bits - 1):
            number -= 1 << bits
    return np.asarray(number).astype(dtype.numpy)


def describe_node(node: Node) -> str:
    """A node in words, with its module and line."""
    where = f" ({node.location})" if node.location else ""
    return f"{node.name or '%' + node.outputs[0].name}{where}"


def value_info(name: str, type: TensorType) -> ValueInfoProto:
    """Name, element type and shape of a tensor; a size that depends on symbols is its own text (``2*s0 + 1``)."""
    return helper.make_tensor_value_info(
        name, ONNX_TYPE[type.dtype], [d if isinstance(d, int) else str(d) for d in type.shape]
    )
