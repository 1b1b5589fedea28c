"""``planish.testing``: what people who write rules check them with, on functions, modules and graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from random_graphs import example_inputs, graphs

import planish
from planish.compiler.graph import Graph
from planish.compiler.numeric_check import furthest, outputs
from planish.compiler.rewrite import apply_rules
from planish.compiler.verify import verify
from planish.testing import assert_same, capture_function, check_pass, check_rule, parse_graph


class QuickGelu(planish.RewriteRule):
    name = "quick-gelu"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.mul(x, op.sigmoid(op.mul(x, 1.702)))

    def check(self, m: Any) -> str | None:
        return None if m.x.type.dtype in planish.floats else "only floats"

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x, approximate="quick")


class WrongGelu(QuickGelu):
    name = "wrong-gelu"

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x)


X = torch.linspace(-3, 3, 12).reshape(3, 4)


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(quick_gelu(self.up(x)))


def test_a_rule_on_a_function_and_a_module() -> None:
    graph = check_rule(QuickGelu, quick_gelu, X)
    assert_same(graph, 'graph "g" { input %x: f32[3, 4] %y = gelu(%x) {approximate = "quick"}: f32[3, 4] return %y }')
    torch.manual_seed(0)
    graph = check_rule(QuickGelu(), Block(), X)
    assert [n.op for n in graph.nodes if n.op != "constant"] == ["linear", "gelu", "linear"]
    check_rule([QuickGelu()], lambda x: quick_gelu(quick_gelu(x)), X, fires=2)


def test_a_rule_on_symbolic_sizes() -> None:
    batch = torch.export.Dim("batch", min=1, max=16)
    graph = check_rule(QuickGelu, quick_gelu, (X,), dynamic_shapes=({0: batch},))
    assert not graph.inputs[0].type.is_static


def test_near_misses_are_part_of_the_failure() -> None:
    with pytest.raises(AssertionError) as caught:
        check_rule(QuickGelu, lambda x: x * torch.sigmoid(1.7 * x), X)
    assert "quick-gelu fired 0 times, not 1\n  quick-gelu never fired; nearest at " in str(caught.value)
    assert "expected the constant 1.702, found the constant 1.7\n" in str(caught.value)
    check_rule(QuickGelu, lambda x: x * torch.sigmoid(1.7 * x), X, fires=0)
    check_rule(QuickGelu, lambda x: (torch.sigmoid(1.702 * x), x * torch.sigmoid(1.702 * x)), X, fires=1)


def test_a_rule_that_changes_the_numbers_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"wrong-gelu changed output 0 by .* of its norm; 1e-05 is allowed"):
        check_rule(WrongGelu, quick_gelu, X)
    check_rule(WrongGelu, quick_gelu, X, rtol=0.1)


def test_constant_outputs_prove_nothing() -> None:
    with pytest.raises(AssertionError, match=r"output 0 of the example is 0.0 everywhere"):
        check_rule(QuickGelu, quick_gelu, torch.zeros(3, 4))


def test_a_pass_must_tell_the_truth() -> None:
    @dataclass(frozen=True)
    class Liar:
        name: ClassVar[str] = "liar"
        version: ClassVar[int] = 1
        says: bool = False

        def run(self, graph: Graph, context: planish.PassContext) -> planish.PassResult:
            graph.outputs = [graph.insert("relu", [graph.insert("relu", graph.outputs).output]).output]
            return planish.PassResult(self.says)

    with pytest.raises(AssertionError, match="liar reports changed=False, not True"):
        check_pass(Liar(), torch.relu, X)
    with pytest.raises(AssertionError, match="liar reports no change, but node 1 is missing here"):
        check_pass(Liar(), torch.relu, X, changes=None)
    check_pass(Liar(says=True), torch.relu, X)
    with pytest.raises(AssertionError, match=r"liar\{says=true\} changed output 0"):
        check_pass(Liar(says=True), torch.tanh, X)


def test_assert_same_tells_the_first_difference() -> None:
    graph = parse_graph('graph "g" { input %x: f32[2] %y = relu(%x): f32[2] return %y }')
    assert_same(graph, 'graph "h" { input %x: f32[2] %other = relu(%x): f32[2] return %other }')
    with pytest.raises(AssertionError, match=r"node 0 \(relu\(%x\)\): relu\(%x\) here, neg\(%x\) there"):
        assert_same(graph, 'graph "g" { input %x: f32[2] %y = neg(%x): f32[2] return %y }')


def test_a_graph_needs_inputs() -> None:
    graph, examples = capture_function(quick_gelu, X)
    assert [v.name for v in graph.inputs] == ["x"]
    check_rule(QuickGelu, graph, inputs=examples)
    with pytest.raises(planish.PlanishError, match="a graph needs its example inputs"):
        check_rule(QuickGelu, graph)


class DoubleNeg(planish.RewriteRule):
    name = "double-neg"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.neg(op.neg(x))

    def rewrite(self, op: Any, m: Any) -> Any:
        return m.x


class ReluOfAbs(planish.RewriteRule):
    name = "relu-of-abs"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.relu(op.one_of(("abs", "square", "relu"), x).shared())

    def rewrite(self, op: Any, m: Any) -> Any:
        return m.root.inputs[0]


@given(graphs(nodes=20, regions=False))
@settings(max_examples=40)
def test_rules_keep_random_graphs_sound_and_equal(graph: Graph) -> None:
    inputs = example_inputs(graph)
    before = outputs(graph, inputs)
    apply_rules(graph, [DoubleNeg(), ReluOfAbs()])
    verify(graph)
    assert furthest(before, outputs(graph, inputs))[0] == 0.0
