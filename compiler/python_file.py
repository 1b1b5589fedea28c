"""Python files given on the command line: ``FILE.py:callable``."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import PlanishError, UsageError


def split(text: str, purpose: str, otherwise: str, hint: str) -> tuple[Path, str]:
    """``FILE.py:name`` in its two parts.

    Args:
        text: what was typed.
        purpose: what the callable does, for the message where no callable is named: "returns the model".
        otherwise, hint: the message where the text is of another form.

    Raises:
        UsageError: not of this form, or there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        if text.endswith(".py"):
            path = Path(text)
            choices = callables(path) if path.is_file() else []
            example = f"for example {text}:{choices[0]}" if choices else f"write {text}:NAME"
            raise UsageError(f"{text!r} does not say which callable of the file {purpose}", example)
        raise UsageError(otherwise, hint)
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"there is no file {file!r}", near_file(path))
    return path, name


_ALIAS = "_planish_file_"


def imported() -> list[ModuleType]:
    """The modules of the files that were imported: no other process finds them by their names."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(_ALIAS)]


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own, as ``python FILE`` would: its folder is on the path.

    Raises:
        PlanishError: it cannot be imported; names the error and the line.
    """
    resolved = path.resolve()
    alias = f"{_ALIAS}{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, resolved)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    folder = str(resolved.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[alias]
        hint = None
        if isinstance(error, ModuleNotFoundError) and error.name:
            hint = f"install {error.name.partition('.')[0]!r} into this environment"
        raise PlanishError(f"{path} cannot be imported: {where(error, resolved)}", hint) from error
    return module


def attribute(module: ModuleType, name: str, path: Path) -> Any:
    """A name of an imported file.

    Raises:
        UsageError: it is not there; names the nearest.
    """
    found = getattr(module, name, None)
    if found is None:
        public = [n for n in vars(module) if not n.startswith("_")]
        near = difflib.get_close_matches(name, public, 1)
        own = ", ".join(callables(path)[:8])
        hint = f"did you mean {near[0]!r}?" if near else f"it defines {own}" if own else None
        raise UsageError(f"{path} has no {name!r}", hint)
    return found


def callable_in(text: str, what: str) -> Callable[..., Any]:
    """The callable that ``FILE.py:callable`` names.

    Args:
        text: what was typed.
        what: what it is wanted for: "a score function".

    Raises:
        UsageError: not of this form, no such file or name, or it is no callable.
        PlanishError: the file cannot be imported.
    """
    path, name = split(text, f"is {what}", f"{text!r} is no {what.partition(' ')[2]}", "give FILE.py:callable")
    found = attribute(import_file(path), name, path)
    if not callable(found):
        raise UsageError(f"{name!r} in {path} is a {type(found).__name__}, not a callable")
    return found


def called(function: Callable[..., Any], text: str, must: str) -> Any:
    """What ``function`` returns without arguments.

    Args:
        function: the callable.
        text: how it was named.
        must: what it has to return, for the hint.

    Raises:
        UsageError: it needs arguments.
        PlanishError: it raises; names the error and the line.
    """
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(f"{text} must be callable without arguments: {error}", f"it must return {must}") from None
    except ValueError:  # no signature to look at: a callable of C code
        pass
    try:
        return function()
    except PlanishError:
        raise
    except Exception as error:
        file = getattr(inspect.unwrap(function), "__code__", None)
        raise PlanishError(f"{text} raised {where(error, Path(file.co_filename) if file else None)}") from error


def callables(path: Path) -> list[str]:
    """Public functions of a file in the order of the text, found without importing it."""
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, UnicodeDecodeError):
        return []
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]


def near_file(path: Path) -> str | None:
    """A hint that names the file most like one that is not there."""
    folder = path.parent if path.parent.is_dir() else Path()
    names = [entry.name for entry in os.scandir(folder)]
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {str(folder / near[0])!r}?" if near else None


def where(error: BaseException, file: Path | None) -> str:
    """The error in one line, with the last line of ``file`` it went through."""
    message = str(error).strip().split("\n")[0]
    line = None
    if isinstance(error, SyntaxError) and error.filename:
        message, line = error.msg, error.lineno
    elif file is not None:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
        line = lines[-1] if lines else None
    place = f" at line {line}" if line else ""
    return f"{type(error).__name__}{place}: {message}" if message else f"{type(error).__name__}{place}"
