"""Transformers of random weights, captured with a dynamic batch and length, against eager PyTorch on other sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from capture.oracle import check
from torch import Tensor, nn
from torch.export import Dim

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 50,
         "max_position_embeddings": 64}  # fmt: skip
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
          "patch_size": 4}  # fmt: skip


def built(model: str, config: str, attention: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    """A model of random weights, in eval mode."""
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**options, attn_implementation=attention)
    return getattr(transformers, model)(settings, **more).eval()


def text(batch: int, seq: int, padded: bool = True) -> dict[str, Tensor]:
    """Token ids with a mask that hides the end of the second row."""
    generator = torch.Generator().manual_seed(batch * 100 + seq)
    mask = torch.ones(batch, seq, dtype=torch.int64)
    if padded and batch > 1:
        mask[1, seq // 2 + 1 :] = 0
    return {"input_ids": torch.randint(3, 50, (batch, seq), generator=generator), "attention_mask": mask}


def image(batch: int, size: int = 16) -> dict[str, Tensor]:
    """Random pixels."""
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))}


TEXT_SHAPES = {
    n: {0: Dim("batch", min=1, max=8), 1: Dim("seq", min=1, max=40)} for n in ("input_ids", "attention_mask")
}
IMAGE_SHAPES = {"pixel_values": {0: Dim("batch", min=1, max=8)}}

ENCODERS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("BertModel", "BertConfig", SMALL, {"add_pooling_layer": False}),
    ("BertModel", "BertConfig", SMALL, {}),
    ("DistilBertModel", "DistilBertConfig",
     {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50, "max_position_embeddings": 64}, {}),
    ("RobertaModel", "RobertaConfig", {**SMALL, "pad_token_id": 1}, {}),
    ("AlbertModel", "AlbertConfig", {**SMALL, "embedding_size": 16}, {}),
    ("ElectraModel", "ElectraConfig", {**SMALL, "embedding_size": 16}, {}),
    ("XLMRobertaModel", "XLMRobertaConfig", {**SMALL, "pad_token_id": 1}, {}),
    ("BertForSequenceClassification", "BertConfig", SMALL, {}),
]  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("model", "config", "options", "more"), ENCODERS,
                         ids=["BertModel", "BertModel-pooler", *(e[0] for e in ENCODERS[2:])])  # fmt: skip
def test_text_encoder(model: str, config: str, options: dict[str, Any], more: dict[str, Any], attention: str) -> None:
    module = built(model, config, attention, options, **more)
    captured = check(
        module,
        (),
        text(2, 9),
        shapes=TEXT_SHAPES,
        others=[((), text(3, 17)), ((), text(1, 1)), ((), text(4, 2))],
        tolerance=3e-5,
    )
    assert set(captured.graph.symbols) == {"batch", "seq"}
    ops = [n.op for n in captured.graph.nodes]
    assert ops.count("attention") == (2 if attention == "sdpa" else 0)
    assert "layer_norm" in ops and "linear" in ops


def test_mpnet() -> None:
    module = built("MPNetModel", "MPNetConfig", "eager", SMALL)
    check(module, (), text(2, 9), shapes=TEXT_SHAPES, others=[((), text(3, 17)), ((), text(1, 4))], tolerance=3e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("model", "config"), [("ViTModel", "ViTConfig"), ("DeiTModel", "DeiTConfig")])
def test_vision_encoder(model: str, config: str, attention: str) -> None:
    module = built(model, config, attention, VISION)
    captured = check(module, (), image(2), shapes=IMAGE_SHAPES, others=[((), image(1)), ((), image(5))], tolerance=3e-5)
    ops = [n.op for n in captured.graph.nodes]
    assert ops.count("conv") == 1 and ops.count("attention") == (2 if attention == "sdpa" else 0)


def _causal(model: str, config: str, options: dict[str, Any]) -> Callable[[str], nn.Module]:
    return lambda attention: built(model, config, attention, {**options, "use_cache": False})


DECODERS = {
    "GPT2Model": _causal("GPT2Model", "GPT2Config",
                         {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}),
    "LlamaModel": _causal("LlamaModel", "LlamaConfig", {**SMALL, "num_key_value_heads": 2}),
    "Qwen2Model": _causal("Qwen2Model", "Qwen2Config", {**SMALL, "num_key_value_heads": 2}),
    "CLIPTextModel": _causal("CLIPTextModel", "CLIPTextConfig", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DECODERS)
def test_causal_model(name: str, attention: str) -> None:
    module = DECODERS[name](attention)
    check(module, (), text(2, 9), shapes=TEXT_SHAPES, others=[((), text(3, 17)), ((), text(1, 4))], tolerance=5e-5)


def test_t5_encoder() -> None:
    options = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    module = built("T5EncoderModel", "T5Config", "eager", options)
    check(module, (), text(2, 9), shapes=TEXT_SHAPES, others=[((), text(3, 17)), ((), text(1, 4))], tolerance=5e-5)


def test_clip_vision() -> None:
    module = built("CLIPVisionModel", "CLIPVisionConfig", "sdpa", VISION)
    check(module, (), image(2), shapes=IMAGE_SHAPES, others=[((), image(1)), ((), image(3))], tolerance=5e-5)


def test_dinov2_with_interpolated_positions() -> None:
    module = built("Dinov2Model", "Dinov2Config", "sdpa", {**VISION, "image_size": 32})
    check(module, (), image(2), shapes=IMAGE_SHAPES, others=[((), image(1)), ((), image(3))], tolerance=5e-5)


def test_swin() -> None:
    options = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }
    module = built("SwinModel", "SwinConfig", "eager", options)
    shapes = {"pixel_values": {0: Dim("batch", min=1, max=8)}}
    check(module, (), image(2, 32), shapes=shapes, others=[((), image(1, 32)), ((), image(3, 32))], tolerance=5e-5)


def test_deberta() -> None:
    module = built("DebertaV2Model", "DebertaV2Config", "eager",
                   {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8})  # fmt: skip
    check(module, (), text(2, 9), shapes=TEXT_SHAPES, others=[((), text(3, 17))], tolerance=5e-5)


def test_the_length_can_stay_fixed() -> None:
    module = built("BertModel", "BertConfig", "sdpa", SMALL, add_pooling_layer=False)
    captured = check(module, (), text(2, 9), shapes={n: {0: Dim("batch", min=1, max=8)} for n in TEXT_SHAPES},
                     others=[((), text(1, 9))], tolerance=3e-5)  # fmt: skip
    assert set(captured.graph.symbols) == {"batch"}
    check(module, (), text(2, 9), tolerance=3e-5)
