"""What cannot be captured ends in one plain sentence that names the model's line; torch says nothing of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from capture.oracle import Function, check
from torch import Tensor, nn
from torch.export import Dim
from torch.testing._internal.two_tensor import TwoTensor

from planish.compiler.capture.examples import DerivedShapes
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
        a = torch.special.i1(x)
        b = torch.linalg.inv(x @ x.T)
        c = torch.relu(a)
        d = torch.digamma(c)
        e = torch.special.i1(d)
        return a.sum() + b.sum() + e.sum()


def line_of(text: str) -> str:
    """``file:line`` of a line of this file."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.strip() == text)
    return f"test_errors.py:{number}"


def test_every_unsupported_op_is_listed_with_its_line() -> None:
    message = refused(Several(), (X,)).message
    assert message.startswith("the model uses 3 operations that cannot be captured")
    first, second = line_of("a = torch.special.i1(x)"), line_of("e = torch.special.i1(d)").rsplit(":", 1)[1]
    assert "aten.special_i1 at " in message and first in message and f":{second}" in message
    assert "aten.linalg_inv at " in message and line_of("b = torch.linalg.inv(x @ x.T)") in message
    assert "aten.digamma at " in message and line_of("d = torch.digamma(c)") in message


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
        (lambda x: torch.view_as_complex(x.reshape(3, 2, 2)).abs(), ["aten.view_as_complex", "complex numbers"]),
        (lambda x: torch.polar(x, x).real, ["aten.polar", "complex numbers"]),
        (lambda x: x.to_sparse().to_dense(), ["aten.to_sparse", "sparse tensors"]),
        (lambda x: x.to(torch.float8_e4m3fn).float(), ["float8_e4m3fn is not supported"]),
        (lambda x: x.repeat_interleave(x[:, 0].long(), 0), ["aten.repeat_interleave", "depends on the data"]),
        (lambda x: torch.nn.functional.gumbel_softmax(x), ["aten.exponential_", "draws random numbers"]),
        (lambda x: torch.nested.nested_tensor([x, x]).to_padded_tensor(0), ["makes a nested tensor at"]),
        (lambda x: torch.from_numpy(x.numpy() * 2), ["leaves PyTorch for numpy at", "test_errors.py:"]),
        (lambda x: torch.func.vmap(lambda row: row.sum())(x), ["a transform of torch.func at"]),
        (lambda x: torch.autograd.grad(x.sum(), x)[0], ["computes gradients at"]),
        (lambda x: x * 2 if x.sum().item() > 0 else x, ["a decision that depends on the data at"]),
        (lambda x: sum(x for _ in range(int(x.sum()))), ["a decision that depends on the data at"]),
        (lambda x: None, ["returns no tensor"]),
        (lambda x: type("Result", (), {"y": x})(), ["returns a Result"]),
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


class Holder(nn.Module):
    """Something with a tensor that is of no use."""

    def __init__(self, **tensors: Any) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 4)


def scripted() -> nn.Module:
    return torch.jit.script(nn.Linear(4, 4))


def quantised_tensor() -> Tensor:
    return torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words", "hint"),
    [
        (lambda: Holder(w=X.to_sparse()), "the buffer 'w' is a sparse_coo tensor", "to_dense"),
        (lambda: Holder(w=X.to_sparse_csr()), "the buffer 'w' is a sparse_csr tensor", "to_dense"),
        (lambda: Holder(w=quantised_tensor()), "the buffer 'w' is a quantised tensor (qint8)", "w8a8-dynamic"),
        (lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}),
         "its module '0' is quantised already (Linear)", "w8a8-dynamic"),
        (lambda: Holder(w=nn.Parameter(TwoTensor(X, X))), "the parameter 'w' is a TwoTensor (", "float model"),
        (on_meta, "the parameter 'weight' has no data", "load the weights"),
        (lambda: nn.LazyLinear(4), "the parameter 'weight' has no shape yet", "run the model once"),
        (scripted, "the model is TorchScript", "nn.Module"),
        (lambda: nn.Sequential(scripted()), "its module '0' is TorchScript", "nn.Module"),
    ],
)  # fmt: skip
def test_models_that_are_not_admitted(make: Callable[[], nn.Module], words: str, hint: str) -> None:
    error = refused(make(), (X,))
    assert words in error.message
    assert hint in error.hint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words", "kind"),
    [
        (X.numpy, "the input 'input' is a numpy array", UsageError),
        (lambda: {1, 2}, "the input 'input' has the type set", UsageError),
        (lambda: X.to("meta"), "the input 'input' has no data", CaptureError),
        (quantised_tensor, "the input 'input' is a quantised tensor", CaptureError),
        (
            lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged),
            "the input 'input' is a nested",
            CaptureError,
        ),
    ],
)
def test_inputs_that_are_not_admitted(make: Callable[[], Any], words: str, kind: type[Exception]) -> None:
    value = make()
    assert words in refused(nn.Identity(), (value,), error=kind).message
    assert words.replace("'input'", "'input.0'") in refused(nn.Identity(), ([value],), error=kind).message


