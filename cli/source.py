"""Where a model comes from: ``FILE.py:callable``, ``FILE.pt2`` or a Hugging Face folder; and a class from ``FILE.py:Class``."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..compiler.errors import PlanishError, UsageError

RETURNS = "(module, args[, kwargs[, dynamic_shapes]])"


@dataclass(frozen=True)
class Source:
    """A model with the data it is shown to the compiler with.

    Attributes:
        model: an ``nn.Module``, a ``torch.export.ExportedProgram`` or the path of a .pt2 file.
        args, kwargs: example inputs, as the model takes them.
        dynamic_shapes: in torch.export's notation, or None.
        name: short name, the stem of a default file name.
        text: what was typed.
        companions: name -> file of what goes beside the artifact.
        facts: what was derived from a folder, to be told; the same as data in ``derived``.
        task: the task asked for, or None.
    """

    model: Any
    args: Any = ()
    kwargs: Mapping[str, Any] | None = None
    dynamic_shapes: Any = None
    name: str = "model"
    text: str = field(default="", compare=False)
    companions: Mapping[str, Path] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    derived: Mapping[str, Any] | None = None
    task: str | None = None

    def eager(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The model as something to call with PyTorch, with its positional and keyword arguments."""
        import torch

        args, kwargs = self.args, dict(self.kwargs or {})
        if isinstance(args, Mapping):
            kwargs, args = {**args, **kwargs}, ()
        elif not isinstance(args, (tuple, list)):
            args = (args,)
        model = self.model
        if isinstance(model, (str, Path)):
            from ..compiler.capture.exporting import load

            model = load(Path(model))
        if isinstance(model, torch.export.ExportedProgram):
            if not args and not kwargs and model.example_inputs is not None:
                args, kwargs = model.example_inputs
            model = model.module()
        return model, tuple(args), dict(kwargs)


def load_source(text: str, task: str | None = None) -> Source:
    """Read ``FILE.py:callable``, ``FILE.pt2`` or a local Hugging Face folder.

    Args:
        text: what was typed.
        task: what a folder is compiled for; None goes by its architecture.

    Raises:
        UsageError: not of this form, no such file, no such callable, or it returns something else.
        PlanishError: the file cannot be imported, the callable raises, or folder or file hold no model that can be read.
    """
    path = Path(text)
    if path.is_dir():
        return _folder(path, text, task)
    if task is not None:
        raise UsageError("--task is for a Hugging Face folder", "leave it out")
    if text.endswith(".planish"):
        raise UsageError(f"{text!r} is a compiled model already", f"planish inspect {text}")
    if path.suffix in MODEL_FILES or (path.is_file() and path.suffix != ".py"):
        if not path.is_file():
            raise UsageError(f"there is no file {text!r}", _near_file(path))
        from ..compiler.capture.files import refuse_file

        refuse_file(path)
        return Source(path, name=path.stem, text=text)
    if ":" not in text and not text.endswith(".py") and ("/" in text or not path.suffix):
        raise UsageError(
            f"there is no file or folder {text!r}, and nothing is downloaded",
            _near_file(path) or "give FILE.py:callable, FILE.pt2, or a folder with config.json and model.safetensors",
        )
    path, name = split(text)
    function = attribute(import_file(path), name, path)
    if not callable(function):
        raise UsageError(
            f"{name!r} in {path} is a {type(function).__name__}, not a callable", f"it must return {RETURNS}"
        )
    return _checked(_call(function, text), text, path, name)


#: Files that are read, or refused with a reason of their own, even where they are not there.
MODEL_FILES = (".pt2", ".onnx", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".gguf", ".h5", ".tflite")


