"""FILE.py:callable: what is accepted, and the sentence for everything else."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from planish.cli.source import load_source
from planish.compiler.errors import PlanishError, UsageError

FILE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x, scale=None):
        return {"y": x * 2 if scale is None else x * scale}

def pair(): return Net(), (torch.ones(3),)
def triple(): return Net(), (), {"x": torch.ones(3)}
def full(): return Net(), (torch.ones(3),), {"scale": torch.ones(1)}, {"x": None, "scale": None}
def lone(): return Net(), torch.ones(3)
def mapping(): return Net(), {"x": torch.ones(3)}
def bare(): return Net()
def text(): return "model"
def swapped(): return (torch.ones(3),), Net()
def one(): return (Net(),)
def keywords(): return Net(), (), [1]
def needs(size): return Net(), (torch.ones(size),)
def raises():
    return 1 // 0
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [("pair", 1, 0), ("triple", 0, 1), ("full", 1, 1), ("lone", 1, 0), ("mapping", 0, 1)],
)
def test_every_accepted_form_can_be_called(file: Path, name: str, args: int, kwargs: int) -> None:
    model, positional, keywords = load_source(f"{file}:{name}").eager()
    assert (len(positional), len(keywords)) == (args, kwargs)
    y = model(*positional, **keywords)["y"]
    assert torch.equal(y, torch.ones(3) * (1 if name == "full" else 2))


def test_the_last_of_the_four_is_the_dynamic_shapes(file: Path) -> None:
    assert load_source(f"{file}:full").dynamic_shapes == {"x": None, "scale": None}


@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        ("bare", "returned a Net without example inputs", "return (model, (x,))"),
        ("text", "returned a str, not (module, args", "return (model, (x,))"),
        ("swapped", "the first value that .* returned is a tuple", "it must return"),
        ("one", "returned a tuple of 1", "return (model, (x,))"),
        ("keywords", "the third value that .* is a list", "it must return"),
        ("needs", "must be callable without arguments", "it must return"),
        ("number", "is a int, not a callable", "it must return"),
        ("pear", "has no 'pear'", "did you mean 'pair'?"),
    ],
)
def test_what_is_wrong_is_one_sentence(file: Path, name: str, sentence: str, hint: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace("(", r"\(")) as caught:
        load_source(f"{file}:{name}")
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_callable_that_raises_is_named_with_its_line(file: Path) -> None:
    with pytest.raises(PlanishError, match=r"raises raised ZeroDivisionError at line 20: "):
        load_source(f"{file}:raises")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError at line 1: No module named"),
        ("def f(:", "cannot be imported: SyntaxError at line 1"),
        ("x = [\n1,\n2][5]", "cannot be imported: IndexError at line"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(PlanishError, match=sentence):
        load_source(f"{path}:f")


def test_a_neighbour_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "planish_test_neighbour.py").write_text("SIZE = 5\n")
    path = tmp_path / "user.py"
    path.write_text(
        textwrap.dedent("""
        import torch
        from planish_test_neighbour import SIZE
        def f(): return torch.nn.Identity(), (torch.ones(SIZE),)
        """)
    )
    assert load_source(f"{path}:f").args[0].shape == (5,)


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("{folder}/nett.py:pair", "there is no file", "net.py"),
        ("{folder}/net.py", "does not say which callable", "net.py:pair"),
        ("{folder}/net.pt2", "there is no file", "net.py"),
        ("{folder}", "is no Hugging Face folder: it has no config.json", "FILE.py:callable"),
        ("{folder}/absent", "there is no file or folder .* and nothing is downloaded", "FILE.py:callable"),
        ("nobody/some-model", "there is no file or folder .* and nothing is downloaded", "model.safetensors"),
        ("{folder}/net.py:", "is no model", "the callable returns"),
        ("x.planish", "is a compiled model already", "planish inspect"),
    ],
)
def test_a_path_that_is_no_model(file: Path, text: str, sentence: str, hint: str) -> None:
    with pytest.raises(PlanishError, match=sentence) as caught:
        load_source(text.format(folder=file.parent))
    assert hint in (caught.value.hint or "")
