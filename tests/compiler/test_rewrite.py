"""Rewrite rules: what matches, what blocks a match, what the nearest miss says, and what a wrong rule is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planish.compiler.dims import symbol
from planish.compiler.errors import PassError
from planish.compiler.graph import Graph, Symbol, Value
from planish.compiler.interpret import interpret
from planish.compiler.rewrite import MAX_ROUNDS, Result, RewriteRule, apply_rules
from planish.compiler.structure import difference
from planish.compiler.text import parse_graph, print_graph
from planish.compiler.types import DType, TensorType, float_to_bf16, floats
from planish.compiler.verify import verify


class QuickGelu(RewriteRule):
    name = "quick-gelu"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.mul(x, op.sigmoid(op.mul(x, 1.702)))

    def check(self, m: Any) -> str | None:
        return None if m.x.type.dtype in floats else "only floats"

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x, approximate="quick")


def rule(
    pattern: Callable[..., Any],
    rewrite: Callable[..., Any] = lambda self, op, m: m.x,
    check: Any = None,
    name: str = "rule",
) -> RewriteRule:
    members = {"name": name, "pattern": pattern, "rewrite": rewrite}
    if check is not None:
        members["check"] = check
    return type("Rule", (RewriteRule,), members)()


def graph_of(text: str) -> Graph:
    graph = parse_graph(f'graph "main" {{\n{text}\n}}')
    verify(graph)
    return graph


def gelu_graph(activation: str = "sigmoid", factor: float = 1.702, tail: str = "return %y") -> Graph:
    return graph_of(f"""
        input %x: f32[2, 3]
        %k = constant "k" [{factor}] : f32[]
        %a = mul(%k, %x) : f32[2, 3] name "act.scale" loc "model.py:3"
        %s = {activation}(%a) : f32[2, 3] name "act.sigmoid"
        %y = mul(%s, %x) : f32[2, 3] name "act" loc "model.py:3"
        {tail}""")


def miss_of(graph: Graph, r: RewriteRule) -> str:
    before = graph.copy()
    result = apply_rules(graph, [r])
    assert result.fired == {r.name: 0}
    assert difference(before, graph, names=True, provenance=True) is None
    return str(result.misses[r.name])


def fires(graph: Graph, *rules: RewriteRule, count: int = 1) -> Result:
    rng = np.random.default_rng(0)
    data = {
        v.name: rng.standard_normal([4 if not isinstance(d, int) else d for d in v.shape]).astype(np.float32)
        for v in graph.inputs
    }
    reference = interpret(graph, data)
    result = apply_rules(graph, rules)
    assert sum(result.fired.values()) == count, {k: str(v) for k, v in result.misses.items()}
    verify(graph)
    for a, b in zip(reference, interpret(graph, data), strict=True):
        assert np.ptp(a) > 0
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return result


# -- what matches ---------------------------------------------------------------------------------------------------------
def test_a_rule_fires_and_inherits_where_it_came_from() -> None:
    graph = gelu_graph()
    result = fires(graph, QuickGelu())
    assert result.fired == {"quick-gelu": 1} and not result.misses
    (node,) = graph.nodes
    assert (node.op, node.attrs["approximate"]) == ("gelu", "quick")
    assert (node.name, node.location) == ("act", "model.py:3")
    assert node.sources == ("act.scale", "act.sigmoid", "act")
    assert not graph.constants  # the constant went with its last reader


@pytest.mark.parametrize("first", ["%k, %x", "%x, %k"])
@pytest.mark.parametrize("last", ["%s, %x", "%x, %s"])
@pytest.mark.parametrize(
    "constant",
    [
        'constant "k" [1.702] : f32[]',
        'constant "k" [1.702] : f32[1]',
        'constant "k" [1.7020001] : f32[1, 1]',
        "full() {value = 1.702, shape = [2, 3], dtype = f32} : f32[2, 3]",
        "full() {value = 1.702, shape = [], dtype = f32} : f32[]",
    ],
)
def test_operand_orders_and_spellings_of_a_constant(first: str, last: str, constant: str) -> None:
    graph = graph_of(f"""
        input %x: f32[2, 3]
        %k = {constant}
        %a = mul({first}) : f32[2, 3]
        %s = sigmoid(%a) : f32[2, 3]
        %y = mul({last}) : f32[2, 3]
        return %y""")
    fires(graph, QuickGelu())


@pytest.mark.parametrize("dtype", [DType.bf16, DType.f16])
def test_constants_match_within_the_rounding_of_their_type(dtype: DType) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(dtype, (4,)))
    rounded = float_to_bf16(np.array(1.702, np.float32)) if dtype is DType.bf16 else np.float16(1.702)
    k = graph.add_constant(np.asarray(rounded), "k", dtype)
    s = graph.insert("sigmoid", [graph.insert("mul", [x, k]).output]).output
    graph.outputs = [graph.insert("mul", [x, s]).output]
    assert apply_rules(graph, [QuickGelu()]).fired == {"quick-gelu": 1}


def test_order_matters_where_the_op_does_not_commute() -> None:
    r = rule(lambda self, op, x: op.sub(x, 1.0), lambda self, op, m: op.add(m.x, -1.0))
    text = 'input %x: f32[3]\n%k = constant "k" [1.0] : f32[]\n%y = sub({}) : f32[3]\nreturn %y'
    fires(graph_of(text.format("%x, %k")), r)
    assert "expected the constant 1, found the input %x" in miss_of(graph_of(text.format("%k, %x")), r)


def test_chains_collapse_in_one_fixed_point() -> None:
    r = rule(lambda self, op, x: op.neg(op.neg(x)))
    for count in (2, 3, 8, 9):
        graph = Graph()
        value = graph.add_input("x", TensorType(DType.f32, (3,)))
        for _ in range(count):
            value = graph.insert("neg", [value]).output
        graph.outputs = [value]
        fires(graph, r, count=count // 2)
        assert len(graph) == count % 2


def test_rules_feed_each_other_and_the_first_goes_first() -> None:
    up = rule(lambda self, op, x: op.abs(x), lambda self, op, m: op.relu(m.x), lambda self, m: "kept", name="up")
    one = rule(lambda self, op, x: op.square(op.sqrt(x)), lambda self, op, m: op.abs(m.x), name="one")
    two = rule(lambda self, op, x: op.abs(op.abs(x)), lambda self, op, m: op.abs(m.x), name="two")
    late = rule(lambda self, op, x: op.square(op.sqrt(x)), lambda self, op, m: op.neg(m.x), name="late")
    graph = graph_of(
        "input %x: f32[3]\n%a = abs(%x): f32[3]\n%b = sqrt(%a): f32[3]\n%c = square(%b): f32[3]\nreturn %c"
    )
    result = fires(graph, up, one, two, late, count=2)
    assert result.fired == {"up": 0, "one": 1, "two": 1, "late": 0}
    assert str(result.misses["up"]) == "never fired; nearest at abs %a: kept"
    assert str(result.misses["late"]) == "never fired: the graph has no square"


def test_attributes_constrain_choose_ask_and_are_captured() -> None:
    text = """
        input %x: f32[2, 3, 4]
        %s = softmax(%x) {axis = 2} : f32[2, 3, 4]
        %g = gelu(%s) {approximate = "tanh"} : f32[2, 3, 4]
        %m = reduce_mean(%g) {axes = [1, 2], keepdim = true} : f32[2, 1, 1]
        return %m"""

    def make(axis: Any = -1, approximate: Any = "tanh", axes: Any = (-1, -2), keepdim: Any = True) -> RewriteRule:
        def pattern(self: Any, op: Any, x: Any) -> Any:
            inner = op.gelu(op.softmax(x, axis=axis), approximate=approximate)
            return op.reduce_mean(inner, axes=axes, keepdim=keepdim)

        def rewrite(self: Any, op: Any, m: Any) -> Any:
            inner = op.gelu(op.softmax(m.x, axis=-1), approximate="tanh")
            summed = op.reduce_sum(inner, axes=(1, 2), keepdim=True)
            return op.div(summed, 12.0)

        return rule(pattern, rewrite)

    for good in (
        make(),
        make(2),
        make(axes=[1, 2]),
        make(approximate={"none", "tanh"}),
        make(axes=lambda a: len(a) == 2),
    ):
        fires(graph_of(text), good)
    assert "expected softmax with axis=0, found axis=-1" in miss_of(graph_of(text), make(axis=0))
    assert "expected gelu with approximate=none, found approximate=tanh" in miss_of(
        graph_of(text), make(approximate="none")
    )
    assert "expected reduce_mean with keepdim=False, found keepdim=True" in miss_of(graph_of(text), make(keepdim=False))
    assert "expected reduce_mean with axes=another value" in miss_of(graph_of(text), make(axes=lambda a: a == (0,)))

    captured: list[Any] = []

    def norm(self: Any, op: Any, x: Any) -> Any:
        return op.reduce_mean(op.any_of(op.gelu(op.softmax(x)), x), axes=op.attr("axes"), keepdim=op.attr("keep"))

    def check(self: Any, m: Any) -> str:
        captured.append((m.axes, m["keep"], m.scalar("x")))
        return "seen"

    assert miss_of(graph_of(text), rule(norm, check=check)).endswith("reduce_mean %m: seen")
    assert captured[0] == ((-2, -1), True, None)


def test_the_same_attribute_twice_must_be_equal() -> None:
    def pattern(self: Any, op: Any, x: Any) -> Any:
        return op.softmax(op.softmax(x, axis=op.attr("a")), axis=op.attr("a"))

    text = "input %x: f32[2, 3]\n%a = softmax(%x) {{axis = {}}}: f32[2, 3]\n%b = softmax(%a): f32[2, 3]\nreturn %b"
    assert "expected axis=-1, found axis=-2" in miss_of(graph_of(text.format(0)), rule(pattern))
    again = rule(pattern, lambda self, op, m: op.softmax(op.softmax(m.x, axis=m.a), axis=m.a), lambda self, m: "stop")
    assert "stop" in miss_of(graph_of(text.format(1)), again)


def test_repeated_variables_are_the_same_value() -> None:
    r = rule(lambda self, op, x: op.add(x, x), lambda self, op, m: op.mul(m.x, 2.0))
    fires(graph_of("input %x: f32[3]\n%y = add(%x, %x): f32[3]\nreturn %y"), r)
    text = "input %x: f32[3]\ninput %z: f32[3]\n%y = add(%x, %z): f32[3]\nreturn %y"
    assert "expected x again, found the input %z" in miss_of(graph_of(text), r)


def test_optional_operands() -> None:
    def pattern(self: Any, op: Any, x: Any, w: Any, b: Any) -> Any:
        return op.relu(op.linear(x, w, op.optional(b)))

    def rewrite(self: Any, op: Any, m: Any) -> Any:
        return op.maximum(op.linear(m.x, m.w, m.b), 0.0)

    head = 'input %x: f32[2, 2]\n%w = constant "w" [1.0, -2.0, 3.0, 0.5]: f32[2, 2]\n'
    tail = "%y = linear(%x, %w{}): f32[2, 2]\n%r = relu(%y): f32[2, 2]\nreturn %r"
    bias = '%b = constant "b" [0.5, 1.0]: f32[2]\n'
    for text in (head + tail.format(""), head + tail.format(", _"), head + bias + tail.format(", %b")):
        fires(graph_of(text), rule(pattern, rewrite))
    strict = rule(lambda self, op, x, w: op.relu(op.linear(x, w)))
    assert "expected linear with 2 operands, found one more operand, %b = constant" in miss_of(
        graph_of(head + bias + tail.format(", %b")), strict
    )
    needed = rule(lambda self, op, x, w, b: op.relu(op.linear(x, w, b)))
    assert "expected b, found nothing" in miss_of(graph_of(head + tail.format("")), needed)


def test_alternatives_try_every_way() -> None:
    def pattern(self: Any, op: Any, x: Any, y: Any) -> Any:
        scaled = op.any_of(op.mul(x, 0.5).named("mul"), op.div(x, 2.0).named("div"))
        return op.add(op.one_of(("relu", "tanh"), y).named("act"), scaled)

    seen: list[tuple[str, bool, bool]] = []

    def rewrite(self: Any, op: Any, m: Any) -> Any:
        seen.append((m.node("act").op, m.has("mul"), m.has("div")))
        act = op.insert(m.node("act").op, [m.y]).output
        return op.add(op.mul(m.x, 0.5), act) if m.has("div") else op.sub(act, op.mul(m.x, -0.5))

    for spelling, k in (("mul", 0.5), ("div", 2.0)):
        for act in ("relu", "tanh"):
            graph = graph_of(f"""
                input %x: f32[3]
                input %y: f32[3]
                %k = constant "k" [{k}] : f32[]
                %s = {spelling}(%x, %k): f32[3]
                %a = {act}(%y): f32[3]
                %r = add(%s, %a): f32[3]
                return %r""")
            fires(graph, rule(pattern, rewrite), count=1 if spelling == "mul" else 2)
    assert ("relu", True, False) in seen and ("tanh", False, True) in seen


def test_backtracking_over_operand_orders() -> None:
    # the first operand that fits `x` is the wrong one; only the other order satisfies what comes after
    def pattern(self: Any, op: Any, x: Any, y: Any) -> Any:
        return op.mul(op.add(x, y), op.sigmoid(x))

    graph = graph_of("""
        input %a: f32[3]
        input %b: f32[3]
        %s = sigmoid(%b): f32[3]
        %t = add(%a, %b): f32[3]
        %r = mul(%s, %t): f32[3]
        return %r""")
    r = rule(pattern, lambda self, op, m: op.add(op.mul(m.x, op.sigmoid(m.x)), op.mul(m.y, op.sigmoid(m.x))))
    fires(graph, r)


def test_any_number_of_operands() -> None:
    def pattern(self: Any, op: Any, x: Any) -> Any:
        return op.concat(x, op.rest("others"), axis=0)

    def rewrite(self: Any, op: Any, m: Any) -> Any:
        return op.concat(op.concat(m.x, m.others[0], axis=0), *m.others[1:], axis=0)

    graph = graph_of("input %x: f32[2]\n%y = neg(%x): f32[2]\n%c = concat(%x, %y, %x) {axis = 0}: f32[6]\nreturn %c")
    fires(graph, rule(pattern, rewrite, lambda self, m: None if len(m.others) > 1 else "only one more"))


def test_a_shared_node_stays() -> None:
    text = """
        input %x: f32[3]
        %c = abs(%x): f32[3]
        %y = sqrt(%c): f32[3]
        %z = square(%y): f32[3]
        return %z, %y"""

    def pattern(self: Any, op: Any, x: Any) -> Any:
        return op.square(op.sqrt(x).shared())

    fires(graph_of(text), rule(pattern, lambda self, op, m: m.x))
    assert "%y (sqrt) is an output of the graph" in miss_of(
        graph_of(text), rule(lambda self, op, x: op.square(op.sqrt(x)))
    )


# -- several outputs ------------------------------------------------------------------------------------------------------
class MergeQkv(RewriteRule):
    name = "merge-qkv"

    def pattern(self, op: Any, x: Any, a: Any, b: Any, c: Any) -> Any:
        return op.linear(x, a), op.linear(x, b), op.linear(x, c)

    def rewrite(self, op: Any, m: Any) -> Any:
        y = op.linear(m.x, op.concat(m.a, m.b, m.c, axis=0))
        n = m.a.shape[0]
        return tuple(op.slice(y, axis=-1, start=i * n, end=(i + 1) * n) for i in range(3))


def qkv_graph(feed: str = "%x") -> Graph:
    """Three linears whose weights come only just before each of them, with other work in between."""
    graph = Graph()
    graph.symbols["s"] = Symbol("s", 1, 8)
    x = graph.add_input("x", TensorType(DType.f32, (symbol("s"), 4)))
    rng = np.random.default_rng(1)
    outs: list[Value] = []
    for name in "qkv":
        w = graph.add_constant(rng.standard_normal((4, 4)).astype(np.float32), f"w{name}")
        source = outs[-1] if outs and feed == "previous" else x
        outs.append(graph.insert("tanh", [graph.insert("linear", [source, w], name=f"self.{name}").output]).output)
    graph.outputs = outs
    return graph


def test_several_outputs_become_one_linear() -> None:
    graph = qkv_graph()
    fires(graph, MergeQkv())
    (linear,) = [n for n in graph.nodes if n.op == "linear"]
    assert set(linear.sources) == {"self.q", "self.k", "self.v"}


def test_several_outputs_that_feed_each_other_do_not_merge() -> None:
    pair = rule(lambda self, op, x, y, w, v: (op.add(x, y), op.mul(x, w)), name="pair")
    text = """
        input %x: f32[3]
        input %z: f32[3]
        %a = add(%x, %z): f32[3]
        %b = neg(%a): f32[3]
        %c = mul(%x, %b): f32[3]
        return %c"""
    with pytest.raises(PassError, match="rule 'pair': the pattern does not use its variable 'v'"):
        apply_rules(graph_of(text), [pair])
    pair = rule(lambda self, op, x, y, w: (op.add(x, y), op.mul(x, w)), name="pair")
    assert "feeds another output of the pattern" in miss_of(graph_of(text), pair)
    assert "expected linear as output 1 of the pattern" in miss_of(qkv_graph("previous"), MergeQkv())


def test_an_op_with_several_outputs() -> None:
    def pattern(self: Any, op: Any, x: Any) -> Any:
        q, scale = op.quantize_dynamic(x).outputs(2)
        return op.dequantize(q, scale)

    graph = graph_of("""
        input %x: f32[2, 3]
        %q, %s = quantize_dynamic(%x): i8[2, 3], f32[2, 1]
        %y = dequantize(%q, %s): f32[2, 3]
        return %y""")
    assert apply_rules(graph, [rule(pattern)]).fired == {"rule": 1}
    assert graph.outputs == graph.inputs and len(graph) == 0
    wrong = rule(lambda self, op, x: op.dequantize(*op.quantize_dynamic(x)))
    with pytest.raises(PassError, match=r"write op.quantize_dynamic\(...\).outputs\(n\)"):
        apply_rules(graph, [wrong])


# -- near misses ----------------------------------------------------------------------------------------------------------
def test_nearest_misses_in_words() -> None:
    assert miss_of(gelu_graph("tanh"), QuickGelu()) == (
        "never fired; nearest at act (mul), model.py:3, 1 of 4 parts fitted: expected sigmoid, found %s = tanh"
    )
    assert miss_of(gelu_graph(factor=1.7), QuickGelu()) == (
        "never fired; nearest at act.scale (mul), model.py:3, 3 of 4 parts fitted: "
        "expected the constant 1.702, found the constant 1.7"
    )
    assert miss_of(gelu_graph(tail="return %y, %s"), QuickGelu()) == (
        "never fired; nearest at act (mul), model.py:3: %s (sigmoid) is an output of the graph"
    )
    assert miss_of(gelu_graph(tail="%n = neg(%s): f32[2, 3]\nreturn %y, %n"), QuickGelu()) == (
        "never fired; nearest at act (mul), model.py:3: %s (sigmoid) is also read by neg %n"
    )
    assert miss_of(graph_of("input %x: f32[2]\nreturn %x"), QuickGelu()) == "never fired: the graph has no mul"
    refusing = QuickGelu()
    refusing.check = lambda m: f"{m.x.dtype} is not wanted"  # type: ignore[method-assign]
    assert miss_of(gelu_graph(), refusing) == "never fired; nearest at act (mul), model.py:3: f32 is not wanted"


def test_a_constant_that_widens_the_result_is_a_near_miss() -> None:
    graph = graph_of("""
        input %x: f32[1]
        %k = full() {value = 2.0, shape = [5], dtype = f32}: f32[5]
        %y = mul(%x, %k): f32[5]
        return %y""")
    r = rule(lambda self, op, x: op.mul(x, 2.0), lambda self, op, m: op.add(m.x, m.x))
    assert "expected a constant that does not widen the result, found %y = mul" in miss_of(graph, r)


def test_symbolic_sizes_match() -> None:
    graph = graph_of("""
        symbol s in [1, 8]
        input %x: f32[s, 3]
        %k = constant "k" [1.702] : f32[]
        %a = mul(%x, %k) : f32[s, 3]
        %s = sigmoid(%a) : f32[s, 3]
        %y = mul(%x, %s) : f32[s, 3]
        return %y""")
    fires(graph, QuickGelu())


# -- wrong rules ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda self, op, x: op.gleu(x), "rule 'rule': there is no op 'gleu' (did you mean 'gelu'?)"),
        (
            lambda self, op, x: op.gelu(x, aproximate=1),
            "op 'gelu' has no attribute 'aproximate' (did you mean 'approximate'?)",
        ),
        (lambda self, op, x: op.mul(x, "1"), "'1' cannot stand in a pattern"),
        (lambda self, op, x: x, "rule 'rule': a pattern must end in an op"),
        (lambda self, op, x: None, "rule 'rule': pattern returned None"),
        (lambda self, op, x, y: op.neg(x), "rule 'rule': the pattern does not use its variable 'y'"),
        (lambda self, op, *x: op.neg(x), "rule 'rule': the variables of the pattern must be named parameters"),
    ],
)
def test_wrong_patterns(pattern: Any, message: str) -> None:
    with pytest.raises(PassError) as caught:
        apply_rules(gelu_graph(), [rule(pattern)])
    assert message in str(caught.value)


def neg_rule(rewrite: Any = lambda self, op, m: m.x, check: Any = None) -> RewriteRule:
    return rule(lambda self, op, x: op.sigmoid(x), rewrite, check)


@pytest.mark.parametrize("given", [True, False, 0, 3, object()])
def test_check_returns_none_or_a_reason(given: object) -> None:
    with pytest.raises(
        PassError, match=r"rule 'rule': check returned .* at act.sigmoid \(sigmoid\) \(it must return None"
    ):
        apply_rules(gelu_graph(), [neg_rule(check=lambda self, m: given)])


@pytest.mark.parametrize(
    ("r", "message"),
    [
        (neg_rule(lambda self, op, m: None), "rewrite returned None at act.sigmoid (sigmoid) (it must return a value)"),
        (neg_rule(lambda self, op, m: (m.x, m.x)), "it must return a value"),
        (
            neg_rule(lambda self, op, m: op.cast(m.x, dtype=DType.f16)),
            "rewrite gives f16[2, 3] for f32[2, 3] at act.sigmoid",
        ),
        (
            neg_rule(lambda self, op, m: op.neg(m.root.output)),
            "rewrite reads the value that it replaces at act.sigmoid",
        ),
        (neg_rule(lambda self, op, m: op.neg("x")), "rewrite at act.sigmoid (sigmoid): neg: 'x' is no operand"),
        (neg_rule(lambda self, op, m: op.ngg(m.x)), "there is no op 'ngg' (did you mean 'neg'?)"),
        (neg_rule(lambda self, op, m: 1 / 0), "rewrite at act.sigmoid (sigmoid): ZeroDivisionError: division by zero"),
        (neg_rule(lambda self, op, m: m.y), "the pattern has no variable 'y' (it has x)"),
        (neg_rule(lambda self, op, m: m.node("mul")), "the match has 0 nodes 'mul'"),
        (neg_rule(check=lambda self, m: m.x.nothing), "check at act.sigmoid (sigmoid): AttributeError"),
    ],
)
def test_wrong_rewrites_and_checks(r: RewriteRule, message: str) -> None:
    with pytest.raises(PassError) as caught:
        apply_rules(gelu_graph(), [r])
    assert message in str(caught.value) and "rule 'rule'" in str(caught.value)


def test_an_endless_rule_is_named() -> None:
    endless = rule(lambda self, op, x: op.sigmoid(x), lambda self, op, m: op.sigmoid(m.x), name="endless")
    with pytest.raises(PassError, match=f"rules endless still fire after {MAX_ROUNDS} rounds"):
        apply_rules(gelu_graph(), [endless])


def test_two_rules_of_one_name() -> None:
    with pytest.raises(PassError, match="two rules are called 'quick-gelu'"):
        apply_rules(gelu_graph(), [QuickGelu(), QuickGelu()])


def test_numbers_take_the_type_of_the_operand() -> None:
    seen: list[np.ndarray] = []

    def rewrite(self: Any, op: Any, m: Any) -> Any:
        value = op.add(m.x, 3)
        seen.append(op.graph.array(value.node.inputs[1]))
        return op.sub(value, 3)

    for dtype in (DType.f32, DType.bf16, DType.i64):
        graph = Graph()
        x = graph.add_input("x", TensorType(dtype, (2,)))
        graph.outputs = [graph.insert("neg", [x]).output]
        apply_rules(graph, [rule(lambda self, op, x: op.neg(x), rewrite)])
        verify(graph)
    assert [(a.dtype.str, a.shape) for a in seen] == [("<f4", ()), ("<u2", ()), ("<i8", ())]
    with pytest.raises(PassError, match=r"2\.5 is no i64"):
        apply_rules(
            parse_graph('graph "g" { input %x: i64[2] %y = neg(%x): i64[2] return %y }'),
            [rule(lambda self, op, x: op.neg(x), lambda self, op, m: op.add(m.x, 2.5))],
        )


def test_work_is_linear_in_the_nodes() -> None:
    """The number of match attempts per node does not grow with the graph."""
    attempts: list[int] = []
    for size in (50, 200):
        graph = Graph()
        value = graph.add_input("x", TensorType(DType.f32, (3,)))
        for i in range(size):
            value = graph.insert("neg" if i % 2 else "abs", [value]).output
        graph.outputs = [value]
        count = 0

        def check(self: Any, m: Any) -> str:
            nonlocal count
            count += 1
            return "never"

        apply_rules(graph, [rule(lambda self, op, x: op.neg(op.abs(x)), check=check)])
        attempts.append(count)
    assert attempts == [25, 100]


def test_the_result_prints_as_before_and_after() -> None:
    graph = gelu_graph()
    apply_rules(graph, [QuickGelu()])
    assert print_graph(graph, provenance=False).splitlines()[2:] == [
        '  %gelu = gelu(%x) {approximate = "quick"} : f32[2, 3]',
        "  return %gelu",
        "}",
    ]


def test_a_miss_may_name_a_constant_that_a_rewrite_left_without_readers() -> None:
    other = rule(lambda self, op, x: op.mul(x, op.sigmoid(op.mul(x, 1.5))), name="other")
    graph = gelu_graph()
    result = apply_rules(graph, [other, QuickGelu()])
    assert result.fired == {"other": 0, "quick-gelu": 1}
    assert not graph.constants
    assert "found the constant 1.702" in str(result.misses["other"])
