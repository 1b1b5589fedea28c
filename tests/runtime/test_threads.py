"""Threads: the pool, parallel calls, fork, and what a machine grants."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from unit_harness import Builder, affine_program, chain_program, save

import planish
from planish.backends.cpu import toolchain
from planish.codegen.program import Program
from planish.codegen.unit import RUNTIME
from planish.compiler.dims import symbol
from planish.compiler.types import DType
from planish.runtime import machine
from planish.runtime.binary import Host


def tasks_program(scratch_bytes: int = 800, work: int = 200) -> Program:
    """Every task of ``out`` fills its worker's scratch with its number and sums it up again."""
    b = Builder(n=(1, 4096))
    n = symbol("n")
    b.launch("nothing", [b.input("x", (n,))], [])
    b.launch("tasks", [b.output("out", (n,), DType.i64)], [n, work], b.scratch("s", scratch_bytes))
    b.launch("workers", [b.output("workers", (), DType.i64)], [])
    return b.program


def expected(n: int, scratch_bytes: int = 800) -> np.ndarray:
    return np.arange(n) * (-(-scratch_bytes // 64) * 64 // 8)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_task_runs_once_with_scratch_of_its_own(tmp_path: Path, threads: int) -> None:
    with planish.load(save(tmp_path, tasks_program()), threads=threads) as model:
        for n in (1, 2, 3, 64, 1000, 4096):
            for _ in range(20):
                result = model(np.zeros(n, np.float32))
                np.testing.assert_array_equal(result["out"], expected(n))
                assert 1 <= result["workers"] <= threads


def test_parallel_calls_get_their_own_memory(tmp_path: Path) -> None:
    with planish.load(save(tmp_path, chain_program()), threads=2, concurrency=3) as model:

        def call(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(40):
                x = rng.normal(size=int(rng.integers(1, 5000))).astype(np.float32)
                values = [x]
                for _ in range(6):
                    values.append(values[-1] * np.float32(2) + np.float32(1))
                np.testing.assert_array_equal(model(x)["y"], values[1] + values[-1])

        with ThreadPoolExecutor(6) as pool:  # more callers than contexts: the rest wait
            list(pool.map(call, range(6)))


def test_a_busy_pool_lets_the_caller_work_alone(tmp_path: Path) -> None:
    """Callers that compete for one worker: all finish, and each got the worker or none."""
    path = save(tmp_path, tasks_program())
    with planish.load(path, threads=2) as one, planish.load(path, threads=2) as other:
        widths: list[int] = []

        def call(model: planish.runtime.Model) -> None:
            for _ in range(50):
                result = model(np.zeros(512, np.float32))
                np.testing.assert_array_equal(result["out"], expected(512))
                widths.append(int(result["workers"]))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(call, [one, other]))
        assert set(widths) <= {1, 2}
        assert 2 in widths


def script(path: Path, body: str) -> subprocess.CompletedProcess[str]:
    head = f"import numpy as np, os, threading, planish\npath = {str(path)!r}\n"
    return subprocess.run([sys.executable, "-c", head + body], capture_output=True, text=True, timeout=60, check=False)


def test_one_pool_per_process_made_when_needed_and_named(tmp_path: Path) -> None:
    done = script(
        save(tmp_path, tasks_program()),
        """
def names():
    return sorted(open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task"))
def workers():
    return [n for n in names() if n.startswith("planish-")]
x = np.zeros(64, np.float32)
alone = planish.load(path, threads=1)
alone(x)
assert workers() == [], workers()
first, second = planish.load(path, threads=3), planish.load(path, threads=2)
assert workers() == []
first(x), second(x)
assert workers() == ["planish-1", "planish-2"], workers()
wide = planish.load(path, threads=2, concurrency=3)
wide(x)
assert workers() == ["planish-1", "planish-2", "planish-3"], workers()
""",
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_has_a_pool_of_its_own(tmp_path: Path) -> None:
    """Also while another thread of the parent is inside a call."""
    done = script(
        save(tmp_path, tasks_program(work=2000)),
        """
model = planish.load(path, threads=3, concurrency=2)
bound = model.bind(np.zeros(300, np.float32))
def check(m, n=300):
    r = m(np.zeros(n, np.float32))
    assert list(r["out"]) == [i * 104 for i in range(n)]
check(model)
stop = False
def busy():
    while not stop: check(model, 4000)
thread = threading.Thread(target=busy); thread.start()
for _ in range(8):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(3): check(model)
            assert list(bound()["out"]) == [i * 104 for i in range(300)]
            done = []
            many = [threading.Thread(target=lambda: done.append(check(model))) for _ in range(4)]
            [t.start() for t in many]; [t.join() for t in many]
            assert len(done) == 4
            workers = [t for t in os.listdir("/proc/self/task") if "planish" in open(f"/proc/self/task/{t}/comm").read()]
            assert len(workers) == 4, workers
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
check(model)
stop = True; thread.join()
""",
    )
    assert done.returncode == 0, done.stderr


def test_the_gil_is_released(tmp_path: Path) -> None:
    """A kernel waits for what only another Python thread can do while the call runs."""
    b = Builder()
    b.launch("gate", [b.input("gate", (1,), DType.i64), b.output("opened", (), DType.i64)], [])
    with planish.load(save(tmp_path, b.program)) as model:
        gate = np.zeros(1, np.int64)
        timer = threading.Timer(0.05, lambda: gate.__setitem__(0, 1))
        timer.start()
        assert model(gate)["opened"] == 1
        timer.join()


def test_a_model_dies_with_its_last_reference(tmp_path: Path) -> None:
    """Without the garbage collector, and in either order with what it bound."""
    path = save(tmp_path, affine_program())
    gc.disable()
    try:
        model = planish.load(path)
        bound = model.bind(np.zeros((1, 2), np.float32))
        gone = weakref.ref(model)
        del model
        bound()
        del bound
        assert gone() is None
    finally:
        gc.enable()


STRESS = """
#include "planish.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <atomic>
#include <thread>
#include <vector>

struct Sum { std::vector<int> seen; std::vector<long> of_worker; };

static int failures = 0;

static void caller(int threads) {
  const planish_host_api* api = planish_host_table();
  planish_host* host = api->open(threads);
  for (int round = 0; round < 300; ++round) {
    api->enter(host);
    for (int tasks : {1, 2, 5, 64}) {
      Sum sum{std::vector<int>(tasks), std::vector<long>(host->workers)};
      host->parallel_for(host, tasks, [](void* arg, int64_t task, int32_t worker) {
        Sum& s = *static_cast<Sum*>(arg);
        s.seen[task] += 1;
        s.of_worker[worker] += 1;  // a worker's number is its own: no race
      }, &sum);
      long total = 0;
      for (long n : sum.of_worker) total += n;
      for (int n : sum.seen) if (n != 1) ++failures;
      if (total != tasks) ++failures;
    }
    api->leave(host);
    if (round % 100 == 50) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // let workers fall asleep
  }
  api->close(host);
}

int main() {
  planish_host_table()->reserve(3, 2);
  std::thread a(caller, 3), b(caller, 2), c(caller, 4);
  a.join(), b.join(), c.join();
  printf("%d failures, %d workers\\n", failures, planish_host_table()->workers());
}
"""


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_pool_under_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    (tmp_path / "main.cpp").write_text(STRESS)
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
        f"-I{RUNTIME}",
        "-pthread",
    ]
    program = str(tmp_path / "main")
    command = [*toolchain.find_compiler().command, *flags, str(tmp_path / "main.cpp"), str(RUNTIME / "host.cpp")]
    subprocess.run([*command, "-Wno-tsan", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 failures, 4 workers\n"), done.stdout + done.stderr[:3000]


# -- what the machine grants -------------------------------------------------------------------------------------------
def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
    ids=["no cgroup", "v2 without limit", "v2", "v2 nested", "v1", "v1 without limit"],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert machine.cpu_quota(tree(tmp_path, files)) == quota


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    siblings = {
        f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": text
        for i, text in enumerate(["0,2\n", "1,3\n", "0,2\n", "1,3\n"])
    }
    assert machine.physical_cores({0, 1, 2, 3}, tree(tmp_path, siblings)) == 2
    assert machine.physical_cores({0, 3}, tmp_path) == 2
    assert machine.physical_cores({0, 2}, tmp_path) == 1
    assert machine.physical_cores({0, 1, 2, 3}, tree(tmp_path, {"sys/devices/system/cpu/smt/active": "0\n"})) == 4


def test_default_threads_honour_quota_and_affinity(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert machine.default_threads(root) == 1
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machine.default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_concurrency_divides_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "default_threads", lambda: 6)
    path = save(tmp_path, affine_program())
    for concurrency, threads in ((1, 6), (2, 3), (4, 1), (9, 1)):
        with planish.load(path, concurrency=concurrency) as model:
            assert model.threads == threads


@pytest.mark.parametrize("bad", [{"threads": 0}, {"threads": 1.5}, {"concurrency": -1}, {"concurrency": True}])
def test_numbers_of_threads_are_positive(tmp_path: Path, bad: dict) -> None:
    (name,) = bad
    with pytest.raises(planish.InputError, match=f"{name} has to be a positive number"):
        planish.load(save(tmp_path, affine_program()), **bad)


def test_the_host_is_shared(tmp_path: Path) -> None:
    path = save(tmp_path, affine_program())
    with planish.load(path), planish.load(path):
        host = Host.shared()
        assert host is not None
        assert Host.provide(b"not looked at: there is one already") is host
