"""Random PyTorch modules, eager against interpreted against compiled: ``python tests/fuzz.py --seeds 0:5000 --jobs 2``.

Every seed is one module. What became of it is a line of the journal, so a run that was stopped goes on where it was. A seed
that fails is cut down and printed as a Python file. Exit code 0: no disagreement, 1: at least one, 2: misuse.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

HERE = Path(__file__).resolve().parent
#: About the most statements of a module.
LENGTH = 9
#: Modules to a shared object, and to one request of a worker.
CHUNK = 32
#: Every so many chunks are built as the product builds them; the others without optimisation, which is ten times as fast.
FULL_EVERY = 8
#: A worker that has said nothing for so long is ended, and its module counts as a crash.
PATIENCE = 900.0


# -- the worker: modules in, outcomes out ------------------------------------------------------------------------------
def work() -> int:
    """Read lines of JSON with seeds, write a line for every outcome."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever torch prints goes elsewhere
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="planish-fuzz-") as folder:
        os.environ["PLANISH_CACHE_DIR"] = folder
        for line in sys.stdin:
            request = json.loads(line)
            answer(request, out)
            out.write(json.dumps({"done": True}) + "\n")
            out.flush()
            from planish.backends.cpu import toolchain

            toolchain.clear_cache()
    return 0


def answer(request: dict[str, Any], out: Any) -> None:
    from random_modules_check import Outcome, check, one_line
    from random_modules_draw import random_program

    from planish.backends.cpu import isa

    seeds, level = request["seeds"], request["level"] or isa.detect()
    flags = [] if request["full"] else ["-O0"]
    programs, began = {}, time.monotonic()
    for seed in seeds:
        out.write(json.dumps({"at": seed}) + "\n")
        out.flush()
        try:
            programs[f"n{seed}"] = random_program(seed, request["length"])
        except Exception as error:
            say(out, seed, Outcome("error", "generate", one_line(error)), 0, 0.0)

    def seen(name: str, outcome: Outcome) -> None:
        nonlocal began
        now = time.monotonic()
        say(out, int(name[1:]), outcome, len(programs[name].body), now - began)
        began = now

    check(programs, level, flags=flags, threads=request["threads"], per_object=request["chunk"], seen=seen)


def say(out: Any, seed: int, outcome: Any, statements: int, seconds: float) -> None:
    entry = {"seed": seed, "status": outcome.status, "stage": outcome.stage, "reason": outcome.reason,
             "statements": statements, "seconds": round(seconds, 2)}  # fmt: skip
    out.write(json.dumps(entry) + "\n")
    out.flush()


