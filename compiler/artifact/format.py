"""The file format of an artifact, versions 1 and 2: a zip whose members are stored, not compressed.

    digest           hex SHA-256 of manifest.json: the content digest of the artifact, because the manifest holds the
                     SHA-256 of every other member but report.json
    manifest.json    see ``manifest.py``
    units/*.so|.cpp  a variant of the model: machine code, and the text it was built from
    units/*.onnx|.txt  a variant for ONNX Runtime (from version 2 on): the model, and its text
    host/*.so|.cpp   the thread pool: machine code, and its text
    weights.bin      packed constants of all units; its bytes start at a multiple of 4096 in the file, every constant at a
                     multiple of 64 in it, so that it is used where it is mapped
    report.json      measured figures, outside the digest

The same members give the same bytes: fixed order, fixed times, no compression.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import PlanishError

#: The newest version; a file says the oldest that can hold what is in it (``parts.py``).
FORMAT = 2
#: Versions of the C interfaces (``runtime/planish.h``) that units and hosts of this format speak.
UNIT_ABI = HOST_ABI = 1
MANIFEST, DIGEST, WEIGHTS, REPORT = "manifest.json", "digest", "weights.bin", "report.json"
#: In the file, so that memory maps can start there.
FILE_ALIGNMENT = 4096
#: Within weights.bin.
WEIGHT_ALIGNMENT = 64

_EPOCH = (1980, 1, 1, 0, 0, 0)
#: Extra field that fills up a local header; the number is the one Android's zipalign uses.
_PADDING_ID = 0xD935
_ZIP64_FIELD = 20


@dataclass(frozen=True)
class Later:
    """Bytes that are made when they are written, and made anew each time."""

    size: int
    make: Callable[[], bytes | memoryview]

    def __len__(self) -> int:
        return self.size


Chunks = Sequence[bytes | memoryview | Later]


def parts(chunks: Chunks) -> Iterator[bytes | memoryview]:
    """The bytes of ``chunks``, one piece after the other."""
    for chunk in chunks:
        yield chunk.make() if isinstance(chunk, Later) else chunk


class WriteError(PlanishError):
    """An artifact cannot be written; nothing was left behind."""


def write_members(path: str | os.PathLike[str], members: Iterable[tuple[str, Chunks, int]]) -> None:
    """Write ``path`` at once: under a temporary name beside it, then renamed.

    Args:
        path: the artifact; replaced if it exists.
        members: name, bytes in pieces, alignment of the first byte in the file (1 for none).

    Raises:
        WriteError: no space, no permission or no such folder. Nothing half-written is left.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, chunks, alignment in members:
                    _write_member(archive, name, chunks, alignment)
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise WriteError(
            f"{target} cannot be written: {(error.strerror or str(error)).lower()}", _hint(error)
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _write_member(archive: zipfile.ZipFile, name: str, chunks: Chunks, alignment: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, 0o644 << 16
    info.file_size = sum(len(chunk) for chunk in chunks)
    large = info.file_size > zipfile.ZIP64_LIMIT // 2
    if alignment > 1:
        assert archive.fp is not None
        start = archive.fp.tell() + 30 + len(name.encode()) + (_ZIP64_FIELD if large else 0)
        padding = -(start + 4) % alignment
        info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        for part in parts(chunks):
            member.write(part)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # where it cannot be removed it could not be made


def _hint(error: OSError) -> str:
    import errno

    return {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EROFS: "choose a folder that can be written",
        errno.EACCES: "choose a folder that can be written",
        errno.EPERM: "choose a folder that can be written",
        errno.ENOENT: "make the folder first",
    }.get(error.errno or 0, "choose another place")
