"""The constants of an ONNX model: small ones in the model, the rest behind one another in a file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from ...compiler.deferred import Constant, Deferred
from ...compiler.types import DType
from .element_types import ONNX_TYPE, pack_i4
from .unit import ALIGNMENT, EXTERNAL_BYTES, EXTERNAL_LOCATION


class Initializers:
    """Constants by name; equal ones are kept once."""

    def __init__(self) -> None:
        self._protos: list[TensorProto] = []
        self._outside: dict[str, Constant] = {}
        self._known: dict[Any, str] = {}
        self._alive: list[Constant] = []  # an id means something only while its array lives

    def add(self, array: Constant, dtype: DType, shape: tuple[int, ...], hint: str, fresh: Callable[..., str]) -> str:
        """The name of an initializer with this data; ``fresh`` makes new names.

        Raises:
            ValueError: the elements are more or fewer than the shape holds.
        """
        count = int(np.prod(shape, dtype=np.int64))
        if count != int(np.prod(array.shape, dtype=np.int64)):
            raise ValueError(f"{list(array.shape)} elements do not fill {list(shape)}")
        size = (count + 1) // 2 if dtype is DType.i4 else array.nbytes
        key: Any
        if size < EXTERNAL_BYTES:
            data = _raw(np.asarray(array), dtype)
            key = (dtype, shape, hashlib.sha256(data).digest())
        else:
            key = (dtype, shape, id(array))
        if key in self._known:
            return self._known[key]
        name = fresh(hint or "constant", plain=True)
        proto = TensorProto(name=name, data_type=ONNX_TYPE[dtype], dims=shape)
        if size < EXTERNAL_BYTES:
            proto.raw_data = data
        else:
            self._alive.append(array)
            self._outside[name] = _stored(array, dtype, size)
        self._protos.append(proto)
        self._known[key] = name
        return name

    def place(self, read: Container[str]) -> Placed:
        """Those of the constants that are read, with a place for each that lies outside of the model."""
        placed = Placed([], [], [], 0)
        for proto in self._protos:
            if proto.name not in read:
                continue
            placed.protos.append(proto)
            if proto.name in self._outside:
                placed.append(proto, self._outside[proto.name])
        return placed


@dataclass
class Placed:
    """The constants of a finished model.

    Attributes:
        protos: the initializers, external ones with offset and length filled in.
        weights: the external arrays, in the order of their offsets.
        index: what the manifest says of each of them.
        bytes: length of the file.
    """

    protos: list[TensorProto]
    weights: list[Constant]
    index: list[dict[str, Any]]
    bytes: int

    def append(self, proto: TensorProto, array: Constant) -> None:
        """Give ``proto`` the next place."""
        offset = -(-self.bytes // ALIGNMENT) * ALIGNMENT
        proto.data_location = TensorProto.EXTERNAL
        del proto.external_data[:]
        for key, value in (("location", EXTERNAL_LOCATION), ("offset", offset), ("length", array.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        self.weights.append(array)
        self.index.append({
            "name": proto.name, "offset": offset, "bytes": array.nbytes, "dtype": str(array.dtype),
            "shape": list(array.shape), "gathered": False,
        })  # fmt: skip
        self.bytes = offset + array.nbytes


def _stored(array: Constant, dtype: DType, size: int) -> Constant:
    """The array as the file holds it."""
    if dtype is not DType.i4:
        return array
    if isinstance(array, Deferred):
        return Deferred(lambda: pack_i4(np.asarray(array)), (size,), np.dtype(np.uint8))
    return pack_i4(array)


def _raw(array: np.ndarray, dtype: DType) -> bytes:
    stored = pack_i4(array) if dtype is DType.i4 else np.ascontiguousarray(array, dtype=dtype.numpy)
    return stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
