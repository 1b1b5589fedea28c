"""Whole models as torch's two exporters write them: read, they agree with ONNX Runtime and end in the same few kernels as when
they are captured from PyTorch, under the same names."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import zoo
from onnx_exports import export
from test_families import LAYERS, finished, inner_layer

import planish
from planish.compiler.capture.captured import Captured
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.interpret import interpret

pytest.importorskip("transformers")

#: Families of the ones that are exported most, and of the idioms that differ between them.
NAMES = ("bert", "distilbert", "roberta", "gpt2", "llama", "vit", "t5-encoder", "whisper-encoder")
MORE = ("albert", "mpnet", "clip-text", "clip-vision", "qwen2", "gemma", "deit", "dinov2")
OTHERS = (
    "resnet",
    "convnext",
    "swin",
    "mobilenet-v2",
    "segformer",
    "deberta",
    "mistral",
    "modernbert",
    "marian",
    "wav2vec2",
)

VARIANTS = [(n, a) for n in NAMES for a in zoo.MODELS[n].attentions]


def agrees(captured: Captured, path: Path, entry: zoo.Entry) -> None:
    """The graph gives what ONNX Runtime does, at every size."""
    session = onnxruntime.InferenceSession(str(path))
    for sizes in (entry.example, *entry.others):
        feed = {name: tensor.numpy() for name, tensor in entry.call(*sizes).items()}
        want, got = session.run(None, feed), interpret(captured.graph, feed)
        for a, b in zip(want, got, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * float(np.abs(a).max()))


def checked(name: str, attention: str, path: Path, *, dynamo: bool) -> None:
    entry = zoo.MODELS[name]
    module = export(entry, attention, path, dynamo=dynamo)
    captured = capture_onnx(path)
    agrees(captured, path, entry)
    for node in captured.graph.nodes:  # what plans speak of
        if node.op == "linear":
            path = node.name if dynamo else node.name.removeprefix("model.")
            again = re.fullmatch(r"(.*)_\d+", path)  # the older exporter numbers the calls of one module
            module.get_submodule(again.group(1) if again and not dynamo else path)
    if name in LAYERS:
        assert inner_layer(finished(captured)[2]) == LAYERS[name]


@pytest.mark.parametrize(("name", "attention"), VARIANTS)
def test_torchscript(name: str, attention: str, tmp_path: Path) -> None:
    checked(name, attention, tmp_path / "m.onnx", dynamo=False)


def test_dynamo(tmp_path: Path) -> None:
    checked("bert", "sdpa", tmp_path / "m.onnx", dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attention"), VARIANTS)
def test_dynamo_of_all(name: str, attention: str, tmp_path: Path) -> None:
    checked(name, attention, tmp_path / "m.onnx", dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", [*MORE, *OTHERS])
def test_more_models(name: str, dynamo: bool, tmp_path: Path) -> None:
    for attention in zoo.MODELS[name].attentions:
        checked(name, attention, tmp_path / "m.onnx", dynamo=dynamo)


def test_a_table_of_positions_bounds_the_length(tmp_path: Path) -> None:
    """BERT here has 64 positions; the file says of the length only that it varies. 64 tokens are what is made up then."""
    export(zoo.MODELS["bert"], "eager", tmp_path / "m.onnx", dynamo=False)
    captured = capture_onnx(tmp_path / "m.onnx")
    assert captured.graph.symbols["seq"].upper == 64
    assert captured.graph.symbols["batch"].upper == 4096
    assert "the dimension 'seq' is at most 64: a table of the model ends there" in captured.notes
    assert captured.examples["input_ids"].shape == (1, 64)
    assert captured.examples["input_ids"].max() < zoo.VOCABULARY
    with pytest.raises(planish.CaptureError, match=r"min\(seq, 64\)"):
        capture_onnx(tmp_path / "m.onnx", dims={"seq": (1, 100)})


def test_plans_speak_of_modules(tmp_path: Path) -> None:
    """Compiled with the plan of one layer, the rest in float, and run."""
    entry = zoo.MODELS["bert"]
    export(entry, "sdpa", tmp_path / "m.onnx", dynamo=False)
    artifact = planish.compile(
        tmp_path / "m.onnx", dims={"seq": (1, 40), "batch": (1, 8)},
        precision={"model.encoder.layer.0.*": "w8a8-dynamic", "*": "f32"},
    )  # fmt: skip
    layers = artifact.manifest["plan"]["layers"]
    assert layers["model.encoder.layer.0.intermediate.dense"] == "w8a8-dynamic"
    assert layers["model.encoder.layer.1.intermediate.dense"] == "f32"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    feed = {name: tensor.numpy() for name, tensor in entry.call(3, 17).items()}
    with artifact.load() as model:
        got = model(**feed)
    want = session.run(None, feed)[0]
    (mine,) = got.values()
    assert float(np.abs(mine - want).max()) < 0.1 * float(np.abs(want).max())


class Decoder(torch.nn.Module):
    """One step of a decoder with the keys and values of what came before, as optimum exports it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 32)
        self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 50)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.table(input_ids)
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        weights = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5 + mask, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2)), k, v


def test_dimensions_that_are_sums(tmp_path: Path) -> None:
    """``past_sequence_length + sequence_length``, as optimum names the length of a mask."""
    torch.manual_seed(0)
    module = Decoder().eval()
    past = torch.randn(2, 4, 5, 8)
    args = (torch.randint(0, 50, (2, 3)), torch.ones(2, 8, dtype=torch.int64), past, past)
    names = ["input_ids", "attention_mask", "past_key", "past_value"]
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        "past_key": {0: "batch_size", 2: "past_sequence_length"},
        "past_value": {0: "batch_size", 2: "past_sequence_length"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, args, str(tmp_path / "m.onnx"), input_names=names, output_names=["logits", "key", "value"],
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    captured = capture_onnx(tmp_path / "m.onnx", dims={"past_sequence_length": (0, 64)})
    assert set(captured.graph.symbols) == {"batch_size", "sequence_length", "past_sequence_length"}
    assert [n.op for n in finished(captured)[0].nodes].count("attention") == 1
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for batch, length, before in ((2, 3, 5), (1, 1, 0), (3, 2, 7)):
        feed = {
            "input_ids": np.arange(batch * length).reshape(batch, length) % 50,
            "attention_mask": np.ones((batch, before + length), np.int64),
            "past_key": np.full((batch, 4, before, 8), 0.5, np.float32),
            "past_value": np.full((batch, 4, before, 8), 0.25, np.float32),
        }
        for a, b in zip(session.run(None, feed), interpret(captured.graph, feed), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_weights_beside_a_file_are_mapped(tmp_path: Path) -> None:
    """External data is read where it lies; the graph is the same."""
    entry = zoo.MODELS["vit"]
    export(entry, "eager", tmp_path / "m.onnx", dynamo=False)
    one = capture_onnx(tmp_path / "m.onnx")
    onnx.save(
        onnx.load(tmp_path / "m.onnx"),
        tmp_path / "n.onnx",
        save_as_external_data=True,
        location="n.data",
        size_threshold=64,
    )
    other = capture_onnx(tmp_path / "n.onnx")
    agrees(other, tmp_path / "n.onnx", entry)
    assert [n.op for n in one.graph.nodes] == [n.op for n in other.graph.nodes]
