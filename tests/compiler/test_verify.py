"""Every invariant of the IR is broken once on purpose; the error names it, the node and what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import graphs

from planish.compiler.dims import symbol
from planish.compiler.errors import VerifyError
from planish.compiler.graph import Graph, Node, Symbol, Value
from planish.compiler.types import DType, TensorType
from planish.compiler.verify import INVARIANTS, verify


def make() -> Graph:
    graph = Graph()
    graph.symbols["s"] = Symbol("s", 1, 8)
    x = graph.add_input("x", TensorType(DType.f32, (symbol("s"), 2)))
    graph.add_state("cache", TensorType(DType.f32, (2,)))
    w = graph.add_constant(np.ones((3, 2), np.float32), "w")
    y = graph.insert("linear", [x, w], name="dense", location="model.py:7").output
    body = Graph("body")
    inner = body.add_input("a", y.type)
    body.outputs = [body.insert("relu", [inner], name="act").output]
    graph.outputs = [graph.insert("fused", [y], regions=[body], name="fusion").output]
    return graph


def node_of(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.op == op)


def unknown_op(g: Graph) -> None:
    node_of(g, "linear").op = "liner"


def missing_attribute(g: Graph) -> None:
    del node_of(g, "linear").attrs["out_dtype"]


def foreign_attribute(g: Graph) -> None:
    node_of(g, "linear").attrs["colour"] = 1


def attribute_of_a_strange_type(g: Graph) -> None:
    node_of(g, "linear").attrs["out_dtype"] = np.float32(1)


def use_before_definition(g: Graph) -> None:
    g.move(node_of(g, "constant"), None)


def value_of_another_graph(g: Graph) -> None:
    other = Value("x", g.inputs[0].type)
    node_of(g, "linear").inputs[0] = other
    other._users[node_of(g, "linear")] = 1


def stolen_result(g: Graph) -> None:
    node_of(g, "linear").output.node = node_of(g, "fused")


def input_twice(g: Graph) -> None:
    g.inputs.append(g.inputs[0])


def same_name(g: Graph) -> None:
    node_of(g, "linear").output.name = "x"


def stale_uses(g: Graph) -> None:
    node_of(g, "linear").output._users.clear()


def bent_link(g: Graph) -> None:
    node_of(g, "linear")._previous = None


def wrong_count(g: Graph) -> None:
    g._count += 1


def unknown_output(g: Graph) -> None:
    g.outputs.append(Value("ghost", g.inputs[0].type))


def data_gone(g: Graph) -> None:
    del g.constants["w"]


def data_of_another_shape(g: Graph) -> None:
    g.constants["w"] = np.ones((2, 3), np.float32)


def data_no_array(g: Graph) -> None:
    g.constants["w"] = [1.0]  # type: ignore[assignment]


def data_out_of_range(g: Graph) -> None:
    g.add_constant(np.array([7, 8], np.int8), "q", DType.i4)


def negative_size(g: Graph) -> None:
    g.states[0].type = TensorType(DType.f32, (-1,))


def undeclared_symbol(g: Graph) -> None:
    del g.symbols["s"]


def undeclared_symbol_in_attribute(g: Graph) -> None:
    g.insert("full", [], {"value": symbol("t"), "shape": (), "dtype": DType.i64}, name="size")


def bounds_in_disorder(g: Graph) -> None:
    g.symbols["s"] = Symbol("s", 9, 8)


def wrong_type(g: Graph) -> None:
    node_of(g, "linear").output.type = TensorType(DType.f32, (symbol("s"), 4))


def cannot_infer(g: Graph) -> None:
    g.constants["w"] = np.ones((3, 5), np.float32)
    node_of(g, "constant").attrs["shape"] = (3, 5)
    node_of(g, "constant").output.type = TensorType(DType.f32, (3, 5))


def no_region(g: Graph) -> None:
    node_of(g, "fused").regions = ()


def broken_region(g: Graph) -> None:
    node_of(g, "fused").regions[0].outputs = [node_of(g, "linear").output]


def region_with_states(g: Graph) -> None:
    node_of(g, "fused").regions[0].add_state("b", TensorType(DType.f32, ()))


BROKEN: list[tuple[Callable[[Graph], None], str]] = [
    (unknown_op, "ops-known does not hold at dense (liner), model.py:7: there is no op 'liner'"),
    (missing_attribute, "ops-known does not hold at dense (linear), model.py:7: the attribute 'out_dtype' is missing"),
    (foreign_attribute, "op 'linear' has no attribute 'colour'"),
    (
        attribute_of_a_strange_type,
        "attribute-types does not hold at dense (linear), model.py:7: the attribute 'out_dtype'",
    ),
    (
        use_before_definition,
        "defined-before-use does not hold at dense (linear), model.py:7: the operand %w is not defined",
    ),
    (value_of_another_graph, "defined-before-use does not hold at dense"),
    (stolen_result, "the result %linear belongs to another node"),
    (input_twice, "defined-before-use does not hold at the graph: %x is given twice"),
    (same_name, "names-unique does not hold at dense (linear), model.py:7: two values are called %x"),
    (stale_uses, "use-lists does not hold at dense (linear), model.py:7: %linear lists 0 uses where there are 1"),
    (bent_link, "use-lists does not hold at dense (linear), model.py:7: it is not linked"),
    (wrong_count, "use-lists does not hold at the graph: it counts 4 nodes but has 3"),
    (unknown_output, "outputs-defined does not hold at the graph: output 1, %ghost, is no value of the graph"),
    (data_gone, "constants-present does not hold at constant: the data 'w' are missing"),
    (data_of_another_shape, "the data 'w' are float32[2, 3], not float32[3, 2]"),
    (data_no_array, "the data 'w' are a list"),
    (data_out_of_range, "constants-present does not hold at constant: the data 'q' leave the range of i4"),
    (negative_size, "shapes-sensible does not hold at the graph: %cache has the size -1"),
    (undeclared_symbol, "symbols-known does not hold at the graph: %x has the unknown symbol 's'"),
    (
        undeclared_symbol_in_attribute,
        "symbols-known does not hold at size (full): the attribute 'value' has the unknown",
    ),
    (bounds_in_disorder, "symbols-known does not hold at the graph: the symbol 's' is declared as s in [9, 8]"),
    (
        wrong_type,
        "types-inferred does not hold at dense (linear), model.py:7: %linear is f32[s, 4] where its op gives f32[s, 3]",
    ),
    (
        cannot_infer,
        "types-inferred does not hold at dense (linear), model.py:7: its types cannot be inferred: linear at dense",
    ),
    (no_region, "does not hold at fusion (fused)"),
    (
        broken_region,
        "regions-well-formed does not hold at fusion (fused): in its region, the graph: output 0, %linear",
    ),
    (region_with_states, "regions-well-formed does not hold at fusion (fused): its region has states"),
]


def test_a_sound_graph_passes() -> None:
    verify(make())


@pytest.mark.parametrize(("break_it", "message"), BROKEN, ids=[b.__name__ for b, _ in BROKEN])
def test_a_broken_invariant_is_named(break_it: Callable[[Graph], None], message: str) -> None:
    graph = make()
    break_it(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert message in str(caught.value)


def test_every_invariant_is_broken_somewhere_above() -> None:
    for invariant in INVARIANTS:
        name = invariant.__name__.replace("_", "-")
        assert any(message.startswith(name) for _, message in BROKEN), name
        assert invariant.__doc__


@given(graphs())
@settings(max_examples=50)
def test_copies_and_sweeps_of_random_graphs_stay_sound(graph: Graph) -> None:
    copy = graph.copy()
    copy.sweep()
    verify(copy)
    verify(graph)
