"""What one call costs when the model does next to nothing: ``python -m planish.bench.overhead``.

A relu over 16 floats, called as a user would call it: numpy in, a fresh numpy array out. Printed as JSON, microseconds.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .machine import CACHE, cores, pin

#: calls that are timed together, and how often
CALLS, ROUNDS = 2000, 15


def one_op_onnx() -> bytes:
    """The same model for the peers."""
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in ("x", "y")]
    graph = helper.make_graph([node], "one-op", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def peers(x: Any) -> dict[str, Callable[[], object]]:
    """ONNX Runtime and OpenVINO, one thread each."""
    import onnxruntime
    import openvino

    model = one_op_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    return {
        "ONNX Runtime": lambda: session.run(None, {"x": x})[0],
        "OpenVINO": lambda: request.infer({"x": x}, share_inputs=True)[0],
    }


def ours(x: Any) -> dict[str, Callable[[], object]]:
    """A plain call and a bound one."""
    import planish

    model: Any = planish.load(str(CACHE / "artifacts" / "one-op.planish"), threads=1)
    bound = model.bind(x=x)
    return {"planish": lambda: model(x=x), "planish, bound": bound}


def main() -> None:
    """Time all of them, interleaved."""
    pin(cores(1))
    warnings.filterwarnings("ignore")
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    for name, make in (("planish", ours), ("peers", peers)):
        try:
            calls.update(make(x))
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    samples: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(100):
                call()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            samples[name].append(1e6 * (time.perf_counter() - start) / CALLS)
    medians = {name: round(statistics.median(values), 2) for name, values in samples.items()}
    print(json.dumps({"microseconds": medians, "failed": failed}))


if __name__ == "__main__":
    main()
