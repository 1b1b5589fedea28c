"""The constants of an ONNX model: small ones in the model, the rest behind one another in a file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from ...compiler.deferred import Constant, Deferred
from ...compiler.types import DType
from .element_types import ONNX_TYPE, pack_i4
from .unit import ALIGNMENT, EXTERNAL_BYTES, EXTERNAL_LOCATION


class Initializers:
    """Constants by name; equal ones are kept once.

    Attributes:
        protos: the initializers, external ones with offset and length filled in.
        weights: the external arrays, in the order of their offsets.
        index: what the manifest says of each of them.
        bytes: length of the file.
    """

    def __init__(self) -> None:
        self.protos: list[TensorProto] = []
        self.weights: list[Constant] = []
        self.index: list[dict[str, Any]] = []
        self.bytes = 0
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
            self._keep_outside(proto, array, dtype, size)
        self.protos.append(proto)
        self._known[key] = name
        return name

    def _keep_outside(self, proto: TensorProto, array: Constant, dtype: DType, size: int) -> None:
        stored: Constant = array
        if dtype is DType.i4:
            stored = (
                Deferred(lambda: pack_i4(np.asarray(array)), (size,), np.dtype(np.uint8))
                if isinstance(array, Deferred)
                else pack_i4(array)
            )
        offset = -(-self.bytes // ALIGNMENT) * ALIGNMENT
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", EXTERNAL_LOCATION), ("offset", offset), ("length", size)):
            proto.external_data.add(key=key, value=str(value))
        self.weights.append(stored)
        self.index.append(
            {
                "name": proto.name, "offset": offset, "bytes": size, "dtype": str(stored.dtype), "shape": list(stored.shape),
                "gathered": False,
            }
        )  # fmt: skip
        self.bytes = offset + size


def _raw(array: np.ndarray, dtype: DType) -> bytes:
    stored = pack_i4(array) if dtype is DType.i4 else np.ascontiguousarray(array, dtype=dtype.numpy)
    return stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
