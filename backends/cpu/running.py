"""A program that runs in this process straight from its shared object and its weights, without an artifact.

It is what measuring stands on: the runtime's way of a call (``planish.h``), with the weights where the runtime puts them,
in huge pages, and large tables that are only looked up mapped from a file.
"""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
import os
import tempfile
from collections.abc import Mapping
from ctypes import POINTER, byref, c_double, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np

from ...codegen.memory import weight_bytes
from ...codegen.program import Port, Program
from ...codegen.unit import describe, host_source
from ...compiler.dims import evaluate
from ...compiler.errors import PlanishError, UsageError
from . import toolchain

HUGE_PAGE = 2 << 20
#: Tables smaller than this are read along with their neighbours, as the runtime does it.
SMALL_TABLE = 1 << 20
_MADV_HUGEPAGE, _MAP_FIXED, _MAP_NORESERVE = 14, 0x10, 0x4000


class _Error(ctypes.Structure):
    """``planish_error``."""

    _fields_ = [("code", c_int32), ("where", c_int32), ("value", c_int64)]


@cache
def _host(path: str) -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(path)
    library.planish_host_table.restype = c_void_p
    return library, library.planish_host_table()


def host_table() -> int:
    """Address of the functions of a thread pool of measuring's own: its workers stay on the cores of whoever was first to
    need them, which must not happen to the pool that the process's models share.

    Raises:
        ToolchainError: it cannot be built.
    """
    source = toolchain.Source(host_source(), name="thread pool")
    return _host(str(toolchain.build([source], "portable", extra_flags=("-pthread",))))[1]


class Running:
    """A program, loaded and bound to its inputs; a context manager.

    Args:
        program: as lowered.
        binary: its shared object.
        inputs: an array for each input by name, of its type; others are ignored.
        dims: value of the symbols that the shapes of the inputs do not tell.
        threads: how many threads a call may use.
        weights: of the program, shared with another that runs it; closed by whoever made them. None: its own.

    Attributes:
        symbols: value of every symbol.

    Raises:
        UsageError: an input or symbol is missing, or does not fit.
        ToolchainError: the thread pool cannot be built.
        PlanishError: the program does not run on these inputs.
    """

    def __init__(
        self, program: Program, binary: bytes, inputs: Mapping[str, np.ndarray], dims: Mapping[str, int], threads: int,
        weights: Weights | None = None,
    ) -> None:  # fmt: skip
        self.program, self.threads = program, threads
        self.symbols = solve_symbols(program, inputs, dims)
        self._arrays = [_input(port, inputs[port.name], self.symbols) for port in program.inputs]
        self._outputs = [_zeros(port, self.symbols) for port in program.outputs]
        top = {name: upper for name, (_, upper) in program.symbols.items()}
        self._states = [_zeros(port, top) for port in program.states]
        self._seconds = (c_double * max(len(program.launches), 1))()
        self._library: ctypes.CDLL | None = None
        self._model, self._context = c_void_p(), c_void_p()
        self._own = Weights(program) if weights is None else None
        given = weights or self._own
        assert given is not None
        try:
            self._open(binary, given)
        except BaseException:
            self.close()
            raise

    def _open(self, binary: bytes, weights: Weights) -> None:
        table = host_table()
        library = self._library = _load(binary)
        error = _Error()
        library.planish_create.argtypes = [c_void_p, c_void_p, c_uint64, POINTER(c_void_p), POINTER(_Error)]
        library.planish_context_create.argtypes = [c_void_p, c_int32]
        library.planish_context_create.restype = c_void_p
        library.planish_set_timing.argtypes = [c_void_p, POINTER(c_double)]
        library.planish_destroy.argtypes = library.planish_context_destroy.argtypes = [c_void_p]
        library.planish_bind.argtypes = [c_void_p] * 5 + [POINTER(_Error)]
        library.planish_run_bound.argtypes = [c_void_p]
        code = library.planish_create(table, weights.address, weights.size, byref(self._model), byref(error))
        if code:
            raise PlanishError(f"the program cannot be set up to be timed (code {error.code})")
        self._context = c_void_p(library.planish_context_create(self._model, self.threads))
        if not self._context:
            raise PlanishError("there is no memory to time the program")
        values = (c_int64 * max(len(self.symbols), 1))(*self.symbols.values())
        places = [_pointers(arrays) for arrays in (self._arrays, self._outputs, self._states)]
        if library.planish_bind(self._context, places[0], values, places[1], places[2], byref(error)):
            raise PlanishError(f"the program does not run on the inputs that it is timed on (code {error.code})")
        self.run()

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """The arrays that every call fills, by name."""
        return {port.name: array for port, array in zip(self.program.outputs, self._outputs, strict=True)}

    def run(self) -> None:
        """Run it once.

        Raises:
            PlanishError: an index is out of range.
        """
        assert self._library is not None
        if self._library.planish_run_bound(self._context):
            raise PlanishError(
                "the program does not run on the inputs that it is timed on: an index is out of range",
                "give example inputs whose ids are smaller than the tables they pick from",
            )

    def time(self) -> list[float]:
        """Seconds of each launch of one call.

        Raises:
            PlanishError: as for :meth:`run`.
        """
        assert self._library is not None
        ctypes.memset(self._seconds, 0, ctypes.sizeof(self._seconds))
        self._library.planish_set_timing(self._context, self._seconds)
        try:
            self.run()
        finally:
            self._library.planish_set_timing(self._context, None)
        return list(self._seconds)[: len(self.program.launches)]

    def close(self) -> None:
        """Free all of it."""
        if self._library is not None:
            if self._context:
                self._library.planish_context_destroy(self._context)
            if self._model:
                self._library.planish_destroy(self._model)
            handle, self._library = self._library._handle, None
            self._context, self._model = c_void_p(), c_void_p()
            _ctypes.dlclose(handle)  # a search times many programs in one process
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def solve_symbols(program: Program, inputs: Mapping[str, np.ndarray], dims: Mapping[str, int]) -> dict[str, int]:
    """The value of every symbol: as given, else what stands for it in the shape of an input.

    Raises:
        UsageError: an input or a symbol is missing, or out of its bounds.
    """
    told: dict[str, int] = {}
    for port in program.inputs:
        if port.name not in inputs:
            raise UsageError(f"there is no input {port.name} to time the program on")
        for dim, size in zip(port.shape, np.shape(inputs[port.name]), strict=False):
            told.setdefault(str(dim), int(size))
    found = {}
    for name, (lower, upper) in program.symbols.items():
        value = dims.get(name, told.get(name))
        if value is None:
            raise UsageError(f"the workload does not say how large {name} is", f"give it as {{{name!r}: ...}}")
        if not lower <= value <= upper:
            raise UsageError(f"{name} is {value} and has to be {lower} to {upper}")
        found[name] = value
    return found


