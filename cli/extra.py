"""What a user brings on the command line: passes (``FILE.py:Class``, or the name of an installed one, with its place), ops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..compiler.errors import PlanishError, UsageError
from ..compiler.python_file import attribute, import_file
from .source import split


def load_pass(text: str, target: str) -> Any:
    """``FILE.py:Class[@after=NAME]`` or ``name{option=value}[@before=NAME]`` as a pass in its place.

    Raises:
        UsageError: not of this form, or there is no such file, class, pass or option (the nearest is named).
        PlanishError: the file cannot be imported.
    """
    from ..compiler.pipeline import after, as_pass, before

    what, at, place = text.partition("@")
    if not what:
        raise UsageError(
            f"--pass {text!r} names no pass", "for example --pass my_rules.py:QuickGelu@after=canonicalize"
        )
    made = _from_file(what) if ".py:" in what else _installed(what, target)
    made = as_pass(made)
    if not at:
        return made
    where, equals, anchor = place.partition("=")
    if not equals or where not in ("after", "before") or not anchor:
        raise UsageError(f"--pass {text!r} does not say where: it ends with @after=NAME or @before=NAME")
    return (after if where == "after" else before)(anchor, made)


def load_ops(text: str) -> None:
    """Import ``FILE.py`` or a module that calls ``planish.register_op``.

    Raises:
        UsageError: there is no such file or module, or it registers nothing.
        PlanishError: it cannot be imported, or an op is registered wrongly.
    """
    from importlib import import_module

    from ..compiler.custom_ops import registered

    if text.endswith(".py"):
        path = Path(text)
        if not path.is_file():
            raise UsageError(f"there is no file {text!r}")
        name = import_file(path).__name__
    else:
        try:
            name = import_module(text).__name__
        except ModuleNotFoundError as error:
            if error.name != text.partition(".")[0] and error.name != text:
                raise PlanishError(f"{text} cannot be imported: {error}") from error
            raise UsageError(
                f"there is no module {text!r}", "--ops takes FILE.py, or the name of an installed module"
            ) from None
    folder = name.partition(".")[0]
    if not any(op.module == name or op.module.partition(".")[0] == folder for op in registered()):
        raise UsageError(f"{text} registers no op", "it is to call planish.register_op(name, kernel)")


def _from_file(text: str) -> Any:
    file, brace, options = text.partition("{")
    path, name = split(file)
    cls = attribute(import_file(path), name, path)
    if not isinstance(cls, type):
        return cls  # an instance made in the file
    from ..compiler.options import Scanner, make

    try:
        return make(getattr(cls, "name", name), cls, Scanner(brace + options).options() if brace else {})
    except PlanishError:
        raise
    except Exception as error:
        raise PlanishError(f"{name} in {path} cannot be made: {type(error).__name__}: {error}") from error


def _installed(text: str, target: str) -> Any:
    from ..compiler.pipeline import Pipeline
    from ..compiler.target import find_target
    from ..driver import known_passes

    passes = list(Pipeline.parse(text, known_passes(find_target(target))))
    if len(passes) != 1:
        raise UsageError(f"--pass {text!r} must name one pass", "give --pass several times, or use --pipeline")
    return passes[0]
