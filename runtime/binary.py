"""Native code of an artifact: loading it from memory, and the C ABI as ctypes declares it.

Code is loaded from an anonymous file in memory, so that a read-only container whose folders are all mounted noexec works;
where the kernel forbids that, from a private folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from .errors import ArtifactError

ABI = HOST_ABI = 1


class UnitError(ctypes.Structure):
    """``planish_error``."""

    _fields_ = [("code", c_int32), ("where", c_int32), ("value", c_int64)]


#: ``planish_error.code``.
OK, INDEX, SYMBOL, MEMORY, NULL, ABI_MISMATCH, WEIGHTS, UNBOUND = range(8)

_loaded: dict[str, ctypes.CDLL] = {}
_spelled: dict[int, int] = {}


def load_code(data: bytes, name: str) -> ctypes.CDLL:
    """The shared object ``data``, loaded once per process; ``name`` is what debuggers show.

    Raises:
        ArtifactError: it cannot be loaded here.
    """
    key = hashlib.sha256(data).hexdigest()
    if key not in _loaded:
        _loaded[key] = _load(data, name, key)
    return _loaded[key]


def _load(data: bytes, name: str, key: str) -> ctypes.CDLL:
    reasons = []
    for way in (_from_memory, _from_folder):
        try:
            return way(data, name, key)
        except OSError as error:
            reasons.append(str(error))
    raise ArtifactError(
        f"the code of the artifact cannot be loaded: {reasons[-1]}",
        "set XDG_CACHE_HOME to a private folder on a file system that allows running code",
    )


def _from_memory(data: bytes, name: str, key: str) -> ctypes.CDLL:
    descriptor = os.memfd_create(f"planish-{name}", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        # The loader takes a path it has seen for the same library, and descriptors are used again: spell it anew.
        spelled = _spelled.get(descriptor, 0)
        library = ctypes.CDLL(f"/proc/self/{'./' * spelled}fd/{descriptor}")
        _spelled[descriptor] = spelled + 1
        return library
    finally:
        os.close(descriptor)


def _from_folder(data: bytes, name: str, key: str) -> ctypes.CDLL:
    """From a folder that nobody else can write; a file found there is used only if it is ours and has the right hash."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planish" / "code"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder} is not private")
        path = folder / f"{key}.so"
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != key:
            descriptor, temporary = tempfile.mkstemp(dir=folder)
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        return ctypes.CDLL(str(path))
    except OSError:
        with tempfile.TemporaryDirectory(prefix="planish-") as private:
            path = Path(private) / f"{name}.so"
            path.write_bytes(data)
            return ctypes.CDLL(str(path))


@cache
def _hosts() -> dict[int, Host]:
    return {}


class Host:
    """The thread pool of the process: provided by the first artifact loaded, shared by all with its ABI version.

    Attributes:
        table: address of ``planish_host_api``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        library.planish_host_table.restype = c_void_p
        library.planish_host_table.argtypes = []
        self._library = library
        self.table: int = library.planish_host_table()
        api = _HostApi.from_address(self.table)
        self.abi: int = api.abi
        self._reserve, self._workers = api.reserve, api.workers

    def reserve(self, threads: int, calls: int) -> None:
        """Let the pool grow to what ``calls`` parallel calls of ``threads`` threads need."""
        self._reserve(threads, calls)

    def workers(self) -> int:
        """Worker threads alive now (0 until a call needs one; 0 again in a forked child)."""
        return int(self._workers())

    @staticmethod
    def shared() -> Host | None:
        """The host of this process, if an artifact has provided it."""
        return _hosts().get(HOST_ABI)

    @staticmethod
    def provide(data: bytes) -> Host:
        """The host of this process, made from ``data`` if there is none.

        Raises:
            ArtifactError: the code cannot be loaded, or is for another ABI.
        """
        host = Host.shared()
        if host is None:
            library = load_code(data, "host")
            library.planish_host_abi.restype = c_uint32
            version = library.planish_host_abi()
            if version != HOST_ABI:
                raise ArtifactError(f"the host in the artifact has the ABI {version}, this planish needs {HOST_ABI}")
            host = _hosts()[HOST_ABI] = Host(library)
        return host


class _HostApi(ctypes.Structure):
    _fields_ = [
        ("abi", c_uint32),
        ("open", c_void_p),
        ("close", c_void_p),
        ("enter", c_void_p),
        ("leave", c_void_p),
        ("reserve", ctypes.CFUNCTYPE(None, c_int32, c_int32)),
        ("workers", ctypes.CFUNCTYPE(c_int32)),
    ]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the functions of a unit their types.

    ``planish_run`` and ``planish_run_bound`` keep ctypes' untyped calls: they are on the hot path, and their arguments
    are made once, with the right types.

    Raises:
        ArtifactError: the unit is for another ABI.
    """
    if not hasattr(library, "planish_abi_version"):
        raise ArtifactError("the code in the artifact is no unit of planish", "compile it again")
    library.planish_abi_version.restype = c_uint32
    version = library.planish_abi_version()
    if version != ABI:
        raise ArtifactError(f"the code in the artifact has the ABI {version}, this planish needs {ABI}")
    error = POINTER(UnitError)
    library.planish_create.argtypes = [c_void_p, c_void_p, c_uint64, POINTER(c_void_p), error]
    library.planish_destroy.argtypes = [c_void_p]
    library.planish_destroy.restype = None
    library.planish_context_create.argtypes = [c_void_p, c_int32]
    library.planish_context_create.restype = c_void_p
    library.planish_context_destroy.argtypes = [c_void_p]
    library.planish_context_destroy.restype = None
    library.planish_set_timing.argtypes = [c_void_p, POINTER(c_double)]
    library.planish_set_timing.restype = None
    library.planish_arena.argtypes = [c_void_p, POINTER(c_int64), POINTER(c_int64), POINTER(c_int64), error]
    library.planish_shape.argtypes = [POINTER(c_int64), c_int32, c_int32, POINTER(c_int64)]
    library.planish_run.restype = library.planish_bind.restype = library.planish_run_bound.restype = c_int32
    return library


__all__ = ["ABI", "HOST_ABI", "Host", "UnitError", "c_char_p", "declare", "load_code"]
