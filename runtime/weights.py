"""The weights in memory: mapped from the file, or, where that is faster, read into huge pages.

Streaming packed weights through 4 KB pages costs address translations: with 2 MB pages MiniLM at batch 1 ran 4-7 % faster in
int8 and up to 19 % in f32 (one core, sequence lengths 8 to 32). What is only looked up row by row (embedding tables) gains
nothing and is often the larger half: it stays mapped from the file, where processes share it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from .archive import WEIGHTS, Archive
from .archive import Mapping as Mapped
from .errors import ArtifactError

HUGE_PAGE = 2 << 20
#: Below this a table is read along with its neighbours.
SMALL_TABLE = 1 << 20
_MADV_HUGEPAGE, _MAP_FIXED, _MAP_NORESERVE = 14, 0x10, 0x4000


class Weights(Protocol):
    """Weights of a unit. ``address``: where they start; ``size``: bytes; valid until ``close``."""

    address: int
    size: int

    def close(self) -> None: ...


def load_weights(archive: Archive, unit: Mapping[str, Any], share: bool = False) -> Weights:
    """The weights of ``unit``.

    Args:
        archive: the artifact.
        unit: its entry in the manifest.
        share: map all of them from the file, so that processes share one copy.

    Raises:
        ArtifactError: the file holds fewer weights than the unit reads.
    """
    offset, size = unit["weights"]["offset"], unit["weights"]["bytes"]
    if not size:
        return NoWeights()
    start, length = archive.extent(WEIGHTS)
    if offset + size > length:
        raise ArtifactError(f"{archive.path} has fewer weights than its code reads", "copy or compile it again")
    start += offset
    tables = list(_tables(unit, size))
    streamed = size - sum(end - begin for begin, end in tables)
    if not share and streamed >= HUGE_PAGE and start % mmap.PAGESIZE == 0 and huge_pages_available():
        try:
            return HugePages(archive.descriptor, start, size, tables)
        except OSError:  # no address space or memory for a copy: the file itself will do
            return Mapped(archive.descriptor, start, size)
    return Mapped(archive.descriptor, start, size)


def huge_pages_available(root: Path = Path("/")) -> bool:
    """Whether the kernel gives huge pages to memory that asks for them."""
    try:
        return "[never]" not in (root / "sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False


def _tables(unit: Mapping[str, Any], size: int) -> Iterator[tuple[int, int]]:
    """Whole pages of large weights that are only looked up, as begin and end, in order."""
    for entry in unit["weights"]["index"]:
        if entry.get("gathered") and entry["bytes"] >= SMALL_TABLE:
            begin = -(-entry["offset"] // mmap.PAGESIZE) * mmap.PAGESIZE
            end = min(entry["offset"] + entry["bytes"], size) // mmap.PAGESIZE * mmap.PAGESIZE
            yield begin, end


class NoWeights:
    """A model without weights."""

    address = size = 0

    def close(self) -> None:
        """Nothing to free."""


class HugePages:
    """Weights read into huge pages, but for the tables, which stay mapped from the file at their place in between.

    Args:
        descriptor: the open artifact.
        start: where the weights start in the file, a multiple of the page size.
        size: bytes.
        tables: begin and end of what stays mapped; whole pages, in order.

    Raises:
        OSError: no address space, no memory, or the file is shorter.
    """

    def __init__(self, descriptor: int, start: int, size: int, tables: list[tuple[int, int]]) -> None:
        self._libc = _libc()
        self._length = size + HUGE_PAGE
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._region = self._map(None, self._length, mmap.PROT_READ | mmap.PROT_WRITE, anonymous, -1, 0)
        self.address = -(-self._region // HUGE_PAGE) * HUGE_PAGE
        self.size = size
        try:
            self._libc.madvise(self.address, size, _MADV_HUGEPAGE)
            at = 0
            for begin, end in tables:
                self._read(descriptor, start, at, begin)
                fixed = mmap.MAP_PRIVATE | _MAP_FIXED
                self._map(self.address + begin, end - begin, mmap.PROT_READ, fixed, descriptor, start + begin)
                at = end
            self._read(descriptor, start, at, size)
            self._libc.mprotect(self.address, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.PROT_READ)
        except BaseException:
            self.close()
            raise

    def _map(self, address: int | None, length: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
        found = self._libc.mmap(address, length, protection, flags, descriptor, offset)
        if found in (None, ctypes.c_void_p(-1).value):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(found)

    def _read(self, descriptor: int, start: int, begin: int, end: int) -> None:
        while begin < end:
            space = (ctypes.c_char * (end - begin)).from_address(self.address + begin)
            count = os.preadv(descriptor, [space], start + begin)
            if not count:
                raise OSError("the file ends before its weights do")
            begin += count

    def close(self) -> None:
        """Unmap; the address is no longer valid."""
        if self._length:
            self._libc.munmap(self._region, self._length)
            self._length = 0


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    library.mmap.restype = pointer
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    library.munmap.argtypes = [pointer, size]
    library.mprotect.argtypes = library.madvise.argtypes = [pointer, size, number]
    return library
