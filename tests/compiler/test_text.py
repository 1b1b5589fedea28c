"""The IR as text: ``parse(print(g)) == g``, readable, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import graphs

from planish.compiler.dims import symbol
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Symbol
from planish.compiler.structure import difference, same
from planish.compiler.text import parse_graph, print_graph
from planish.compiler.types import DType, TensorType
from planish.compiler.verify import verify

READABLE = """\
graph "main" {
  symbol s0 in [1, 64]
  input %x: f32[s0, 4]
  %w = constant "w" [0.5, -1.0, 2.0, 0.0] : f32[1, 4]
  %linear = linear(%x, %w, _) : f32[s0, 1] name "encoder.dense" loc "model.py:12" from ["encoder.dense", "act"]
  %q, %scale = quantize_dynamic(%linear) : i8[s0, 1], f32[s0, 1]
  %pad = pad(%x) {low = [0, 1], high = [0, 0], value = -inf} : f32[s0, 5]
  %fused = fused(%pad) : f32[s0, 5] graph "body" {
    input %a: f32[s0, 5]
    %relu = relu(%a) : f32[s0, 5]
    return %relu
  }
  return %q, %fused, %scale
}
"""


def constants_of(graph: Graph) -> dict[str, np.ndarray]:
    found = dict(graph.constants)
    for i, node in enumerate(graph.nodes):
        for region in node.regions:
            found |= {f"{i}.{k}": v for k, v in constants_of(region).items()}
    return found


@given(graphs())
@settings(max_examples=150)
def test_round_trip(graph: Graph) -> None:
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text, constants_of(graph))
    assert difference(graph, again, names=True, provenance=True) is None
    assert print_graph(again) == text
    verify(again)


@given(graphs(nodes=6))
@settings(max_examples=30)
def test_a_parsed_graph_can_grow(graph: Graph) -> None:
    again = parse_graph(print_graph(graph), constants_of(graph))
    again.add_constant(np.array(1, np.float32), "w")
    again.outputs.append(again.insert("neg", [again.inputs[0]]).output)
    verify(again)


def test_what_is_printed_is_readable() -> None:
    graph = parse_graph(READABLE)
    verify(graph)
    assert print_graph(graph) == READABLE
    assert "loc" not in print_graph(graph, provenance=False)


def test_comments_and_layout_do_not_matter() -> None:
    loose = READABLE.replace(" : f32[s0, 1] name", "\n : f32[ s0 , 1 ]  // a comment\n name").replace("{\n", "{\n\n", 1)
    assert same(parse_graph(loose), parse_graph(READABLE), names=True, provenance=True)


@pytest.mark.parametrize(
    "value", [0, -3, 1.5, -0.0, 1e-30, float("inf"), float("-inf"), float("nan"), True, False, symbol("s0") * 2 - 1]
)
def test_every_attribute_value_survives(value: object) -> None:
    graph = Graph()
    graph.symbols["s0"] = Symbol("s0", 1, 9)
    graph.outputs = [graph.insert("full", [], {"value": value, "shape": (), "dtype": DType.f32}).output]
    again = parse_graph(print_graph(graph))
    (node,) = again.nodes
    assert type(node.attrs["value"]) is type(value)
    assert repr(node.attrs["value"]) == repr(value)


def test_symbols_with_reserved_names() -> None:
    graph = Graph()
    for name in ("f32", "none", "inf"):
        graph.symbols[name] = Symbol(name, 1, 9)
        graph.insert("full", [], {"value": symbol(name) // 2, "shape": (symbol(name),), "dtype": DType.i64})
    assert difference(graph, parse_graph(print_graph(graph)), names=True) is None


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, np.nan, np.inf, -0.0], np.float32),
        np.array([0x7FC1, 0x7FC0, 0x3F80], np.uint16),  # a NaN with a payload
        np.array(7, np.int64),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([0.1, 1e300], np.float64),
    ],
)
def test_constants_survive_to_the_bit(array: np.ndarray) -> None:
    graph = Graph()
    dtype = DType.bf16 if array.dtype == np.uint16 else DType.of(array)
    graph.outputs = [graph.add_constant(array, "c", dtype)]
    graph.constants["unused"] = array
    again = parse_graph(print_graph(graph))
    for ref in ("c", "unused"):
        assert again.constants[ref].dtype == array.dtype and again.constants[ref].shape == array.shape
        assert again.constants[ref].tobytes() == array.tobytes()


def test_four_bit_constants_keep_their_type_and_range() -> None:
    graph = Graph()
    small, big = (np.resize(np.arange(-8, 8, dtype=np.int8), n) for n in (16, 4096))
    graph.outputs = [graph.add_constant(a, n, DType.i4) for n, a in (("small", small), ("big", big))]
    text = print_graph(graph)
    assert "[-8, -7" in text and "i4[16]" in text and "i8" not in text
    again = parse_graph(text, {"big": big})
    assert difference(graph, again, names=True) is None
    assert [v.dtype for v in again.outputs] == [DType.i4, DType.i4]
    verify(again)
    for number in ("8", "-9"):
        with pytest.raises(UsageError, match=r"the data do not fit i4\[16\]"):
            parse_graph(text.replace("[-8,", f"[{number},"), {"big": big})


def test_large_constants_come_from_outside() -> None:
    graph = Graph()
    big = np.arange(100, dtype=np.float32)
    graph.outputs = [graph.add_constant(big, "big")]
    text = print_graph(graph)
    assert "99.0" not in text and "sha256:" in text
    assert same(graph, parse_graph(text, {"under another name": big}))
    for constants in ({}, {"big": big + 1}):
        with pytest.raises(UsageError, match=r"line 2 of the graph: the data of a constant sha256:.* are not given"):
            parse_graph(text, constants)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph", "grph", "line 1 of the graph: 'graph' expected before 'grph \"main\" {'"),
        ("%x, %w", "%y, %w", "line 5 of the graph: %y is not defined"),
        ("linear(", "liner(", "line 5 of the graph: there is no op 'liner'"),
        ("value = -inf", "valu = 1", "line 7 of the graph: op 'pad' has no attribute 'valu'"),
        ("value = -inf", "value = @", "line 7 of the graph: '@' is no attribute"),
        ("f32[s0, 4]", "f33[s0, 4]", "line 3 of the graph: there is no element type 'f33'"),
        ("f32[s0, 4]", "f32[s0 +, 4]", "line 3 of the graph: 's0 +' is no dimension"),
        ("[0.5, -1.0, 2.0, 0.0]", "[0.5]", "line 4 of the graph: the data do not fit f32[1, 4]"),
        ('"w" [', '"w" [[', "line 4 of the graph"),
        ("%q, %scale", "%q", "quantize_dynamic has 2 outputs, not 1"),
        ("%relu =", "%a =", "line 10 of the graph: %a is defined twice"),
        ("%pad)", "%pad", "expected"),
        ("[1, 64]", "[1]", "line 2 of the graph: ',' expected"),
        ('"encoder.dense"', '"encoder', "line 5 of the graph"),
    ],
)
def test_errors_name_the_line(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_graph(READABLE.replace(old, new, 1))
    assert message in caught.value.message


def test_truncated_text_is_an_error_everywhere() -> None:
    for end in range(len(READABLE) - 2):
        with pytest.raises(UsageError):
            parse_graph(READABLE[:end])
    with pytest.raises(UsageError, match="the end of the text expected"):
        parse_graph(READABLE + "}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("64]", "65]", "symbols differ: s0 in [1, 64] here, s0 in [1, 65] there"),
        ("f32[s0, 4]", "f32[s0, 8]", "input 0 is %x: f32[s0, 4] here, %x: f32[s0, 8] there"),
        ("relu", "neg", "node 4 (fused(%pad)): in the region: node 0 (relu(%a)): relu(%a) here, neg(%a) there"),
        ("-inf", "1.0", "node 3 (pad(%x)): value = -inf here, 1.0 there"),
        ("2.0, 0.0", "2.5, 0.0", "node 0 (constant()): element 2 of the data is 2.0 here, 2.5 there"),
        ("return %q, %fused", "return %fused, %q", "outputs are %q, %fused, %scale here, %fused, %q, %scale there"),
    ],
)
def test_the_first_difference_is_told(old: str, new: str, message: str) -> None:
    changed = READABLE.replace("relu", new) if old == "relu" else READABLE.replace(old, new, 1)
    if "f32[s0, 8]" in changed:
        changed = changed.replace("f32[1, 4]", "f32[1, 8]").replace("0.0]", "0.0, 1.0, 1.0, 1.0, 1.0]")
    assert difference(parse_graph(READABLE), parse_graph(changed)) == message


def test_names_and_provenance_count_only_when_asked() -> None:
    graph, renamed = parse_graph(READABLE), parse_graph(READABLE.replace("%pad", "%padded").replace("model.py", "m.py"))
    assert same(graph, renamed)
    assert difference(graph, renamed, names=True) == "node 3 (pad(%x)): results are called %pad here, %padded there"
    assert "location is 'model.py:12' here" in (difference(graph, renamed, provenance=True) or "")
    short = parse_graph(READABLE)
    short.outputs.pop()
    short.sweep()
    assert difference(graph, short) == "outputs are %q, %fused, %scale here, %q, %fused there"


def test_a_layout_is_part_of_the_type() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.f32, (2,)))
    y = graph.insert("relu", [x]).output
    y.type = TensorType(DType.f32, (2,), "packed.v1")
    graph.outputs = [y]
    again = parse_graph(print_graph(graph))
    assert again.outputs[0].type.layout == "packed.v1"
