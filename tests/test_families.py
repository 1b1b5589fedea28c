"""Every transformer ends in the same few kernels, whoever wrote its attention: what an inner layer launches, exactly.

An inner layer is what lies between two attentions of the lowered program, the second one included: between the first two
layers alone, so that nothing that is computed once is counted. No launch there is a copy, a cast or arithmetic on masks
unless the table says so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import zoo
import zoo_attention
from zoo_runs import captured as zoo_captured

from planish.backends.cpu.backend import BACKEND
from planish.codegen.program import Program
from planish.compiler.capture.torch_export import Captured, capture
from planish.compiler.graph import Graph, Node
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.driver import preset
from planish.passes.fusion import VIEWS
from planish.passes.precision import CALIBRATION, PLAN

pytest.importorskip("transformers")

FF_LN = ["linear+add+layer_norm", "linear+gelu", "linear+add+layer_norm", "linear", "attention"]
ROTARY = "mul+sub+mul+add"
LLAMA = ["linear+add+rms_norm", "linear+silu", "linear+mul", "linear+add+rms_norm", "linear", ROTARY, "attention"]
GEMMA = ["linear+gelu" if op == "linear+silu" else op for op in LLAMA]
RELU = ["linear+relu" if op == "linear+gelu" else op for op in FF_LN]

#: What an inner layer launches in f32, and in bf16.
LAYERS: dict[str, list[str]] = {
    "bert": FF_LN, "distilbert": FF_LN, "roberta": FF_LN, "albert": FF_LN, "mpnet": FF_LN, "vit": FF_LN, "deit": FF_LN,
    "clip-text": FF_LN, "clip-vision": FF_LN, "gpt2": FF_LN, "whisper-encoder": FF_LN,
    "dinov2": ["linear+mul+add+layer_norm", "linear+gelu", "linear+mul+add+layer_norm", "linear", "attention"],
    "llama": LLAMA, "qwen2": LLAMA, "gemma": GEMMA,
    "t5-encoder": ["linear+add+rms_norm", "linear+relu", "linear+add+rms_norm", "linear", "attention"],
}  # fmt: skip


@cache
def model(name: str, attention: str) -> Captured:
    zoo_attention.register()
    return zoo_captured(name, attention)


@cache
def optimised(name: str, attention: str, precision: str | None = None) -> tuple[Graph, PassContext, Program]:
    """The graph behind all passes, what they noted, and the program."""
    return finished(model(name, attention), precision)


def finished(captured: Captured, precision: str | None = None) -> tuple[Graph, PassContext, Program]:
    target = find_target("cpu:avx512-bf16")
    graph = captured.graph.copy()
    context = PassContext(target=target, data={PLAN: Plan.of(precision), CALIBRATION: []})
    preset(target).run(graph, context)
    return graph, context, BACKEND.lower(graph, target)


def inner_layer(program: Program) -> list[str]:
    """The labels of what is launched behind the first attention, up to and with the second."""
    labels = [launch.label for launch in program.launches]
    first = labels.index("attention")
    return labels[first + 1 : labels.index("attention", first + 1) + 1]


def attentions(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op == "attention"]


@pytest.mark.parametrize("name", LAYERS)
def test_an_inner_layer_launches(name: str) -> None:
    for attention in zoo.MODELS[name].attentions:
        graph, _, program = optimised(name, attention)
        assert inner_layer(program) == LAYERS[name]
        assert len(attentions(graph)) == zoo.MODELS[name].layers
    assert inner_layer(optimised(name, attention, "bf16")[2]) == LAYERS[name]


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_an_inner_layer_launches_in_int8(name: str) -> None:
    launched = inner_layer(optimised(name, "sdpa", "w8a8-dynamic")[2])
    assert len(launched) == len(LAYERS[name]) and sum("qlinear" in op for op in launched) == 4 + (name == "llama")


def spelled(name: str, attention: str) -> list[tuple[Any, ...]]:
    """What each attention is told: mask, causality, heads; and the spelling-independent rest of the program."""
    return [
        (n.attrs["causal"], n.attrs["causal_offset"], round(n.attrs["scale"], 5), *(str(v.type) for v in n.operands))
        for n in attentions(optimised(name, attention)[0])
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "gpt2"])
def test_the_spelling_of_attention_makes_no_difference(name: str) -> None:
    """Eager, sdpa and four ways by hand give the same launches and the same attention ops; what differs is only what a row
    without a visible key gives, which each spelling defines for itself."""
    launches = [launch.label for launch in optimised(name, "sdpa")[2].launches]
    ops = spelled(name, "sdpa")
    for attention in ("eager", *zoo_attention.BY_HAND):
        if name == "vit" and attention == "where":
            continue  # without a mask it is what "eager" is
        assert [launch.label for launch in optimised(name, attention)[2].launches] == launches, attention
        assert spelled(name, attention) == ops, attention


@pytest.mark.parametrize("attention", zoo_attention.BY_HAND)
def test_attention_by_hand_keeps_its_numbers(attention: str) -> None:
    captured = model("llama", attention)
    for size in ((2, 9), (1, 4)):
        inputs = {key: value.numpy() for key, value in zoo.MODELS["llama"].call(*size).items()}
        want, got = interpret(captured.graph, inputs), interpret(optimised("llama", attention)[0], inputs)
        for a, b in zip(want, got, strict=True):
            assert abs(a - b).max() <= 2e-5 * abs(a).max() and a.std() > 0


def test_masks_and_tables_are_computed_once() -> None:
    labels = [launch.label for launch in optimised("llama", "eager")[2].launches]
    before = labels[: labels.index("attention")]
    assert [label for label in labels if "cos" in label or "sin" in label] == [
        "mul+cos+sin"
    ] and "mul+cos+sin" in before
    node = attentions(optimised("llama", "eager")[0])[1]
    assert node.attrs["causal"] and str(node.inputs[3].type) == "bool[batch, 1, 1, seq]"  # type: ignore[union-attr]


def test_relative_positions_become_one_bias() -> None:
    """T5 and MPNet add a bias of the positions: every layer reads the same one."""
    for name in ("t5-encoder", "mpnet"):
        masks = {n.inputs[3] for n in attentions(optimised(name, "eager")[0])}
        assert len(masks) == 1 and masks.pop().dtype == "f32"  # type: ignore[union-attr]
    module = zoo.MODELS["swin"].build("eager")
    for key, tensor in module.named_parameters():
        if key.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(tensor)
    for node in attentions(
        finished(capture(module, (), zoo.image(32)(2, 0), dynamic_shapes=zoo.MODELS["swin"].shapes))[0]
    ):
        bias = node.inputs[3]
        while bias.node.op in VIEWS:  # type: ignore[union-attr]
            bias = bias.node.inputs[0]  # type: ignore[union-attr]
        assert bias.node.op == "constant"  # type: ignore[union-attr]


def test_windows_and_reductions_still_find_their_attention() -> None:
    for name in ("swin", "segformer", "deberta"):
        graph, _, program = optimised(name, "eager")
        assert len(attentions(graph)) == zoo.MODELS[name].layers
        assert not [launch for launch in program.launches if "softmax" in launch.label]


def families(name: str) -> Captured:
    """Families beside the zoo's, eager."""
    small, dec = zoo.BERT, {**zoo.BERT, "use_cache": False}
    bloom = {"hidden_size": 32, "n_head": 4, "n_layer": 2, "vocab_size": zoo.VOCABULARY, "use_cache": False}
    gptj = {"n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": zoo.VOCABULARY, "n_positions": 64, "rotary_dim": 4}
    opt = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32,
           "vocab_size": zoo.VOCABULARY, "max_position_embeddings": 64, "use_cache": False}  # fmt: skip
    options: dict[str, tuple[str, str, dict[str, Any]]] = {
        "opt": ("OPTModel", "OPTConfig", opt),
        "bloom": ("BloomModel", "BloomConfig", bloom),
        "gptj": ("GPTJModel", "GPTJConfig", {**gptj, "use_cache": False}),
        "neox": ("GPTNeoXModel", "GPTNeoXConfig", {**dec, "rotary_pct": 0.5}),
        "phi": ("PhiModel", "PhiConfig", dec),
        "falcon": ("FalconModel", "FalconConfig", {**dec, "multi_query": True, "alibi": False}),
        "mistral": ("MistralModel", "MistralConfig", {**zoo.LLAMA, "sliding_window": 8}),
        "qwen3": ("Qwen3Model", "Qwen3Config", {**zoo.LLAMA, "head_dim": 8}),
        "gemma2": ("Gemma2Model", "Gemma2Config", {**zoo.LLAMA, "head_dim": 8, "sliding_window": 8}),
        "electra": ("ElectraModel", "ElectraConfig", {**small, "embedding_size": 16}),
    }
    family, config, settings = options[name]
    module = zoo.built(family, config, "eager", settings)
    return capture(module, (), zoo.text(2, 9), dynamic_shapes=zoo.TEXT_SHAPES)


