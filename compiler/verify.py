"""The invariants of the IR, small and named. Each is a function of the graph that yields what breaks it and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from .dims import Expr, symbols
from .errors import PassError, VerifyError
from .graph import Graph, Node, Symbol, Value
from .ops import OPS, infer, normalise
from .types import DType, TensorType

#: Where (a node; None for the graph itself) and what is wrong.
Finding = tuple[Node | None, str]
Invariant = Callable[[Graph, Mapping[str, Symbol]], Iterator[Finding]]


def ops_known(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Every op is in the vocabulary, with exactly the attributes of its schema."""
    for node in graph.nodes:
        if node.op not in OPS:
            yield node, f"there is no op {node.op!r}"
            continue
        try:
            complete = normalise(node.op, node.attrs)
        except PassError as error:
            yield node, str(error)
            continue
        if complete.keys() != node.attrs.keys():
            yield node, f"the attribute {next(iter(complete.keys() - node.attrs.keys()))!r} is missing"


def attribute_types(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Attributes hold numbers, dimensions, text, element types, None and tuples of these."""

    def allowed(value: object) -> bool:
        if isinstance(value, tuple):
            return all(allowed(v) for v in value)
        return value is None or isinstance(value, (DType, Expr)) or type(value) in (int, float, bool, str)

    for node in graph.nodes:
        for name, value in node.attrs.items():
            if not allowed(value):
                yield node, f"the attribute {name!r} holds {value!r}, a {type(value).__name__}"


def defined_before_use(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Operands are inputs, states or results of earlier nodes of the same graph; each value is defined once."""
    defined: set[Value] = set()
    for value in (*graph.inputs, *graph.states):
        if value in defined:
            yield None, f"%{value.name} is given twice"
        if value.node is not None:
            yield None, f"the input %{value.name} claims to be a result of {value.node!r}"
        defined.add(value)
    for node in graph.nodes:
        for value in node.operands:
            if value not in defined:
                yield node, f"the operand %{value.name} is not defined before it"
        for value in node.outputs:
            if value in defined or value.node is not node:
                yield node, f"the result %{value.name} belongs to another node"
            defined.add(value)


def names_unique(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """No two values have the same name."""
    seen: set[str] = set()
    ports = [(None, v) for v in (*graph.inputs, *graph.states)]
    for node, value in [*ports, *((n, v) for n in graph.nodes for v in n.outputs)]:
        if value.name in seen:
            yield node, f"two values are called %{value.name}"
        seen.add(value.name)


def use_lists(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """``Value.users`` lists exactly the operands of the nodes in the graph; nodes are linked both ways."""
    counts: dict[Value, dict[Node, int]] = {}
    values = [*graph.inputs, *graph.states]
    length, previous = 0, None
    for node in graph.nodes:
        if node._graph is not graph or node._previous is not previous:
            yield node, "it is not linked to the graph and the node before it"
        length, previous = length + 1, node
        values += node.outputs
        for value in node.operands:
            readers = counts.setdefault(value, {})
            readers[node] = readers.get(node, 0) + 1
    if length != len(graph):
        yield None, f"it counts {len(graph)} nodes but has {length}"
    for value in values:
        if value._users != counts.get(value, {}):
            right = sum(counts.get(value, {}).values())
            yield value.node, f"%{value.name} lists {value.use_count} uses where there are {right}"


def types_inferred(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Every result has the type that its op infers (layouts aside, which backends set)."""
    for node in graph.nodes:
        if node.op not in OPS:
            continue
        try:
            types = [TensorType(t.dtype, tuple(t.shape)) for t in infer(node)]
        except (PassError, AssertionError, LookupError, TypeError, ValueError) as error:
            yield node, f"its types cannot be inferred: {error}"
            continue
        if len(types) != len(node.outputs):
            yield node, f"it has {len(node.outputs)} results where its op has {len(types)}"
        for value, type in zip(node.outputs, types, strict=False):
            if TensorType(value.dtype, value.shape) != type:
                yield node, f"%{value.name} is {value.type} where its op gives {type}"


def shapes_sensible(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """No size is a negative number; sizes are integers or dimensions."""
    for node, value in _values(graph):
        for size in value.shape:
            if not isinstance(size, Expr) and (type(size) is not int or size < 0):
                yield node, f"%{value.name} has the size {size!r}"


def constants_present(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Every ``constant`` has data of its element type and shape."""
    for node in graph.nodes:
        if node.op != "constant":
            continue
        array = graph.constants.get(node.attrs["ref"])
        dtype: DType = node.attrs["dtype"]
        if array is None:
            yield node, f"the data {node.attrs['ref']!r} are missing"
        elif not isinstance(array, np.ndarray):
            yield node, f"the data {node.attrs['ref']!r} are a {type(array).__name__}"
        elif array.dtype != dtype.numpy or array.shape != node.attrs["shape"]:
            wanted = f"{dtype.numpy}{list(node.attrs['shape'])}"
            yield node, f"the data {node.attrs['ref']!r} are {array.dtype}{list(array.shape)}, not {wanted}"
        elif dtype is DType.i4 and array.size and (array.min() < -8 or array.max() > 7):
            yield node, f"the data {node.attrs['ref']!r} leave the range of i4, -8 to 7"


def symbols_known(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Every symbol in a type or an attribute is declared; bounds are in order and not negative."""
    for name, symbol in graph.symbols.items():
        if symbol.name != name or not 0 <= symbol.lower <= symbol.upper:
            yield None, f"the symbol {name!r} is declared as {symbol.name} in [{symbol.lower}, {symbol.upper}]"

    def names(value: object) -> set[str]:
        if isinstance(value, tuple):
            return set().union(*(names(v) for v in value))
        return symbols(value) if isinstance(value, Expr) else set()

    for node, value in _values(graph):
        for name in sorted(names(value.shape) - known.keys()):
            yield node, f"%{value.name} has the unknown symbol {name!r}"
    for node in graph.nodes:
        for attribute, held in node.attrs.items():
            for name in sorted(names(held) - known.keys()):
                yield node, f"the attribute {attribute!r} has the unknown symbol {name!r}"


def outputs_defined(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """Every output is a value of the graph."""
    defined = {value for _, value in _values(graph)}
    for i, value in enumerate(graph.outputs):
        if value not in defined:
            yield None, f"output {i}, %{value.name}, is no value of the graph"


def regions_well_formed(graph: Graph, known: Mapping[str, Symbol]) -> Iterator[Finding]:
    """A region takes what its node reads, keeps every invariant itself and has no states."""
    for node in graph.nodes:
        if (node.op == "fused") != (len(node.regions) == 1):
            yield node, f"it has {len(node.regions)} regions"
        for region in node.regions:
            if region.states:
                yield node, "its region has states"
            if len(region.inputs) != len(node.inputs):
                yield node, f"its region takes {len(region.inputs)} inputs, not {len(node.inputs)}"
            for where, why in _findings(region, known):
                yield node, f"in its region, {_place(where)}: {why[1]} ({why[0]})"


#: All of them, in the order in which they are looked at: later ones may rely on earlier ones.
INVARIANTS: tuple[Invariant, ...] = (
    ops_known,
    attribute_types,
    defined_before_use,
    names_unique,
    use_lists,
    outputs_defined,
    constants_present,
    shapes_sensible,
    symbols_known,
    types_inferred,
    regions_well_formed,
)


def verify(graph: Graph) -> None:
    """Check every invariant.

    Raises:
        VerifyError: names the first invariant that is broken, the node and what is wrong.
    """
    for node, (name, why) in _findings(graph, {}):
        raise VerifyError(f"{name} does not hold at {_place(node)}: {why}")


def _findings(graph: Graph, outer: Mapping[str, Symbol]) -> Iterator[tuple[Node | None, tuple[str, str]]]:
    known = {**outer, **graph.symbols}
    for invariant in INVARIANTS:
        for node, why in invariant(graph, known):
            yield node, (invariant.__name__.replace("_", "-"), why)


def _values(graph: Graph) -> Iterator[tuple[Node | None, Value]]:
    for value in (*graph.inputs, *graph.states):
        yield None, value
    for node in graph.nodes:
        for value in node.outputs:
            yield node, value


def _place(node: Node | None) -> str:
    if node is None:
        return "the graph"
    name = f"{node.name} ({node.op})" if node.name else node.op
    return f"{name}, {node.location}" if node.location else name
