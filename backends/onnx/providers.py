"""The execution providers of ONNX Runtime that planish compiles for, each with what it needs.

What is here is what has to be known before a provider is asked anything: how it is installed and opened, the newest opset
that it reads, whether it takes symbolic shapes. What it runs, and runs fast, is learned by asking it (``probe.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...compiler.dims import Expr
from ...compiler.errors import UsageError
from ...compiler.graph import Graph
from ...compiler.options import nearest
from ...runtime.errors import ArtifactError
from ...runtime.onnx_session import Settings, provider_version, why_not

if TYPE_CHECKING:
    from onnx import GraphProto

#: The first version of ONNX Runtime that reads an opset (its "ONNX compatibility" page).
_READS = {20: "1.17", 21: "1.20", 22: "1.21", 23: "1.22"}


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: in ONNX Runtime; also the level of the target ``onnx:<name>``.
        short: what people type.
        wheel: the package to install.
        opset: of the models that are made for it, the newest that it reads.
        runs_on: hardware and systems, for people.
        static_shapes: it takes no symbolic dimension.
        optimize: ONNX Runtime rewrites the graph before the provider sees it. Off where the provider recognises the plain
            graph better than what the rewrites make of it.
        session_options: entries of the session's configuration.
        provider_options: of the provider; see :class:`~planish.runtime.onnx_session.Settings`.
        emulator_options: of the provider on x86-64, where it emulates hardware of another machine.
        plugin: module of a provider that is a library of its own beside ONNX Runtime.
        compiles: it makes one kernel of each part of the graph that it takes, and does not tell what is in it.
        copies_slices: cutting a result into parts along its last axis takes longer than the narrower products that make the
            parts one by one.
        aliases: other short names.
    """

    name: str
    short: str
    wheel: str
    opset: int
    runs_on: str
    static_shapes: bool = False
    optimize: bool = True
    session_options: Mapping[str, str] = field(default_factory=dict)
    provider_options: Mapping[str, str] = field(default_factory=dict)
    emulator_options: Mapping[str, str] = field(default_factory=dict)
    plugin: str = ""
    compiles: bool = False
    copies_slices: bool = False
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def settings(self) -> Settings:
        """What opening a session takes, as a manifest holds it."""
        return Settings(
            self.name, self.wheel, self.plugin, self.optimize, dict(self.session_options), dict(self.provider_options),
            dict(self.emulator_options), _READS[self.opset],
        )  # fmt: skip

    def settings_for(self, graph: GraphProto) -> Settings:
        """What opening a session of a model takes.

        Two rewrites of ONNX Runtime are left out on the CPU where they do harm: its layout NCHWc in a model without an operator
        that it is for, since it can crash on others (transposes of varying sizes, in 1.31), and taking factors into products in
        a model with constants in f64, since the factor becomes an attribute, which is f32.
        """
        settings, harmful = self.settings, []
        if self.short != "cpu":
            return settings
        if _WINDOWS.isdisjoint(node.op_type for node in graph.node):
            harmful.append("NchwcTransformer")
        if any(t.data_type == _DOUBLE for t in graph.initializer):
            harmful.append("MatMulScaleFusion")
        return replace(settings, config={**settings.config, _LEAVE_OUT: ";".join(harmful)}) if harmful else settings

    def missing(self) -> str | None:
        """What it lacks to run here, to stand after "needs"; None if nothing is missing."""
        return why_not(self.settings)

    def version(self) -> str:
        """Package and version that bring it here; empty where it is not installed."""
        try:
            return "" if self.missing() else provider_version(self.settings)
        except ArtifactError:
            return ""

    def require(self, purpose: str = "run") -> None:
        """Make sure that it is here.

        Args:
            purpose: what it is wanted for, to stand after "cannot": "run", "be measured", "be probed".

        Raises:
            UsageError: it is not installed; says what to install.
        """
        if reason := self.missing():
            raise UsageError(f"{self.name} cannot {purpose} here: it needs {reason}", self.install_hint())

    def install_hint(self) -> str:
        """What to install to have it."""
        if self.short == "cpu":
            return "pip install onnxruntime"
        if self.plugin:
            return f"pip install onnxruntime {self.wheel}; it runs on {self.runs_on}"
        own = "" if self.wheel == "onnxruntime" else ", in an environment without any other onnxruntime package"
        return f"pip install {self.wheel}{own}; it runs on {self.runs_on}"


