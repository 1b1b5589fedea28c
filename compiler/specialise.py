"""Fix or narrow what varies in a captured model: a dimension gets one size, closer bounds, or the size of another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import dims
from .capture.captured import Captured
from .dims import Dim, Expr
from .errors import PassError, UsageError
from .graph import Graph, Symbol, Value
from .options import nearest
from .sizes import resized
from .types import TensorType

#: What a run-time dimension may be said to be: a size, bounds (inclusive), or the name of another one that it equals.
DimWish = int | tuple[int, int] | str


def checked_wishes(wishes: Mapping[str, Any]) -> dict[str, DimWish]:
    """``wishes`` with bounds as pairs of numbers.

    Raises:
        UsageError: one is neither a size, nor bounds, nor a name.
    """
    found: dict[str, DimWish] = {}
    for name, wish in wishes.items():
        if isinstance(wish, str) and wish.strip():
            found[name] = wish.strip()
        elif isinstance(wish, int) and not isinstance(wish, bool) and wish >= 0:
            found[name] = int(wish)
        elif (
            isinstance(wish, (tuple, list))
            and len(wish) == 2
            and all(isinstance(w, int) for w in wish)
            and 0 <= wish[0] <= wish[1]
        ):
            found[name] = (int(wish[0]), int(wish[1]))
        else:
            raise UsageError(
                f"the dimension {name!r} cannot be {wish!r}",
                f'it is a size ({{"{name}": 1}}), bounds ({{"{name}": (1, 512)}}) or the name of another dimension',
            )
    return found


def wishes_in_words(wishes: Mapping[str, DimWish]) -> str:
    """``batch = 1, seq from 1 to 512``, in the order of their names."""
    return ", ".join(
        f"{name} from {wish[0]} to {wish[1]}" if isinstance(wish, tuple) else f"{name} = {wish}"
        for name, wish in sorted(wishes.items())
    )


def specialised(captured: Captured, wishes: Mapping[str, DimWish]) -> Captured:
    """A captured model with some of its dimensions decided; its example is cut, or repeated, to fit.

    Raises:
        UsageError: see :func:`specialise`.
    """
    if not wishes:
        return captured
    graph = specialise(captured.graph, wishes)
    digest = hashlib.sha256(f"{captured.source} {wishes_in_words(wishes)}".encode()).hexdigest()
    graph.meta["source"] = digest
    examples = captured.examples
    if examples:
        examples = resized(graph.inputs, examples, _inside(graph, captured, wishes))
    return replace(captured, graph=graph, examples=examples, source=digest)


def _inside(graph: Graph, captured: Captured, wishes: Mapping[str, DimWish]) -> dict[str, int]:
    """Sizes of the example, drawn into the bounds that hold now."""
    from .sizes import sizes_of

    sizes = sizes_of(graph.inputs, captured.examples)
    return {name: max(s.lower, min(s.upper, sizes.get(name, s.lower))) for name, s in graph.symbols.items()}


def specialise(graph: Graph, wishes: Mapping[str, DimWish]) -> Graph:
    """A copy of ``graph`` with symbols replaced and every type inferred anew; ``graph`` is left as it is.

    Args:
        graph: any graph.
        wishes: symbol -> a size, bounds, or the name of the symbol that it equals.

    Raises:
        UsageError: there is no such symbol, a size is outside of what the graph was captured for, or with these sizes it does
            not fit together.
    """
    known = {name: (s.lower, s.upper) for name, s in graph.symbols.items()}
    env: dict[str, Dim] = {}
    bounds = dict(known)
    for name, wish in wishes.items():
        _check_known(name, known)
        if isinstance(wish, str):
            _check_known(wish, known)
            continue
        low, high = (wish, wish) if isinstance(wish, int) else wish
        least, most = known[name]
        if low < least or high > most:
            said = str(low) if low == high else f"{low} to {high}"
            raise UsageError(
                f"the dimension {name!r} cannot be {said}: the model was captured for {least} to {most}",
                "capture it with wider bounds",
            )
        bounds[name] = (low, high)
        if low == high:
            env[name] = low
    for name, wish in wishes.items():
        if isinstance(wish, str):
            root = _root(name, wishes)
            low, high = max(bounds[name][0], bounds[root][0]), min(bounds[name][1], bounds[root][1])
            if low > high:
                raise UsageError(f"the dimensions {name!r} and {root!r} have no size in common")
            bounds[root] = (low, high)
            env[name] = env.get(root, dims.symbol(root))
    try:
        return _substituted(graph, env, bounds)
    except PassError as error:
        raise UsageError(f"with {wishes_in_words(wishes)} the model does not fit together: {error.message}") from error


def _check_known(name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise UsageError(
            f"the model has no dimension {name!r}",
            nearest(name, list(known), "" if known else "every dimension of this model is fixed"),
        )


def _root(name: str, wishes: Mapping[str, DimWish]) -> str:
    seen = [name]
    while isinstance(wish := wishes.get(seen[-1]), str):
        if wish in seen:
            raise UsageError(f"the dimension {name!r} is said to equal itself")
        seen.append(wish)
    return seen[-1]


def _substituted(graph: Graph, env: Mapping[str, Dim], bounds: Mapping[str, dims.Bounds]) -> Graph:
    other = Graph(graph.name)
    other.symbols = {name: Symbol(name, *bounds[name]) for name in graph.symbols if name not in env}
    other.constants, other.meta = dict(graph.constants), dict(graph.meta)
    to: dict[Value, Value] = {}
    for value in graph.inputs:
        to[value] = other.add_input(value.name, _type(value.type, env))
    for value in graph.states:
        to[value] = other.add_state(value.name, _type(value.type, env))
    for node in graph.nodes:
        twin = other.insert(
            node.op, [None if v is None else to[v] for v in node.inputs],
            {name: _attribute(a, env) for name, a in node.attrs.items()},
            regions=[_substituted(r, env, bounds) for r in node.regions], name=node.name, location=node.location,
            sources=node.sources,
        )  # fmt: skip
        for mine, theirs in zip(node.outputs, twin.outputs, strict=True):
            theirs.name = mine.name
            to[mine] = theirs
    other._names = dict(graph._names)
    other.outputs = [to[v] for v in graph.outputs]
    return other


def _type(type: TensorType, env: Mapping[str, Dim]) -> TensorType:
    return replace(type, shape=tuple(dims.substitute(d, env) for d in type.shape))


def _attribute(attribute: Any, env: Mapping[str, Dim]) -> Any:
    if isinstance(attribute, Expr):
        return dims.substitute(attribute, env)
    if isinstance(attribute, tuple):
        return tuple(_attribute(a, env) for a in attribute)
    return attribute
