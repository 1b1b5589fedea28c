"""Work goes through executors, and comes back the same from each."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import executor_tasks as tasks
import numpy as np
import pytest
import small_models
from executor_tasks import add, fail, where
from small_models import Angle, encoder_job

from planish.compiler.errors import UsageError
from planish.compiler.python_file import import_file
from planish.search import executor as module
from planish.search.executor import RayExecutor, executor, spread, usable_cpus
from planish.search.sensitivity import METHODS, Table
from planish.search.sensitivity.work import single_threaded


class Elsewhere(Executor):
    """A pool of workers that share nothing with this process: what goes in and out is pickled, and what a worker was sent
    earlier is all it knows."""

    workers = 3

    def __init__(self) -> None:
        self.sent: list[int] = []
        self._held: list[dict[str, Any]] = [{} for _ in range(self.workers)]
        self._next = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        from collections import OrderedDict

        data = pickle.dumps((fn, args, kwargs))
        self.sent.append(len(data))
        mine = self._held[self._next % self.workers]
        self._next += 1
        future: Future = Future()
        kept, module._held = module._held, OrderedDict(mine)
        pid, os.getpid = os.getpid, lambda at=self._next % self.workers: -1 - at  # type: ignore[assignment]
        try:
            fn, args, kwargs = pickle.loads(data)
            future.set_result(pickle.loads(pickle.dumps(fn(*args, **kwargs))))
        except Exception as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        finally:
            os.getpid = pid
            mine.update(module._held)
            module._held = kept
        return future


# -- spreading -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [lambda: executor(None), lambda: ThreadPoolExecutor(3), Elsewhere])
def test_results_come_in_the_order_of_the_tasks(make: Callable[[], Executor]) -> None:
    seen: dict[int, int] = {}
    with make() as pool:
        found = spread(pool, add, {"base": 100}, range(20), done=seen.__setitem__)
        assert found == list(range(100, 120)) == [seen[i] for i in range(20)]
        assert spread(pool, add, {"base": 1}, []) == []


def test_what_is_shared_travels_once_to_a_worker() -> None:
    pool = Elsewhere()
    shared = {"base": 1, "ballast": np.zeros(100_000)}
    assert spread(pool, add, shared, range(30)) == list(range(1, 31))
    large = [n for n in pool.sent if n > 100_000]
    assert pool.workers <= len(large) <= 2 * pool.workers and len(pool.sent) <= 30 + pool.workers


def test_a_worker_that_comes_later_asks_for_what_is_shared() -> None:
    class Growing(Elsewhere):
        workers = 1

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
            if len(self.sent) == 10:
                self._held.append({})
                self.workers = 2
            return super().submit(fn, *args, **kwargs)

    pool = Growing()
    assert spread(pool, add, {"base": 1, "ballast": np.zeros(100_000)}, range(30)) == list(range(1, 31))
    assert 2 <= len([n for n in pool.sent if n > 100_000]) <= 8


def test_tasks_are_drawn_as_workers_come_free() -> None:
    made: list[int] = []
    running = threading.Semaphore(0)

    def endless() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    def slow(shared: Any, task: int) -> int:
        if task == 0:
            assert len(made) <= 3  # two workers: what they do and no more
            running.release()
        return task

    with ThreadPoolExecutor(2) as pool:
        assert spread(pool, slow, None, endless()) == list(range(50))
    assert running.acquire(blocking=False)


@pytest.mark.parametrize("make", [lambda: executor(None), Elsewhere])
def test_an_error_of_a_task_is_the_error(make: Callable[[], Executor]) -> None:
    with make() as pool, pytest.raises(UsageError, match="task 0 cannot be done") as caught:
        spread(pool, fail, None, range(5))
    assert caught.value.hint == "try another"


def test_what_cannot_be_sent_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="the work cannot be sent to other processes"):
        spread(Elsewhere(), add, {"base": threading.Lock()}, [1])


# -- sensitivity elsewhere -----------------------------------------------------------------------------------------------
def assert_same(a: Table, b: Table) -> None:
    assert a.losses.keys() == b.losses.keys()
    for key, losses in a.losses.items():
        np.testing.assert_array_equal(losses[Angle.term], b.losses[key][Angle.term], err_msg=str(key))


@pytest.fixture(scope="module")
def here() -> Table:
    with single_threaded():
        return METHODS["measured"]().table(encoder_job())


def test_sensitivity_is_the_same_from_workers_that_know_nothing(here: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Elsewhere()
    found = METHODS["measured"]().table(encoder_job(executor=pool))
    assert_same(found, here)
    assert len(pool.sent) > 1 and found.evaluations == here.evaluations


def test_gradient_methods_stay_here(here: Table) -> None:
    pool = Elsewhere()
    found = METHODS["fisher"]().table(encoder_job(executor=pool))
    assert_same(found, METHODS["fisher"]().table(encoder_job()))


@pytest.mark.slow
def test_sensitivity_is_the_same_from_other_processes(here: Table) -> None:
    with executor("processes:2") as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        assert os.getpid() not in spread(pool, where, None, range(4))
        assert_same(METHODS["measured"]().table(encoder_job(executor=pool)), here)


@pytest.mark.slow
def test_sensitivity_is_the_same_from_a_dask_cluster_of_two(here: Table) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        executor(cluster.scheduler_address.replace("tcp://", "dask://")) as pool,
    ):
        pids = set(spread(pool, where, None, range(8)))
        assert pids and os.getpid() not in pids
        assert_same(METHODS["measured"]().table(encoder_job(executor=pool)), here)
        with pytest.raises(UsageError, match="cannot be done"):
            spread(pool, fail, None, range(3))


@pytest.mark.slow
def test_sensitivity_is_the_same_from_ray(here: Table) -> None:
    ray = pytest.importorskip("ray")
    cloudpickle = pytest.importorskip("cloudpickle")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    helpers = (small_models, tasks)  # ray's workers look for modules in other places than this process
    for helper in helpers:
        cloudpickle.register_pickle_by_value(helper)
    try:
        with RayExecutor(ray) as pool:
            assert pool.workers == 2
            assert os.getpid() not in spread(pool, where, None, range(4))
            assert_same(METHODS["measured"]().table(encoder_job(executor=pool)), here)
            with pytest.raises(UsageError, match="cannot be done"):
                spread(pool, fail, None, range(3))
    finally:
        for helper in helpers:
            cloudpickle.unregister_pickle_by_value(helper)


def test_a_function_of_a_python_file_goes_along(tmp_path: Path) -> None:
    """As a score function does: no worker could import its module."""
    pytest.importorskip("cloudpickle")
    path = tmp_path / "mine.py"
    path.write_text("OFFSET = 40\ndef score(shared, task):\n    return OFFSET + shared + task\n")
    function = import_file(path).score
    assert function(1, 1) == 42
    blob = module._pickled((function, 1))
    del sys.modules[function.__module__]  # a worker knows no such module
    copy, shared = pickle.loads(blob)
    assert [copy(shared, task) for task in range(3)] == [41, 42, 43]


def test_the_ray_seam_with_a_ray_of_paper() -> None:
    """What is used of ray's interface: ``remote``, ``ObjectRef.future()``, ``cluster_resources``, ``shutdown``."""

    class Reference:
        def __init__(self, value: Any) -> None:
            self.value = value

        def future(self) -> Future:
            made: Future = Future()
            made.set_result(self.value)
            return made

    class Ray:
        closed = False

        def remote(self, function: Callable[..., Any]) -> Any:
            return type("Remote", (), {"remote": staticmethod(lambda *a: Reference(function(*a)))})

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 2.0}

        def shutdown(self) -> None:
            self.closed = True

    ray = Ray()
    with RayExecutor(ray) as pool:
        assert pool.workers == 2 and spread(pool, add, {"base": 5}, range(3)) == [5, 6, 7]
    assert ray.closed


# -- names ---------------------------------------------------------------------------------------------------------------
def test_no_name_is_threads_of_this_process() -> None:
    with executor(None) as pool:
        assert isinstance(pool, ThreadPoolExecutor) and pool._max_workers == usable_cpus()
        assert spread(pool, where, None, [0]) == [os.getpid()]


@pytest.mark.parametrize(
    "text", ["threads", "processes:", "processes:0", "processes:two", "dask", "dask://", "ray:1", ""]
)
def test_what_is_no_executor_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is no executor") as caught:
        executor(text)
    assert "dask://HOST:PORT" in str(caught.value.hint)


@pytest.mark.parametrize(("text", "package"), [("dask://127.0.0.1:1", "distributed"), ("ray", "ray")])
def test_a_missing_package_names_the_command(text: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs the package {package}") as caught:
        executor(text)
    assert "pip install 'planish[" in str(caught.value.hint)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 1)
    with pytest.raises(UsageError, match=r"there is no dask scheduler at tcp://127\.0\.0\.1:9") as caught:
        executor("dask://127.0.0.1:9")
    assert "\n" not in caught.value.message and "dask scheduler" in str(caught.value.hint)
