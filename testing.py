"""Checks for people who write passes, rules and kernels: a rule must fire where it should, and nothing may change the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from .compiler.capture.examples import arguments
from .compiler.capture.torch_export import capture
from .compiler.errors import PlanishError
from .compiler.graph import Graph
from .compiler.interpret import to_numpy
from .compiler.numeric_check import furthest, outputs, tolerance
from .compiler.pass_protocol import PassContext
from .compiler.pipeline import as_pass, describe
from .compiler.rewrite import RewriteRule, RuleSet, apply_rules
from .compiler.structure import difference
from .compiler.text import parse_graph, print_graph
from .compiler.verify import verify

if TYPE_CHECKING:
    from .driver import Artifact

__all__ = ["assert_same", "capture_function", "check_op", "check_pass", "check_rule", "parse_graph", "print_graph"]


def capture_function(
    fn: torch.nn.Module | Callable[..., Any], args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph of a module or of a plain function of tensors, and the example inputs by name.

    Args:
        fn: what is captured.
        args, kwargs: the example call, as ``torch.export.export`` takes it.
        options: further arguments of ``capture`` (``dynamic_shapes``).
    """
    if not isinstance(fn, torch.nn.Module):
        options.setdefault("name", getattr(fn, "__name__", "main").strip("<>"))
    captured = capture(_module(fn), args, kwargs, **options)
    return captured.graph, captured.examples


def _module(fn: torch.nn.Module | Callable[..., Any]) -> torch.nn.Module:
    """A module that does what ``fn`` does: a function keeps the names of its parameters; a built-in one has none."""
    if isinstance(fn, torch.nn.Module):
        return fn
    model = torch.nn.Module()
    model.forward = fn if isinstance(fn, FunctionType) else lambda x, *more: fn(x, *more)
    return model


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


def check_op(
    fn: torch.nn.Module | Callable[..., Any],
    args: Any = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    target: str = "cpu",
    rtol: float | None = None,
    **options: Any,
) -> Artifact:
    """Compile an op (one registered with ``planish.register_op``, say) and assert that its kernel computes what torch does.

    Args:
        fn: the op, or a function or module that uses it.
        args, kwargs: example inputs; the outputs they give must not be constant, or the comparison would say nothing.
        target: what to compile for; this machine must be able to run it.
        rtol: allowed distance of the outputs relative to their norm; None reads the table of tolerances.
        options: further arguments of ``planish.compile`` (``dynamic_shapes``, ``precision``).

    Returns:
        The artifact, for further assertions.

    Raises:
        AssertionError: the outputs differ by more than that.
        PlanishError: the op cannot be compiled; says why.
    """
    from .driver import compile

    model = _module(fn)
    positional, keywords = arguments(args, kwargs)
    with torch.no_grad():
        expected = [to_numpy(t) for t in pytree.tree_leaves(model(*positional, **keywords))]
    artifact = compile(model, args, kwargs, target=target, **options)
    given = pytree.tree_map(lambda v: to_numpy(v) if isinstance(v, torch.Tensor) else v, (positional, keywords))
    tensors = [v for v in pytree.tree_leaves(given) if isinstance(v, np.ndarray)]
    with artifact.load() as loaded:
        names = [port["name"] for port in artifact.manifest["inputs"]]
        got = pytree.tree_leaves(loaded(**dict(zip(names, tensors, strict=True))))
    _constant(expected)
    distance, worst = furthest(expected, got)
    limit = tolerance(artifact.graph) if rtol is None else rtol
    assert distance <= limit, f"output {worst} is off by {distance:.2g} of its norm; {limit:.0e} is allowed"
    return artifact


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
    _constant(reference)
    distance, worst = furthest(reference, outputs(graph, examples))
    limit = tolerance(graph) if rtol is None else rtol
    assert distance <= limit, f"{what} changed output {worst} by {distance:.2g} of its norm; {limit:.0e} is allowed"


def _constant(reference: list[np.ndarray]) -> None:
    for i, array in enumerate(reference):
        assert array.size < 2 or np.unique(array).size > 1, (
            f"output {i} of the example is {array.reshape(-1)[0]} everywhere, so comparing it would say nothing"
        )
