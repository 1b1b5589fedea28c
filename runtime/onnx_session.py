"""A session of ONNX Runtime as planish opens it, in the compiler's measurements and in a loaded artifact alike.

What an execution provider needs is data (:class:`Settings`, which a manifest holds as JSON), so that an artifact runs on a
provider that this version of planish has never heard of. ``onnxruntime`` is imported by the first call that needs it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np

from ..errors import PlanishError
from .errors import ArtifactError, RunError
from .machine import machine, version_tuple

CPU = "CPUExecutionProvider"
#: The external file that initializers of a unit lie in.
WEIGHTS_FILE = "weights.bin"
#: Packages that bring the module ``onnxruntime``; an environment holds one of them.
DISTRIBUTIONS = (
    "onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu", "onnxruntime-directml",
)  # fmt: skip
#: ``TensorProto.DataType`` of the element types that numpy lacks; their arrays hold the bits.
_BITS = {"bf16": 16, "bfloat16": 16}
#: A file and line of ONNX Runtime's sources, and the signature of the function there.
_PLACE = re.compile(
    r"\S*/onnxruntime(_src)?/\S+:\d+ (.*?\) (const )?)?(\[with .*?\] )?|Exception during initialization: "
)
_LEVELS = {True: "ORT_ENABLE_ALL", False: "ORT_DISABLE_ALL"}


@dataclass(frozen=True)
class Settings:
    """What opening a session on an execution provider takes.

    Attributes:
        provider: its name in ONNX Runtime.
        package: what is installed to have it.
        plugin: Python module of a provider that is a library of its own beside ONNX Runtime; empty for one built in.
        optimize: whether ONNX Runtime rewrites the graph before the provider sees it.
        config: entries of the session's configuration.
        options: of the provider. In a value, ``{package}`` stands for the folder of ``plugin`` and ``{threads}`` for how many
            threads a call may use.
        emulator: further options on x86-64, for a provider of hardware that other machines have: what is emulated.
        least: the oldest version of ONNX Runtime that reads such a model; empty for any.
    """

    provider: str
    package: str = "onnxruntime"
    plugin: str = ""
    optimize: bool = True
    config: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    emulator: Mapping[str, str] = field(default_factory=dict)
    least: str = ""

    def to_data(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Settings:
        """What :meth:`to_data` gave; what this version does not know is left out.

        Raises:
            KeyError: there is no provider in it.
        """
        known = {f.name for f in fields(Settings)}
        return Settings(**{"provider": data["provider"], **{k: v for k, v in data.items() if k in known}})


@dataclass(frozen=True)
class Assigned:
    """A node as ONNX Runtime gave it to a provider, after the rewrites it makes before it divides the graph.

    Attributes:
        name: of the node.
        op: its type; ``domain::Type`` outside the standard domain.
        provider: the provider that runs it.
        group: number of the subgraph that the provider took it in.
    """

    name: str
    op: str
    provider: str
    group: int = 0


def onnxruntime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        ArtifactError: it is not installed, or it is broken.
    """
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        if getattr(error, "name", "") == "onnxruntime":
            raise ArtifactError("ONNX Runtime is not installed", "pip install onnxruntime") from error
        raise ArtifactError(f"ONNX Runtime cannot be imported: {error}", "install onnxruntime again") from error
    if not hasattr(module, "InferenceSession"):  # a package was removed and left its folder, or two were mixed
        raise ArtifactError(
            "the installed onnxruntime is broken: it has no InferenceSession",
            "uninstall every onnxruntime package, then install one",
        )
    return module


def why_not(settings: Settings) -> str | None:
    """What a session on the provider lacks here, to stand after "needs"; None if nothing is missing."""
    try:
        module = onnxruntime()
    except ArtifactError as error:
        return f"{settings.package}, and {error.message}"
    here = version_tuple(module.__version__)
    if settings.least and here < version_tuple(settings.least):
        return f"ONNX Runtime {settings.least} or newer, and this is {module.__version__}"
    if not hasattr(module.SessionOptions, "add_external_initializers_from_files_in_memory"):
        return f"a newer ONNX Runtime, one that takes weights from memory, and this is {module.__version__}"
    if settings.plugin:
        if importlib.util.find_spec(settings.plugin) is None:
            return f"the package {settings.package}, which is not installed"
        try:
            _register(settings.provider, settings.plugin)
        except Exception as error:  # a library that was built for another version, or lacks one of its own
            return f"the package {settings.package} in a version that works with ONNX Runtime {module.__version__} ({error})"
        return None if _devices(settings.provider) else f"a device that {settings.provider} runs on"
    if settings.provider not in module.get_available_providers():
        install = f" (install {settings.package})" if settings.package != "onnxruntime" else ""
        return f"{settings.provider}, which this build of ONNX Runtime lacks{install}"
    return None


def provider_version(settings: Settings) -> str:
    """The version of the package that brings the provider, with its name: ``onnxruntime-openvino 1.24.1``.

    Raises:
        ArtifactError: ONNX Runtime is not installed.
    """
    module = onnxruntime()
    if settings.plugin:
        with_plugin = _installed(settings.package) or "unknown"
        return f"{settings.package} {with_plugin} on onnxruntime {module.__version__}"
    for name in dict.fromkeys((settings.package, *DISTRIBUTIONS)):
        if _installed(name) == module.__version__:
            return f"{name} {module.__version__}"
    return f"onnxruntime {module.__version__}"


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _register(provider: str, plugin: str) -> None:
    """Make a provider that is a library of its own known to ONNX Runtime, once in a process."""
    module = onnxruntime()
    module.register_execution_provider_library(provider, importlib.import_module(plugin).get_library_path())


