"""The options of a pass as text: ``{max-nodes=8,names=[a,b]}``, typed by the fields of the pass's dataclass."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UsageError

_BARE = re.compile(r"[A-Za-z_.*/?][A-Za-z0-9_.*/:?-]*")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|-?inf|nan")
_WORDS = ("none", "true", "false", "inf", "nan")
_LISTS = (tuple, list, set, frozenset)


class Quoted(str):
    """Text that stood in quotes: ``"8"`` is text, ``8`` a number."""

    __slots__ = ()


class Option:
    """One option of a pass.

    Attributes:
        name: kebab-case, as written in the text form.
        field: the field of the dataclass.
        type: its type.
        default: its default; ``dataclasses.MISSING`` if it has none.
    """

    def __init__(self, field: Field[Any], type: Any) -> None:
        self.field = field.name
        self.name = field.name.replace("_", "-")
        self.type = type
        self.default = field.default_factory() if field.default_factory is not MISSING else field.default

    def __repr__(self) -> str:
        default = "" if self.default is MISSING else f" = {print_value(self.default)}"
        return f"{self.name}: {type_name(self.type)}{default}"


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str | None:
    """A hint that names the closest of ``known`` ("did you mean 'fuse'?"); else ``otherwise``, else what there is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise or (f"there is {', '.join(known)}" if known else None)


def options_of(cls: type) -> list[Option]:
    """The options of a pass class: the fields of its dataclass, in order (none if it is no dataclass)."""
    if not is_dataclass(cls):
        return []
    hints = get_type_hints(cls)
    return [Option(f, hints[f.name]) for f in fields(cls) if f.init]


def type_name(kind: Any) -> str:
    """A type in the words of an error message."""
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
    if kind in plain:
        return plain[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(type_name(a) for a in args)
    if origin in _LISTS or kind in _LISTS:
        return "a list in brackets"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(m.value) for m in kind)
    return getattr(kind, "__name__", str(kind))


def print_value(value: Any) -> str:
    """An option's value as text that :func:`convert` reads back.

    Raises:
        UsageError: the value has no text form.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return print_value(value.value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) and value not in _WORDS else json.dumps(value)
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(print_value(v) for v in value) + "]"
    if isinstance(value, (set, frozenset)):
        return "[" + ",".join(sorted(print_value(v) for v in value)) + "]"
    raise UsageError(
        f"an option cannot hold {value!r}", "it must be a number, text, true, false, none or a list of these"
    )


def convert(token: Any, kind: Any) -> Any:
    """A scanned token (text, :class:`Quoted` or a list of tokens) as a value of the type ``kind``.

    Raises:
        ValueError: it is none.
    """
    origin, args = get_origin(kind), get_args(kind)
    quoted = isinstance(token, Quoted)
    if origin in (Union, UnionType):
        if token == "none" and not quoted and NoneType in args:
            return None
        for choice in sorted(args, key=lambda a: a is str):  # text takes anything, so it comes last
            try:
                return convert(token, choice)
            except ValueError:
                continue
        raise ValueError(token)
    if origin is Literal:
        for choice in args:
            if str(token) == str(choice):
                return choice
        raise ValueError(token)
    if origin in _LISTS or kind in _LISTS:
        if not isinstance(token, list):
            raise ValueError(token)
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(args) != len(token):
                raise ValueError(token)
            return tuple(convert(t, a) for t, a in zip(token, args, strict=True))
        return (origin or kind)(convert(t, args[0] if args else str) for t in token)
    if isinstance(token, list):
        raise ValueError(token)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(str(token))
    if kind is str:
        return str(token)
    if quoted:
        raise ValueError(token)
    if kind is bool and token in ("true", "false"):
        return token == "true"
    if kind in (int, float) and _NUMBER.fullmatch(token):
        return kind(token)
    raise ValueError(token)


def print_options(p: object, *, defaults: bool = False) -> str:
    """``{max-nodes=8}``: the options of ``p`` that differ from their defaults (all, with ``defaults``); may be empty."""
    parts = []
    for option in options_of(type(p)):
        text = print_value(getattr(p, option.field))
        if defaults or option.default is MISSING or text != print_value(option.default):
            parts.append(f"{option.name}={text}")
    return "{" + ",".join(parts) + "}" if parts else ""


def make(name: str, cls: Callable[..., Any], given: dict[str, Any]) -> Any:
    """An instance of the pass class ``cls`` with the scanned options ``given``.

    Raises:
        UsageError: an unknown option (with the nearest), a missing one, or a value of the wrong type.
    """
    known = {o.name: o for o in options_of(cls)} if isinstance(cls, type) else {}
    values = {}
    for key, token in given.items():
        option = known.get(key.replace("_", "-"))
        if option is None:
            raise UsageError(
                f"pass {name!r} has no option {key!r}", nearest(key, known, "" if known else "it has none")
            )
        try:
            values[option.field] = convert(token, option.type)
        except ValueError:
            shown = token if isinstance(token, str) else print_value(token)
            raise UsageError(
                f"option {key!r} of pass {name!r} must be {type_name(option.type)}, not {shown!r}"
            ) from None
    for option in known.values():
        if option.default is MISSING and option.field not in values:
            raise UsageError(f"pass {name!r} needs the option {option.name!r}", f"write {name}{{{option.name}=...}}")
    return cls(**values)


class Scanner:
    """Reads the text form of a pipeline from left to right; an error says what was expected where."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> bool:
        """Consume ``expected`` if it comes next."""
        if self.peek() == expected:
            self.at += 1
            return True
        return False

    def fail(self, expected: str) -> UsageError:
        """The error: ``expected`` was missing here."""
        rest = self.text[self.at :].strip()
        found = f"before {rest[:20]!r}" if rest else "at the end"
        return UsageError(f"{expected} expected {found} of {self.text!r}", "for example canonicalize,fuse{max-nodes=8}")

    def match(self, pattern: str, what: str) -> str:
        """Text that fits the regular expression ``pattern``."""
        self.peek()
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            raise self.fail(what)
        self.at = found.end()
        return found.group()

    def word(self, what: str) -> str:
        """A name."""
        return self.match(r"[A-Za-z0-9_.-]+", what)

    def value(self) -> Any:
        """A value: text up to a delimiter, quoted text, or a list."""
        if self.take("["):
            items: list[Any] = []
            while not self.take("]"):
                items.append(self.value())
                if not self.take(",") and self.peek() != "]":
                    raise self.fail("',' or ']'")
            return items
        if self.peek() == '"':
            try:
                text, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                raise self.fail("a closing quote") from None
            return Quoted(text)
        return self.match(r"[^\s,\[\]{}()\"=]+", "a value")

    def options(self) -> dict[str, Any]:
        """``{name=value,flag}`` if it comes next, else nothing; a bare name is ``true``."""
        found: dict[str, Any] = {}
        if not self.take("{"):
            return found
        while not self.take("}"):
            name = self.word("the name of an option")
            if name in found:
                raise UsageError(f"the option {name!r} is given twice in {self.text!r}")
            found[name] = self.value() if self.take("=") else "true"
            self.take(",")
            if not self.peek():
                raise self.fail("'}'")
        return found