def _folder(path: Path, text: str, task: str | None) -> Source:
    from ..compiler.capture.huggingface import load_folder

    found = load_folder(path, task)
    derived = {
        "model": type(found.model).__name__,
        "task": found.task,
        "inputs": [
            {"name": i.name, "dtype": i.dtype, "shape": list(i.shape), "origin": i.origin,
             "bounds": {name: list(bound) for name, bound in i.bounds.items()}} for i in found.inputs
        ],
        "notes": found.notes,
    }  # fmt: skip
    return Source(
        found.model, (), found.kwargs, found.dynamic_shapes, path.resolve().name, text, found.companions,
        tuple(found.facts()), derived, task,
    )  # fmt: skip


def split(text: str) -> tuple[Path, str]:
    """``FILE.py:name`` in its two parts.

    Raises:
        UsageError: not of this form, or there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        if text.endswith(".py"):
            path = Path(text)
            choices = _callables(path) if path.is_file() else []
            hint = f"for example {text}:{choices[0]}" if choices else f"write {text}:NAME"
            raise UsageError(f"{text!r} does not say which callable of the file returns the model", hint)
        raise UsageError(
            f"{text!r} is no model: give FILE.py:callable, FILE.pt2 or a Hugging Face folder",
            f"the callable returns {RETURNS}",
        )
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"there is no file {file!r}", _near_file(path))
    return path, name


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own, as ``python FILE`` would: its folder is on the path.

    Raises:
        PlanishError: it cannot be imported; names the error and the line.
    """
    resolved = path.resolve()
    alias = f"_planish_file_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
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
        raise PlanishError(f"{path} cannot be imported: {_where(error, resolved)}", hint) from error
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
        own = ", ".join(_callables(path)[:8])
        hint = f"did you mean {near[0]!r}?" if near else f"it defines {own}" if own else None
        raise UsageError(f"{path} has no {name!r}", hint)
    return found


def _callables(path: Path) -> list[str]:
    """Public functions of a file in the order of the text, found without importing it."""
    import ast

    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, UnicodeDecodeError):
        return []
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]


def _call(function: Any, text: str) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(f"{text} must be callable without arguments: {error}", f"it must return {RETURNS}") from None
    except ValueError:  # no signature to look at: a callable of C code
        pass
    try:
        return function()
    except PlanishError:
        raise
    except Exception as error:
        file = getattr(inspect.unwrap(function), "__code__", None)
        raise PlanishError(f"{text} raised {_where(error, Path(file.co_filename) if file else None)}") from error


def _checked(value: Any, text: str, path: Path, name: str) -> Source:
    import torch

    model_types = (torch.nn.Module, torch.export.ExportedProgram)
    if isinstance(value, model_types):
        if isinstance(value, torch.export.ExportedProgram):
            return Source(value, name=_short(path, name), text=text)
        raise UsageError(
            f"{text} returned a {type(value).__name__} without example inputs, not {RETURNS}", "return (model, (x,))"
        )
    if not isinstance(value, tuple):
        raise UsageError(f"{text} returned a {type(value).__name__}, not {RETURNS}", "return (model, (x,))")
    if not 2 <= len(value) <= 4:
        raise UsageError(f"{text} returned a tuple of {len(value)}, not {RETURNS}", "return (model, (x,))")
    model, args, kwargs, dynamic_shapes = [*value, None, None][:4]
    if not isinstance(model, model_types):
        raise UsageError(
            f"the first value that {text} returned is a {type(model).__name__}, not an nn.Module or an ExportedProgram",
            f"it must return {RETURNS}",
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise UsageError(
            f"the third value that {text} returned is a {type(kwargs).__name__}, not a mapping of keyword arguments",
            f"it must return {RETURNS}",
        )
    return Source(model, () if args is None else args, kwargs, dynamic_shapes, _short(path, name), text)


def _short(path: Path, name: str) -> str:
    return path.stem if name in ("model", "main", "get_model") else f"{path.stem}-{name}"


def _near_file(path: Path) -> str | None:
    folder = path.parent if path.parent.is_dir() else Path()
    names = [entry.name for entry in os.scandir(folder)]
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {str(folder / near[0])!r}?" if near else None


def _where(error: BaseException, file: Path | None) -> str:
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