_DOUBLE = 11  # TensorProto.DOUBLE, without importing onnx
#: Operators that ONNX Runtime computes in the layout NCHWc.
_WINDOWS = frozenset(
    {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Upsample", "Resize", "BatchNormalization"}
)
#: Entry of the session's configuration that names rewrites to leave out.
_LEAVE_OUT = "optimization.disable_specified_optimizers"

_ALL = (
    Provider("CPUExecutionProvider", "cpu", "onnxruntime", 23, "any CPU"),
    Provider(
        "OpenVINOExecutionProvider", "openvino", "onnxruntime-openvino", 21, "Intel and AMD CPUs, Intel GPUs and NPUs",
        optimize=False, compiles=True, copies_slices=True, aliases=("ov",),
        provider_options={"device_type": "CPU", "num_of_threads": "{threads}"},
    ),
    Provider("CUDAExecutionProvider", "cuda", "onnxruntime-gpu", 21, "NVIDIA GPUs with CUDA 12"),
    Provider(
        "TensorrtExecutionProvider", "tensorrt", "onnxruntime-gpu", 21, "NVIDIA GPUs with TensorRT 10", optimize=False,
        compiles=True, provider_options={"trt_int8_enable": "1"}, aliases=("trt",),
    ),
    Provider(
        "QNNExecutionProvider", "qnn", "onnxruntime-qnn", 23, "Qualcomm NPUs; emulated on x86-64 Linux", static_shapes=True,
        plugin="onnxruntime_qnn", compiles=True, aliases=("htp",),
        # It would leave quantising inputs and dequantising outputs to the CPU.
        provider_options={"backend_path": "{package}/libQnnHtp.so", "offload_graph_io_quantization": "0"},
        emulator_options={"soc_model": "60"},  # a Snapdragon X Elite; without it an NPU that has no floats is emulated
    ),
    Provider(
        "CoreMLExecutionProvider", "coreml", "onnxruntime", 21, "macOS and iOS", compiles=True,
        provider_options={"ModelFormat": "MLProgram"},
    ),
    Provider(
        "DmlExecutionProvider", "directml", "onnxruntime-directml", 20, "GPUs with DirectX 12 on Windows", aliases=("dml",),
    ),
    Provider(
        "XnnpackExecutionProvider", "xnnpack", "onnxruntime", 21, "ARM and x86 CPUs, in builds of ONNX Runtime that have it",
        session_options={"session.intra_op.allow_spinning": "0"},  # its own pool would contend with ONNX Runtime's
        provider_options={"intra_op_num_threads": "{threads}"},
    ),
    Provider(
        "WebGpuExecutionProvider", "webgpu", "onnxruntime-ep-webgpu", 21,
        "browsers, and GPUs with Vulkan, Metal or DirectX 12", plugin="onnxruntime_ep_webgpu",
    ),
)  # fmt: skip

#: Every provider by its name in ONNX Runtime, the CPU first.
PROVIDERS: dict[str, Provider] = {p.name: p for p in _ALL}
_BY_TEXT = {
    text.lower(): p for p in _ALL for text in (p.name, p.short, *p.aliases, p.name.removesuffix("ExecutionProvider"))
}


def find_provider(text: str) -> Provider:
    """The provider of that name, short name or target (``OpenVINOExecutionProvider``, ``openvino``, ``onnx:openvino``).

    Raises:
        UsageError: there is none; names the nearest.
    """
    given = text.strip()
    name = given.removeprefix("onnx:")
    found = _BY_TEXT.get(name.lower())
    if found is None:
        hint = nearest(name.lower(), [p.short for p in _ALL] + [a for p in _ALL for a in p.aliases])
        if hint is None or not hint.startswith("did you mean"):
            hint = nearest(name, PROVIDERS, f"there is {', '.join(p.short for p in _ALL)}")
        raise UsageError(f"there is no execution provider {name!r}", hint)
    return found


def check_shapes(provider: Provider, graph: Graph) -> None:
    """Make sure that the provider takes the shapes of ``graph``'s inputs.

    Raises:
        UsageError: they are symbolic and it wants numbers; names the inputs and how to fix the dimensions.
    """
    if not provider.static_shapes or not graph.symbols:
        return
    dynamic = [
        f"{value.name} [{', '.join(map(str, value.type.shape))}]"
        for value in graph.inputs
        if any(isinstance(dim, Expr) for dim in value.type.shape)
    ]
    flags = " ".join(f"--dim {s.name}={max(s.lower, 1)}" for s in graph.symbols.values())
    where = f": {', '.join(dynamic)}" if dynamic else ""
    raise UsageError(
        f"{provider.name} takes fixed shapes only and the model has the dynamic dims {', '.join(graph.symbols)}{where}",
        f"give each its size, for example {flags}",
    )
