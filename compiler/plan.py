"""The plan: which part of the model computes in which precision. The only place that holds precision."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError
from .graph import Graph, Node
from .options import nearest
from .precision import (
    PRECISIONS,
    Precision,
    Scheme,
    expand,
    expand_nearest,
    find_precision,
    kind_of_node,
    no_kernel,
    precision_data,
    precision_from,
)  # fmt: skip
from .target import Capabilities, Target

__all__ = ["PRECISIONS", "Plan", "Precision", "Resolution", "Rule", "Scheme", "find_precision"]


@dataclass(frozen=True)
class Rule:
    """Source names that match ``pattern`` (a glob; ``*`` spans dots) compute in ``precision``.

    Attributes:
        weights: the method that makes the low-precision weights (``rtn``, ``smoothquant``, ``gptq``); None is the default of
            the precision.
        observer: how the range of a static activation is found (``minmax``, ``percentile``, ``mse``, ``entropy``); None lets
            the output error on the calibration data decide.
    """

    pattern: str
    precision: Precision
    weights: str | None = None
    observer: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the pattern is one source name: no wildcard but escaped ones, as ``glob.escape`` writes them. Only such
        a rule decides an embedding."""
        return not set("*?[") & set(_ESCAPED.sub("", self.pattern))

    def matches(self, name: str) -> bool:
        """Whether the source name ``name`` matches."""
        return _compiled(self.pattern).fullmatch(name) is not None


_ESCAPED = re.compile(r"\[[*?[]\]")


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))  # re keeps its own cache


@dataclass(frozen=True)
class Resolution:
    """A plan applied to a graph.

    Attributes:
        precisions: the precision of every node but constants.
        expansion: pattern -> kind of op -> name of the precision it got, for the manifest.
        rules: the rule that decided about a node; nodes that no rule matches are not in it.
        conflicts: nodes that stand for sources with different precisions, in words; the node's own name decided, or where
            that is no source name the first source.
        unmet: nodes asked for by name that are computed in another precision than the rule says, in words.
    """

    precisions: dict[Node, Precision]
    expansion: dict[str, dict[str, str]]
    rules: dict[Node, Rule] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()

    def by_source(self) -> dict[str, str]:
        """Source name -> name of its precision, for every linear, convolution and attention, and for the embeddings that are
        not f32: what the manifest records."""
        kinds = {n: kind_of_node(n) for n in self.precisions}
        decided = {
            n: p.name
            for n, p in self.precisions.items()
            if kinds[n] != "rest" and (kinds[n] != "embedding" or p.name != "f32")
        }
        merged = {source: name for node, name in decided.items() for source in node.sources}
        return {**merged, **{node.name: name for node, name in decided.items() if node.name}}


