"""Emitters of matrix products: in floats, on integers, and on narrow weights, in the form that the provider runs fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.types import DType, bf16_to_float
from .emitter import Emitter, emits
from .probe_graph import MICROSOFT

#: Sizes of the groups of weights that MatMulNBits knows.
_BLOCKS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Quantised:
    """A dequantised constant weight ``[out, in]``.

    Attributes:
        values: int8 numbers, those of int4 included.
        scale: f32 ``[out, groups]``.
        bits: 8 or 4.
    """

    values: np.ndarray
    scale: np.ndarray
    bits: Literal[4, 8]

    @property
    def group(self) -> int:
        """How many neighbours share a scale."""
        return int(self.values.shape[1]) // int(self.scale.shape[1])

    def floats(self) -> np.ndarray:
        """f32 ``[out, in]``."""
        return self.values.astype(np.float32) * np.repeat(self.scale, self.group, axis=1)


def quantised_weight(graph: Graph, weight: Value | None) -> Quantised | None:
    """The integers of a weight that is a symmetric dequantised constant with a scale for each output or group; None if it is
    something else."""
    node = None if weight is None else weight.node
    if node is None or node.op != "dequantize" or len(node.operands) != 2:
        return None
    q, s = node.operands
    values, scale = graph.array(q), graph.array(s)
    if values is None or scale is None or values.ndim != 2 or q.dtype not in (DType.i8, DType.i4):
        return None
    if scale.size == 1:
        scale = np.broadcast_to(scale.reshape(1, 1), (values.shape[0], 1))
    if scale.ndim != 2 or scale.shape[0] != values.shape[0] or not scale.shape[1] or values.shape[1] % scale.shape[1]:
        return None
    return Quantised(np.asarray(values), np.asarray(scale, np.float32), 4 if q.dtype is DType.i4 else 8)


def quantised_activation(graph: Graph, x: Value | None) -> tuple[Value, Value, Value | None] | None:
    """(integers, scale, zero point) of a value that is dequantised from int8 or uint8 with one scale for all of it."""
    node = None if x is None else x.node
    if node is None or node.op != "dequantize" or graph.array(x) is not None:
        return None
    q, scale, *zero = node.operands
    whole = all(v.type.elements == 1 and v.type.rank <= 1 for v in (scale, *zero))
    if not whole or graph.array(q) is not None or q.dtype not in (DType.i8, DType.u8):
        return None
    return q, scale, zero[0] if zero else None


Takes = Callable[[str], bool]
Way = Literal["integers", "qdq", "blocks", "int4", "floats"]


def way_of(graph: Graph, takes: Takes, node: Node) -> Way:
    """How a linear is written for a provider that ``takes`` some forms.

    ``integers``: MatMulIntegerToFloat on the integers of x. ``qdq``: MatMul between DequantizeLinear and QuantizeLinear, for a
    provider that recognises it. ``blocks``: MatMulNBits. ``int4``: MatMul on an int4 constant. ``floats``: MatMul on floats.
    """
    weight = quantised_weight(graph, node.inputs[1])
    if weight is None or node.output.dtype is not DType.f32:
        return "floats"
    x = quantised_activation(graph, node.inputs[0])
    if x is not None and weight.bits == 8 and weight.scale.shape[1] == 1:
        unsigned = x[0].dtype is DType.u8
        if unsigned and (_signed_weights(graph, takes, x[1]) or takes("dynamic-u8u8-linear")):
            return "integers"
        if takes(f"qdq-{'u8' if unsigned else 's8'}s8-linear"):
            return "qdq"
    if x is None:
        if _block(weight) and (takes(f"matmul-nbits-{weight.bits}") or takes(f"matmul-nbits-{weight.bits}-int8")):
            return "blocks"
        if weight.bits == 4 and takes("dequantize-int4-linear"):
            return "int4"
    return "floats"


def rounded_inputs(graph: Graph, takes: Takes, node: Node) -> bool:
    """Whether the form that a linear with narrow weights is written in rounds its input to int8, block by block."""
    weight = quantised_weight(graph, node.inputs[1])
    return weight is not None and way_of(graph, takes, node) == "blocks" and takes(f"matmul-nbits-{weight.bits}-int8")


def _signed_weights(graph: Graph, takes: Takes, scale: Value) -> bool:
    """Whether the provider multiplies uint8, scaled by ``scale``, with int8. CPUs without VNNI saturate there and multiply uint8
    with uint8 instead."""
    kind = "dynamic" if graph.array(scale) is None else "static"
    return takes(f"{kind}-u8s8-linear")


def _block(weight: Quantised) -> int:
    """The size of the blocks that MatMulNBits is given: the group, or where that is a whole row the largest that divides it."""
    if weight.group in _BLOCKS:
        return weight.group
    inputs = int(weight.values.shape[1])
    return next((b for b in reversed(_BLOCKS) if inputs % b == 0 and weight.group % b == 0), 0)


@emits("linear")
def _linear(at: Emitter, node: Node) -> str:
    way = way_of(at.graph, at.takes, node)
    if way == "integers":
        return _integers(at, node)
    if way == "blocks":
        return _blocks(at, node)
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None and weight is not None
    work = DType.f16 if at.half and x.dtype is DType.f16 else at.wide(x.dtype)
    work = at.work(work, "MatMul")
    product = at.op("MatMul", [at.cast(at.name(x), work), _matrix(at, weight, work, way)], dtype=work)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        product = at.op("Add", [product, at.cast(at.name(bias), work)], dtype=work)
    return at.cast(product, node.output.dtype)


def _matrix(at: Emitter, weight: Value, work: DType, way: Way) -> str:
    """``[in, out]`` of a weight ``[out, in]``, in ``work``."""
    integers = quantised_weight(at.graph, weight)
    if integers is not None and way in ("qdq", "int4"):
        numbers = DType.i4 if way == "int4" else DType.i8
        q = at.constant(np.ascontiguousarray(integers.values.T), _stem(weight), numbers)
        blocks: dict[str, Any] = {"block_size": integers.group} if integers.scale.shape[1] > 1 else {}
        steps = np.ascontiguousarray(integers.scale.T) if blocks else integers.scale.reshape(-1)
        axis = 0 if blocks else 1
        return str(at.op("DequantizeLinear", [q, at.constant(steps, "scale")], axis=axis, dtype=DType.f32, **blocks))
    array = integers.floats() if integers is not None else at.graph.array(weight)
    if array is None:
        name = at.op("Transpose", [at.name(weight)], perm=[1, 0], dtype=weight.dtype)
        return at.cast(name, work)
    if integers is None and weight.dtype is DType.bf16:
        array = bf16_to_float(array)
    return at.constant(np.ascontiguousarray(np.asarray(array).T.astype(work.numpy)), _stem(weight), work)


def _stem(weight: Value) -> str:
    node = weight.node
    if node is not None and node.op == "dequantize":
        return _stem(node.operands[0])
    return str(node.attrs["ref"]) if node is not None and node.op == "constant" else weight.name


def _integers(at: Emitter, node: Node) -> str:
    """The sum of the products of integers is exact; the scales and the bias are applied in f32."""
    found, weight = quantised_activation(at.graph, node.inputs[0]), quantised_weight(at.graph, node.inputs[1])
    assert found is not None and weight is not None and node.inputs[1] is not None
    q, scale, zero = found
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    numbers, w_zero = np.ascontiguousarray(weight.values.T), None
    if not _signed_weights(at.graph, at.takes, scale):
        numbers = (numbers.astype(np.int16) + 128).astype(np.uint8)
        w_zero = at.constant(np.full(numbers.shape[1], 128, np.uint8), "zero")
    matrix = at.constant(numbers, _stem(node.inputs[1]))
    steps = at.constant(weight.scale.reshape(-1), f"{_stem(node.inputs[1])}.scale")
    inputs = [
        at.name(q), matrix, at.name(scale), steps, None if zero is None else at.name(zero), w_zero,
        None if bias is None else at.name(bias),
    ]  # fmt: skip
    name = at.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT, dtype=DType.f32)
    at.declare(name, DType.f32, node.output.shape)
    return str(name)


def _blocks(at: Emitter, node: Node) -> str:
    """Weights as MatMulNBits keeps them: unsigned around 128 or 8, ``[out, blocks, bytes]``, the low half of a byte first."""
    x, weight = node.inputs[0], quantised_weight(at.graph, node.inputs[1])
    assert x is not None and weight is not None and node.inputs[1] is not None
    outputs, inputs = weight.values.shape
    size, bits = _block(weight), weight.bits
    count = inputs // size
    unsigned: np.ndarray = (weight.values.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    packed = at.constant(unsigned.reshape(outputs, count, size * bits // 8), _stem(node.inputs[1]))
    steps = np.repeat(weight.scale, count // weight.scale.shape[1], axis=1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    name = at.op(
        "MatMulNBits",
        [at.cast(at.name(x), DType.f32), packed, at.constant(np.ascontiguousarray(steps), f"{_stem(node.inputs[1])}.scale"),
         None, None, None if bias is None else at.name(bias)],
        domain=MICROSOFT, dtype=DType.f32, K=inputs, N=outputs, bits=bits, block_size=size,
        accuracy_level=4 if rounded_inputs(at.graph, at.takes, node) else 1,
    )  # fmt: skip
    at.declare(name, DType.f32, node.output.shape)
    return str(name)


@emits("matmul")
def _matmul(at: Emitter, node: Node) -> str:
    a, b = node.operands
    work = DType.f16 if at.half and a.dtype is DType.f16 else at.wide(a.dtype)
    work = at.work(work, "MatMul")
    product = at.op("MatMul", [at.cast(at.name(v), work) for v in (a, b)], dtype=work)
    return at.cast(product, node.output.dtype)
