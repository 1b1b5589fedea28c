"""ONNX files: read, checked, with their weights mapped in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from ...errors import CaptureError, UsageError
from ...types import DType
from .checking import check_graph, is_text
from .registry import STANDARD, domain_of
from .types import array_of, dtype_of, type_name

#: The newest version of the standard operators that is read.
NEWEST = 23
#: The oldest: before it, operators had other forms (attributes where inputs are now) that few files still hold.
OLDEST = 7


@dataclass(frozen=True)
class OnnxModel:
    """A model file.

    Attributes:
        proto: the model, external data left where it is.
        folder: where external data lies; None for a model that came without a file.
        name: for messages.
        digest: hex sha256 of the proto and, where it was read, of the external data's place and size.
    """

    proto: ModelProto
    folder: Path | None
    name: str
    digest: str

    @property
    def opsets(self) -> dict[str, int]:
        """Version per domain, the standard one as ``""``."""
        return {domain_of(o.domain): o.version for o in self.proto.opset_import}

    def array(self, tensor: TensorProto) -> tuple[np.ndarray, DType]:
        """The data of a tensor, from the file beside the model where it lies there.

        Raises:
            CaptureError: that file is missing, too short, or outside of the model's folder.
        """
        if uses_external_data(tensor):
            return _external(tensor, self.folder, self.name)
        dtype_of_tensor(tensor)  # says what is wrong with it
        return array_of(tensor)


def read_model(source: Any) -> OnnxModel:
    """Read a model.

    Args:
        source: the path of a ``.onnx`` file, or a ``ModelProto``.

    Raises:
        CaptureError: it is no ONNX model, it is damaged, it is newer than is understood, or its graph makes no sense.
        UsageError: there is no such file.
    """
    if isinstance(source, ModelProto):
        proto, folder, name = source, None, source.graph.name or "the model"
        data = source.SerializeToString(deterministic=True)
    else:
        path = Path(source)
        name = str(source)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"there is no file {name}", "give the path of a .onnx file") from None
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error.strerror}") from error
        proto, folder = ModelProto(), path.resolve().parent
        try:
            proto.ParseFromString(data)
        except DecodeError as error:
            raise CaptureError(f"{name} is no ONNX model, or it is damaged", "export it or copy it again") from error
    model = OnnxModel(proto, folder, name, hashlib.sha256(data).hexdigest())
    _check(model)
    return model


def _check(model: OnnxModel) -> None:
    proto, name = model.proto, model.name
    if not proto.opset_import or not (proto.graph.node or proto.graph.output) or not is_text(proto):
        raise CaptureError(f"{name} is no ONNX model, or it is damaged", "export it or copy it again")
    version = model.opsets.get(STANDARD)
    if version is not None and version > NEWEST:
        raise CaptureError(
            f"{name} uses opset {version} of ONNX, and opsets up to {NEWEST} are read",
            f"export it with opset {NEWEST}, or convert it: onnx.version_converter.convert_version(model, {NEWEST})",
        )
    if version is not None and version < OLDEST:
        raise CaptureError(
            f"{name} uses opset {version} of ONNX, and opsets from {OLDEST} on are read",
            "convert it: onnx.version_converter.convert_version(model, 17)",
        )
    for tensor in tensors(proto.graph):
        if uses_external_data(tensor):
            _place(tensor, model.folder, name)
    check_graph(proto, model.opsets, name)


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds: initializers, and constants in nodes and in bodies."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def _place(tensor: TensorProto, folder: Path | None, name: str) -> tuple[Path, int, int]:
    """File, offset and bytes of a tensor's external data.

    Raises:
        CaptureError: there is none, it is too short, or outside of the model's folder.
    """
    info = ExternalDataInfo(tensor)
    if folder is None:
        raise CaptureError(
            f"the weights of {name} lie in a file beside it ({info.location}), and a ModelProto has no place",
            "give the path of the file, or onnx.load it with its external data",
        )
    path = (folder / info.location).resolve()
    if not path.is_relative_to(folder):
        raise CaptureError(f"{name} wants weights from outside of its folder: {info.location}")
    offset = int(info.offset or 0)
    count = int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1
    dtype = dtype_of_tensor(tensor)
    halves = tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)  # two to a byte
    size = (count + 1) // 2 if halves else count * dtype.size
    try:
        have = path.stat().st_size
    except OSError:
        raise CaptureError(
            f"the weights of {name} are missing: there is no {info.location} beside it",
            "copy that file into the folder of the model",
        ) from None
    if offset + size > have:
        raise CaptureError(
            f"the weights of {name} are cut short: {info.location} has {have} bytes, and {tensor.name!r} ends at {offset + size}",
            "copy that file again",
        )
    return path, offset, size


def dtype_of_tensor(tensor: TensorProto) -> DType:
    """Element type of a stored tensor.

    Raises:
        CaptureError: there is no counterpart.
    """
    from ..unsupported import Unsupported

    try:
        return DType.u8 if tensor.data_type == TensorProto.UINT4 else dtype_of(tensor.data_type)
    except Unsupported:
        raise CaptureError(
            f"the tensor {tensor.name!r} holds {type_name(tensor.data_type)}, an element type that is not supported"
        ) from None


def _external(tensor: TensorProto, folder: Path | None, name: str) -> tuple[np.ndarray, DType]:
    path, offset, size = _place(tensor, folder, name)
    dtype = dtype_of_tensor(tensor)
    shape = tuple(tensor.dims)
    raw: Any = np.memmap(path, np.uint8, "r", offset, (size,)) if size else np.zeros(0, np.uint8)
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):  # the lower half first
        nibbles = np.stack([raw & 15, raw >> 4], -1).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
        signed = dtype is DType.i4
        return (((nibbles.astype(np.int8) ^ 8) - 8) if signed else nibbles).reshape(shape), dtype
    return np.asarray(raw).view(dtype.numpy).reshape(shape), dtype


def source_digest(model: OnnxModel, constants: Mapping[str, np.ndarray]) -> str:
    """Hex sha256 of a model and of the weights that lie beside it."""
    if not any(uses_external_data(t) for t in tensors(model.proto.graph)):
        return model.digest
    digest = hashlib.sha256(model.digest.encode())
    for name in sorted(constants):
        digest.update(f"{name} {constants[name].dtype} {constants[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(constants[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def bytes_on_disk(path: Path) -> int:
    """What a model file takes, together with the files beside it that hold its weights."""
    proto = ModelProto()
    proto.ParseFromString(path.read_bytes())
    beside = {ExternalDataInfo(t).location for t in tensors(proto.graph) if uses_external_data(t)}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in beside)
