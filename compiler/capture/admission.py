"""What is no model that can be captured, told before torch.export tries: its own words for these are about its insides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ..errors import CaptureError, UsageError
from .examples import parameter_names
from .locations import line_of_class

#: Packages whose modules hold packed integer weights that only their own kernels can read.
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes.")
#: What an input may be beside a tensor.
PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
UNQUANTISED = "take the float model and let the precision choose, for example precision='w8a8-dynamic'"


def admit(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Return for a model and an example that can be exported, as far as a look at them tells.

    Raises:
        CaptureError: it is scripted or quantised, or a weight or an input has no data or no plain layout.
        UsageError: an input is a numpy array.
    """
    for path, module in model.named_modules():
        _module(path, module)
    if getattr(model.forward, "__name__", "") == torch.nn.Module.forward.__name__:
        raise UsageError(f"a {type(model).__name__} is no model: it has no forward", "give the module that uses it")
    for name, tensor in _weights(model):
        _tensor(name, tensor)
    names = parameter_names(model, len(args))
    for path, leaf in pytree.tree_leaves_with_path((args, kwargs)):
        what = "the input " + _place(path, names)
        if isinstance(leaf, torch.Tensor):
            _input(what, leaf)
        elif isinstance(leaf, np.ndarray):
            raise UsageError(f"{what} is a numpy array", "give torch.from_numpy(array)")
        elif not isinstance(leaf, PLAIN):
            raise UsageError(
                f"{what} has the type {type(leaf).__name__}; tensors, numbers and text, in lists and dicts, can be captured",
                "torch.export.register_dataclass makes a dataclass of tensors known",
            )


def _place(path: tuple[Any, ...], names: list[str]) -> str:
    group, first, *rest = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path]
    if group == 0:
        first = names[first] if first < len(names) else f"args.{first}"
    return repr(".".join(str(key) for key in (first, *rest)))


def _weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            yield f"the {kind} {name!r}", tensor
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"the tensor {f'{path}.{name}' if path else name!r}", value


def _module(path: str, module: torch.nn.Module) -> None:
    kind = type(module)
    subject = f"its module {path!r}" if path else "the model"
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"{subject} is TorchScript, which cannot be captured",
            "give the nn.Module that torch.jit.script or torch.jit.trace was called with",
        )
    if f"{kind.__module__}.".startswith(QUANTISED):
        raise CaptureError(f"{subject} is quantised already ({kind.__name__})", UNQUANTISED)


def _form(tensor: torch.Tensor) -> str | None:
    """What a tensor is if it is not a plain dense one."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a {str(tensor.layout).removeprefix('torch.')} tensor"
    if tensor.is_quantized:
        return f"a quantised tensor ({str(tensor.dtype).removeprefix('torch.')})"
    return None


def _tensor(name: str, tensor: torch.Tensor) -> None:
    form = _form(tensor)
    if form is not None:
        hint = UNQUANTISED if tensor.is_quantized else "make it dense first: tensor.to_dense()"
        raise CaptureError(f"{name} is {form}, and only dense tensors can be captured", hint)
    if torch.nn.parameter.is_lazy(tensor):
        raise CaptureError(f"{name} has no shape yet: it is lazy", "run the model once on its example inputs")
    if tensor.is_meta:
        raise CaptureError(f"{name} has no data: it is on the meta device", "load the weights first")
    kind = type(tensor)
    if kind not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) and hasattr(kind, "__tensor_flatten__"):
        line = line_of_class(kind)
        raise CaptureError(
            f"{name} is a {kind.__name__}{f' ({line})' if line else ''}, and only plain tensors can be captured",
            "quantised by another library? " + UNQUANTISED,
        )


def _input(what: str, tensor: torch.Tensor) -> None:
    form = _form(tensor)
    if form == "a nested tensor":
        raise CaptureError(f"{what} is a nested tensor", "pad the sequences, and give the model a mask")
    if form is not None:
        raise CaptureError(f"{what} is {form}, and only dense tensors can be captured", "give its dense values")
    if tensor.is_meta:
        raise CaptureError(f"{what} has no data: it is on the meta device", "give an example with numbers")
