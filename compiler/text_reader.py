"""Reads the text form of the IR."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .dims import Dim
from .dims import parse as parse_dim
from .errors import PlanishError, UsageError
from .graph import Graph, Symbol, Value
from .text_literals import FLOAT, INT, NAME, WORDS, digest, numbers
from .types import DType, TensorType


class Reader:
    """A recursive-descent parser over the characters of the text."""

    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text = text
        self.at = 0
        self.given = constants
        self._by_digest: dict[str, np.ndarray] | None = None

    # -- characters --------------------------------------------------------------------------------------------------
    def peek(self) -> str:
        """The next character behind white space and comments; empty at the end."""
        while self.at < len(self.text):
            if self.text[self.at].isspace():
                self.at += 1
            elif self.text.startswith("//", self.at):
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return self.text[self.at]
        return ""

    def error(self, expected: str) -> UsageError:
        rest = self.text[self.at :].split("\n")[0].strip()
        return self.wrong(f"{expected} expected" + (f" before {rest[:30]!r}" if rest else " here"), self.at)

    def wrong(self, why: str, at: int | None = None) -> UsageError:
        """The error for what stands at ``at``; None: for what was read last."""
        before = self.text[: self.at].rstrip() if at is None else self.text[:at]
        return UsageError(f"line {before.count(chr(10)) + 1} of the graph: {why}")

    def take(self, token: str) -> bool:
        """Consume ``token`` if it comes next (a word only as a whole)."""
        self.peek()
        end = self.at + len(token)
        if not self.text.startswith(token, self.at):
            return False
        if token[-1].isalnum() and (self.text[end : end + 1].isalnum() or self.text[end : end + 1] == "_"):
            return False
        self.at = end
        return True

    def need(self, token: str) -> None:
        if not self.take(token):
            raise self.error(repr(token))

    def match(self, pattern: str, what: str) -> str:
        self.peek()
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            raise self.error(what)
        self.at = found.end()
        return found.group()

    def string(self) -> str:
        if self.peek() != '"':
            raise self.error("text in quotes")
        try:
            value, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
        except json.JSONDecodeError:
            raise self.error("a closing quote") from None
        return value

    def several(self, item: Callable[[], Any], close: str) -> list[Any]:
        """Items separated by commas up to ``close``."""
        items: list[Any] = []
        while not self.take(close):
            items.append(item())
            if not self.take(",") and self.peek() != close:
                raise self.error(f"',' or {close!r}")
        return items

    # -- pieces ------------------------------------------------------------------------------------------------------
    def name(self) -> str:
        """A value's name behind ``%``."""
        self.need("%")
        return self.string() if self.text[self.at : self.at + 1] == '"' else self.match(NAME.pattern, "a name")

    def expression(self) -> str:
        """Text up to a comma or a closing bracket outside parentheses."""
        self.peek()
        start, depth = self.at, 0
        while self.at < len(self.text):
            c = self.text[self.at]
            if c == "\n" or (depth == 0 and c in ",]}"):
                break
            depth += (c == "(") - (c == ")")
            self.at += 1
        return self.text[start : self.at].strip()

    def dim(self) -> Dim:
        text = self.expression()
        try:
            return parse_dim(text)
        except ValueError:
            raise self.wrong(f"{text!r} is no dimension") from None

    def type(self) -> TensorType:
        word = self.match(r"[a-z0-9]+", "an element type")
        if not isinstance(WORDS.get(word), DType):
            raise self.wrong(f"there is no element type {word!r}")
        self.need("[")
        shape = tuple(self.several(self.dim, "]"))
        layout = self.match(r"@[\w.:-]+", "a layout")[1:] if self.text[self.at : self.at + 1] == "@" else None
        return TensorType(WORDS[word], shape, layout)

    def attr(self) -> Any:
        if self.take("["):
            return tuple(self.several(self.attr, "]"))
        if self.peek() == '"':
            return self.string()
        if self.take("`"):
            text = self.match(r"[^`]*", "a dimension")
            self.need("`")
            return parse_dim(text)
        text = self.expression()
        if text in WORDS:
            return WORDS[text]
        if INT.fullmatch(text):
            return int(text)
        if FLOAT.fullmatch(text):
            return float(text)
        try:
            return parse_dim(text)
        except ValueError:
            raise self.wrong(f"{text!r} is no attribute") from None

    def attribute(self) -> tuple[str, Any]:
        name = self.match(r"\w+", "the name of an attribute")
        self.need("=")
        return name, self.attr()

    def data(self, type: TensorType, literal: tuple[str, Any]) -> np.ndarray:
        """The array that a literal or a digest stands for."""
        kind, content = literal
        try:
            shape = tuple(int(d) for d in type.shape)  # type: ignore[arg-type]  # a symbol raises
            if kind == "hex":
                return np.frombuffer(bytes.fromhex(content), type.dtype.numpy).reshape(shape)
            if kind == "list":
                return numbers(content, type.dtype).reshape(shape)
        except (ValueError, TypeError, OverflowError):
            raise self.wrong(f"the data do not fit {type}") from None
        found = self._find(content)
        if found is None:
            raise self.wrong(f"the data of a constant {content} are not given")
        return found

    def _find(self, wanted: str) -> np.ndarray | None:
        if self._by_digest is None:
            self._by_digest = {digest(a): a for a in self.given.values()}
        return self._by_digest.get(wanted)

    def literal(self) -> tuple[str, Any]:
        """A list, ``hex "..."`` or a digest: its kind and content."""
        if self.take("["):
            return "list", self.several(self.attr, "]")
        if self.take("hex"):
            return "hex", self.string()
        return "digest", self.match(r"sha256:[0-9a-f]{16}", "data in brackets or a digest")

    # -- graphs ------------------------------------------------------------------------------------------------------
    def graph(self) -> Graph:
        """``graph "name" { ... }``."""
        self.need("graph")
        graph = Graph(self.string())
        self.need("{")
        values: dict[str, Value] = {}
        while not self.take("}"):
            if self.take("symbol"):
                symbol = self.symbol()
                graph.symbols[symbol.name] = symbol
            elif self.take("input"):
                self.port(graph.add_input, values)
            elif self.take("state"):
                self.port(graph.add_state, values)
            elif self.take("return"):
                if self.peek() == "%":
                    graph.outputs.append(self.value(values))
                    while self.take(","):
                        graph.outputs.append(self.value(values))
            elif self.take("data"):
                ref, literal = self.string(), self.literal()
                self.need(":")
                graph.constants[ref] = self.data(self.type(), literal)
            else:
                self.node(graph, values)
        return graph

    def symbol(self) -> Symbol:
        """``s0 in [1, 64]``."""
        name = self.match(r"[A-Za-z_]\w*", "a symbol")
        self.need("in")
        self.need("[")
        lower = self.match(INT.pattern, "a bound")
        self.need(",")
        upper = self.match(INT.pattern, "a bound")
        self.need("]")
        return Symbol(name, int(lower), int(upper))

    def port(self, add: Callable[[str, TensorType], Value], values: dict[str, Value]) -> None:
        """``%x: f32[2]``."""
        name = self.name()
        self.need(":")
        self.define(values, name, add(name, self.type()))

    def define(self, values: dict[str, Value], name: str, value: Value) -> None:
        if name in values:
            raise self.wrong(f"%{name} is defined twice")
        value.name = name
        values[name] = value

    def value(self, values: dict[str, Value]) -> Value:
        name = self.name()
        if name not in values:
            raise self.wrong(f"%{name} is not defined")
        return values[name]

    def node(self, graph: Graph, values: dict[str, Value]) -> None:
        """``%y, %z = op(%x, _) {attr = 1} : f32[2], f32[2] name "..." loc "..." from ["..."] graph ...``."""
        self.peek()
        start, names = self.at, [self.name()]
        while self.take(","):
            names.append(self.name())
        self.need("=")
        op = self.match(r"\w+(?:\.\w+)*", "an op")
        inputs: list[Value | None] = []
        attrs: dict[str, Any] = {}
        literal: tuple[str, Any] | None = None
        if op == "constant":
            attrs["ref"] = self.string()
            literal = None if self.peek() == ":" else self.literal()
        else:
            self.need("(")
            inputs = self.several(lambda: None if self.take("_") else self.value(values), ")")
            attrs = dict(self.several(self.attribute, "}")) if self.take("{") else {}
        self.need(":")
        types = [self.type()]
        while self.take(","):
            types.append(self.type())
        if op == "constant":
            attrs |= {"dtype": types[0].dtype, "shape": types[0].shape}
        if literal is not None:
            graph.constants[attrs["ref"]] = self.data(types[0], literal)
        name = self.string() if self.take("name") else ""
        location = self.string() if self.take("loc") else None
        sources = self.several(self.string, "]") if self.take("from") and self.take("[") else None
        regions = []
        while self.peek() == "g" and self.text.startswith("graph", self.at):
            regions.append(self.graph())
        try:
            node = graph.insert(op, inputs, attrs, regions=regions, name=name, location=location, hint=names[0])
        except PlanishError as error:
            raise self.wrong(error.message, start) from error
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            raise self.wrong(f"{op} does not fit its operands, attributes or regions: {error}", start) from error
        if sources is not None:
            node.sources = tuple(sources)
        if not len(names) == len(types) == len(node.outputs):
            raise self.wrong(f"{op} has {len(node.outputs)} outputs, not {len(names)}", start)
        for name, type, value in zip(names, types, node.outputs, strict=True):
            if name != value.name:
                graph.fresh_name(name)  # reserves it
            value.type = type
            self.define(values, name, value)
