"""Contexts of a unit: each serves one call at a time; a pool hands them to the threads that call."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import c_double, c_int64, c_void_p
from typing import Any

from .binary import UnitError
from .errors import RunError


class Context:
    """One ``planish_context`` with the arguments of its calls, made once.

    Attributes:
        handle: the C pointer; None after ``close``.
        inputs, outputs, states: the pointer arrays of the next call.
        error: what the last failing call said.
    """

    __slots__ = ("_library", "error", "error_pointer", "handle", "inputs", "outputs", "states")

    def __init__(self, library: ctypes.CDLL, model: c_void_p, threads: int, counts: tuple[int, int, int]) -> None:
        if model.value is None:
            raise _closed()
        self._library = library
        address = library.planish_context_create(model, threads)
        if not address:
            raise RunError("there is no memory for another context of the model")
        self.handle: c_void_p | None = c_void_p(address)
        inputs, outputs, states = counts
        self.inputs = (c_void_p * max(inputs, 1))()
        self.outputs = (c_void_p * max(outputs, 1))()
        self.states = (c_void_p * max(states, 1))()
        self.error = UnitError()
        self.error_pointer = ctypes.byref(self.error)

    def time(self, seconds: ctypes.Array[c_double] | None) -> None:
        """Add the seconds of each launch to ``seconds`` from now on; None ends it."""
        self._library.planish_set_timing(self.handle, seconds)

    def arena_bytes(self, symbols: ctypes.Array[c_int64]) -> int:
        """Bytes of the arena for given symbols."""
        size = c_int64()
        self._library.planish_arena(self.handle, symbols, ctypes.byref(size), None, self.error_pointer)
        return size.value

    def close(self) -> None:
        """Free it."""
        if self.handle is not None:
            self._library.planish_context_destroy(self.handle)
            self.handle = None


def _closed() -> RunError:
    return RunError("the model is closed", "load it again")


class ContextPool:
    """A fixed number of contexts. ``free`` is popped and appended to directly on the hot path (both are atomic)."""

    def __init__(self, make: Callable[[], Context], count: int) -> None:
        self._make, self._count = make, count
        self.free: list[Context] = [make() for _ in range(count)]
        self.waiting = 0
        self._condition = threading.Condition()
        self._closed = False

    def wait(self) -> Context:
        """A context, when one is free.

        Raises:
            RunError: the model is closed.
        """
        with self._condition:
            self.waiting += 1
            try:
                while True:
                    if self._closed:
                        raise _closed()
                    try:
                        return self.free.pop()
                    except IndexError:
                        self._condition.wait()
            finally:
                self.waiting -= 1

    def take(self) -> Context:
        """A context, at once if one is free."""
        try:
            return self.free.pop()
        except IndexError:
            return self.wait()

    def give(self, context: Context) -> None:
        """Put a context back."""
        self.free.append(context)
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Tell a waiting thread that a context is free."""
        with self._condition:
            self._condition.notify()

    def refill(self) -> None:
        """In a forked child: replace the contexts that other threads of the parent were using."""
        self._condition, self.waiting = threading.Condition(), 0
        if not self._closed:
            self.free += [self._make() for _ in range(self._count - len(self.free))]

    def close(self) -> None:
        """Free the contexts, waiting for calls that run."""
        if self._closed:
            return
        taken: list[Any] = [self.take() for _ in range(self._count)]
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        for context in taken:
            context.close()
