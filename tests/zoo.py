"""Models that users bring, small and with random weights: the families of transformers, and plain torch.nn programs.

Every entry knows how to build the module, how to call it with a given batch and length, and which dimensions are dynamic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import zoo_plain
from torch import Tensor, nn
from torch.export import Dim

BATCH = Dim("batch", min=1, max=8)
SEQ = Dim("seq", min=1, max=40)
VOCABULARY = 50


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        build: attention implementation (``sdpa`` or ``eager``) -> the module in eval mode.
        call: (batch, length) -> keyword arguments.
        shapes: the dynamic dimensions, in torch.export's notation.
        attentions: the implementations that the family knows (transformers wants one named even where there is no attention).
        example: the (batch, length) it is captured with.
        others: other sizes that must work.
        layers: how many of its layers hold attention.
    """

    build: Callable[[str], nn.Module]
    call: Callable[[int, int], dict[str, Tensor]]
    shapes: Mapping[str, Any]
    attentions: tuple[str, ...] = ("sdpa", "eager")
    example: tuple[int, int] = (2, 9)
    others: tuple[tuple[int, int], ...] = ((3, 17), (1, 4))
    layers: int = 2


def text(batch: int, seq: int) -> dict[str, Tensor]:
    """Token ids with a mask that hides the end of the second row."""
    generator = torch.Generator().manual_seed(batch * 100 + seq)
    mask = torch.ones(batch, seq, dtype=torch.int64)
    if batch > 1:
        mask[1, seq // 2 + 1 :] = 0
    return {"input_ids": torch.randint(3, VOCABULARY, (batch, seq), generator=generator), "attention_mask": mask}


def image(size: int, channels: int = 3) -> Callable[[int, int], dict[str, Tensor]]:
    """Random pixels, square."""
    return lambda batch, _: {
        "pixel_values": torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(batch))
    }


def mel(batch: int, _: int) -> dict[str, Tensor]:
    """A random log-mel spectrogram."""
    return {"input_features": torch.randn(batch, 16, 40, generator=torch.Generator().manual_seed(batch))}


def waveform(batch: int, length: int) -> dict[str, Tensor]:
    """Random samples of sound."""
    return {"input_values": torch.randn(batch, 400 + length * 20, generator=torch.Generator().manual_seed(batch))}


TEXT_SHAPES = {name: {0: BATCH, 1: SEQ} for name in ("input_ids", "attention_mask")}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
LLAMA = {**BERT, "num_key_value_heads": 2, "use_cache": False}
VISION = {**SIZES, "image_size": 16, "patch_size": 4}


