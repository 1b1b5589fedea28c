"""ONNX Runtime: float32 and dynamic int8, both after its transformer optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from . import data
from .contender import Contender, Precision, Runner
from .data import Inputs, Shape
from .peers_torch import hidden_only


class OnnxRuntime(Contender):
    """Exported by TorchScript with attention spelt out: the one spelling whose attention the optimizer fuses."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "torch", "transformers")
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def __init__(self, name: str, precision: Precision) -> None:
        self.name = name
        self.precision = precision

    def prepare(self, folder: Path) -> None:
        """Export, fuse, and quantise the weights per channel where that is asked for."""
        import onnx
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.transformers import optimizer

        module = hidden_only(data.examples("minilm").encoder("eager"))
        example = data.examples("minilm").example_inputs(2, 16)
        names = ["input_ids", "attention_mask"]
        exported = folder / "exported.onnx"
        torch.onnx.export(
            module,
            tuple(example[n] for n in names),
            str(exported),
            dynamo=False,
            external_data=False,
            opset_version=17,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={n: {0: "batch", 1: "seq"} for n in (*names, "last_hidden_state")},
        )
        fused = optimizer.optimize_model(
            str(exported), model_type="bert", num_heads=12, hidden_size=384, opt_level=0, use_gpu=False
        )
        attentions = fused.get_fused_operator_statistics()["Attention"]
        if attentions != 6:
            raise RuntimeError(f"the optimizer fused {attentions} of 6 attentions: this would be no fair peer")
        del fused.model.graph.value_info[:]  # stale shapes confuse the quantiser
        target = folder / "model.onnx"
        if self.precision == "int8":
            fused.save_model_to_file(str(folder / "fused.onnx"))
            quantize_dynamic(
                folder / "fused.onnx",
                target,
                weight_type=QuantType.QInt8,
                per_channel=True,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            (folder / "fused.onnx").unlink()
        else:
            fused.save_model_to_file(str(target))
        exported.unlink()

    def open(self, shape: Shape | None, threads: int) -> Runner:
        """A session; its shapes are dynamic in any case."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
        session = onnxruntime.InferenceSession(
            str(self.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

        def run(inputs: Inputs) -> Any:
            return session.run(None, inputs)[0]

        return run


def contenders() -> list[Contender]:
    """Float and dynamic int8; ONNX Runtime has no bfloat16 on CPUs."""
    return [OnnxRuntime("ONNX Runtime f32", "f32"), OnnxRuntime("ONNX Runtime int8 dynamic", "int8")]
