"""Reading an artifact: a zip of stored members whose manifest holds the hash of every other member.

What is refused, each with one sentence: a file that is no artifact, a truncated or damaged one, one whose manifest or code
was edited, and one in a newer format. Hashes find accidents and careless edits; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from .errors import ArtifactError

#: The newest format this loader understands.
FORMAT = 2
MANIFEST, DIGEST, WEIGHTS, REPORT = "manifest.json", "digest", "weights.bin", "report.json"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_AGAIN = "copy or compile it again"


class Archive:
    """An open artifact.

    Attributes:
        path: the file.
        manifest: its manifest, checked against its digest.

    Raises:
        ArtifactError: it cannot be read, is no artifact, is damaged, edited or too new.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 (stays open as long as the model)
        except FileNotFoundError:
            raise ArtifactError(f"there is no file {self.path}") from None
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        start = self._file.read(4)
        try:
            with zipfile.ZipFile(self._file) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
                if MANIFEST not in self._members:
                    raise self._refusal("is no planish artifact", "make one with planish.compile")
                text = archive.read(MANIFEST)
                digest = archive.read(DIGEST).decode(errors="replace").strip() if DIGEST in self._members else ""
        except (zipfile.BadZipFile, OSError, EOFError, struct.error, ValueError, NotImplementedError, RuntimeError):
            if start == b"PK\x03\x04":
                raise self._refusal("is truncated or damaged", _AGAIN) from None
            raise self._refusal("is no planish artifact", "make one with planish.compile") from None
        try:
            manifest: dict[str, Any] = json.loads(text)
            version = manifest["format"]
        except (ValueError, KeyError, TypeError):
            raise self._refusal("has a manifest that cannot be read", _AGAIN) from None
        if not isinstance(version, int) or version > FORMAT:
            raise self._refusal(
                f"is in format {version}, newer than this planish understands ({FORMAT})", "upgrade planish to load it"
            )
        if hashlib.sha256(text).hexdigest() != digest:
            raise self._refusal("was edited after it was made: its manifest does not match its digest", _AGAIN)
        self.manifest, self.digest = manifest, digest

    def _refusal(self, reason: str, hint: str | None = None) -> ArtifactError:
        return ArtifactError(f"{self.path} {reason}", hint)

    def read(self, name: str) -> bytes:
        """The bytes of a member, checked against the manifest.

        Raises:
            ArtifactError: it is missing, truncated or edited.
        """
        offset, size = self.extent(name)
        data = os.pread(self._file.fileno(), size, offset)
        if hashlib.sha256(data).hexdigest() != self._expected(name)["sha256"]:
            raise self._refusal(f"was edited after it was made: {name} does not match its hash", _AGAIN)
        return data

    def report(self) -> dict[str, Any]:
        """The measured figures stored with the artifact (outside the digest); empty where there are none."""
        if REPORT not in self._members:
            return {}
        offset, size = self._span(REPORT)
        try:
            found = json.loads(os.pread(self._file.fileno(), size, offset))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def sizes(self) -> dict[str, int]:
        """Bytes of every member."""
        return {name: info.file_size for name, info in self._members.items()}

    def _expected(self, name: str) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = self.manifest["members"][name]
        except KeyError:
            raise self._refusal(f"has a manifest that does not list {name}", _AGAIN) from None
        return entry

    def _span(self, name: str) -> tuple[int, int]:
        info = self._members.get(name)
        if info is None:
            raise self._refusal(f"lacks its part {name}", _AGAIN)
        header = os.pread(self._file.fileno(), 30, info.header_offset)
        if len(header) < 30 or info.compress_type != zipfile.ZIP_STORED:
            raise self._refusal("is truncated or damaged", _AGAIN)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        offset = info.header_offset + 30 + name_length + extra_length
        if magic != b"PK\x03\x04" or offset + info.file_size > os.fstat(self._file.fileno()).st_size:
            raise self._refusal("is truncated or damaged", _AGAIN)
        return offset, info.file_size

    def extent(self, name: str) -> tuple[int, int]:
        """Where a member lies in the file: offset and bytes.

        Raises:
            ArtifactError: it is missing, or its size is not what the manifest says.
        """
        offset, size = self._span(name)
        if size != self._expected(name)["bytes"]:
            raise self._refusal(f"was edited after it was made: {name} has another size", _AGAIN)
        return offset, size

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._file.fileno()

    def map(self, name: str) -> Mapping:
        """A member mapped read-only into memory."""
        offset, size = self.extent(name)
        return Mapping(self._file.fileno(), offset, size)

    def verify(self) -> None:
        """Hash every member.

        Raises:
            ArtifactError: one is not what the manifest says; names it.
        """
        for name, entry in self.manifest["members"].items():
            with self.map(name) as mapping:
                if hashlib.sha256(mapping.view).hexdigest() != entry["sha256"]:
                    raise self._refusal(f"was edited after it was made: {name} does not match its hash", _AGAIN)

    def close(self) -> None:
        """Close the file; what is mapped stays mapped."""
        self._file.close()


class Mapping:
    """Bytes of a file in memory, read-only and private.

    Attributes:
        view: the bytes.
        address: where they start; 0 for no bytes.
        size: how many.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.size = size
        self.view, self.address = memoryview(b""), 0
        self._map: mmap.mmap | None = None
        if size:
            before = offset % mmap.ALLOCATIONGRANULARITY
            self._map = mmap.mmap(
                descriptor, size + before, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=offset - before
            )
            self._map.madvise(mmap.MADV_WILLNEED)  # read ahead
            self._whole = memoryview(self._map)
            self.view = self._whole[before:]
            self.address = _address(self.view)

    def advise(self, option: int) -> None:
        """Tell the kernel how the bytes will be used (``mmap.MADV_...``)."""
        if self._map is not None:
            self._map.madvise(option)

    def close(self) -> None:
        """Unmap; the address is no longer valid."""
        if self._map is not None:
            self.view.release()
            self._whole.release()
            self._map.close()
            self._map = None

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(view: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(view, np.uint8).ctypes.data)
