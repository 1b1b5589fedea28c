"""From an ONNX graph to the IR: one walk in order, one handler per operator, every failure collected.

For each node, in this order: what is known of small integer tensors is computed (``contents.py``), what depends on constants
alone is computed by ONNX's own reference implementation, else the handler of the operator is called, else its definition by
other operators (a function of the model, or the body that the standard gives) is walked in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from ...dims import Bounds, Dim, Expr, product, symbols
from ...errors import PlanishError
from ...graph import Graph, Value
from ...types import DType
from ..building import Building
from ..unsupported import NotConstant, Unsupported
from . import contents, folding, functions
from .contents import Content
from .custom import find_custom, read_custom
from .origins import origin
from .registry import NOT_TENSORS, STANDARD, domain_of, find
from .types import array_of

#: Operators whose constant operands are weights that stay as they are stored.
KEPT = frozenset({"DequantizeLinear", "QuantizeLinear", "Identity", "Constant"})
#: Operators that no constant can stand for.
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True)
class Failure:
    """One node that could not be read.

    Attributes:
        op: its operator, with its domain where that is not the standard one.
        why: the reason; empty: nobody knows the operator.
        node: the node's name, or that of its first result.
        fixes: inputs of the model that would have to be constants.
        sizes: run-time dimensions that would have to be numbers.
    """

    op: str
    why: str
    node: str
    fixes: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


class BodyFailed(Unsupported):
    """A node of a body could not be read, which is noted already."""


class Importer(Building):
    """The state of one walk; what handlers build with.

    Args:
        graph: the graph being built.
        opsets: version per domain.
        local: functions of the model by (domain, name).

    Attributes:
        graph, opsets: as given.
        node: the ONNX node at hand.
        failures: what could not be read.
        unsigned4: the constants that hold uint4; their elements are u8.
    """

    def __init__(
        self, graph: Graph, opsets: Mapping[str, int], local: Mapping[tuple[str, str], onnx.FunctionProto] | None = None
    ) -> None:
        super().__init__(graph)
        self.opsets = dict(opsets)
        self.local = dict(local or {})
        self.node: NodeProto
        self.failures: list[Failure] = []
        self.unsigned4: set[Value] = set()
        self._contents: dict[Value, Content] = {}
        self._poisoned: set[str] = set()
        self._scope: Mapping[str, Any] = {}
        self._outer: list[str] = []

    # -- walking -------------------------------------------------------------------------------------------------------
    def walk(self, nodes: Sequence[NodeProto], scope: dict[str, Any]) -> None:
        """Read ``nodes`` in order; ``scope`` maps names of tensors to values and grows."""
        for node in nodes:
            self._read(node, scope)

    def body(self, graph: GraphProto, scope: Mapping[str, Any], operands: Sequence[Value] = ()) -> list[Value]:
        """The outputs of a graph that a node holds (a branch, the body of a loop), read in place.

        Args:
            graph: the graph.
            scope: what stands outside of it.
            operands: what its inputs are.
        """
        inner = dict(scope)
        for tensor in graph.initializer:
            value = inner[tensor.name] = self.constant(*array_of(tensor), tensor.name)
            if tensor.data_type == onnx.TensorProto.UINT4:
                self.unsigned4.add(value)
        inner.update(zip((i.name for i in graph.input), operands, strict=False))
        kept, failed = (self.node, self._path, self._location, self._scope), len(self.failures)
        self.walk(graph.node, inner)
        self.node, self._path, self._location, self._scope = kept
        if len(self.failures) > failed:
            raise BodyFailed
        missing = [o.name for o in graph.output if o.name not in inner]
        if missing:
            raise Unsupported(f"its body does not compute {missing[0]!r}")
        return [inner[o.name] for o in graph.output]

    @property
    def scope(self) -> Mapping[str, Any]:
        """The tensors that the node at hand can see, by name."""
        return self._scope

    def _read(self, node: NodeProto, scope: dict[str, Any]) -> None:
        self.node, self._scope = node, scope
        self._path, self._location = origin(node, self._outer)
        if not self._poisoned.isdisjoint(node.input):
            self._poisoned |= set(filter(None, node.output))
            return
        unknown = [name for name in node.input if name and name not in scope]
        if unknown:
            self._fail(node, f"its input {unknown[0]!r} is computed nowhere before it")
            return
        try:
            results = self._results(node, [scope[name] if name else None for name in node.input])
        except BodyFailed:
            self._poisoned |= set(filter(None, node.output))
            return
        except NotConstant as problem:
            self._fail(node, str(problem), problem.inputs, problem.sizes)
            return
        except (Unsupported, PlanishError) as problem:
            self._fail(node, problem.message if isinstance(problem, PlanishError) else str(problem))
            return
        except (ArithmeticError, ValueError) as problem:  # numbers that make no sense together
            self._fail(node, f"its operands and attributes do not fit together: {problem}")
            return
        if results is None:
            self._fail(node, "")
            return
        if any(node.output[len(results) :]):
            self._fail(node, f"it has {len(node.output)} results where there are {len(results)}")
            return
        scope.update({name: value for name, value in zip(node.output, results, strict=False) if name})

    def _fail(self, node: NodeProto, why: str, fixes: tuple[str, ...] = (), sizes: tuple[str, ...] = ()) -> None:
        domain = domain_of(node.domain)
        op = f"{domain}::{node.op_type}" if domain else node.op_type
        self.failures.append(Failure(op, why, node.name or next(filter(None, node.output), ""), fixes, sizes))
        self._poisoned |= set(filter(None, node.output))

    def _results(self, node: NodeProto, operands: list[Value | None]) -> Sequence[Any] | None:
        """What the node computes; None where nobody knows its operator."""
        domain, attributes = domain_of(node.domain), attributes_of(node)
        while operands and operands[-1] is None:
            operands.pop()
        odd = any(isinstance(v, NOT_TENSORS) for v in operands)
        if domain == STANDARD and not odd:
            known = [None if v is None else self.known(v) for v in operands]
            if operands and all(k is not None or v is None for k, v in zip(known, operands, strict=True)):
                found = contents.compute(node.op_type, known, attributes, self.bounds)
                if found is not None:
                    return self._of_contents(node, operands, found, attributes)
            if folded := self._folded(node, operands):
                return folded
        own = self.local.get((domain, node.op_type))
        if own is not None:
            return functions.inline(self, own, node, operands, attributes)
        entry = find(domain, node.op_type, self.opsets.get(domain, 1))
        if entry is not None:
            entry.check(operands, attributes)
            if odd and not entry.sequences:
                raise Unsupported("it is given a sequence or an optional where a tensor is expected")
            result = entry.handler(self, *operands, **attributes)
            several = isinstance(result, (list, tuple)) and not isinstance(result, NOT_TENSORS)
            return list(result) if several else [result]
        definition = functions.definition(node, operands, self.opsets)
        if definition is not None:
            return functions.inline(self, definition, node, operands, attributes)
        registered = None if odd else find_custom(domain, node.op_type)
        return None if registered is None else read_custom(self, registered, operands, attributes)

    def _of_contents(
        self, node: NodeProto, operands: Sequence[Value | None], found: list[Content], attributes: Mapping[str, Any]
    ) -> list[Value]:
        dtype = next((v.dtype for v in operands if v is not None), DType.i64)
        if node.op_type in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
            dtype = DType.bool
        elif node.op_type == "Cast":
            dtype = {6: DType.i32, 7: DType.i64, 9: DType.bool}[attributes["to"]]
        elif node.op_type == "Where":
            dtype = next(v.dtype for v in operands[1:] if v is not None)
        elif node.op_type == "ConstantOfShape":
            dtype = DType.of(np.asarray(attributes["value"]))
        return [self.holding(content, dtype) for content in found]

    def _folded(self, node: NodeProto, operands: Sequence[Value | None]) -> list[Value] | None:
        """The results of an operator all of whose operands are constants; None where it is left to its handler."""
        if (
            not operands
            or node.op_type in KEPT
            or node.op_type in RANDOM
            or _turns_a_matrix(node, operands)
            or any(a.HasField("g") for a in node.attribute)
        ):
            return None
        arrays = [None if v is None else self.array(v) for v in operands]
        if any(a is None and v is not None for a, v in zip(arrays, operands, strict=True)):
            return None
        dtypes = [None if v is None else v.dtype for v in operands]
        results = folding.fold(node, arrays, dtypes, self.opsets)
        if results is None:
            return None
        return [self.constant(a, d, name or "folded") for (a, d), name in zip(results, node.output, strict=False)]

    def array(self, value: Value | None) -> np.ndarray | None:
        """The data of a constant, or of a matrix that is stored the other way round; None for anything computed."""
        found = super().array(value)
        if found is None and value is not None and value.node is not None and value.node.op == "transpose":
            stored = super().array(value.node.inputs[0])
            return None if stored is None else np.transpose(stored, value.node.attrs["perm"])
        return found

    # -- what is known -------------------------------------------------------------------------------------------------
    @property
    def bounds(self) -> dict[str, Bounds]:
        """Inclusive bounds of the symbols by name."""
        return self.graph.bounds

    def known(self, value: Value) -> Content | None:
        """What a small tensor of integers or truth values holds, as numbers and dimensions; None if that is not known."""
        found = self._contents.get(value)
        if found is not None:
            return found
        array = self.array(value)
        if array is None or array.size > contents.MOST or not (value.dtype.is_integer or value.dtype is DType.bool):
            return None
        found = self._contents[value] = np.asarray(array.astype(object))
        return found

    def learn(self, value: Value, content: Content) -> None:
        """Say what a computed value holds."""
        self._contents[value] = content

    def dims(self, value: Value, what: str) -> list[Dim]:
        """What a tensor of integers holds, flat.

        Raises:
            NotConstant: that depends on the data; ``what`` names its role ("the shape", "the axes").
        """
        content = self.known(value)
        if content is None:
            raise NotConstant(f"{what} depends on the data", self.sources(value))
        return list(content.reshape(-1))

    def ints(self, value: Value, what: str) -> list[int]:
        """As :meth:`dims`, of numbers alone.

        Raises:
            NotConstant: it depends on the data, or on a size that varies.
        """
        found = self.dims(value, what)
        numbers = [int(d) for d in found if not isinstance(d, Expr)]
        if len(numbers) < len(found):
            raise NotConstant(f"{what} depends on a size that varies", (), symbols_of(found))
        return numbers

    def number(self, value: Value, what: str) -> float:
        """The only element of a constant.

        Raises:
            NotConstant: it is computed from the data.
        """
        array = self.array(value)
        if array is None or array.size != 1:
            raise NotConstant(f"{what} depends on the data", self.sources(value))
        return array.reshape(-1)[0].item()

    def data(self, value: Value, what: str) -> np.ndarray:
        """The data of a constant.

        Raises:
            NotConstant: it is computed from the data.
        """
        array = self.array(value)
        if array is None:
            raise NotConstant(f"{what} depends on the data", self.sources(value))
        return array

    def sources(self, value: Value) -> list[str]:
        """Names of the inputs of the model that a value is computed from, the size of a tensor apart."""
        return [v.name for v in _ancestry(value) if v in self.graph.inputs]

    def sizes(self, value: Value) -> list[str]:
        """Names of the run-time dimensions that a value is computed from."""
        attrs = [a for v in _ancestry(value) if v.node is not None for a in v.node.attrs.values()]
        return symbols_of([a for a in attrs if isinstance(a, Expr)])

    # -- what handlers build with --------------------------------------------------------------------------------------
    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.opsets.get(STANDARD, 1)

    @property
    def results(self) -> list[bool]:
        """Whether each result of the node at hand is wanted."""
        return [bool(name) for name in self.node.output]

    def constant(self, array: np.ndarray, dtype: DType | None = None, name: str = "c") -> Value:
        """A constant of the graph; bf16 as ``uint16`` bits."""
        return self.graph.add_constant(array, name, dtype)

    def holding(self, content: Content, dtype: DType) -> Value:
        """A tensor that holds numbers and dimensions."""
        if contents.is_constant(content):
            return self.constant(np.asarray(content.tolist(), dtype.numpy).reshape(content.shape), dtype, "shape")
        parts = [
            self.emit("full", value=e, shape=(1,) if content.ndim else (), dtype=dtype) for e in content.reshape(-1)
        ]
        value = parts[0] if len(parts) == 1 else self.emit("concat", *parts, axis=0)
        value = self.reshape(value, content.shape)
        self.learn(value, content)
        return value

    def resolved(self, value: Value, shape: Sequence[Dim], keep: bool = True) -> tuple[Dim, ...]:
        """A wanted shape with -1 (what is left) and, where ``keep``, 0 (as it is) replaced.

        Raises:
            Unsupported: what is left is no whole dimension.
        """
        sizes = [value.shape[i] if keep and isinstance(d, int) and d == 0 else d for i, d in enumerate(shape)]
        free = [i for i, d in enumerate(sizes) if isinstance(d, int) and d == -1]
        if len(free) > 1:
            raise Unsupported("more than one size of the shape is -1")
        if free:
            from ...dims import divide_exactly, floordiv

            rest = product(d for i, d in enumerate(sizes) if i != free[0])
            left = divide_exactly(value.type.elements, rest) if rest != 0 else 0
            sizes[free[0]] = floordiv(value.type.elements, rest) if left is None else left
        return tuple(sizes)

    def quietly(self, attempt: Callable[[], Any]) -> Any:
        """The result of ``attempt``, or None where it raises :class:`Unsupported`."""
        try:
            return attempt()
        except Unsupported:
            return None


def _ancestry(value: Value) -> list[Value]:
    """A value, and those it is computed from."""
    found, seen = [value], {value}
    for at in found:
        for operand in () if at.node is None else at.node.operands:
            if operand not in seen:
                seen.add(operand)
                found.append(operand)
    return found


def symbols_of(dims: Sequence[Dim]) -> list[str]:
    """Names of the symbols in dimensions, in alphabetical order."""
    return sorted({name for d in dims for name in symbols(d)})


def _turns_a_matrix(node: NodeProto, operands: Sequence[Any]) -> bool:
    """Whether it is the transpose of a matrix of floats: a product reads the stored one as its weight, and copies nothing."""
    x = operands[0]
    return node.op_type == "Transpose" and isinstance(x, Value) and x.type.rank == 2 and x.dtype.is_float


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python has them: numbers, text, lists, arrays, graphs.

    Raises:
        Unsupported: one of a kind that no operator that can be read has.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:  # of a function's body; the function's caller gave none
            continue
        found[attribute.name] = _attribute(attribute)
    return found


def _attribute(a: AttributeProto) -> Any:
    match a.type:
        case AttributeProto.FLOAT:
            return a.f
        case AttributeProto.INT:
            return a.i
        case AttributeProto.STRING:
            return a.s.decode(errors="replace")
        case AttributeProto.TENSOR:
            return array_of(a.t)[0]
        case AttributeProto.GRAPH:
            return a.g
        case AttributeProto.FLOATS:
            return list(a.floats)
        case AttributeProto.INTS:
            return list(a.ints)
        case AttributeProto.STRINGS:
            return [s.decode(errors="replace") for s in a.strings]
        case AttributeProto.TYPE_PROTO:
            return a.tp
        case AttributeProto.TENSORS:
            return [array_of(t)[0] for t in a.tensors]
    raise Unsupported(f"its attribute {a.name!r} is of a kind that is not read")