def _input(port: Port, array: np.ndarray, symbols: Mapping[str, int]) -> np.ndarray:
    wanted = tuple(evaluate(dim, symbols) for dim in port.shape)
    if array.dtype != port.dtype.numpy or array.shape != wanted:
        raise UsageError(
            f"the input {port.name} to time the program on is {array.dtype}{list(array.shape)} and has to be "
            f"{port.dtype.numpy}{list(wanted)}"
        )
    return np.ascontiguousarray(array)


def _zeros(port: Port, symbols: Mapping[str, int]) -> np.ndarray:
    return np.zeros(tuple(evaluate(dim, symbols) for dim in port.shape), port.dtype.numpy)


def _pointers(arrays: list[np.ndarray]) -> ctypes.Array[c_void_p]:
    return (c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))


def _load(binary: bytes) -> ctypes.CDLL:
    """The shared object, from a file that is gone as soon as it is loaded; it lies where built code can be loaded from."""
    folder = toolchain.cache_directory() / "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(binary)
        return ctypes.CDLL(path)
    finally:
        os.unlink(path)


class Weights:
    """The packed weights of a program in memory, as the runtime places them (``runtime/weights.py``); a context manager.

    Attributes:
        address: where they start; valid until ``close``.
        size: their bytes.

    Raises:
        PlanishError: there is no memory for them.
    """

    def __init__(self, program: Program) -> None:
        self.size = weight_bytes(program)
        self.address, self._length, self._region = 0, 0, 0
        if not self.size:
            return
        self._libc = _libc()
        self._length = self.size + HUGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._region = self._map(None, self._length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        self.address = -(-self._region // HUGE_PAGE) * HUGE_PAGE
        try:
            self._libc.madvise(self.address, self.size, _MADV_HUGEPAGE)
            for entry, array in zip(describe(program)["weights"], program.weights, strict=True):
                self._place(entry, array)
        except BaseException:
            self.close()
            raise

    def _place(self, entry: Mapping[str, Any], array: Any) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        begin, end = entry["offset"], entry["offset"] + data.nbytes
        page = mmap.PAGESIZE
        first, last = -(-begin // page) * page, end // page * page  # the whole pages inside
        if not entry["gathered"] or data.nbytes < SMALL_TABLE:
            first = last = end
        self._copy(begin, data[: first - begin])
        if first < last:
            # A look-up touches few rows of a table: mapped from a file, the rest of it takes no memory.
            folder = toolchain.cache_directory()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(data[first - begin : last - begin].data)
                file.flush()
                flags = mmap.MAP_PRIVATE | _MAP_FIXED
                self._map(self.address + first, last - first, mmap.PROT_READ, flags, file.fileno(), 0)
        self._copy(last, data[last - begin :])

    def _copy(self, offset: int, data: np.ndarray) -> None:
        if data.nbytes:
            ctypes.memmove(self.address + offset, data.ctypes.data, data.nbytes)

    def _map(self, address: int | None, length: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
        found = self._libc.mmap(address, length, protection, flags, descriptor, offset)
        if found in (None, c_void_p(-1).value):
            raise PlanishError("there is no memory to time the program")
        return int(found)

    def close(self) -> None:
        """Unmap them."""
        if self._region:
            self._libc.munmap(self._region, self._length)
            self._region = 0

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, c_void_p, ctypes.c_int
    library.mmap.restype = pointer
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    library.munmap.argtypes = [pointer, size]
    library.madvise.argtypes = [pointer, size, number]
    return library
