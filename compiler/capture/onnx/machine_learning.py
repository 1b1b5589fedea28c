"""Operators of ``ai.onnx.ml`` that converters of plain networks and pipelines write (skl2onnx): numbers in, numbers out.

What they do at the edges is said by ONNX Runtime, where the standard leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dims import product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import Handler
from .registry import op as register

DOMAIN = "ai.onnx.ml"


def op(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for every version of an operator of this domain."""
    return register(*names, domain=DOMAIN)


def _floats(at: Importer, numbers: Sequence[float], name: str, dtype: DType = DType.f32) -> Value:
    return at.constant(np.asarray(numbers, dtype.numpy), dtype, name)


# -- features ----------------------------------------------------------------------------------------------------------
@op("Scaler")
def scaler(at: Importer, x: Value, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> Value:
    """(x - offset) * scale, per feature or for all."""
    y = at.cast(x, DType.f32)
    if len(offset) and any(offset):
        y = at.emit("sub", y, _floats(at, offset, "offset"))
    return at.emit("mul", y, _floats(at, scale, "scale")) if len(scale) else y


@op("Normalizer")
def normalizer(at: Importer, x: Value, *, norm: str = "MAX") -> Value:
    """Rows over their largest element, the sum of magnitudes or the Euclidean norm; rows where that is zero stay."""
    y = at.cast(x, DType.f32)
    if norm == "MAX":
        size = at.emit("reduce_max", y, axes=(-1,), keepdim=True)
    elif norm == "L1":
        size = at.emit("reduce_sum", at.emit("abs", y), axes=(-1,), keepdim=True)
    elif norm == "L2":
        size = at.emit("sqrt", at.emit("reduce_sum", at.emit("square", y), axes=(-1,), keepdim=True))
    else:
        raise Unsupported(f"there is no norm {norm!r}")
    nothing = at.emit("eq", size, at.scalar(0.0, DType.f32))
    return at.emit("div", y, at.emit("where", nothing, at.scalar(1.0, DType.f32), size))


@op("Binarizer")
def binarizer(at: Importer, x: Value, *, threshold: float = 0.0) -> Value:
    above = at.emit("gt", x, at.scalar(threshold, x.dtype if x.dtype.is_float else DType.f32))
    return at.cast(above, x.dtype)


@op("Imputer")
def imputer(
    at: Importer, x: Value, *, imputed_value_floats: Sequence[float] = (), replaced_value_float: float = 0.0,
    imputed_value_int64s: Sequence[int] = (), replaced_value_int64: int = 0,
) -> Value:  # fmt: skip
    """Where a feature holds the number that stands for nothing (or NaN), what it is replaced by."""
    given = imputed_value_floats if x.dtype.is_float else imputed_value_int64s
    if not len(given):
        raise Unsupported(f"it says no values for {x.dtype}")
    if x.dtype.is_float and np.isnan(replaced_value_float):
        missing = at.emit("isnan", x)
    else:
        stands = replaced_value_float if x.dtype.is_float else replaced_value_int64
        missing = at.emit("eq", x, at.scalar(stands, x.dtype))
    return at.emit("where", missing, _floats(at, given, "imputed", x.dtype), x)


@op("FeatureVectorizer")
def feature_vectorizer(at: Importer, *inputs: Value, inputdimensions: Sequence[int]) -> Value:
    """Features of several inputs side by side; of each as many as are stated."""
    parts = []
    for x, count in zip(inputs, inputdimensions, strict=True):
        flat = at.cast(at.reshape(x, (x.shape[0], product(x.shape[1:]))), DType.f32)
        if flat.shape[1] != count:
            raise Unsupported(f"an input of {flat.shape[1]} features where {count} are stated")
        parts.append(flat)
    return parts[0] if len(parts) == 1 else at.emit("concat", *parts, axis=1)


@op("ArrayFeatureExtractor")
def array_feature_extractor(at: Importer, x: Value, places: Value) -> Value:
    """Elements along the last axis; of a vector a matrix of one row."""
    flat = at.cast(at.reshape(places, (places.type.elements,)), DType.i64)
    found = at.emit("gather", x, flat, axis=x.type.rank - 1)
    return at.reshape(found, (1, *found.shape)) if x.type.rank == 1 else found


@op("OneHotEncoder")
def one_hot_encoder(
    at: Importer, x: Value, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), zeros: int = 1
) -> Value:
    """1 where an element is a category; all zeros for one that is none (``zeros``, else that is an error at run time)."""
    if not len(cats_int64s):
        raise Unsupported("its categories are strings")
    if not zeros:
        raise Unsupported("it fails at run time on a category that it does not know (zeros=0)")
    wide = at.reshape(at.cast(x, DType.i64), (*x.shape, 1))
    categories = at.constant(np.asarray(cats_int64s, np.int64), DType.i64, "categories")
    return at.cast(at.emit("eq", wide, categories), DType.f32)