@dataclass
class Worker:
    """A process that is started again when it dies."""

    command: Sequence[str] = (sys.executable, str(HERE / "fuzz.py"), "--work")
    process: subprocess.Popen[str] | None = None
    log: Any = field(default_factory=lambda: tempfile.TemporaryFile("w+"))  # noqa: SIM115

    def ask(self, seeds: Sequence[int], options: dict[str, Any], chunk: int = CHUNK) -> list[dict[str, Any]]:
        """The outcomes of these seeds; a seed that kills the process is found by halving.

        Raises:
            RuntimeError: the worker itself is broken.
        """
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                list(self.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
            )
        found: dict[int, dict[str, Any]] = {}
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        try:
            assert self.process.stdin is not None and self.process.stdout is not None
            self.process.stdin.write(json.dumps({"seeds": list(seeds), "chunk": chunk, **options}) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                entry = json.loads(line)
                if entry.get("done"):
                    return list(found.values())
                if "status" in entry:
                    found[entry["seed"]] = entry
        except (BrokenPipeError, json.JSONDecodeError):
            pass
        finally:
            timer.cancel()
        code = self.process.wait()
        if code > 0:  # a signal ends what a module has broken; an exit code is Python's own
            self.log.seek(0)
            raise RuntimeError(f"a worker failed: {self.log.read()[-2000:]}")
        rest = [s for s in seeds if s not in found]
        if len(rest) == 1:
            reason = f"the process ended with {code}"
            found[rest[0]] = {"seed": rest[0], "status": "crash", "stage": "compiled", "reason": reason}
        elif rest:
            half = len(rest) // 2
            for part in (rest[:half], rest[half:]):
                found |= {e["seed"]: e for e in self.ask(part, options, chunk)}
        return list(found.values())

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


# -- the run -----------------------------------------------------------------------------------------------------------
def read_journal(path: Path | None) -> dict[int, dict[str, Any]]:
    """What earlier runs found, by seed; a line that was cut off is left out."""
    found: dict[int, dict[str, Any]] = {}
    if path is not None and path.is_file():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[entry["seed"]] = entry
    return found


def run(
    seeds: Sequence[int], jobs: int, seconds: float, options: dict[str, Any], journal: Path | None, quiet: bool
) -> dict[int, dict[str, Any]]:
    """Try every seed that the journal does not have, until the time is over."""
    known = read_journal(journal)
    results = {s: known[s] for s in seeds if s in known}
    todo = [s for s in seeds if s not in known]
    queue: Queue[tuple[int, list[int]]] = Queue()
    for number, start in enumerate(range(0, len(todo), CHUNK)):
        queue.put((number, todo[start : start + CHUNK]))
    end, lock = time.monotonic() + seconds, threading.Lock()
    broken: list[RuntimeError] = []

    def serve() -> None:
        worker = Worker()
        while time.monotonic() < end:
            try:
                number, part = queue.get_nowait()
            except Empty:
                break
            full = options["full"] or number % FULL_EVERY == FULL_EVERY - 1
            try:
                found = worker.ask(part, {**options, "full": full, "threads": 1 + number % 2})
            except RuntimeError as error:
                broken.append(error)
                break
            with lock:
                results.update({e["seed"]: e for e in found})
                if journal is not None:
                    with journal.open("a") as file:
                        file.writelines(json.dumps(e) + "\n" for e in found)
                if not quiet:
                    progress(results, len(seeds))
        worker.close()

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not quiet:
        sys.stderr.write("\r\033[K")
    if broken:
        raise broken[0]
    return results


def progress(results: dict[int, dict[str, Any]], total: int) -> None:
    counts = Counter(e["status"] for e in results.values())
    text = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    sys.stderr.write(f"\r\033[K{len(results)} of {total}: {text}")
    sys.stderr.flush()


def summary(results: dict[int, dict[str, Any]]) -> str:
    """Counts, and what was skipped and refused for which reason."""
    counts = Counter(e["status"] for e in results.values())
    lines = [f"{len(results)} modules: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())]
    for status in ("refused", "skipped"):
        reasons = Counter(shortened(e["reason"]) for e in results.values() if e["status"] == status)
        lines += [f"  {status} {n}: {reason}" for reason, n in reasons.most_common()]
    return "\n".join(lines)


def shortened(reason: str) -> str:
    """A reason without the line of the module it came from."""
    return reason.split(" at <random module")[0].split(" (<random module")[0][:160]


def shrink(seed: int, options: Mapping[str, Any], seconds: float) -> str:
    """The source of a failing seed, cut down as far as it goes in this time; empty if it does not fail here."""
    from random_modules import Program
    from random_modules_check import FAILURES, Outcome, check
    from random_modules_draw import random_program
    from random_modules_shrink import shrunk

    from planish.backends.cpu import isa

    def outcome(program: Program) -> Outcome:
        flags = () if options["full"] else ("-O0",)
        return check({"n": program}, options["level"] or isa.detect(), flags=flags, per_object=1)["n"]

    program = random_program(seed, options["length"])
    first = outcome(program)
    if first.status not in FAILURES:
        return ""
    small = shrunk(program, lambda p: (o := outcome(p)).status == first.status and o.stage == first.stage, seconds)
    final = outcome(small)
    return f"# seed {seed}: {final.status}, {final.stage}: {final.reason}\n{small.source}"


def seeds_of(text: str) -> list[int]:
    """``5``, ``0:100``, ``3,7,20:30``."""
    found: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        found += range(int(first), int(last)) if colon else [int(first)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=list(range(5000)), help="5, 0:100 or 3,7,20:30")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after this long")
    parser.add_argument("--journal", type=Path, help="a file that keeps the outcomes; what it has is not tried again")
    parser.add_argument("--level", default="", help="ISA level; this machine's highest if not given")
    parser.add_argument("--full", action="store_true", help="build everything with the product's compiler flags")
    parser.add_argument("--length", type=int, default=LENGTH, help="about the most statements of a module")
    parser.add_argument(
        "--shrink-seconds", type=float, default=120.0, help="for each failing seed; 0 leaves it as it is"
    )
    parser.add_argument("--show", action="store_true", help="print the modules and stop")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work()
    sys.path.insert(0, str(HERE))
    if given.show:
        from random_modules_draw import random_program

        for seed in given.seeds:
            print(random_program(seed, given.length).source)
        return 0
    options = {"level": given.level, "full": given.full, "length": given.length}
    results = run(given.seeds, given.jobs, given.seconds, options, given.journal, not sys.stderr.isatty())
    bad = sorted(s for s, e in results.items() if e["status"] in ("disagree", "error", "crash"))
    for seed in bad:
        entry = results[seed]
        print(f"seed {seed}: {entry['status']}, {entry['stage']}: {entry['reason']}")
        if given.shrink_seconds and entry["status"] != "crash":
            print(shrink(seed, options, given.shrink_seconds))
    print(summary(results))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
