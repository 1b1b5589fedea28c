"""How the loss curves where the model is right: what turns a change of the compared outputs into a loss.

At the float model's own outputs every loss is zero and so is its gradient; to second order it is ``1/2 d^T H d`` in the
change ``d``. Random vectors ``v`` with covariance ``H`` give it without the matrix: ``E (v . d)^2 = d^T H d``. For a softmax
``H`` is the Fisher information of the classes (Amari, "Natural gradient works efficiently in learning", 1998), and ``H`` seen
through the layers is the generalised Gauss-Newton matrix (Schraudolph 2002; Martens, arXiv:1412.1193).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Metric -> the shape of its loss; what is not named is taken for a power of the error.
SHAPES = {"cosine": "angle", "spearman": "angle", "kl": "classes"}


@dataclass(frozen=True)
class Compared:
    """Outputs that some terms compare.

    Attributes:
        terms: their names.
        shape: ``angle`` (1 - cosine of whole rows), ``classes`` (divergence of softmax over the last axis) or ``power``
            (squared error over the squared reference).
        output: name of the output, or of what the score function returns; None: the first.
    """

    terms: tuple[str, ...]
    shape: str
    output: str | None

    @staticmethod
    def of(scorer: Any, reference: Sequence[np.ndarray], batch: Any) -> list[Compared]:
        """What the terms of ``scorer`` compare, terms that compare the same way together."""
        bar = getattr(scorer, "bar", None)
        if bar is None:  # a scorer of somebody's own: its losses are known by name alone
            names = tuple(map(str, scorer.losses(list(reference), list(reference), batch)))
            return [Compared(names, "power", None)]
        found: dict[tuple[str, str | None], list[str]] = {}
        for term in bar.terms:
            smooth = term.kind.smooth(np.asarray(reference[0]))
            found.setdefault((SHAPES.get(smooth.name, "power"), term.output), []).append(str(term))
        return [Compared(tuple(terms), shape, output) for (shape, output), terms in found.items()]

    def pick(self, scorer: Any, outputs: Sequence[Tensor], batch: Any) -> Tensor:
        """What is compared, f32 ``[rows, ...]``, with its gradient: through the score function where that works on tensors as
        it does on arrays, else the model's own output."""
        score, names = getattr(scorer, "score", None), tuple(getattr(scorer, "names", ()))
        if score is not None:
            try:
                made = score.apply(outputs, {name: torch.from_numpy(a) for name, a in batch.inputs.items()})
            except Exception:
                made = None  # written for numpy alone
            if isinstance(made, Mapping):
                made = made.get(self.output if self.output is not None else next(iter(made), None))
            if isinstance(made, Tensor) and made.requires_grad and made.is_floating_point():
                return made.float()
        value = outputs[names.index(self.output) if self.output in names else 0]
        return value.float()


def directions(shape: str, reference: Tensor, batched: bool, generator: torch.Generator) -> Tensor:
    """A random vector with the loss's curvature at ``reference`` as its covariance.

    Args:
        shape: see :class:`Compared`.
        reference: f32 ``[rows, ...]``; the whole is one row without ``batched``.
        batched: whether axis 0 counts samples.
        generator: the source of randomness.
    """
    noise = torch.randn(reference.shape, generator=generator)
    if shape == "classes" and reference.dim() >= 2:
        chance = torch.softmax(reference, -1)
        root = chance.sqrt() * noise
        return root - chance * (chance.sqrt() * noise).sum(-1, keepdim=True)
    rows = reference.reshape(reference.shape[0] if batched and reference.dim() else 1, -1)
    noise = noise.reshape(rows.shape)
    length = rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    if shape == "angle":
        unit = rows / length
        return ((noise - unit * (unit * noise).sum(1, keepdim=True)) / length).reshape(reference.shape)
    return (noise * (2.0**0.5) / length).reshape(reference.shape)
