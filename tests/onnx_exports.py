"""Models of the zoo as ONNX files, by either of torch's exporters."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import zoo
from torch import nn


def named(module: nn.Module, inputs: list[str]) -> nn.Module:
    """``module`` as one whose ``forward`` takes these inputs alone: the older exporter passes them by position."""
    space: dict[str, Any] = {"nn": nn}
    exec(
        "class Named(nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        self.model = model\n"
        f"    def forward(self, {', '.join(inputs)}):\n"
        f"        return self.model({', '.join(f'{n}={n}' for n in inputs)})\n",
        space,
    )
    made: nn.Module = space["Named"](module).eval()
    return made


def export(entry: zoo.Entry, attention: str, path: Path, *, dynamo: bool) -> nn.Module:
    """Write the file; returns the module."""
    module = entry.build(attention)
    call = entry.call(*entry.example)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = {name: dict(entry.shapes.get(name, {})) for name in call}
            torch.onnx.export(
                module,
                (),
                str(path),
                kwargs=call,
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            return module
        order = [name for name in inspect.signature(module.forward).parameters if name in call]
        axes = {name: {a: d.__name__ for a, d in dims.items()} for name, dims in entry.shapes.items()}
        torch.onnx.export(
            named(module, order), tuple(call[name] for name in order), str(path), input_names=order, dynamic_axes=axes,
            dynamo=False, opset_version=17,
        )  # fmt: skip
    return module
