"""A small language model of Python's language reference, trained in a minute or two on ``pydoc_data.topics``.

``model`` returns what ``planish compile FILE.py:callable`` takes; the data is for ``--calibration`` and friends::

    planish compile examples/topics.py:model --calibration examples/topics.py:slices \\
        --budget "perplexity-ratio <= 1.001 mean" -o topics.planish

Paragraphs are told apart by a checksum: 60 % of them are trained on, the rest is cut into windows of 32 tokens with the token
that comes next as the label; of those, three quarters are for planish (``slices``) and a quarter for nobody (``unseen``).
Needs the package ``tokenizers``, which learns the vocabulary from the training text.
"""

from __future__ import annotations

import re
import sys
import zlib
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import planish

sys.path.insert(0, str(Path(__file__).resolve().parent))
from digits import Block  # noqa: E402
from trained import seeded, trained  # noqa: E402

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Example = tuple[nn.Module, tuple[Tensor], None, tuple[dict[int, Any]]]
Window = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

VOCABULARY, CONTEXT, WINDOW = 768, 128, 32
MAX_BATCH = 64
_CODE = re.compile(r"::=|>>>|\.\.\. |^ {6,}\S|\w\(\w*\)|==", re.MULTILINE)


@cache
def _paragraphs() -> dict[str, list[str]]:
    """Every paragraph once, in the order of the text: for "training", "planish" and "unseen"."""
    found: dict[str, str] = {}
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            if len(paragraph.strip()) > 40:
                found.setdefault(" ".join(paragraph.split()), paragraph.rstrip())
    parts: dict[str, list[str]] = {"training": [], "planish": [], "unseen": []}
    for key, paragraph in found.items():
        place = zlib.crc32(key.encode()) % 10
        parts["training" if place < 6 else "planish" if place < 9 else "unseen"].append(paragraph)
    return parts


@cache
def tokenizer() -> Tokenizer:
    """Byte pairs of the training text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(_paragraphs()["training"], trainer)
    return made


def _tokens(paragraphs: list[str]) -> npt.NDArray[np.int64]:
    return np.array(tokenizer().encode("\n\n".join(paragraphs)).ids, np.int64)


def _windows(name: str) -> dict[str, list[Window]]:
    """Windows of ``WINDOW`` tokens without overlap, with the tokens that came next, by the kind of their text."""
    code = [p for p in _paragraphs()[name] if _CODE.search(p)]
    prose = [p for p in _paragraphs()[name] if not _CODE.search(p)]
    found: dict[str, list[Window]] = {}
    for kind, paragraphs in (("prose", prose), ("code", code)):
        tokens = _tokens(paragraphs)
        found[kind] = [
            (tokens[i : i + WINDOW], tokens[i + 1 : i + WINDOW + 1]) for i in range(0, len(tokens) - WINDOW, WINDOW)
        ]
    return found


def slices() -> planish.Dataset:
    """Windows that were not trained on, with the next tokens as labels: "prose", and "code" for text that holds some."""
    return planish.Dataset(_windows("planish"), label=1)


def unseen() -> planish.Dataset:
    """More of the same that neither training nor planish meets, to check a promise on."""
    return planish.Dataset(_windows("unseen"), label=1)


class Model(nn.Module):
    """A decoder: logits ``[batch, tokens, 768]`` of token ids ``[batch, tokens]``."""

    def __init__(self, width: int = 192, depth: int = 4, heads: int = 4) -> None:
        """Random weights."""
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, causal=True)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _train(module: nn.Module) -> None:
    """600 steps of 16 windows of 64 tokens."""
    tokens = torch.from_numpy(_tokens(_paragraphs()["training"]))
    steps, rate, batch, length = 600, 3e-3, 16, 64
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        starts = torch.randint(0, len(tokens) - length - 1, (batch, 1))
        window = tokens[starts + torch.arange(length + 1)]
        optimizer.zero_grad()
        F.cross_entropy(module(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def model() -> Example:
    """The language model (2.1 million weights), with a window of text as its example."""
    batch, seq = torch.export.Dim("batch", min=1, max=MAX_BATCH), torch.export.Dim("seq", min=1, max=CONTEXT)
    example = torch.from_numpy(_tokens(_paragraphs()["training"][:20])[None, :CONTEXT].copy())
    return trained("topics", seeded(Model), _train, Path(__file__)), (example,), None, ({0: batch, 1: seq},)