def test_a_module_without_forward() -> None:
    assert "a ModuleList is no model" in refused(nn.ModuleList([nn.Linear(4, 4)]), (X,), error=UsageError).message


def test_a_cuda_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "moves tensors to a CUDA device at" in refused(Function(lambda x: x.cuda()), (X,)).message


def test_packed_sequences_name_their_line() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.lstm(packed)[0].data

    error = refused(Packed(), (X[None], torch.tensor([3])))
    assert "packs sequences at" in error.message
    assert "padded" in error.hint


class Swish(torch.autograd.Function):
    """Custom, but made of ops that can be traced."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class ByNumpy(torch.autograd.Function):
    """Custom, and computed outside of PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


def test_custom_autograd_functions_are_traced_through_or_named() -> None:
    check(Function(Swish.apply), (X,))
    error = refused(Function(ByNumpy.apply), (X,))
    assert "leaves PyTorch for numpy at " in error.message
    assert line_of("return torch.from_numpy(x.numpy() * 2)") in error.message
    assert "register_op" in error.hint


def test_what_looks_odd_and_is_fine() -> None:
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    hooked.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    check(hooked, (X,))
    check(nn.DataParallel(nn.Linear(4, 4)), (X,))
    check(torch.compile(nn.Linear(4, 4)), (X,))
    check(Holder(w=nn.Parameter(torch.ones(3, dtype=torch.complex64))), (X,))  # unused
    check(nn.Linear(4, 4).half(), (X.half(),), tolerance=2e-3)
    dropout = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    assert "dropout" not in [n.op for n in capture(dropout, (X,)).graph.nodes]
    assert dropout.training
    check(Function(lambda x, mode, times: x * times if mode == "mode" else x), (X, "mode", 3))


def test_dimensions_that_the_model_fixes_or_ties() -> None:
    fixed = refused(Function(lambda x: x.reshape(3, 4)), (X,), dynamic_shapes=(({0: Dim("rows")},),))
    assert "it fixes rows at 3" in fixed.message
    tied = refused(Function(torch.add), (X, X + 1), dynamic_shapes=(({0: Dim("a")}, {0: Dim("b")}),))
    assert "a and b must be equal" in tied.message or "must be equal" in tied.message
    table = Function(lambda x: x + torch.arange(10)[: x.shape[0], None])
    bounded = refused(table, (X,), dynamic_shapes=(({0: Dim("rows")},),))
    assert "every size" in bounded.message and "max=10" in bounded.hint


@pytest.mark.parametrize(
    ("fn", "note", "bounds"),
    [
        (lambda x: x.reshape(3, 4) * 2, "does not let rows vary", {}),
        (lambda x: x + torch.arange(10)[: x.shape[0], None], "vary from 1 to 10 only", {"rows": (1, 10)}),
        (lambda x: x * 2, None, {"rows": (1, 64)}),
    ],
)
def test_derived_sizes_are_narrowed_to_what_the_model_takes(
    fn: Callable[[Tensor], Tensor], note: str | None, bounds: dict[str, tuple[int, int]]
) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fn(x)

    captured = capture(Named(), (), {"x": X}, dynamic_shapes=DerivedShapes({"x": {0: Dim("rows", min=1, max=64)}}))
    assert {s.name: (s.lower, s.upper) for s in captured.graph.symbols.values()} == bounds
    warned = [n for n in captured.notes if getattr(n, "kind", "") == "warning"]
    assert [note in n for n in warned] == ([True] if note else [])


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
