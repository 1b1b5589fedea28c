"""The script that lies beside an exported model: it runs it with numpy and ``onnxruntime`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...runtime.onnx_session import CPU, Settings

_HEAD = '''"""Runs model.onnx: python run.py [IN.npz [OUT.npz]]. Needs {needs} alone, which brings numpy."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).parent
options = ort.SessionOptions()
{options}'''

_CHECK = """if {provider!r} not in ort.get_available_providers():
    sys.exit("{provider} is not in this build of ONNX Runtime: pip install {package}")
"""

_OPEN = """session = ort.InferenceSession(here / "model.onnx", options, providers={providers}, enable_fallback=0)
"""

_PLUGIN = """import {plugin}  # the provider is a library of its own

ort.register_execution_provider_library({provider!r}, {plugin}.get_library_path())
devices = [d for d in ort.get_ep_devices() if d.ep_name == {provider!r}]
devices = [d for d in devices if d.device.type == devices[0].device.type]
given = {{k: v.replace("{{package}}", str(Path({plugin}.__file__).parent)) for k, v in {given!r}.items()}}
{emulator}options.add_provider_for_devices(devices, given)
session = ort.InferenceSession(here / "model.onnx", options, enable_fallback=0)
"""

#: For a provider of hardware that other machines have.
_EMULATOR = """import platform

if platform.machine() == "x86_64":  # the hardware is emulated
    given |= {options!r}
"""

_INPUTS = """inputs = dict(np.load(sys.argv[1] if sys.argv[1:] else here / "example.npz"))
names = [output.name for output in session.get_outputs()]
"""

_RUN = """outputs = dict(zip(names, session.run(names, inputs)))
"""

#: numpy has no bfloat16: its bits go in and come out as uint16.
_RUN_BITS = """def value(name, array):
    make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    return make(array, 16) if name in {bits} else ort.OrtValue.ortvalue_from_numpy(array)


def bits(value):
    import ctypes

    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    count = int(np.prod(value.shape()))
    return np.array((ctypes.c_uint16 * count).from_address(value.data_ptr()), np.uint16).reshape(value.shape())


found = session.run_with_ort_values(names, {{n: value(n, np.ascontiguousarray(a)) for n, a in inputs.items()}})
outputs = {{n: bits(v) for n, v in zip(names, found)}}
"""

_TAIL = """print(*(f"{name} {y.dtype} {y.shape} {y.ravel()[:4]}" for name, y in outputs.items()), sep="\\n")
if sys.argv[2:]:
    np.savez(sys.argv[2], **outputs)
"""


def run_script(settings: Settings, manifest: Mapping[str, Any]) -> str:
    """The text of ``run.py``.

    Args:
        settings: how a session is opened.
        manifest: of the artifact, whose inputs and outputs are the model's.
    """
    given = {name: value for name, value in settings.options.items() if "{threads}" not in value}
    chain: list[Any] = [(settings.provider, given) if given else settings.provider]
    if settings.provider != CPU:
        chain.append(CPU)
    names = {
        "provider": settings.provider, "package": settings.package, "plugin": settings.plugin, "providers": chain,
        "given": given,
        "emulator": _EMULATOR.format(options=dict(settings.emulator)) if settings.emulator else "",
        "needs": f"onnxruntime and {settings.package}" if settings.plugin else settings.package,
        "options": "".join(_options(settings)),
    }  # fmt: skip
    open_it = _PLUGIN if settings.plugin else _OPEN if settings.provider == CPU else _CHECK + _OPEN
    run = _RUN
    if any(port["dtype"] == "bf16" for port in (*manifest["inputs"], *manifest["outputs"])):
        run = _RUN_BITS.format(bits=sorted(port["name"] for port in manifest["inputs"] if port["dtype"] == "bf16"))
    return "".join([_HEAD.format(**names), open_it.format(**names), _INPUTS, run, _TAIL])


def _options(settings: Settings) -> Iterator[str]:
    if not settings.optimize:  # ONNX Runtime optimises unless told not to
        yield "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL\n"
    for key, value in settings.config.items():
        yield f"options.add_session_config_entry({key!r}, {value!r})\n"
