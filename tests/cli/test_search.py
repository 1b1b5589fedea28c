"""The commands around a search, on a small model: what they ask for, what they find, and what they say when it goes wrong."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_sample as sample

from planish.cli import main
from planish.cli.early import EarlyResults
from planish.cli.progress import Clock
from planish.cli.search_options import data_source, parse_workload, plan_argument, search_arguments
from planish.compiler.errors import PlanishError, UsageError
from planish.compiler.plan import Plan

FILE = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 128), nn.Linear(128, 16)
    def forward(self, x):
        return self.down(nn.functional.gelu(self.up(torch.tanh(self.stem(x)))))

def model():
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=1, max=64)
    net = Net().eval()
    with torch.no_grad():
        net.down.weight[:, ::7] *= 30  # hard on int8
    return net, (torch.randn(5, 32),), None, {"x": {0: rows}}

def data():
    random = np.random.default_rng(0)
    return {name: [random.standard_normal(32).astype(np.float32) * scale for _ in range(420)]
            for name, scale in (("near", 0.3), ("far", 3.0))}

def few():
    return data()["near"][:10]

def halved(output):
    return np.asarray(output)[:, :8]

def spread(reference, output):
    return np.abs(np.asarray(output) - np.asarray(reference)).max(axis=1)

number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("search")
    (path / "net.py").write_text(FILE)
    np.savez(path / "in.npz", x=np.zeros((4, 32), np.float32))
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """Compiled by a plan."""
    path = folder / "plain.planish"
    assert (
        main(["compile", f"{folder}/net.py:model", "-o", str(path), "-p", "bf16", "-p", "up=f32", "--no-measure"]) == 0
    )
    return path


@pytest.fixture(scope="module")
def searched(folder: Path, plain: Path) -> Path:
    """An artifact with the record of a made-up search."""
    import planish

    (folder / "net_for_record.py").write_text(FILE)
    import torch

    artifact = planish.compile(torch.nn.Linear(8, 8).eval(), (torch.zeros(1, 8),))
    report = artifact.package.report
    assert isinstance(report, dict)
    report.update(sample.report(3))
    path = folder / "searched.planish"
    artifact.save(path)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def fails(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> tuple[str, str]:
    assert main([*map(str, arguments)]) == status
    err = capsys.readouterr().err
    first, _, rest = err.strip().partition("\n")
    assert first.startswith("error: ")
    assert "Traceback" not in err
    return first.removeprefix("error: "), rest.removeprefix("hint:  ")


# -- options --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "sentence", "hint"),
    [
        ("--effort quick", "--effort is for a search, and there is no --budget", "--budget"),
        ("--restart", "--restart is for a search", "--budget"),
        ("--budget 'cosine >= 0.9'", "a budget needs data", "--calibration"),
        ("--calibration no.npz", "there is no file", ""),
        ("--calibration in.txt", "is no data", "IN.jsonl"),
        ("--calibration {f}/net.py", "does not say which callable", "net.py:model"),
        ("--calibration {f}/net.py:dat", "has no 'dat'", "did you mean 'data'?"),
        ("--calibration {f}/net.py:number", "is a int, not a callable", ""),
        ("--calibration {f}/net.py:data --calibration {f}/in.npz", "is given several times", "NAME="),
        ("--calibration a={f}/in.npz --calibration a={f}/in.npz", "names the slice 'a' twice", ""),
        ("{b} --workload rows", "not of the form NAME=N", "--workload batch=1"),
        ("{b} --workload rows=1@much", "ends with no number", "@0.7"),
        ("{b} --workload rows=1@1 --workload rows=2", "some workloads have a weight", "all of them"),
        ("{b} --workload rows=0", "rows = 0 is no size", "1"),
        ("{b} --workload row=1", "no such dimension", "did you mean 'rows'?"),
        ("{b} --coverage 99", "--coverage 99 is no share", "0.99"),
        ("{b} --objective speed", "there is no objective 'speed'", "latency"),
        ("{b} --effort enormous", "there is no effort 'enormous'", "quick"),
        ("{b} --metric spread", "NAME=FILE.py:callable", "--metric"),
        ("{b} --score {f}/net.py:halve", "has no 'halve'", "'halved'"),
        (
            "--budget 'cosin >= 0.9' --calibration {f}/net.py:data",
            "there is no metric 'cosin'",
            "did you mean 'cosine'?",
        ),
        ("--budget 'cosine <= 0.9' --calibration {f}/net.py:data", "asks for poor quality", "cosine >= 0.9"),
        ("-p auto", "--precision auto finds what meets a bar", "--budget"),
        ("--plan no.toml", "the plan no.toml cannot be read", ""),
        ("--plan no.toml -p bf16", "--plan and --precision both", "one of them"),
        ("--save-plan plan.txt", "is no TOML file", "plan.toml"),
        ("--save-plan nowhere/plan.toml", "there is no folder", "first"),
    ],
)
def test_an_option_that_makes_no_sense(
    folder: Path, options: str, sentence: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = f"--budget 'cosine >= 0.9 each' --calibration {folder}/net.py:data"
    arguments = shlex.split(options.format(f=folder, b=budget))
    told = fails(capsys, 2, "compile", f"{folder}/net.py:model", "-o", folder / "never.planish", *arguments)
    assert sentence in told[0]
    assert hint in told[1]
    assert not (folder / "never.planish").exists()


def test_too_few_samples_says_how_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, data = f"{folder}/net.py:model", f"{folder}/net.py:few"
    asked = ["--budget", "cosine >= 0.9 each", "--calibration", data]
    told = fails(capsys, 2, "compile", source, *asked, "-o", folder / "no.planish")
    assert "10 were given" in told[0]
    assert any(number.isdigit() and int(number) >= 299 for number in told[0].split())


def test_arguments_of_a_search(folder: Path) -> None:
    file = f"{folder}/net.py"
    given = search_arguments(
        calibration=[f"{file}:data"], budget="mine <= 0.5 mean", metrics=[f"mine={file}:spread"], score=f"{file}:halved",
        workload=["rows=1@0.7", "rows=8@0.3"], threads=2, effort="30", seed=4, executor="processes:2",
    )  # fmt: skip
    assert given["workload"].to_data() == {"dims": [{"rows": 1}, {"rows": 8}], "weights": [0.7, 0.3], "threads": 2}
    assert given["metrics"]["mine"](np.zeros((2, 3)), np.ones((2, 3))).tolist() == [1, 1]
    assert {k: given[k] for k in ("effort", "seed", "executor")} == {
        "effort": 30.0,
        "seed": 4,
        "executor": "processes:2",
    }
    assert set(given) == {"calibration", "budget", "metrics", "score", "workload", "effort", "seed", "executor"}
    assert search_arguments() == {}


def test_slices_have_names_and_files_may_have_an_equals_sign(folder: Path) -> None:
    odd = folder / "a=b.npz"
    np.savez(odd, x=np.zeros((1, 32), np.float32))
    assert data_source("--calibration", [f"q={folder}/in.npz", f"s={folder}/net.py:few"]) == {
        "q": f"{folder}/in.npz", "s": f"{folder}/net.py:few",
    }  # fmt: skip
    assert data_source("--calibration", [str(odd)]) == str(odd)
    assert parse_workload([], 3).to_data()["threads"] == 3


def test_a_plan_with_a_bar_is_a_plan_of_everything(folder: Path) -> None:
    path = folder / "plan.toml"
    path.write_text('version = 1\n[[rule]]\nmatch = "up"\nprecision = "bf16"\n')
    assert [str(r.precision) for r in plan_argument(None, path, "cosine >= 0.9").rules] == ["bf16", "f32"]
    assert plan_argument(None, path, None) == Plan.read(path)
    assert plan_argument("auto", None, "x") is None
    assert plan_argument({"up": "bf16", "*": "auto"}, None, "x") == {"up": "bf16"}
    with pytest.raises(UsageError, match="auto"):
        plan_argument({"up": "bf16", "*": "auto"}, None, None)


# -- while it runs --------------------------------------------------------------------------------------------------------
def test_the_clock_says_what_is_left() -> None:
    time = 0.0
    clock = Clock(lambda: time)
    clock.report("timing", 0, 10)
    assert clock.line() == "timing (1 of 10)"
    time = 6.0
    clock.report("timing", 2, 10)
    assert clock.line() == "timing (3 of 10)  6 s so far, about 24 s left of this step"
    clock.report("", 0, 0)
    assert clock.line().startswith("timing (3")
    clock.report("solving", 0, 0)
    assert clock.line() == "solving  6 s so far"
    time = 100.0
    assert clock.line() == "solving  1:40 min so far"
    clock.report("timing", 8, 10)  # another step of the same name does not count from the first
    time = 110.0
    clock.report("timing", 9, 10)
    assert clock.line() == "timing (10 of 10)  1:50 min so far, about 10 s left of this step"


def test_a_narrow_line_keeps_the_times() -> None:
    time = 0.0
    clock = Clock(lambda: time)
    clock.report("building a plan: 12 units w8a8, 3 bf16", 0, 4)
    time = 10.0
    clock.report("building a plan: 11 units w8a8, 4 bf16", 1, 4)  # the same step: another plan
    assert clock.line(60) == "building a plan:…  10 s so far, about 30 s left of this step"
    assert clock.line(200).startswith("building a plan: 11 units w8a8, 4 bf16 (2 of 4)  10 s")


class Saved:
    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: Path) -> None:
        if self.text == "broken":
            raise PlanishError("the disk is full")
        part = path.with_suffix(".part")  # as an artifact is saved: whole or not at all
        part.write_text(self.text)
        part.replace(path)


@pytest.mark.parametrize("before", [None, "old"])
def test_early_results_are_put_back_when_the_search_fails(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "x.planish"
    if before is not None:
        path.write_text(before)
    early = EarlyResults(path)
    early(Saved("float"))
    early(Saved("better"))
    assert path.read_text() == "better"
    early.take_back()
    assert (path.read_text() if path.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == (before is not None)


def test_early_results_stay_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "x.planish"
    path.write_text("old")
    early = EarlyResults(path)
    early(Saved("float"))
    with pytest.raises(PlanishError):
        early(Saved("broken"))
    early.done()
    assert path.read_text() == "float"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_search_keeps_the_best_so_far(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "interrupted.planish"

    def stopped(*args: object, improved: Any, **options: object) -> None:
        improved(Saved("float"))
        raise KeyboardInterrupt

    monkeypatch.setattr("planish.driver.compile", stopped)
    search = ["--calibration", f"{folder}/net.py:data", "--budget", "cosine >= 0.9 each"]
    told = fails(capsys, 130, "compile", f"{folder}/net.py:model", *search, "-o", path)
    assert "what was measured is kept" in told[0]
    assert str(path) in told[0]
    assert told[1] == "run the same command again to go on"
    assert path.read_text() == "float"


# -- explain and report ---------------------------------------------------------------------------------------------------
def test_explain_tells_every_unit(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(searched)]) == 0
    out = capsys.readouterr().out
    data = sample.search(3)
    assert all(u["name"] in out for u in data["units"])
    for words in (
        "proved",
        "scored",
        "timed at",
        "confidence",
        "chosen",
        "fared worst",
        "would save 0.15 ms",
        "planish explain",
    ):
        assert words in out
    found = call(capsys, "explain", searched)
    assert [u["precision"] for u in found["units"]] == [u["chosen"] for u in data["units"]]
    assert sum(u["share_of_loss"] for u in found["units"]) == pytest.approx(1.0)


def test_explain_one_unit(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(searched), "encoder.layer.1.attention.output.dense"]) == 0
    out = capsys.readouterr().out
    for words in ("the solver", "sensitivity", "w4a8-g32", "> bf16", "candidate"):
        assert words in out
    told = fails(capsys, 2, "explain", searched, "encoder.layer.1.atention.output.dense")
    assert "did you mean 'encoder.layer.1.attention.output.dense'?" in told[1]


def test_explain_without_a_search_shows_the_plan(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(plain)]) == 0
    assert "without a search" in capsys.readouterr().out
    found = call(capsys, "explain", plain, "down")
    assert (found["searched"], found["layers"]) == (False, {"down": "bf16"})
    assert "did you mean 'down'?" in fails(capsys, 2, "explain", plain, "dwon")[1]


def test_report_is_one_file(searched: Path, plain: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "report", searched, "-o", folder / "told.html")
    assert found["bytes"] == (folder / "told.html").stat().st_size
    assert "</html>" in (folder / "told.html").read_text()
    assert "without a search" in fails(capsys, 2, "report", plain)[0]
    assert "report.html" in fails(capsys, 2, "report", searched, "-o", folder / "report.pdf")[1]
    assert "no folder" in fails(capsys, 2, "report", searched, "-o", folder / "no" / "x.html")[0]
    assert not [p for p in folder.iterdir() if p.suffix == ".part"]


# -- bisect ---------------------------------------------------------------------------------------------------------------
def test_bisect_names_the_guilty_layer_and_how_to_be_rid_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [f"{folder}/net.py:model", "--calibration", f"{folder}/net.py:data", "--samples", "8"]
    found = call(capsys, "bisect", *common, "-p", "w8a8-dynamic")
    worst = max(found["units"], key=lambda u: next(iter(u["alone"].values())))
    assert found["first_jump"].startswith("quantize")
    assert found["pins"] == worst["sources"]
    assert worst["name"] in found["verdict"]
    assert f"-p {worst['sources'][0]}=f32" in found["command"]
    (term,) = found["loss"]
    before = next(s for s in found["passes"] if s["name"] == found["first_jump"])
    assert found["units"][-1]["together"][term] == pytest.approx(before["losses"][term], rel=0.2)
    assert len(found["samples"]) == 8
    assert found["kernels"]["distance"] <= found["kernels"]["allowed"]
    options = shlex.split(found["command"])[3:]
    again = call(capsys, "bisect", *common, *options)
    assert again["loss"][term] < found["loss"][term]


def test_bisect_in_words_and_by_a_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "mixed.toml"
    plan.write_text('version = 1\n[[rule]]\nmatch = "down"\nprecision = "w8a8-dynamic"\n')
    assert main(["bisect", f"{folder}/net.py:model", "--plan", str(plan), "--calibration", f"{folder}/net.py:few",
                 "--samples", "4", "--metric", f"mine={folder}/net.py:spread"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    for words in (
        "after each pass",
        "here the loss rises most",
        "down",
        "kernels",
        "the error comes from precision",
        "[[rule]]",
    ):
        assert words in out


def test_bisect_of_what_loses_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "bisect", f"{folder}/net.py:model", "-p", "f32", "--calibration", f"{folder}/net.py:few")
    assert (found["units"], found["pins"], found["command"]) == ([], [], "")
    assert "nothing is lost" in found["verdict"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--calibration {f}/net.py:few", "a model in float has no error"),
        ("-p bf16", "an error is looked for on data"),
        ("-p bf16 --calibration {f}/net.py:few --metric cosin", "there is no metric 'cosin'"),
        ("-p bf17 --calibration {f}/net.py:few", "bf17"),
        ("-p nothing=bf16 --calibration {f}/net.py:few", "matches no part of the model"),
    ],
)
def test_bisect_that_cannot_be(folder: Path, options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, 2, "bisect", f"{folder}/net.py:model", *shlex.split(options.format(f=folder)))
    assert sentence in " ".join(told)


# -- the whole way --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def found(folder: Path) -> tuple[Path, Path, list[str]]:
    """An artifact that was searched for, its plan, and the command."""
    path, plan = folder / "found.planish", folder / "found.toml"
    command = [
        "compile", f"{folder}/net.py:model", "--calibration", f"{folder}/net.py:data", "--budget", "cosine >= 0.999 each",
        "--effort", "quick", "--threads", "1", "-o", str(path), "--save-plan", str(plan), "--no-measure",
    ]  # fmt: skip
    assert main(command) == 0
    return path, plan, command


def test_a_search_tells_the_promise_and_what_it_stands_on(
    found: tuple[Path, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, command = found
    assert main(command) == 0  # measured before: it only builds what it found again
    out = capsys.readouterr().out
    four = ("cosine of the outputs", "calibration", "1 thread", "95 %")
    for words in ("proved", "cosine >= 0.999", *four, "chosen", "resumed", "planish explain"):
        assert words in out, words
    told = call(capsys, "explain", path)
    assert told["searched"] and told["complete"]
    assert [u["name"] for u in told["units"]] == ["stem", "up", "down"]
    assert all(p["holds"] for p in told["proof"])
    report = call(capsys, "report", path)
    assert "holds" in Path(report["report"]).read_text()


def test_the_plan_that_was_found_is_built_as_it_says(
    found: tuple[Path, Path, list[str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, plan, _ = found
    again, data = folder / "again.planish", f"{folder}/net.py:data"
    told = call(
        capsys, "compile", f"{folder}/net.py:model", "--calibration", data, "--plan", plan, "-o", again, "--no-measure"
    )
    assert told["plan"] == Plan.read(plan).to_data()
    layers = [call(capsys, "inspect", p)["manifest"]["plan"]["layers"] for p in (path, again)]
    assert layers[0] == layers[1]
    assert set(layers[0]) == {"stem", "up", "down"}


def test_a_bar_that_cannot_be_met_leaves_nothing_behind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = folder / "low.toml"
    plan.write_text('version = 1\n[[rule]]\nmatch = "*"\nprecision = "w8a8-dynamic"\n')
    path = folder / "impossible.planish"
    told = fails(
        capsys, 3, "compile", f"{folder}/net.py:model", "--calibration", f"{folder}/net.py:data", "--budget",
        "cosine >= 0.9999999 each", "--effort", "quick", "--plan", plan, "-o", path,
    )  # fmt: skip
    assert "cosine" in told[0]
    assert not path.exists()
