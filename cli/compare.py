"""How far two sets of outputs are apart: numbers for each output, with the element that is worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """One output against its reference; the arithmetic is done in float64.

    Attributes:
        output: name of the output.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        relative: Euclidean norm of the difference over that of the reference.
        cosine: cosine of the whole output with the reference.
        min_cosine: the least cosine of a row (the last axis), which a few bad rows cannot hide in.
        worst: index of the element with the largest difference; a non-finite one where the reference is finite comes
            first.
        got, expected: the two values there.
        nonfinite: how many elements are NaN or infinite in one of the two and not the same in the other.
        mismatched: for integers and booleans: how many elements differ.
    """

    output: str
    shape: tuple[int, ...]
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    min_cosine: float
    worst: tuple[int, ...]
    got: float
    expected: float
    nonfinite: int
    mismatched: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        return asdict(self)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in a nest of mappings, sequences and model outputs, with their paths; what is None is left out."""
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}.{i}" if name else str(i))
    else:
        yield name or "output", as_array(value)


def as_array(value: Any) -> np.ndarray:
    """A numpy array of anything that holds numbers; half precision and bfloat16 tensors become float32."""
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()
        return value.numpy()
    return np.asarray(value)


def difference(output: str, got: np.ndarray, expected: np.ndarray) -> Difference:
    """Compare two arrays of equal shape.

    Raises:
        ValueError: the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"output {output!r} has shape {list(got.shape)}, the reference {list(expected.shape)}")
    mismatched = None
    if got.dtype.kind in "biu" and expected.dtype.kind in "biu":
        mismatched = int((got != expected).sum())
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if a.size == 0:
        return Difference(output, got.shape, 0.0, 0.0, 0.0, 1.0, 1.0, (), 0.0, 0.0, 0, mismatched)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    odd = ~finite & ~same
    with np.errstate(invalid="ignore"):  # infinity minus infinity is left out by the condition
        gap = np.where(finite, np.abs(a - b), 0.0)
    at = np.unravel_index(int(np.argmax(np.where(odd, np.inf, gap))), gap.shape) if gap.ndim else ()
    worst = tuple(int(i) for i in at)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    norm = float(np.linalg.norm(b))
    apart = float(np.linalg.norm(gap))
    return Difference(
        output=output,
        shape=got.shape,
        max_abs=float("inf") if odd.any() else float(gap.max()),
        mean_abs=float(gap.mean()),
        relative=apart / norm if norm else (0.0 if apart == 0 else float("inf")),
        cosine=_cosine(a.reshape(1, -1), b.reshape(1, -1)),
        min_cosine=_cosine(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) if a.ndim else 1.0,
        worst=worst,
        got=float(got[worst]),
        expected=float(expected[worst]),
        nonfinite=int(odd.sum()),
        mismatched=mismatched,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least cosine of the rows; two rows of zeros agree, one alone does not."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    both_zero = (np.abs(a).sum(axis=1) == 0) & (np.abs(b).sum(axis=1) == 0)
    cosine = np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1.0), np.where(both_zero, 1.0, 0.0))
    return float(np.clip(cosine, -1.0, 1.0).min())


def compare(got: Any, expected: Any) -> list[Difference]:
    """Every output of a model against its reference, in order.

    Raises:
        ValueError: the numbers of outputs or the shapes differ.
    """
    mine, theirs = list(leaves(got)), list(leaves(expected))
    if len(mine) != len(theirs):
        raise ValueError(f"the model has {len(mine)} outputs, the reference {len(theirs)}")
    return [difference(name, a, b) for (name, a), (_, b) in zip(mine, theirs, strict=True)]
