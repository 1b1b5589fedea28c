"""Where a model comes from: ``FILE.py:callable``, ``FILE.pt2``, ``FILE.onnx`` or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compiler import python_file
from ..compiler.capture.onnx_files import is_onnx
from ..compiler.errors import UsageError
from ..compiler.python_file import attribute, called, import_file, near_file

if TYPE_CHECKING:
    import numpy as np

    from ..compiler.specialise import DimWish

RETURNS = "(module, args[, kwargs[, dynamic_shapes]])"


@dataclass(frozen=True)
class Source:
    """A model with the data it is shown to the compiler with.

    Attributes:
        model: an ``nn.Module``, a ``torch.export.ExportedProgram`` or the path of a .pt2 or .onnx file.
        args, kwargs: example inputs, as the model takes them.
        dynamic_shapes: in torch.export's notation, or None.
        name: short name, the stem of a default file name.
        text: what was typed.
        companions: name -> file of what goes beside the artifact.
        facts: what was derived from a folder, to be told; the same as data in ``derived``.
        task: the task asked for, or None.
        dims: run-time dimension -> what the user says it is (``compiler/specialise.py``).
        fixed: input of an ONNX model -> what it is from now on.
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
    dims: Mapping[str, DimWish] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runtime(self) -> str:
        """What runs the source."""
        return "PyTorch"

    def with_example(self, example: Mapping[str, np.ndarray]) -> Source:
        """The same with the example that was derived for it; a PyTorch model has its own."""
        return self

    def eager(self, threads: int | None = None) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The model as something to call, with its positional and keyword arguments.

        Args:
            threads: of one call, where it brings threads of its own; PyTorch's are set by who calls it.
        """
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


def load_source(
    text: str,
    task: str | None = None,
    dims: Mapping[str, DimWish] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Source:
    """Read ``FILE.py:callable``, ``FILE.pt2``, ``FILE.onnx`` or a local Hugging Face folder.

    Args:
        text: what was typed.
        task: what a folder is compiled for; None goes by its architecture.
        dims: what run-time dimensions are said to be.
        fixed: inputs of an ONNX model that are constants from now on.

    Raises:
        UsageError: not of this form, no such file, no such callable, or it returns something else.
        PlanishError: the file cannot be imported, the callable raises, or folder or file hold no model that can be read.
    """
    source = _loaded(text, task)
    if fixed and not is_onnx(source.model):
        raise UsageError("--fix is for an ONNX model", "a PyTorch model takes such an argument as a constant")
    return replace(source, dims=dict(dims or {}), fixed=dict(fixed or {}))


def _loaded(text: str, task: str | None) -> Source:
    path = Path(text)
    if path.is_dir():
        return _folder(path, text, task)
    if task is not None:
        raise UsageError("--task is for a Hugging Face folder", "leave it out")
    if text.endswith(".planish"):
        raise UsageError(f"{text!r} is a compiled model already", f"planish inspect {text}")
    if path.suffix in MODEL_FILES or (path.is_file() and path.suffix != ".py"):
        if not path.is_file():
            raise UsageError(f"there is no file {text!r}", near_file(path))
        from ..compiler.capture.files import refuse_file

        if is_onnx(path):
            from .onnx_source import OnnxSource

            return OnnxSource(path, name=path.stem, text=text)
        refuse_file(path)
        return Source(path, name=path.stem, text=text)
    if ":" not in text and not text.endswith(".py") and ("/" in text or not path.suffix):
        raise UsageError(
            f"there is no file or folder {text!r}, and nothing is downloaded",
            near_file(path)
            or "give FILE.py:callable, FILE.pt2, FILE.onnx, or a folder with config.json and model.safetensors",
        )
    path, name = split(text)
    function = attribute(import_file(path), name, path)
    if not callable(function):
        raise UsageError(
            f"{name!r} in {path} is a {type(function).__name__}, not a callable", f"it must return {RETURNS}"
        )
    return _checked(called(function, text, RETURNS), text, path, name)


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
    return python_file.split(
        text,
        "returns the model",
        f"{text!r} is no model: give FILE.py:callable, FILE.pt2, FILE.onnx or a Hugging Face folder",
        f"the callable returns {RETURNS}",
    )


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