def built(model: str, config: str, attention: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    """A model of transformers with random weights, in eval mode; norms and biases are random too, as trained ones are."""
    import transformers

    settings = getattr(transformers, config)(**options, attn_implementation=attention)
    return randomised(getattr(transformers, model)(settings, **more))


def randomised(module: nn.Module) -> nn.Module:
    """``module`` in eval mode with every vector of weights, and what batch norms remember, away from 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif name.endswith("running_mean") or (tensor.dim() == 1 and isinstance(tensor, nn.Parameter)):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return module.eval()


def text_model(model: str, config: str, options: Mapping[str, Any], **more: Any) -> Entry:
    """An entry for a model of token ids and a mask."""
    attentions = more.pop("attentions", ("sdpa", "eager"))
    return Entry(lambda a: built(model, config, a, options, **more), text, TEXT_SHAPES, attentions)


def image_model(model: str, config: str, options: Mapping[str, Any], size: int = 16, **more: Any) -> Entry:
    """An entry for a model of pixels."""
    return Entry(
        lambda a: built(model, config, a, options),
        image(size),
        {"pixel_values": {0: BATCH}},
        others=((1, 0), (3, 0)),
        **more,
    )


TEXT: dict[str, Entry] = {
    "bert": text_model("BertModel", "BertConfig", BERT, add_pooling_layer=False),
    "bert-classifier": text_model("BertForSequenceClassification", "BertConfig", BERT),
    "distilbert": text_model("DistilBertModel", "DistilBertConfig",
                             {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY,
                              "max_position_embeddings": 64}),
    "roberta": text_model("RobertaModel", "RobertaConfig", {**BERT, "pad_token_id": 1}),
    "albert": text_model("AlbertModel", "AlbertConfig", {**BERT, "embedding_size": 16}),
    "electra": text_model("ElectraModel", "ElectraConfig", {**BERT, "embedding_size": 16}),
    "mpnet": text_model("MPNetModel", "MPNetConfig", BERT, attentions=("eager",)),
    "deberta": text_model("DebertaV2Model", "DebertaV2Config",
                          {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
                          attentions=("eager",)),
    "clip-text": text_model("CLIPTextModel", "CLIPTextConfig", BERT),
    "gpt2": text_model("GPT2LMHeadModel", "GPT2Config",
                       {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64,
                        "use_cache": False}),
    "llama": text_model("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "qwen2": text_model("Qwen2ForCausalLM", "Qwen2Config", LLAMA),
    "gemma": text_model("GemmaForCausalLM", "GemmaConfig", {**LLAMA, "head_dim": 16}),
    "t5-encoder": text_model("T5EncoderModel", "T5Config",
                             {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
                              "vocab_size": VOCABULARY}, attentions=("eager",)),
}  # fmt: skip

SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 1], "layer_type": "bottleneck"}
CONVNEXT = {"hidden_sizes": [16, 24], "depths": [1, 2], "num_stages": 2, "patch_size": 4}
SEGFORMER = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3],
             "strides": [4, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2], "decoder_hidden_size": 16}  # fmt: skip
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_mel_bins": 16,
           "max_source_positions": 20, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
           "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
           "decoder_start_token_id": 1}  # fmt: skip


def whisper_encoder(attention: str) -> nn.Module:
    """The encoder of a Whisper model."""
    return built("WhisperModel", "WhisperConfig", attention, WHISPER).get_encoder()  # type: ignore[operator, no-any-return]


PERCEPTION: dict[str, Entry] = {
    "vit": image_model("ViTModel", "ViTConfig", VISION),
    "deit": image_model("DeiTModel", "DeiTConfig", VISION),
    "clip-vision": image_model("CLIPVisionModel", "CLIPVisionConfig", VISION),
    "dinov2": image_model("Dinov2Model", "Dinov2Config", VISION),
    "swin": image_model("SwinModel", "SwinConfig", SWIN, 32, attentions=("eager",), layers=4),
    "segformer": image_model("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER, 32, attentions=("eager",)),
    "whisper-encoder": Entry(whisper_encoder, mel, {"input_features": {0: BATCH}}, others=((1, 0), (3, 0))),
    "resnet": image_model("ResNetForImageClassification", "ResNetConfig", RESNET, 32, attentions=("eager",), layers=0),
    "mobilenet-v2": image_model("MobileNetV2Model", "MobileNetV2Config",
                                {"depth_multiplier": 0.25, "image_size": 32, "finegrained_output": True}, 32,
                                attentions=("eager",), layers=0),
    "convnext": image_model("ConvNextModel", "ConvNextConfig", CONVNEXT, 32, attentions=("eager",), layers=0),
}  # fmt: skip


def plain(spec: zoo_plain.Spec) -> Entry:
    """An entry for a program of torch.nn."""
    shapes = {
        name: {axis: {"batch": BATCH, "seq": SEQ}[dim] for axis, dim in axes.items()}
        for name, axes in spec.dynamic.items()
    }
    others = ((1, 1), (3, 17)) if spec.layers == 0 else ((1, 4), (3, 17))
    return Entry(
        lambda _: randomised(_seeded(spec.module)), spec.call, shapes, ("sdpa",), others=others,
        layers=spec.layers,
    )  # fmt: skip


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make()


def translation(batch: int, seq: int) -> dict[str, Tensor]:
    """A text, and the beginning of another."""
    return {**text(batch, seq), "decoder_input_ids": text(batch, 5)["input_ids"]}


MARIAN = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
          "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
          "use_cache": False, "pad_token_id": 0, "decoder_start_token_id": 0}  # fmt: skip
WAV2VEC2 = {**SIZES, "vocab_size": VOCABULARY, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
            "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}  # fmt: skip

#: Idioms that the families above lack: sliding windows, ALiBi, partial rotary embeddings, relative positions by size,
#: cross-attention, experts, waveforms, images unfolded into sequences.
OTHERS: dict[str, Entry] = {
    "mistral": text_model("MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 6}),
    "gpt-neox": text_model("GPTNeoXForCausalLM", "GPTNeoXConfig", {**BERT, "use_cache": False}),
    "bloom": text_model("BloomForCausalLM", "BloomConfig",
                        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "use_cache": False},
                        attentions=("eager",)),
    "mixtral": text_model("MixtralForCausalLM", "MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "modernbert": text_model("ModernBertModel", "ModernBertConfig", {**BERT, "pad_token_id": 0, "local_attention": 6}),
    "deberta-v1": text_model("DebertaModel", "DebertaConfig",
                             {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, attentions=("eager",)),
    "marian": Entry(lambda a: built("MarianMTModel", "MarianConfig", a, MARIAN), translation,
                    {**TEXT_SHAPES, "decoder_input_ids": {0: BATCH}}, layers=6),
    "wav2vec2": Entry(lambda a: built("Wav2Vec2ForCTC", "Wav2Vec2Config", a, WAV2VEC2), waveform,
                      {"input_values": {0: BATCH}}, others=((1, 9), (3, 9))),
    "mobilevit": image_model("MobileViTModel", "MobileViTConfig",
                             {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 24, 32, 32, 64],
                              "num_attention_heads": 4}, 64, attentions=("eager",), layers=9),
}  # fmt: skip

PLAIN: dict[str, Entry] = {name: plain(spec) for name, spec in zoo_plain.SPECS.items()}
MODELS: dict[str, Entry] = {**TEXT, **PERCEPTION, **OTHERS, **PLAIN}

#: (name, attention implementation) of everything there is.
VARIANTS = [(name, attention) for name, entry in MODELS.items() for attention in entry.attentions]