PARALLEL = ["linear+gelu", "linear", "linear+add+layer_norm", "linear"]
OTHERS: dict[str, list[str]] = {
    "opt": RELU, "bloom": FF_LN, "electra": FF_LN, "mistral": LLAMA,
    "qwen3": [*LLAMA[:5], "rms_norm", ROTARY, "rms_norm", ROTARY, "attention"],
    "gptj": [ROTARY, "copy"] * 2, "neox": [ROTARY, "copy"] * 2, "phi": [ROTARY, "copy"], "falcon": [ROTARY],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name: str) -> None:
    captured = families(name)
    graph, _, program = finished(captured)
    launched = inner_layer(program)
    if name in ("gptj", "neox", "phi", "falcon"):  # attention and feed-forward side by side; only some dimensions turn
        assert sorted(launched) == sorted(
            [*PARALLEL[:1], "linear", "linear+add+layer_norm", "linear", *OTHERS[name], "attention"]
        )
    else:
        assert sorted(launched) == sorted(OTHERS[name])
    inputs = {key: value.numpy() for key, value in zoo.text(2, 9).items()}
    for a, b in zip(interpret(captured.graph, inputs), interpret(graph, inputs), strict=True):
        assert abs(a - b).max() <= 2e-5 * abs(a).max() and a.std() > 0


def test_capped_scores_stay_apart_and_the_report_says_why() -> None:
    graph, context, program = finished(families("gemma2"))
    assert not attentions(graph)
    assert [n for n in context.notes if "capped by tanh" in n.text]
    assert sum("softmax" in launch.label for launch in program.launches) == 2