def _devices(provider: str) -> list[Any]:
    """The devices that a plugin's provider offers; of several kinds, those of the first kind only."""
    found = [d for d in onnxruntime().get_ep_devices() if d.ep_name == provider]
    return [d for d in found if d.device.type == found[0].device.type]


def is_emulated(settings: Settings) -> bool:
    """Whether the provider's hardware is emulated on this machine."""
    return bool(settings.emulator) and machine() == "x86_64"


def session_options(settings: Settings, threads: int, *, record: bool = False) -> Any:
    """Options of a session.

    Args:
        settings: of the provider.
        threads: of one call.
        record: keep which provider takes which node (:func:`assignment`).

    Raises:
        ArtifactError: ONNX Runtime is not installed.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(module.GraphOptimizationLevel, _LEVELS[settings.optimize])
    for key, value in settings.config.items():
        options.add_session_config_entry(key, value)
    if record:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def open_session(
    model: bytes,
    weights: memoryview | np.ndarray | None,
    settings: Settings,
    *,
    threads: int = 1,
    record: bool = False,
    options: Any = None,
) -> Any:
    """An ``InferenceSession`` on the provider, with the CPU provider for what it does not take.

    Args:
        model: a serialised ``ModelProto``.
        weights: what the model's external file ``weights.bin`` holds; ONNX Runtime copies what it needs. None: it has none.
        settings: of the provider.
        threads: of one call.
        record: keep which provider takes which node.
        options: made by :func:`session_options` and changed since; ``threads`` and ``record`` are in them.

    Raises:
        ArtifactError: ONNX Runtime or the provider is not here.
        RunError: the provider refuses the model.
    """
    if reason := why_not(settings):
        raise ArtifactError(f"the model needs {reason}", f"pip install {settings.package}")
    module = onnxruntime()
    options = session_options(settings, threads, record=record) if options is None else options
    if weights is not None and len(weights):
        buffer = np.frombuffer(weights, np.uint8)
        options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [buffer], [buffer.nbytes])
    folder = ""
    if settings.plugin:
        path = importlib.import_module(settings.plugin).__file__ or ""
        folder = path.rpartition("/")[0]
    wanted = {**settings.options, **(settings.emulator if is_emulated(settings) else {})}
    given = {
        name: value.replace("{package}", folder).replace("{threads}", str(threads)) for name, value in wanted.items()
    }
    try:
        if settings.plugin:
            options.add_provider_for_devices(_devices(settings.provider), given)
            return _without_fallback(module.InferenceSession(model, options, enable_fallback=0), settings)
        chain = [(settings.provider, given)]  # ONNX Runtime appends the CPU's provider by itself
        return _without_fallback(module.InferenceSession(model, options, providers=chain, enable_fallback=0), settings)
    except PlanishError:
        raise
    except Exception as error:  # the bindings have an exception of their own for each status, with no common base
        raise RunError(f"{settings.provider} refuses the model: {first_line(error)}") from error


def _without_fallback(session: Any, settings: Settings) -> Any:
    """``session``, which will not open itself again on the CPU alone where a call fails (it would only print so)."""
    session.disable_fallback()
    if settings.provider not in session.get_providers():
        raise RunError(f"{settings.provider} could not be started; ONNX Runtime fell back to {CPU}")
    return session


def assignment(session: Any) -> list[Assigned]:
    """Which provider takes which node, of a session opened with ``record``; empty where ONNX Runtime is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    return [
        Assigned(node.name, f"{node.domain}::{node.op_type}" if node.domain else node.op_type, part.ep_name, number)
        for number, part in enumerate(session.get_provider_graph_assignment_info())
        for node in part.get_nodes()
    ]


def as_value(array: np.ndarray, dtype: str = "") -> Any:
    """``array`` as an ``OrtValue`` that shares its memory.

    Args:
        array: the data; bits where numpy lacks the type.
        dtype: name of the element type; what numpy says where it is not bf16.
    """
    value = onnxruntime().OrtValue
    array = np.ascontiguousarray(array)
    if dtype not in _BITS:
        return value.ortvalue_from_numpy(array)
    made = value.ortvalue_from_numpy_with_onnx_type(array, _BITS[dtype])
    made.array = array  # which lives as long as the value that reads it
    return made


def as_array(value: Any) -> np.ndarray:
    """A copy of what an ``OrtValue`` in the CPU's memory holds, which may be another array's; bf16 as ``uint16``."""
    if value.data_type() != "tensor(bfloat16)":
        return np.array(value.numpy())
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.zeros(shape, np.uint16)
    return np.array((ctypes.c_uint16 * count).from_address(value.data_ptr()), np.uint16).reshape(shape)


def first_line(error: BaseException) -> str:
    """The sentence of an error of ONNX Runtime, without its number, the place in its sources, and what follows on further
    lines."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = _PLACE.sub("", text).strip().rstrip(".")
    return text if len(text) <= 240 else f"{text[:240]}..."
