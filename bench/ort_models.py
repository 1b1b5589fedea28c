"""The models that ``bench.ort`` compares: planish's exports for a provider, and what the tools of ONNX Runtime and NNCF make."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import data
from .children import in_peers
from .peers_onnxruntime import OnnxRuntime
from .progress import say

Inputs = Mapping[str, npt.NDArray[Any]]
#: What planish exports, by provider: the precision of the whole model, and the method for its weights if not the usual one.
OWN = {"cpu": {"MiniLM": ("f32", "w8a8-dynamic", "w8a8", "w8a8 gptq"), "ResNet-50": ("w8a8",)},
       "openvino": {"MiniLM": ("f32", "w8a8", "w8a8 gptq"), "ResNet-50": ("w8a8",)}}  # fmt: skip


class Model(ABC):
    """A model, its data, and its peers."""

    name: ClassVar[str]
    #: outputs are judged by their mean over the second axis
    mean: ClassVar[bool] = False
    kind: ClassVar[str]

    @abstractmethod
    def example(self) -> Any:
        """``(module, args, kwargs, dynamic_shapes)``."""

    @abstractmethod
    def timed(self) -> dict[str, Inputs]:
        """What is timed, by label."""

    @abstractmethod
    def calibration(self) -> list[Inputs]:
        """What every quantiser may look at."""

    @abstractmethod
    def unseen(self, count: int) -> list[Inputs]:
        """What quality is judged on."""

    @abstractmethod
    def peers(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """ONNX Runtime's own recipes: name and model."""

    @abstractmethod
    def plain(self, path: Path) -> None:
        """The float model as ONNX, by torch's own exporter."""

    def references(self, samples: Sequence[Inputs]) -> list[npt.NDArray[np.float64]]:
        """What float32 PyTorch gives, as it is compared."""
        import torch

        module = self.example()[0]
        found = []
        for sample in samples:
            with torch.no_grad():
                output = module(**{k: torch.from_numpy(np.asarray(v)) for k, v in sample.items()})
            hidden = getattr(output, "last_hidden_state", output)[0].double().numpy()
            found.append(hidden.mean(0) if self.mean else hidden)
        return found

    def own(self, provider: str, precision: str, folder: Path) -> Path:
        """Compiled by planish and exported as a user would."""
        import planish

        from ..backends.onnx.export import export
        from ..compiler.plan import Plan, Rule
        from ..compiler.precision import PRECISIONS
        from ..runtime.archive import Archive

        path = folder / f"own-{provider}-{precision.replace(' ', '-')}"
        module, args, kwargs, dynamic_shapes = self.example()
        name, _, weights = precision.partition(" ")
        rule = Rule("*", PRECISIONS[name], weights=weights or None)
        wanted = None if name == "f32" else Plan((rule,))
        artifact = planish.compile(
            module, args, kwargs, dynamic_shapes=dynamic_shapes, target=f"onnx:{provider}", precision=wanted,
            calibration=self.calibration(),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as inside:
            file = Path(inside) / "model.planish"
            artifact.save(file)
            export(Archive(file), path)
        return path / "model.onnx"

    def nncf(self, folder: Path) -> Path:
        """int8 by NNCF, which is not installed beside planish."""
        plain, samples, target = folder / "plain.onnx", folder / "calibration.npz", folder / "nncf.onnx"
        self.plain(plain)
        np.savez(samples, **{f"{i}/{k}": v for i, s in enumerate(self.calibration()) for k, v in s.items()})  # type: ignore[arg-type]
        in_peers("ort_nncf", str(plain), str(samples), str(target), self.kind, threads=2)
        return target


class MiniLM(Model):
    """The encoder of ``examples/minilm.py``."""

    name, mean, kind = "MiniLM", True, "transformer"

    def example(self) -> Any:
        return data.examples("minilm").model()

    def timed(self) -> dict[str, Inputs]:
        return {data.label(shape): data.timed(shape) for shape in ((1, 128), (8, 128))}

    def calibration(self) -> list[Inputs]:
        return list(data.calibration())

    def unseen(self, count: int) -> list[Inputs]:
        return list(data.evaluation(count))

    def peers(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """The transformer optimizer with attention fused, in float and with dynamic int8."""
        for name, precision in (("ORT optimizer, f32", "f32"), ("ORT optimizer + dynamic int8", "int8")):
            inside = folder / f"ort-{precision}"
            inside.mkdir()
            OnnxRuntime(name, precision).prepare(inside)  # type: ignore[arg-type]
            yield name, inside / "model.onnx"

    def plain(self, path: Path) -> None:
        from .peers_torch import hidden_only

        names = ["input_ids", "attention_mask"]
        _export(hidden_only(data.examples("minilm").encoder("eager")), data.examples("minilm").example_inputs(2, 16), names,
                "last_hidden_state", {0: "batch", 1: "seq"}, {0: "batch", 1: "seq"}, path)  # fmt: skip


class ResNet(Model):
    """ResNet-50 of ``examples/resnet.py``."""

    name, kind = "ResNet-50", "cnn"

    def example(self) -> Any:
        return data.examples("resnet").model()

    def timed(self) -> dict[str, Inputs]:
        return {"1 image": {"images": data.examples("resnet").images(1, seed=7)}}

    def calibration(self) -> list[Inputs]:
        return list(data.examples("resnet").calibration())

    def unseen(self, count: int) -> list[Inputs]:
        return list(data.examples("resnet").unseen())[:count]

    def peers(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """``quantize_static`` behind its own preparation, per channel: as documented (S8S8), and as it is fastest on x86
        (U8S8), with ranges found in two ways."""
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        plain, prepared = folder / "ort-plain.onnx", folder / "ort-prepared.onnx"
        self.plain(plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        samples = self.calibration()

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(samples)

            def get_next(self) -> Any:
                return next(self.left, None)

        signed, unsigned = QuantType.QInt8, QuantType.QUInt8
        for name, kind, method in (
            ("ORT static S8S8, minmax", signed, CalibrationMethod.MinMax),
            ("ORT static U8S8, minmax", unsigned, CalibrationMethod.MinMax),
            ("ORT static U8S8, percentile", unsigned, CalibrationMethod.Percentile),
        ):
            target = folder / f"{name}.onnx"
            try:
                quantize_static(str(prepared), str(target), Reader(), activation_type=kind, weight_type=signed,
                                per_channel=True, calibrate_method=method)  # fmt: skip
            except Exception as error:  # a peer that fails is left out, and said so
                say(f"{name}: {error}")
                continue
            yield name, target

    def plain(self, path: Path) -> None:
        example = {"images": data.examples("resnet").model()[2]["images"]}
        _export(data.examples("resnet").network(), example, ["images"], "logits", {0: "batch"}, {0: "batch"}, path)


def _export(
    module: Any, example: Any, names: list[str], output: str, axes: dict[int, str], out_axes: dict[int, str], path: Path
) -> None:  # fmt: skip
    import torch

    torch.onnx.export(
        module, tuple(example[n] for n in names), str(path), dynamo=False, external_data=False, opset_version=17,
        input_names=names, output_names=[output], dynamic_axes={**dict.fromkeys(names, axes), output: out_axes},
    )  # fmt: skip


MODELS: tuple[Model, ...] = (MiniLM(), ResNet())
