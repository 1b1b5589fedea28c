"""The front doors side by side: whatever a user calls a model, to what was captured of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CaptureError, UsageError
from ..specialise import checked_wishes, specialised
from .captured import Captured


@dataclass(frozen=True)
class Intake:
    """A model that was taken in.

    Attributes:
        captured: its graph, and how it is called.
        model: what was captured, for messages: the module of a folder, else what was given.
        companions: name -> file of what goes beside the artifact.
        notes: what was assumed about a folder.
    """

    captured: Captured
    model: Any
    companions: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def take_in(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    task: str | None = None,
    dims: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    debug: bool = False,
) -> Intake:
    """Capture a model of any kind.

    Args:
        model: a module, an exported program, the path of a .pt2 file, of a Hugging Face folder or of a .onnx file, a
            ``ModelProto`` of ONNX, or what a capture gave before.
        args, kwargs: the example call; of an ONNX model arrays by name, or in the order of its inputs.
        dynamic_shapes: torch.export's notation; of PyTorch models alone.
        task: of a Hugging Face folder alone.
        dims: dimension -> a size, bounds (inclusive), or the name of the dimension that it equals.
        fixed: of ONNX models alone: input -> what it is from now on.
        debug: let torch's own logs through.

    Raises:
        CaptureError: the model cannot be captured.
        UsageError: the call makes no sense.
    """
    from .onnx_files import is_onnx

    wishes = checked_wishes(dims or {})
    if isinstance(model, Captured):
        return Intake(specialised(model, wishes), model)
    if is_onnx(model):
        if task is not None:
            raise UsageError("a task is only for a Hugging Face folder", "leave it out")
        if dynamic_shapes is not None:
            raise UsageError(
                "dynamic_shapes is for PyTorch models: an ONNX model says itself what varies",
                'dims={"batch": 1, "seq": (1, 512)} fixes or bounds it',
            )
        return Intake(_onnx(model, args, kwargs, wishes, fixed), model)
    if fixed:
        raise UsageError(
            "only an ONNX model's inputs can be fixed", "a PyTorch model takes such an argument as a constant"
        )
    from .huggingface import is_folder, load_folder
    from .torch_export import capture

    companions: Mapping[str, Path] = {}
    notes: tuple[str, ...] = ()
    if isinstance(model, (str, os.PathLike)) and is_folder(model):
        folder = load_folder(model, task)
        model, companions, notes = folder.model, folder.companions, tuple(folder.notes)
        if not args and not kwargs:
            kwargs, dynamic_shapes = folder.kwargs, dynamic_shapes or folder.dynamic_shapes
    elif task is not None:
        raise UsageError("a task is only for a Hugging Face folder", "leave it out")
    captured = capture(model, args, kwargs, dynamic_shapes=dynamic_shapes, debug=debug)
    return Intake(specialised(captured, wishes), model, companions, notes)


def _onnx(
    model: Any, args: Any, kwargs: Mapping[str, Any] | None, wishes: Mapping[str, Any], fixed: Mapping[str, Any] | None
) -> Captured:
    try:
        from .onnx.capture import capture_onnx
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "google", "google.protobuf"):
            raise
        raise CaptureError(
            "ONNX models cannot be read: the package onnx is not installed", "pip install onnx"
        ) from error
    examples: Any = dict(kwargs or {})
    if isinstance(args, Mapping):
        examples = {**args, **examples}
    elif isinstance(args, (tuple, list)):
        examples = _one_way(tuple(args), examples)
    elif args is not None:
        examples = _one_way((args,), examples)
    return capture_onnx(model, examples=examples or None, dims=wishes, fixed=fixed)


def _one_way(positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if positional and named:
        raise UsageError("the example of an ONNX model is given by name or in order, not both")
    return positional or named
