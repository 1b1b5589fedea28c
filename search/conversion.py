"""Values of data as arrays of the type and shape that an input of the model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..compiler.dims import Dim, evaluate, symbols
from ..compiler.sizes import sizes_of
from ..compiler.types import DType, bf16_to_float, float_to_bf16
from .layout import Layout


class Unfit(Exception):
    """A part of a sample does not fit the model; the reader says which sample."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        """Message and hint as of ``PlanishError``."""
        super().__init__(message)
        self.hint = hint


def as_array(value: Any, name: str) -> np.ndarray:
    """A numpy array of anything that holds numbers, copied; PyTorch's bfloat16 becomes float32.

    Raises:
        Unfit: it holds something else.
    """
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        value = value.numpy()
    try:
        array = np.array(value)
    except ValueError:
        raise Unfit(f"{name} is a list of rows that differ in length") from None
    if array.dtype == object:
        raise Unfit(f"{name} holds {type(value).__name__} values, not numbers")
    return array


def converted(value: Any, dtype: DType, name: str) -> np.ndarray:
    """``value`` as an array of ``dtype`` (bf16 as ``uint16`` bits): integers and booleans where no value changes, floats rounded.

    Raises:
        Unfit: it holds no numbers, a value would change, or a float is NaN or infinite.
    """
    array = as_array(value, name)
    kind = array.dtype.kind
    wanted = dtype.value
    if kind not in "biuf":
        raise Unfit(f"{name} holds {_kind(array)}, and the model takes {wanted}")
    if dtype is DType.bf16 and array.dtype == np.uint16:
        return array  # its bits
    if dtype.is_float:
        finite = np.isfinite(array)
        if not finite.all():
            at = np.argwhere(~finite)[0].tolist()
            bad = "NaN" if np.isnan(array[tuple(at)]) else "an infinite number"
            raise Unfit(f"{name} holds {bad} at {at}", "a mask of -inf can be made of the least finite number")
        with np.errstate(over="ignore"):
            bits = float_to_bf16(array.astype(np.float32)) if dtype is DType.bf16 else None
            made = array.astype(dtype.numpy) if bits is None else bf16_to_float(bits)
        over = ~np.isfinite(made)
        if over.any():
            raise Unfit(f"{name} holds {array[over].flat[0]:g}, which is too large for {wanted}")
        if kind != "f" and (made != array).any():
            raise Unfit(f"{name} holds {array[made != array].flat[0]}, which {wanted} does not hold")
        return made if bits is None else bits
    if kind == "f":
        raise Unfit(f"{name} holds {_kind(array)}, and the model takes {wanted}", "convert it where the data is made")
    made = array.astype(dtype.numpy)
    changed = made != array
    if changed.any():
        raise Unfit(f"{name} holds {array[changed].flat[0]}, and the model takes {wanted}")
    return made


def _kind(array: np.ndarray) -> str:
    return {"U": "text", "S": "text", "c": "complex numbers"}.get(array.dtype.kind, str(array.dtype))


def fit_shapes(inputs: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Compare the shapes of one sample (batch axis of size 1) with the model's.

    Raises:
        Unfit: a size is another than the model's, out of its bounds, or two inputs do not agree.
    """
    sizes = sizes_of(layout.inputs, inputs)
    if layout.symbol is not None:
        sizes[layout.symbol] = 1
    for port in layout.inputs:
        array = inputs[port.name]
        for axis, (dim, size) in enumerate(zip(port.shape, array.shape, strict=True)):
            if dim == layout.symbol_dim or any(s not in sizes for s in symbols(dim)):
                continue
            if evaluate(dim, sizes) != size:
                raise Unfit(_mismatch(port.name, port.shape, array.shape, axis, layout, sizes))
    for name, size in sizes.items():
        low, high = layout.bounds[name]
        if name != layout.symbol and not low <= size <= high:
            raise Unfit(f"{name} is {size}, and the model was exported for {low}..{high}")


def _mismatch(
    name: str, dims: tuple[Dim, ...], shape: tuple[int, ...], axis: int, layout: Layout, sizes: Mapping[str, int]
) -> str:
    text = f"{name} has the shape {list(shape)}, and the model takes [{', '.join(map(str, dims))}]"
    dim = dims[axis]
    if isinstance(dim, int):
        return text
    return f"{text}, where {', '.join(f'{s} is {sizes[s]}' for s in sorted(symbols(dim)))} in another input"
