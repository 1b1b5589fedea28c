"""PyTorch: eager in float32 (the reference too) and bfloat16, and compiled ahead of time by AOTInductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import data
from .contender import Contender, Precision, Runner
from .data import Inputs, Shape


class Eager(Contender):
    """What a user has before doing anything: transformers with scaled_dot_product_attention, inference mode."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    threads_per_model: ClassVar[bool] = False

    def __init__(self, name: str, precision: Precision) -> None:
        self.name = name
        self.precision = precision

    @property
    def prepared(self) -> bool:
        """There is nothing to prepare."""
        return True

    def open(self, shape: Shape | None, threads: int) -> Runner:
        """Build the module; numpy in and out share memory with the tensors."""
        import torch

        torch.set_num_threads(threads)
        module = data.examples("minilm").encoder()
        if self.precision == "bf16":
            module = module.to(torch.bfloat16)

        def run(inputs: Inputs) -> npt.NDArray[Any]:
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
                hidden: npt.NDArray[Any] = module(**tensors).last_hidden_state.float().numpy()
            return hidden

        return run


class Inductor(Contender):
    """AOTInductor with frozen weights and a dynamic batch and length; takes a minute or two to prepare."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    threads_per_model: ClassVar[bool] = False
    name = "AOTInductor f32"
    precision: Precision = "f32"

    def prepare(self, folder: Path) -> None:
        """Export and compile into one package."""
        import torch
        from torch._inductor import aoti_compile_and_package

        minilm = data.examples("minilm")
        module = hidden_only(minilm.encoder())
        with torch.no_grad():
            program = torch.export.export(
                module, (), minilm.example_inputs(), dynamic_shapes=minilm.dynamic_shapes(), strict=False
            )
            aoti_compile_and_package(
                program, package_path=str(folder / "model.pt2"), inductor_configs={"freezing": True}
            )

    def open(self, shape: Shape | None, threads: int) -> Runner:
        """Load the package."""
        import torch

        torch.set_num_threads(threads)
        package: Any = torch._inductor.aoti_load_package(str(self.folder / "model.pt2"))

        def run(inputs: Inputs) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
                hidden = package(**tensors)
                first = hidden if isinstance(hidden, torch.Tensor) else hidden[0]
                result: npt.NDArray[np.float32] = first.numpy()
            return result

        return run


def hidden_only(inner: Any) -> Any:
    """A module around the encoder that takes its inputs by position too and returns the last hidden state alone."""
    from torch import nn

    class HiddenOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    return HiddenOnly().eval()


def contenders() -> list[Contender]:
    """Eager first, compiled last."""
    return [Eager("PyTorch eager f32", "f32"), Eager("PyTorch eager bf16", "bf16"), Inductor()]
