"""Parameters, buffers and example inputs as numpy arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ..types import DType
from .symbols import Unsupported

TORCH_TO_DTYPE = {
    torch.float64: DType.f64, torch.float32: DType.f32, torch.float16: DType.f16, torch.bfloat16: DType.bf16,
    torch.int64: DType.i64, torch.int32: DType.i32, torch.int16: DType.i16, torch.int8: DType.i8, torch.uint8: DType.u8,
    torch.bool: DType.bool,
}  # fmt: skip
DTYPE_TO_TORCH = {ours: theirs for theirs, ours in TORCH_TO_DTYPE.items()}


def dtype_of(dtype: torch.dtype) -> DType:
    """The element type for a torch one.

    Raises:
        Unsupported: complex, quantised or another type without a counterpart.
    """
    try:
        return TORCH_TO_DTYPE[dtype]
    except KeyError:
        raise Unsupported(f"the element type {str(dtype).removeprefix('torch.')} is not supported") from None


def peculiarity(value: object) -> str | None:
    """What makes a tensor one that has no place in the IR, as half a sentence; None for a plain one. Looks into lists."""
    if isinstance(value, (list, tuple)):
        return next((found for item in value if (found := peculiarity(item)) is not None), None)
    if not isinstance(value, torch.Tensor):
        return None
    if value.is_nested:
        return "it works on nested tensors"
    if value.layout is not torch.strided:
        return "it works on sparse tensors"
    if value.dtype.is_complex:
        return "it works on complex numbers"
    if value.is_quantized:
        return "it works on quantised tensors"
    if free_unbacked_symbols(value):
        return "the size of its result depends on the data"
    return None


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The data of ``tensor``, C-contiguous and shared where it already is; bf16 as ``uint16`` bits.

    Raises:
        Unsupported: sparse, quantised or nested tensors, or an element type without a counterpart.
    """
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise Unsupported(f"{str(tensor.layout).removeprefix('torch.')} tensors are not supported")
    dtype = dtype_of(tensor.dtype)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dtype is DType.bf16:
        return plain.view(torch.int16).numpy().view(np.uint16)
    return plain.numpy()


def to_torch(array: np.ndarray, dtype: DType) -> torch.Tensor:
    """The inverse of :func:`to_numpy`, as a copy."""
    if dtype is DType.bf16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same data seen the same way (tied weights)."""
    empty = tensor.numel() == 0
    try:
        place = id(tensor) if empty else tensor.data_ptr()
    except RuntimeError:
        raise Unsupported("a tensor of the trace is used as if it were a weight") from None
    return (place, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))