@op("LabelEncoder")
def label_encoder(
    at: Importer, x: Value, *, keys_int64s: Sequence[int] = (), keys_floats: Sequence[float] = (),
    values_int64s: Sequence[int] = (), values_floats: Sequence[float] = (), default_int64: int = -1,
    default_float: float = -0.0, keys_tensor: Any = None, values_tensor: Any = None, default_tensor: Any = None,
    **others: Any,
) -> Value:  # fmt: skip
    """What a table has for a key, and the default for what it lacks."""
    if any(name.startswith(("keys_", "values_")) for name in others):
        raise Unsupported("it maps strings")
    keys = _first(keys_tensor, keys_int64s, keys_floats)
    values = _first(values_tensor, values_int64s, values_floats)
    if keys is None or values is None or len(keys) != len(values):
        raise Unsupported("its table is not whole")
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        raise Unsupported("it has NaN as a key")
    if default_tensor is not None:
        default = np.asarray(default_tensor).reshape(-1)[0].item()
    else:
        default = default_float if values.dtype.kind == "f" else default_int64
    keys, first = np.unique(keys.astype(x.dtype.numpy), return_index=True)
    values = values[first]
    key_table = at.constant(keys, x.dtype, "keys")
    dtype = DType.of(values)
    place = at.emit("clamp", at.emit("searchsorted", key_table, x), max=len(keys) - 1)
    known = at.emit("eq", at.emit("gather", key_table, place, axis=0), x)
    found = at.emit("gather", at.constant(np.ascontiguousarray(values), dtype, "values"), place, axis=0)
    return at.emit("where", known, found, at.scalar(default, dtype))


def _first(tensor: Any, ints: Sequence[int], floats: Sequence[float]) -> np.ndarray | None:
    if tensor is not None:
        return np.asarray(tensor).reshape(-1)
    if len(ints):
        return np.asarray(ints, np.int64)
    return np.asarray(floats, np.float32) if len(floats) else None


# -- linear models -----------------------------------------------------------------------------------------------------
def _scores(at: Importer, x: Value, coefficients: Sequence[float], intercepts: Sequence[float]) -> Value:
    features = x.shape[-1]
    if not isinstance(features, int) or features == 0 or len(coefficients) % features:
        raise Unsupported(f"{len(coefficients)} coefficients for {features} features")
    weight = at.constant(np.asarray(coefficients, np.float32).reshape(-1, features), DType.f32, "coefficients")
    bias = _floats(at, intercepts, "intercepts") if len(intercepts) else None
    return at.emit("linear", at.cast(x, DType.f32), weight, *([] if bias is None else [bias]))


def _transformed(at: Importer, scores: Value, transform: str) -> Value:
    """Scores as probabilities.

    Raises:
        Unsupported: there is no such transform, or none that is supported.
    """
    match transform:
        case "NONE":
            return scores
        case "LOGISTIC":
            return at.emit("sigmoid", scores)
        case "SOFTMAX":
            return at.emit("softmax", scores, axis=-1)
        case "SOFTMAX_ZERO":  # scores of zero stay zero and do not take part
            zero = at.emit("eq", scores, at.scalar(0.0, DType.f32))
            hidden = at.emit("where", zero, at.scalar(-float("inf"), DType.f32), scores)
            some = at.emit("softmax", hidden, axis=-1)
            return at.emit("where", zero, at.scalar(0.0, DType.f32), some)
    raise Unsupported(f"the transform {transform!r}")


@op("LinearRegressor")
def linear_regressor(
    at: Importer, x: Value, *, coefficients: Sequence[float], intercepts: Sequence[float] = (), targets: int = 1,
    post_transform: str = "NONE",
) -> Value:  # fmt: skip
    return _transformed(at, _scores(at, x, coefficients, intercepts), post_transform)


@op("LinearClassifier")
def linear_classifier(
    at: Importer, x: Value, *, coefficients: Sequence[float], intercepts: Sequence[float] = (),
    classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), multi_class: int = 0,
    post_transform: str = "NONE",
) -> Sequence[Value]:  # fmt: skip
    """The label of the best class, and the scores of all."""
    if not len(classlabels_ints):
        raise Unsupported(f"its labels are strings ({', '.join(classlabels_strings[:3])}), and outputs are numbers")
    scores = _scores(at, x, coefficients, intercepts)
    labels = at.constant(np.asarray(classlabels_ints, np.int64), DType.i64, "labels")
    if scores.shape[-1] == 1:
        if len(classlabels_ints) != 2:
            raise Unsupported(f"it has one score for {len(classlabels_ints)} classes")
        place = at.cast(at.emit("gt", scores, at.scalar(0.0, DType.f32)), DType.i64)
        place = at.reshape(place, scores.shape[:-1])
        first = at.emit("neg", scores) if post_transform == "LOGISTIC" else None
        if first is None:
            if post_transform != "NONE":
                raise Unsupported(f"the transform {post_transform!r} of a single score")
            first = at.emit("sub", at.scalar(1.0, DType.f32), scores)
        scores = at.emit("concat", first, scores, axis=scores.type.rank - 1)
    else:
        place = at.emit("argmax", scores, axis=-1, keepdim=False)
    return [at.emit("gather", labels, place, axis=0), _transformed(at, scores, post_transform)]


@op("ZipMap")
def zip_map(at: Importer, x: Value, **attributes: Any) -> Value:
    raise Unsupported(
        "it gives a list of dicts, and outputs are tensors; skl2onnx leaves it out with options={'zipmap': False}"
    )
