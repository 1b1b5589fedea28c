"""OpenVINO: float32, bfloat16, 8-bit weights, and int8 by NNCF's post-training quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from . import data
from .contender import Contender, Precision, Runner
from .data import Inputs, Shape
from .peers_torch import hidden_only


class OpenVINO(Contender):
    """Converted from PyTorch, compiled for one static shape where one is known (a few per cent faster than dynamic)."""

    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf", "torch", "transformers")
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)

    def __init__(self, name: str, precision: Precision, weights: str, hint: str) -> None:
        self.name = name
        self.precision = precision
        self.weights = weights
        self.hint = hint

    @property
    def folder(self) -> Path:
        """Contenders that differ in the hint alone share their files."""
        return super().folder.parent / (f"openvino-{self.weights}-" + super().folder.name.rsplit("-", 1)[1])

    def prepare(self, folder: Path) -> None:
        """Convert, and quantise with the transformer preset on real sentences where that is asked for."""
        import nncf
        import openvino

        module = data.examples("minilm").encoder("eager")
        example = data.examples("minilm").example_inputs(2, 16)
        model: Any = openvino.convert_model(hidden_only(module), example_input=example)
        if self.weights == "int8":
            texts = data.calibration()
            model = nncf.quantize(
                model, nncf.Dataset(texts), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)
            )
        elif self.weights == "w8":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    def open(self, shape: Shape | None, threads: int) -> Runner:
        """Compile for the shape; inputs are shared, not copied."""
        import openvino

        core = openvino.Core()
        model = core.read_model(self.folder / "model.xml")
        if shape is not None:
            model.reshape({port.any_name: list(shape) for port in model.inputs})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self.hint,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()

        def run(inputs: Inputs) -> Any:
            return request.infer(inputs, share_inputs=True)[0]

        return run


def contenders() -> list[Contender]:
    """The default hint on a CPU with bfloat16 is bfloat16; both are tried with int8, the faster one counts."""
    return [
        OpenVINO("OpenVINO f32", "f32", "float", "f32"),
        OpenVINO("OpenVINO bf16", "bf16", "float", "bf16"),
        OpenVINO("OpenVINO int8 (NNCF), rest bf16", "int8", "int8", "bf16"),
        OpenVINO("OpenVINO int8 (NNCF), rest f32", "int8", "int8", "f32"),
        OpenVINO("OpenVINO 8-bit weights", "int8", "w8", "bf16"),
    ]
