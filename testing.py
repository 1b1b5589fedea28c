"""Checks for people who write passes and rules: a rule must fire where it should, and must not change the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch

from .compiler.capture.torch_export import capture
from .compiler.errors import PlanishError
from .compiler.graph import Graph
from .compiler.numeric_check import furthest, outputs, tolerance
from .compiler.pass_protocol import PassContext
from .compiler.pipeline import as_pass, describe
from .compiler.rewrite import RewriteRule, RuleSet, apply_rules
from .compiler.structure import difference
from .compiler.text import parse_graph, print_graph
from .compiler.verify import verify

__all__ = ["assert_same", "capture_function", "check_pass", "check_rule", "parse_graph", "print_graph"]


def capture_function(
    fn: torch.nn.Module | Callable[..., Any], args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph of a module or of a plain function of tensors, and the example inputs by name.

    Args:
        fn: what is captured.
        args, kwargs: the example call, as ``torch.export.export`` takes it.
        options: further arguments of ``capture`` (``dynamic_shapes``).
    """
    model = fn if isinstance(fn, torch.nn.Module) else torch.nn.Module()
    if model is not fn:
        # a function keeps the names of its parameters; a built-in one has none
        model.forward = fn if isinstance(fn, FunctionType) else lambda x, *more: fn(x, *more)
        options.setdefault("name", getattr(fn, "__name__", "main").strip("<>"))
    captured = capture(model, args, kwargs, **options)
    return captured.graph, captured.examples


def check_rule(
    rule: RewriteRule | type[RewriteRule] | list[Any],
    fn: torch.nn.Module | Callable[..., Any] | Graph,
    args: Any = (),
    *,
    fires: int = 1,
    kwargs: Mapping[str, Any] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    rtol: float | None = None,
    **options: Any,
) -> Graph:
    """Apply a rule and assert that it fires ``fires`` times, keeps every invariant of the IR and does not change the numbers.

    Args:
        rule: a rule, its class, or a list of rules that run together.
        fn: a module, a function of torch tensors, or a graph.
        args, kwargs: example inputs; the outputs they give must not be constant, or the comparison would say nothing.
        fires: how often the rule must fire; 0 for a near miss, then the graph must stay as it is.
        inputs: example inputs by name, if ``fn`` is a graph.
        rtol: allowed distance of the outputs relative to their norm; None reads the table of tolerances.
        options: further arguments of ``capture`` (``dynamic_shapes``).

    Returns:
        The graph behind the rule, for further assertions.

    Raises:
        AssertionError: any of this does not hold; says the nearest miss of a rule that did not fire.
    """
    given = as_pass(rule)
    rules = list(given.rules) if isinstance(given, RuleSet) else [given]
    assert all(isinstance(r, RewriteRule) for r in rules), f"{describe(given)} is no rule; see check_pass"
    graph, examples = _graph(fn, args, kwargs, inputs, options)
    before, reference = graph.copy(), outputs(graph, examples)
    result = apply_rules(graph, [r for r in rules if isinstance(r, RewriteRule)])
    count = sum(result.fired.values())
    if count != fires:
        misses = "".join(f"\n  {name} {miss}" for name, miss in result.misses.items())
        raise AssertionError(f"{describe(given)} fired {count} times, not {fires}{misses}\n{print_graph(before)}")
    if fires == 0:
        why = difference(before, graph, provenance=True)
        assert why is None, f"{describe(given)} changed the graph without firing: {why}"
    _compare(describe(given), graph, examples, reference, rtol)
    return graph


def check_pass(
    p: Any,
    fn: torch.nn.Module | Callable[..., Any] | Graph,
    args: Any = (),
    *,
    changes: bool | None = True,
    kwargs: Mapping[str, Any] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    context: PassContext | None = None,
    rtol: float | None = None,
    **options: Any,
) -> Graph:
    """Run a pass and assert that it says whether it changed the graph, keeps every invariant and does not change the numbers.

    Args:
        p: a pass or its class.
        changes: what the pass must report; None takes either.
        context: what the pass is given.

    The other arguments, the result and the errors are those of :func:`check_rule`.
    """
    given = as_pass(p)
    graph, examples = _graph(fn, args, kwargs, inputs, options)
    before, reference = graph.copy(), outputs(graph, examples)
    result = given.run(graph, context if context is not None else PassContext())
    assert changes is None or result.changed == changes, (
        f"{describe(given)} reports changed={result.changed}, not {changes}\n{print_graph(before)}"
    )
    why = difference(before, graph, provenance=True)
    assert result.changed or why is None, f"{describe(given)} reports no change, but {why}"
    _compare(describe(given), graph, examples, reference, rtol)
    return graph


def assert_same(graph: Graph, expected: Graph | str, constants: Mapping[str, np.ndarray] | None = None) -> None:
    """Assert structural equality with a graph or its text form (names of values and provenance aside).

    Raises:
        AssertionError: the first difference, and ``graph`` as text.
    """
    wanted = expected if isinstance(expected, Graph) else parse_graph(expected, constants or graph.constants)
    why = difference(graph, wanted)
    assert why is None, f"{why}\n{print_graph(graph, provenance=False)}"


def _graph(
    fn: torch.nn.Module | Callable[..., Any] | Graph,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    inputs: Mapping[str, np.ndarray] | None,
    options: Mapping[str, Any],
) -> tuple[Graph, dict[str, np.ndarray]]:
    if not isinstance(fn, Graph):
        return capture_function(fn, args, kwargs, **options)
    if inputs is None:
        raise PlanishError("a graph needs its example inputs", "give inputs={name: array}")
    return fn.copy(), dict(inputs)


def _compare(
    what: str, graph: Graph, examples: Mapping[str, np.ndarray], reference: list[np.ndarray], rtol: float | None
) -> None:
    verify(graph)
    for i, array in enumerate(reference):
        assert array.size < 2 or np.unique(array).size > 1, (
            f"output {i} of the example is {array.reshape(-1)[0]} everywhere, so comparing it would say nothing"
        )
    distance, worst = furthest(reference, outputs(graph, examples))
    limit = tolerance(graph) if rtol is None else rtol
    assert distance <= limit, f"{what} changed output {worst} by {distance:.2g} of its norm; {limit:.0e} is allowed"
