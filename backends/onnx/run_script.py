"""The script that lies beside an exported model: it runs it with numpy and ``onnxruntime`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runtime.onnx_session import CPU, Settings

_HEAD = '''"""Runs model.onnx: python run.py [IN.npz [OUT.npz]]. Needs numpy and {package}."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).resolve().parent
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
'''

_BUILT_IN = """if {provider!r} not in ort.get_available_providers():
    sys.exit("{provider} is not in this build of ONNX Runtime: pip install {package}")
session = ort.InferenceSession(here / "model.onnx", options, providers={providers}, enable_fallback=0)
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

_INPUTS = """if len(sys.argv) > 1:
    inputs = dict(np.load(sys.argv[1]))
else:
    random = np.random.default_rng(0)
    example = json.loads((here / "session.json").read_text())["example"]
    inputs = {name: random.uniform(0, 2, e["shape"]).astype(e["dtype"]) for name, e in example.items()}
"""

_RUN = """names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, inputs)))
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


names = [o.name for o in session.get_outputs()]
found = session.run_with_ort_values(names, {{n: value(n, np.ascontiguousarray(a)) for n, a in inputs.items()}})
outputs = {{n: bits(v) for n, v in zip(names, found)}}
"""

_TAIL = """for name, array in outputs.items():
    print(name, array.dtype, array.shape, array.ravel()[:4])
if len(sys.argv) > 2:
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
        "level": "ORT_ENABLE_ALL" if settings.optimize else "ORT_DISABLE_ALL",
    }  # fmt: skip
    config = "".join(f"options.add_session_config_entry({k!r}, {v!r})\n" for k, v in settings.config.items())
    open_it = _PLUGIN if settings.plugin else _BUILT_IN
    run = _RUN
    if any(port["dtype"] == "bf16" for port in (*manifest["inputs"], *manifest["outputs"])):
        run = _RUN_BITS.format(bits=sorted(port["name"] for port in manifest["inputs"] if port["dtype"] == "bf16"))
    return "".join([_HEAD.format(**names), config, open_it.format(**names), _INPUTS, run, _TAIL])
