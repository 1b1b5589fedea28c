"""Where the work of a search runs: in this process, in others of this machine, or on a cluster that is there already.

Everything goes through ``concurrent.futures.Executor``. A task is a function with what all tasks share (a graph, data) and its
own little part; what is shared travels to a worker once and is kept there by its digest. Timings never come this way: they are
taken on the target machine.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from ..compiler.errors import UsageError
from ..compiler.python_file import imported

FORMS = "processes:N, dask://HOST:PORT or ray"
#: Shared objects that a worker keeps; a search has few at a time.
_KEPT = 4
#: Seconds to wait for a scheduler.
_PATIENCE = 10

_held: OrderedDict[str, Any] = OrderedDict()
_held_lock = threading.Lock()


# -- which -----------------------------------------------------------------------------------------------------------------
def executor(text: str | None) -> Executor:
    """The executor that ``text`` names; the caller shuts it down (it is a context manager).

    Args:
        text: None: threads of this process, one per usable CPU. ``processes:N``; ``dask://HOST:PORT`` (a dask scheduler);
            ``ray`` or ``ray://HOST:PORT`` (a cluster that ``ray start`` made, the local one without an address).

    Raises:
        UsageError: the text is none of these, the package it needs is missing, or nobody answers there.
    """
    if text is None:
        return ThreadPoolExecutor(usable_cpus(), thread_name_prefix="planish-search")
    name, _, rest = text.partition(":")
    if name == "processes" and rest.isdigit() and int(rest) > 0:
        from multiprocessing import get_context

        # "spawn": a forked copy of a process with threads (torch has some) may hang
        return ProcessPoolExecutor(int(rest), mp_context=get_context("spawn"))
    if name == "dask" and rest.startswith("//") and rest[2:]:
        return _dask(f"tcp://{rest[2:]}")
    if name == "ray" and (not rest or rest.startswith("//")):
        return _ray(text if rest else None)
    raise UsageError(f"{text!r} is no executor", f"it is {FORMS}")


def usable_cpus() -> int:
    """CPUs this process may use (affinity; not the quota of a container)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _dask(address: str) -> Executor:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("a dask executor needs the package distributed", "pip install 'planish[dask]'") from None
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "nobody answers"
        raise UsageError(
            f"there is no dask scheduler at {address}: {reason}", "start one with: dask scheduler"
        ) from None
    return _Remote(client.get_executor(pure=False), client.close, lambda: sum(client.nthreads().values()))


def _ray(address: str | None) -> Executor:
    try:
        import ray
    except ImportError:
        raise UsageError("a ray executor needs the package ray", "pip install 'planish[ray]'") from None
    try:
        ray.init(address=address or "auto", ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "nobody answers"
        raise UsageError(f"there is no ray cluster: {reason}", "start one with: ray start --head") from None
    return RayExecutor(ray)


class _Remote(Executor):
    """An executor of a library with what has to be closed along with it."""

    def __init__(self, inner: Executor, close: Callable[[], Any], workers: Callable[[], int]) -> None:
        self._inner, self._close, self._workers = inner, close, workers

    @property
    def workers(self) -> int:
        return self._workers()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait=wait)
        self._close()


class RayExecutor(Executor):
    """Tasks of a ray cluster as futures of the standard library.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote = ray.remote(_call)

    @property
    def workers(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self._remote.remote(fn, args, kwargs).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ray.shutdown()


def _call(fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


# -- tasks -----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Missing:
    """What a worker answers that does not have what the tasks share."""


@dataclass(frozen=True)
class _Answer:
    """A result, and which process it comes from."""

    worker: str
    result: Any


def spread(
    pool: Executor,
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Iterable[Any],
    *,
    done: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """``[function(shared, task) for task in tasks]``, on ``pool``.

    Args:
        pool: as :func:`executor` gives; any ``concurrent.futures.Executor`` will do.
        function: of planish or of a Python file that planish imported; others have to be importable on the workers.
        shared: what every task reads. A pool of threads gets the object itself; other workers get a copy of it and of
            ``function``, once.
        tasks: drawn as workers come free, so that what a task carries need not all be made at the start.
        done: called in this thread with (index, result) as results come in, in any order.

    Raises:
        UsageError: ``shared`` cannot be sent.
        Exception: what a task raised; tasks that have not begun are given up.
    """
    local = isinstance(pool, ThreadPoolExecutor)
    blob = None if local else _pickled((function, shared))
    digest = f"here-{id(shared)}" if blob is None else hashlib.blake2b(blob, digest_size=16).hexdigest()
    if local:
        _hold(digest, (function, shared))
    results: dict[int, Any] = {}
    running: dict[Future, tuple[int, Any]] = {}
    waiting = iter(enumerate(tasks))
    again: deque[tuple[int, Any]] = deque()
    informed: set[str] = set()
    sent = 0
    exhausted = False
    try:
        while True:
            while len(running) < _width(pool) and not (exhausted and not again):
                asked = bool(again)
                if asked:
                    index, task = again.popleft()
                else:
                    try:
                        index, task = next(waiting)
                    except StopIteration:
                        exhausted = True
                        continue
                # along with the first tasks of every worker, as far as can be told; later only on request
                tell = asked or (len(informed) < _width(pool) and sent < 2 * _width(pool))
                sent += tell
                running[pool.submit(_work, digest, blob if tell else None, task)] = index, task
            if not running:
                return [results[i] for i in sorted(results)]
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda f: running[f][0]):
                index, task = running.pop(future)
                answer = future.result()
                if isinstance(answer, _Missing):
                    again.append((index, task))
                    continue
                informed.add(answer.worker)
                results[index] = answer.result
                if done is not None:
                    done(index, answer.result)
    finally:
        for future in running:
            future.cancel()
        if local:
            wait(running)
            with _held_lock:
                _held.pop(digest, None)


def _width(pool: Executor) -> int:
    """How many tasks to have under way: one per worker; what a task carries waits here, not there."""
    workers = getattr(pool, "workers", None) or getattr(pool, "_max_workers", None) or usable_cpus()
    return max(1, int(workers))


def _pickled(shared: Any) -> bytes:
    try:
        import cloudpickle as pickler  # sends the functions of a script too

        for module in imported():  # and those of FILE.py:callable
            pickler.register_pickle_by_value(module)
    except ImportError:
        pickler = pickle  # type: ignore[assignment]
    try:
        return pickler.dumps(shared)
    except Exception as error:
        raise UsageError(
            f"the work cannot be sent to other processes: {error}",
            "define the score and the metrics in a module that the workers can import, or leave out the executor",
        ) from error


def _hold(digest: str, shared: Any) -> None:
    with _held_lock:
        _held[digest] = shared
        _held.move_to_end(digest)
        while len(_held) > _KEPT:
            _held.popitem(last=False)


def _work(digest: str, data: bytes | None, task: Any) -> Any:
    """One task, on a worker."""
    with _held_lock:
        there = digest in _held
    if not there:
        if data is None:
            return _Missing()
        _hold(digest, pickle.loads(data))
    with _held_lock:
        function, shared = _held[digest]
    return _Answer(f"{platform.node()}/{os.getpid()}", function(shared, task))
