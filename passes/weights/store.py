"""What weight methods found, kept for the next build: statistics of inputs, smoothing, ranges, quantised weights."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

T = TypeVar("T")


def digest(*arrays: np.ndarray) -> str:
    """A name for the data of ``arrays``: equal for equal dtype, shape and elements."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data if array.size else b"")
    return found.hexdigest()


class WeightStore:
    """A memo that the builds of one search share; every entry is made once, also when two threads ask for it at once.

    Attributes:
        made: how many entries were computed.
        reused: how many requests found theirs.
    """

    def __init__(self, methods: Mapping[str, str] | None = None) -> None:
        """An empty store; ``methods``: name of a precision -> the method that this search makes the weights of linears with,
        where that is not the default."""
        self._methods = dict(methods or {})
        self.made = 0
        self.reused = 0
        self._data = ""
        self._entries: dict[Hashable, Any] = {}
        self._digests: dict[int, tuple[np.ndarray, str]] = {}
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def method(self, precision: str, kind: str) -> str | None:
        """The method for weights of a kind of node (``linear``, ``conv``, ``embedding``); None is the default. Methods that
        look at the data are for linears: kernels of convolutions and tables are rounded to nearest."""
        return self._methods.get(precision) if kind == "linear" else None

    def use(self, data: str) -> None:
        """Say by its digest which calibration data entries are made from; those of other data are dropped."""
        with self._lock:
            if self._data and self._data != data:
                self._entries.clear()
            self._data = data

    def digest(self, array: np.ndarray) -> str:
        """:func:`digest` of an array that is never written, computed once."""
        held = self._digests.get(id(array))
        if held is None or held[0] is not array:
            held = self._digests[id(array)] = array, digest(array)
        return held[1]

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._entries

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The entry of ``key``; ``make`` computes it where there is none. An error of ``make`` leaves none behind."""
        with self._lock:
            if key in self._entries:
                self.reused += 1
                return cast(T, self._entries[key])
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._entries:
                    self.reused += 1
                    return cast(T, self._entries[key])
            entry = make()
            with self._lock:
                self._entries[key] = entry
                self._making.pop(key, None)
                self.made += 1
            return entry

    def keep(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget every entry whose key is not ``wanted``."""
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if wanted(key)}

    def drop(self, key: Hashable) -> None:
        """Forget the entry of ``key``."""
        with self._lock:
            self._entries.pop(key, None)
