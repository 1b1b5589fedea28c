"""Building the small models that a provider is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
#: ONNX element type of the activations of a form, by the name that planish has for it.
FLOATS = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
#: Rows of a probe are a symbolic batch times these, so that a provider has to show that it takes a dynamic batch.
BATCH, LENGTH = "batch", 16
#: Version of the ONNX file format by opset.
IR_VERSION = {20: 10, 21: 10, 22: 10, 23: 11}


class ProbeGraph:
    """A model with one input ``x`` or several, put together node by node; every constant is drawn from one seed.

    Args:
        dtype: of the activations: f32, f16 or bf16.
        opset: of the standard domain.
    """

    def __init__(self, dtype: str, opset: int = 21) -> None:
        self.dtype, self.opset = FLOATS[dtype], opset
        self._nodes: list[NodeProto] = []
        self._inputs: list[Any] = []
        self._initializers: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def input(self, name: str, shape: Sequence[int | str], kind: int | None = None) -> str:
        """An input of the model; of the activations' type unless told otherwise."""
        self._inputs.append(helper.make_tensor_value_info(name, self.dtype if kind is None else kind, shape))
        return name

    def floats(self, *shape: int, scale: float = 1.0, kind: int | None = None) -> str:
        """A constant of normally distributed numbers."""
        return self._float(self._random.standard_normal(shape) * scale, kind)

    def positive(self, *shape: int, scale: float = 1.0, kind: int | None = None) -> str:
        """A constant of numbers between ``scale / 2`` and ``scale``."""
        return self._float(self._random.uniform(scale / 2, scale, shape), kind)

    def _float(self, array: np.ndarray | np.floating, kind: int | None) -> str:
        wide = array.astype(np.float32)
        kind = self.dtype if kind is None else kind
        name = f"c{len(self._initializers)}"
        if kind == TensorProto.BFLOAT16:
            bits = ((wide.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
            raw = helper.make_tensor(name, kind, wide.shape, bits.tobytes(), raw=True)
            self._initializers.append(raw)
        else:
            held = wide.astype(np.float16) if kind == TensorProto.FLOAT16 else wide
            self._initializers.append(numpy_helper.from_array(held, name))
        return name

    def number(self, value: float) -> str:
        """A constant without axes."""
        return self._float(np.float32(value), None)

    def integers(self, *shape: int, low: int, high: int, dtype: Any) -> str:
        """A constant of integers in ``low .. high``, both ends included and both among them."""
        array = self._random.integers(low, high, shape, endpoint=True).astype(dtype)
        array.reshape(-1)[:2] = (low, high)
        return self.array(array)

    def choice(self, *shape: int, of: Sequence[int], dtype: Any) -> str:
        """A constant of integers that are among ``of``."""
        return self.array(self._random.choice(np.array(of), shape).astype(dtype))

    def array(self, array: Any) -> str:
        """A constant."""
        name = f"c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def int4(self, *shape: int) -> str:
        """A constant of int4 numbers."""
        count = int(np.prod(shape))
        packed = self._random.integers(0, 256, count // 2, dtype=np.uint8)
        name = f"c{len(self._initializers)}"
        self._initializers.append(helper.make_tensor(name, TensorProto.INT4, shape, packed.tobytes(), raw=True))
        return name

    def __call__(self, op: str, *inputs: str | None, domain: str = "", outputs: int = 1, **attrs: Any) -> Any:
        """Append a node; the name of its result, or of all of them."""
        names = [f"{op.lower()}{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, [i or "" for i in inputs], names, domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def model(self, result: str, rank: int, kind: int | None = None) -> ModelProto:
        """The model whose output is ``result``."""
        shape = [BATCH, *(f"d{i}" for i in range(1, rank))]
        output = helper.make_tensor_value_info(result, self.dtype if kind is None else kind, shape)
        graph = helper.make_graph(self._nodes, "probe", self._inputs, [output], self._initializers)
        domains = sorted({n.domain for n in self._nodes if n.domain})
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION[self.opset])
