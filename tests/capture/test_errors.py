"""What cannot be captured ends in one plain sentence that names the model's line; torch says nothing of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from capture.oracle import Function
from torch import Tensor, nn
from torch.export import Dim

from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import CaptureError, UsageError

X = torch.arange(12, dtype=torch.float32).reshape(3, 4) + 0.5


def refused(model: Any, *args: Any, error: type[Exception] = CaptureError, **named: Any) -> Any:
    """The error that capturing ``model`` ends in."""
    with pytest.raises(error) as caught:
        capture(model, *args, **named)
    assert "\n" not in str(caught.value), "one sentence"
    assert len(str(caught.value)) < 500
    return caught.value


class Several(nn.Module):
    """Three ops nobody can lower, on lines of their own."""

    def forward(self, x: Tensor) -> Tensor:
        a = torch.sort(x)[0]
        b = torch.linalg.inv(x @ x.T)
        c = torch.relu(a)
        d = torch.topk(c, 2)[0]
        e = torch.sort(d)[0]
        return a.sum() + b.sum() + e.sum()


def line_of(text: str) -> str:
    """``file:line`` of a line of this file."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.strip() == text)
    return f"test_errors.py:{number}"


def test_every_unsupported_op_is_listed_with_its_line() -> None:
    message = refused(Several(), (X,)).message
    assert message.startswith("the model uses 3 operations that cannot be captured")
    first, second = line_of("a = torch.sort(x)[0]"), line_of("e = torch.sort(d)[0]").rsplit(":", 1)[1]
    assert "aten.sort at " in message and first in message and f":{second}" in message
    assert "aten.linalg_inv at " in message and line_of("b = torch.linalg.inv(x @ x.T)") in message
    assert "aten.topk at " in message and line_of("d = torch.topk(c, 2)[0]") in message


class Branch(nn.Module):
    """Control flow on data."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_data_names_its_line() -> None:
    error = refused(Branch(), (X,))
    assert "a decision that depends on the data" in error.message and line_of("if x.sum() > 0:") in error.message
    assert "torch.where" in error.hint


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x: x * x.sum().item(), ["aten.item", "reads a number out of the data"]),
        (lambda x: x.nonzero(), ["aten.nonzero", "size of its result depends on the data"]),
        (lambda x: x[x > 1], ["aten.index.Tensor", "size depends on the data"]),
        (lambda x: x + torch.randn_like(x), ["aten.randn_like", "draws random numbers"]),
        (lambda x: torch.bernoulli(x / 20), ["aten.bernoulli", "draws random numbers"]),
        (lambda x: nn.functional.dropout(x, 0.5, True), ["aten.dropout", "draws random numbers"]),
        (lambda x: torch.fft.fft(x).real, ["aten.fft_fft"]),
        (lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)), ["cond", "a branch on data"]),
        (lambda x: nn.functional.max_pool1d(x[None], 3, ceil_mode=True), ["aten.max_pool1d", "ceil_mode"]),
        (lambda x: x.view(torch.int32), ["aten.view.dtype", "bits"]),
        (lambda x: x.fill_(1.0), ["writes to its input 'args.0'"]),
        (lambda x: x.no_such_method(), ["cannot export the model", "no_such_method"]),
    ],
)  # fmt: skip
def test_what_cannot_be_captured(fn: Callable[[Tensor], Tensor], words: list[str]) -> None:
    message = refused(Function(fn), (X.clone(),)).message
    for word in words:
        assert word in message, message


def test_a_buffer_that_is_written() -> None:
    class Counter(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x + self.count

    assert "writes to its buffer 'count'" in refused(Counter(), (X,)).message


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (X.to(torch.complex64), "the input 'input': the element type complex64 is not supported"),
        (X.to_sparse(), "the input 'input' is a sparse_coo tensor"),
        (X.to(torch.float8_e4m3fn), "the input 'input': the element type float8_e4m3fn is not supported"),
    ],
)
def test_inputs_without_a_counterpart(tensor: Tensor, words: str) -> None:
    assert words in refused(nn.Identity(), tensor).message


def test_dimensions_that_the_model_fixes_or_ties() -> None:
    fixed = refused(Function(lambda x: x.reshape(3, 4)), (X,), dynamic_shapes=(({0: Dim("rows")},),))
    assert "it fixes rows at 3" in fixed.message
    tied = refused(Function(torch.add), (X, X + 1), dynamic_shapes=(({0: Dim("a")}, {0: Dim("b")}),))
    assert "a and b must be equal" in tied.message or "must be equal" in tied.message
    table = Function(lambda x: x + torch.arange(10)[: x.shape[0], None])
    bounded = refused(table, (X,), dynamic_shapes=(({0: Dim("rows")},),))
    assert "every size" in bounded.message and "max=10" in bounded.hint


def test_dynamic_shapes_that_do_not_fit_the_call() -> None:
    assert "['input']" in refused(nn.Linear(4, 4), (X,), dynamic_shapes={"inputs": {0: Dim("rows")}}).message
    assert "dynamic_shapes does not fit" in refused(nn.Linear(4, 4), (X,), dynamic_shapes=({0: Dim("r")},) * 2).message


def test_arguments_the_model_does_not_take() -> None:
    assert "does not take these arguments" in refused(nn.Linear(4, 4), (X, X)).message
    assert "'input'" in refused(nn.Linear(4, 4), (), {"nope": X}).message
    assert "twice" in refused(nn.Linear(4, 4), {"input": X}, {"input": X}, error=UsageError).message


def test_the_models_own_exception_is_told() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("only square inputs, please")

    error = refused(Picky(), (X,))
    assert "only square inputs, please" in error.message
    assert line_of('raise ValueError("only square inputs, please")') in error.message


def test_files_that_hold_no_program(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "absent.pt2").message
    junk = tmp_path / "junk.pt2"
    junk.write_bytes(b"not a zip")
    assert "is no model" in refused(junk).message
    state = tmp_path / "state.pt2"
    torch.save({"weight": X}, state)
    error = refused(str(state))
    assert "a state_dict" in error.message and "FILE.py:callable" in error.hint
    truncated = tmp_path / "cut.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 4), (X,), strict=False), truncated)
    truncated.write_bytes(truncated.read_bytes()[:-400])
    assert "cut.pt2 is cut short" in refused(truncated).message


def test_things_that_are_no_model() -> None:
    assert "not int" in refused(42, error=UsageError).message
    program = torch.export.export(nn.Linear(4, 4), (X,), strict=False)
    assert "has its shapes already" in refused(program, dynamic_shapes={}, error=UsageError).hint
    assert "takes 1" in refused(program, (X, X), error=UsageError).message


def test_torch_is_silent(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    refused(Branch(), (X,))
    refused(Function(lambda x: x.reshape(3, 4)), (X,), dynamic_shapes=(({0: Dim("rows"), 1: None},),))
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert not recwarn.list


def test_debug_lets_torch_speak(capfd: pytest.CaptureFixture[str]) -> None:
    refused(Branch(), (X,), debug=True)
    assert "aten.sum" in capfd.readouterr().err
