"""The models that the search is measured on: what ``examples/`` shows, with bars worth asking for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import data


@dataclass(frozen=True)
class Subject:
    """A model, its data, and what is asked of it.

    Attributes:
        name: as it stands in the tables.
        module: of the folder ``examples``.
        model: name of the function there that returns ``(module, args, kwargs, dynamic_shapes)``.
        given: name of the function there whose data the search is given.
        unseen: name of the one whose data it never meets.
        bars: for the search, the strictest first.
        yardstick: a bar of which only the metric and the statistic count: how quality is judged in the tables.
        sizes: what is timed.
        score: name of the function there that maps outputs to what is compared; None: the outputs as they are.
    """

    name: str
    module: str
    model: str
    given: str
    unseen: str
    bars: tuple[str, ...]
    yardstick: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    score: str | None = None

    @property
    def slug(self) -> str:
        """For file names."""
        return "-".join(self.name.lower().split())

    def make(self) -> Any:
        """``(module, args, kwargs, dynamic_shapes)``."""
        return self._function(self.model)()

    def given_data(self) -> Any:
        """What the search may look at."""
        return self._function(self.given)()

    def unseen_data(self) -> Any:
        """What quality is judged on in the tables."""
        return self._function(self.unseen)()

    def score_function(self) -> Callable[..., Any] | None:
        """See ``score``."""
        return None if self.score is None else self._function(self.score)

    def _function(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(data.examples(self.module), name)
        return found


class _MiniLM(Subject):
    """Its model is in one file of the examples and its data in another."""

    def make(self) -> Any:
        return data.examples("minilm").model()


MINILM = _MiniLM(
    "MiniLM",
    "sentences",
    "model",
    "slices",
    "unseen",
    ("cosine >= 0.999 each", "cosine >= 0.998 each", "cosine >= 0.995 each", "cosine >= 0.99 each"),
    "cosine >= 0.99 each",
    {"batch": 1, "seq": 128},
    "mean_pooled",
)
CNN = Subject(
    "digits CNN",
    "digits",
    "cnn",
    "slices",
    "unseen",
    ("kl <= 3e-6 mean", "kl <= 3e-5 mean", "kl <= 8e-5 mean"),
    "kl <= 0.001 mean",
    {"batch": 8},
)
VIT = Subject(
    "digits ViT",
    "digits",
    "vit",
    "slices",
    "unseen",
    ("kl <= 4.5e-6 mean", "kl <= 9e-6 mean", "kl <= 2.5e-5 mean", "kl <= 6e-5 mean"),
    "kl <= 0.001 mean",
    {"batch": 8},
)
TOPICS = Subject(
    "language model",
    "topics",
    "model",
    "slices",
    "unseen",
    ("kl <= 1e-5 mean", "kl <= 4e-5 mean", "kl <= 1e-4 mean", "kl <= 1e-3 mean"),
    "kl <= 0.001 mean",
    {"batch": 1, "seq": 32},
)
SUBJECTS = (CNN, VIT, TOPICS, MINILM)


def chosen(words: str) -> list[Subject]:
    """Those whose name holds one of the comma-separated words (all of them where nothing is asked for)."""
    wanted = [w.strip().lower() for w in words.split(",") if w.strip()]
    return [s for s in SUBJECTS if not wanted or any(w in s.name.lower() for w in wanted)]