@dataclass(frozen=True)
class Plan:
    """Ordered rules from source names to precisions: the first match wins, what nothing matches is f32."""

    rules: tuple[Rule, ...] = field(default=())

    # -- reading -----------------------------------------------------------------------------------------------------
    @staticmethod
    def of(given: Plan | Precision | str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> Plan:
        """A plan from what a user hands in: None (f32), a precision, ``{glob: precision}``, a TOML file, a plan, or what
        :meth:`to_data` gave.

        Raises:
            UsageError: it is none of these; or a precision is unknown (the nearest is named).
        """
        match given:
            case Plan():
                return given
            case None:
                return Plan()
            case Path():
                return Plan.read(given)
            case str() if given.endswith(".toml"):
                return Plan.read(Path(given))
            case str() | Precision():
                return Plan((Rule("*", precision_from(given)),))
            case Mapping():
                for pattern in given:
                    if not isinstance(pattern, str):
                        raise UsageError(
                            f"{pattern!r} is no pattern of source names", "write {'encoder.layer.0.*': 'bf16'}"
                        )
                return Plan(tuple(Rule(pattern, precision_from(value)) for pattern, value in given.items()))
            case list() | tuple():
                return Plan(tuple(_rule(i, rule) for i, rule in enumerate(given)))
        raise UsageError(
            f"{given!r} is no precision", "give a name such as 'w8a8-dynamic', a mapping of patterns, or a TOML file"
        )

    @staticmethod
    def of_arguments(arguments: Iterable[str]) -> Plan:
        """A plan from ``--precision`` options: ``GLOB=NAME`` in order, and one ``NAME`` (or TOML file) for the rest.

        Raises:
            UsageError: two options without a glob; or a precision is unknown.
        """
        rules: list[Rule] = []
        general: Plan | None = None
        for argument in arguments:
            pattern, equals, name = argument.rpartition("=")
            if equals:
                if not pattern:
                    raise UsageError(f"--precision {argument!r} has no pattern", "for example 'encoder.layer.0.*=bf16'")
                rules.append(Rule(pattern, find_precision(name)))
            elif general is not None:
                raise UsageError(
                    "--precision is given twice without a pattern", "write 'GLOB=NAME' for parts of the model"
                )
            else:
                general = Plan.of(argument)
        return Plan((*rules, *(general.rules if general is not None else ())))

    @staticmethod
    def read(path: Path) -> Plan:
        """The plan in a TOML file.

        Raises:
            UsageError: the file is missing or is no plan.
        """
        try:
            return Plan.from_toml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"the plan {path} cannot be read: {error.strerror}") from error
        except (UsageError, UnicodeDecodeError) as error:
            reason = error.message if isinstance(error, UsageError) else "it is no text"
            raise UsageError(f"the plan {path}: {reason}", getattr(error, "hint", None)) from error

    @staticmethod
    def from_toml(text: str) -> Plan:
        """The plan that :meth:`to_toml` wrote.

        Raises:
            UsageError: the text is no plan.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"it is no TOML: {error}") from None
        if data.get("version") != 1:
            raise UsageError(
                f"it has version {data.get('version')!r}, only 1 is understood", "start it with version = 1"
            )
        rules = data.get("rule", [])
        if set(data) - {"version", "rule"} or not isinstance(rules, list):
            raise UsageError(f"it holds {', '.join(sorted(data))}", "it holds version and [[rule]] entries")
        return Plan(tuple(_rule(i, rule) for i, rule in enumerate(rules)))

    # -- writing -----------------------------------------------------------------------------------------------------
    def to_toml(self) -> str:
        """The plan as TOML; rules in order."""
        lines = ["version = 1"]
        for rule in self.rules:
            value = _toml(precision_data(rule.precision))
            lines += ["", "[[rule]]", f"match = {_toml(rule.pattern)}", f"precision = {value}"]
            lines += [f"{key} = {_toml(text)}" for key, text in _methods(rule).items()]
        return "\n".join(lines) + "\n"

    def to_data(self) -> list[dict[str, Any]]:
        """The plan as JSON-able data, for the manifest."""
        return [{"match": r.pattern, "precision": precision_data(r.precision), **_methods(r)} for r in self.rules]

    def __str__(self) -> str:
        if [r.pattern for r in self.rules] == ["*"]:
            return self.rules[0].precision.name
        return ", ".join(f"{r.pattern}={r.precision}" for r in self.rules) or "f32"

    # -- deciding ----------------------------------------------------------------------------------------------------
    def rule_for(self, name: str) -> Rule | None:
        """The first rule that matches the source name ``name``."""
        return next((rule for rule in self.rules if rule.matches(name)), None)

    def precision_for(self, name: str) -> Precision:
        """The precision that the source ``name`` asks for, before expansion: f32 if no rule matches."""
        rule = self.rule_for(name)
        return rule.precision if rule is not None else PRECISIONS["f32"]

    def agree(self, nodes: Iterable[Node]) -> str | None:
        """None if all these nodes ask for the same precision, else why they cannot become one (a QKV merge asks this)."""
        wanted = {node.name: self.precision_for(node.name) for node in nodes}
        if len(set(wanted.values())) <= 1:
            return None
        return "the plan wants " + ", ".join(f"{precision} for {name}" for name, precision in wanted.items())

    def check(self, graph: Graph) -> None:
        """Every pattern must match a source name of ``graph``.

        Raises:
            UsageError: one matches nothing; names the nearest there are.
        """
        names = _source_names(graph)
        for rule in self.rules:
            if rule.pattern != "*" and not any(rule.matches(name) for name in names):
                raise UsageError(
                    f"the pattern {rule.pattern!r} matches no part of the model", _nearest_source(rule, names)
                )

    def decides(self, node: Node) -> tuple[Rule | None, list[Rule | None]]:
        """The rule that decides about ``node``, and those of all its sources: the rule of its own name, or of its first source
        where several became one under a new name (Q, K and V)."""
        of_sources = [self.rule_for(source) for source in node.sources]
        if node.name and (node.name in node.sources or not node.sources):
            return self.rule_for(node.name), of_sources
        return (of_sources[0] if of_sources else None), of_sources

    def resolve(self, graph: Graph, target: Target | Capabilities, nearest: bool = False) -> Resolution:
        """The precision of every node of ``graph`` on ``target``.

        The precision of a node's rule (see :meth:`decides`) is expanded by kind of op (see ``precision.expand``); with
        ``nearest``, what the target lacks becomes the nearest finer precision that it has.

        Raises:
            UsageError: a pattern matches nothing, or, without ``nearest``, the target cannot compute in a precision.
        """
        self.check(graph)
        try:
            return self._resolve(graph, target.capabilities() if isinstance(target, Target) else target, nearest)
        except UsageError as error:
            if not isinstance(target, Target):
                raise
            raise UsageError(error.message.replace("the target", f"the target {target}", 1), error.hint) from None

    def _resolve(self, graph: Graph, capabilities: Capabilities, nearest: bool) -> Resolution:
        expanded = expand_nearest if nearest else expand
        default = Rule("*", PRECISIONS["f32"])
        expansions = {
            rule: expanded(rule.precision, capabilities, exact=rule.is_exact) for rule in (*self.rules, default)
        }
        precisions: dict[Node, Precision] = {}
        rules: dict[Node, Rule] = {}
        conflicts: list[str] = []
        unmet: list[str] = []
        for node in graph.nodes:
            if node.op == "constant":
                continue
            kind = kind_of_node(node)
            name = node.name or (node.sources[0] if node.sources else "")
            found, of_sources = self.decides(node)
            rule = found or default
            if kind not in expansions[rule]:
                raise no_kernel(rule.precision, capabilities)
            precisions[node] = expansions[rule][kind]
            if kind == "rest":
                continue
            if found is not None:
                rules[node] = found
            if rule.is_exact and kind != "attention" and precisions[node] != rule.precision:
                unmet.append(
                    f"{name} is computed in {precisions[node]}: there is no {kind} in {rule.precision} on this target"
                )
            wanted = {
                source: expansions[of or default].get(kind, (of or default).precision)
                for source, of in zip(node.sources, of_sources, strict=True)
            }
            if len(set(wanted.values())) > 1:
                words = ", ".join(f"{p} for {s}" for s, p in wanted.items())
                conflicts.append(
                    f"{name} stands for sources of different precision ({words}); it is {precisions[node]}"
                )
        recorded: dict[str, dict[str, str]] = {}
        for rule, kinds in expansions.items():
            recorded.setdefault(rule.pattern, {str(kind): p.name for kind, p in kinds.items()})
        return Resolution(precisions, recorded, rules, tuple(conflicts), tuple(unmet))


#: The keys of a rule in TOML and JSON.
_KEYS = ("match", "precision", "weights", "observer")


def _methods(rule: Rule) -> dict[str, str]:
    found = {"weights": rule.weights, "observer": rule.observer}
    return {key: text for key, text in found.items() if text is not None}


def _rule(number: int, data: Any) -> Rule:
    where = f"rule {number + 1}"
    if not isinstance(data, Mapping) or not {"match", "precision"} <= set(data) or not isinstance(data["match"], str):
        raise UsageError(f"{where} must have exactly `match` and `precision`", "and may have `weights` and `observer`")
    for key in data:
        if key not in _KEYS:
            raise UsageError(f"{where} has an unknown key {key!r}", nearest(str(key), _KEYS))
    for key in ("weights", "observer"):
        if not isinstance(data.get(key, ""), str):
            raise UsageError(f"{where} has {key} = {data[key]!r}", f"{key} is the name of a method, as text")
    return Rule(data["match"], precision_from(data["precision"]), data.get("weights"), data.get("observer"))


def _source_names(graph: Graph) -> list[str]:
    return list(dict.fromkeys(s for node in graph.nodes for s in (node.name, *node.sources) if s))


def _nearest_source(rule: Rule, names: list[str]) -> str | None:
    """A hint with the source name, or the group of names, nearest to a pattern that matches nothing."""
    groups: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        groups.update((".".join(parts[:i]) + ".*", None) for i in range(1, len(parts)))
        groups[name] = None
    if rule.pattern + ".*" in groups:
        return f"did you mean {rule.pattern + '.*'!r}?"
    inner = f"*.{rule.pattern}"
    if any(Rule(inner, rule.precision).matches(name) for name in names):
        return f"did you mean {inner!r}?"
    return nearest(
        rule.pattern, groups, f"names of the model are {', '.join(names[:3])}, ..." if names else "it has no names"
    )


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v is not None) + " }"
    # for text, integers and booleans JSON is TOML, but for the one control character that JSON lets through
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
