"""What a caller hands in, as contiguous numpy arrays of the right type; one sentence for what does not fit."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from .errors import InputError
from .shapes import Port

#: Element types by their name in the manifest. numpy has no bfloat16: its bits travel as ``uint16``.
DTYPES: dict[str, np.dtype] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "no inputs"


def collect(
    ports: Sequence[Port], args: Sequence[Any], kwargs: Mapping[str, Any], source_only: Sequence[str] = ()
) -> list[Any]:
    """The inputs in the order of ``ports``, from positional and named arguments.

    Args:
        ports: the inputs of the model.
        args: positional arguments.
        kwargs: named arguments.
        source_only: names that the source model takes but the compiled one does not.

    Raises:
        InputError: a name is unknown, missing or given twice, or there are too many positional arguments.
    """
    names = [port.name for port in ports]
    takes = f"it takes {listed(names)}"
    if len(args) > len(names):
        raise InputError(f"{len(args)} inputs were given and this model takes {len(names)}", takes)
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise InputError(f"the input {name} was given twice, by position and by name")
        if name not in names:
            if name in source_only:
                raise InputError(
                    f"this model was compiled without the input {name}; {takes}",
                    f"leave {name} out, or compile the model with it among args or kwargs",
                )
            near = get_close_matches(name, names, 1, 0.7)
            fix = f"did you mean {near[0]}?" if near else f"leave {name} out"
            raise InputError(f"the model does not take an input {name}; {takes}", fix)
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"the input {listed(missing)} is missing", takes)
    return [given[name] for name in names]


def as_array(value: Any, port: Port) -> np.ndarray:
    """``value`` as an aligned, C-contiguous array of the type of ``port``; copied only where it is neither.

    Args:
        value: a numpy array or scalar, or a tensor in CPU memory that speaks DLPack.
        port: the input it is for.

    Raises:
        InputError: it is no tensor, not in CPU memory, or has another element type.
    """
    wanted = DTYPES[port.dtype]
    if not isinstance(value, (np.ndarray, np.generic)):
        value = _from_dlpack(value, port)
    array = np.asarray(value)
    if array.dtype != wanted:
        if port.dtype == "bf16" and array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        else:
            raise InputError(
                f"{port.name} has the type {array.dtype} and this model takes {_numpy_name(port)}",
                f"convert it: {port.name}.astype({_numpy_name(port)!r})"
                if port.dtype != "bf16"
                else "pass the bits as uint16",
            )
    if array.dtype is not wanted or not (array.flags.c_contiguous and array.flags.aligned):
        array = np.array(array, dtype=wanted, order="C", copy=True)
    return array


def _numpy_name(port: Port) -> str:
    return "bfloat16 bits in uint16" if port.dtype == "bf16" else DTYPES[port.dtype].name


def _from_dlpack(value: Any, port: Port) -> np.ndarray:
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            f"{port.name} is a {type(value).__name__} and has to be a tensor",
            f"pass a numpy array, for example numpy.array(..., dtype={DTYPES[port.dtype].name!r})",
        )
    device = value.__dlpack_device__()[0]
    if int(device) not in (1, 3, 11):  # CPU, and the memory of a GPU's host that the CPU can read
        raise InputError(f"{port.name} is not in CPU memory", f"pass {port.name}.cpu()")
    try:
        return np.from_dlpack(_Bits(value) if port.dtype == "bf16" else value)  # type: ignore[arg-type]
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        hint = f"pass {port.name}.detach()" if "grad" in str(error) else "pass a numpy array"
        raise InputError(f"{port.name} cannot be read as a tensor: {error}", hint) from None


class _DLTensor(ctypes.Structure):
    """The head of ``DLManagedTensor``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


class _Bits:
    """A bfloat16 tensor that presents itself as uint16, because numpy knows no bfloat16."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: object) -> object:
        capsule = self._value.__dlpack__()  # unversioned: its struct is the capsule's own
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
        if tensor.code == 4 and tensor.bits == 16:  # kDLBfloat
            tensor.code = 1  # kDLUInt
        return capsule
