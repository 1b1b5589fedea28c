"""Networks and pipelines of scikit-learn as skl2onnx writes them, and the operators of ``ai.onnx.ml``, against ONNX Runtime."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import planish
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

F, INT, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)


def model(
    op: str, inputs: dict[str, np.ndarray], outputs: int = 1, constants: tuple[str, ...] = (), **attrs: Any
) -> ModelProto:
    """One operator of the domain; what is no constant keeps its sizes but the first."""
    node = helper.make_node(op, list(inputs), [f"y{i}" for i in range(outputs)], domain="ai.onnx.ml", **attrs)
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), ["n", *a.shape[1:]] if a.ndim > 1 else a.shape)
        for n, a in inputs.items() if n not in constants
    ]  # fmt: skip
    stored = [numpy_helper.from_array(inputs[n], n) for n in constants]
    graph = helper.make_graph([node], "g", ports, [helper.make_empty_tensor_value_info(o) for o in node.output], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check(proto: ModelProto, feed: dict[str, np.ndarray]) -> None:
    """Interpreter and ONNX Runtime agree."""
    feed = {i.name: feed[i.name] for i in proto.graph.input}
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feed)
    got = interpret(capture_onnx(proto).graph, feed)
    for a, b in zip(expected, got, strict=True):
        assert (b.shape, b.dtype) == (a.shape, a.dtype)
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


INTS = RANDOM.integers(-3, 4, (9, 5))
SPARSE = np.where(RANDOM.random((9, 5)) < 0.3, 0.0, X).astype(np.float32)
SPARSE[3] = 0
GAPS = np.where(RANDOM.random((9, 5)) < 0.3, np.nan, X).astype(np.float32)

CASES: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any]]] = {
    "scaler": ("Scaler", {"x": X}, {"offset": [1.0, 2, 3, 4, 5], "scale": [0.5, 1, 2, 3, 4]}),
    "scaler, one number": ("Scaler", {"x": X}, {"offset": [1.5], "scale": [0.25]}),
    "scaler of integers": ("Scaler", {"x": INTS}, {"offset": [1.0, 2, 3, 4, 5], "scale": [0.5, 1, 2, 3, 4]}),
    "normalizer max": ("Normalizer", {"x": np.abs(SPARSE)}, {"norm": "MAX"}),
    "normalizer l1": ("Normalizer", {"x": SPARSE}, {"norm": "L1"}),
    "normalizer l2": ("Normalizer", {"x": SPARSE}, {"norm": "L2"}),
    "binarizer": ("Binarizer", {"x": X}, {"threshold": 0.25}),
    "imputer": ("Imputer", {"x": GAPS}, {"imputed_value_floats": [1.0, 2, 3, 4, 5], "replaced_value_float": float("nan")}),
    "imputer of a number": ("Imputer", {"x": SPARSE}, {"imputed_value_floats": [7.0], "replaced_value_float": 0.0}),
    "imputer of integers": ("Imputer", {"x": INTS}, {"imputed_value_int64s": [9], "replaced_value_int64": 2}),
    "feature vectorizer": ("FeatureVectorizer", {"x": X, "z": X[:, :2]}, {"inputdimensions": [5, 2]}),
    "one hot": ("OneHotEncoder", {"x": INTS}, {"cats_int64s": [3, -1, 0]}),
    "labels": ("LabelEncoder", {"x": INTS}, {"keys_int64s": [2, -3, 0], "values_int64s": [5, 6, 7], "default_int64": 42}),
    "labels to floats": (
        "LabelEncoder", {"x": INTS}, {"keys_int64s": [2, -3, 0], "values_floats": [0.5, 6, 7], "default_float": 4.5}),
    "labels of floats": (
        "LabelEncoder", {"x": INTS.astype(np.float32)},
        {"keys_floats": [2.0, -3, 0], "values_floats": [0.5, 6, 7], "default_float": 4.5}),
    "regressor": (
        "LinearRegressor", {"x": X}, {"coefficients": [float(i) for i in range(10)], "intercepts": [1.0, 2.0], "targets": 2}),
    "regressor, logistic": (
        "LinearRegressor", {"x": X}, {"coefficients": [0.1 * i for i in range(10)], "targets": 2, "post_transform": "LOGISTIC"}),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_operators(what: str) -> None:
    op, inputs, attrs = CASES[what]
    check(model(op, inputs, **attrs), inputs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [2, 4])
def test_linear_classifier(transform: str, classes: int) -> None:
    coefficients = RANDOM.standard_normal(classes * 5).tolist()
    made = model(
        "LinearClassifier", {"x": X}, 2, coefficients=coefficients, intercepts=[0.5] * classes,
        classlabels_ints=[7, 3, 9, 1][:classes], post_transform=transform,
    )  # fmt: skip
    check(made, {"x": X})


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_classifier_with_a_single_score(transform: str) -> None:
    made = model(
        "LinearClassifier", {"x": X}, 2, coefficients=[0.5, -1.0, 2.0, 0.1, 0.3], intercepts=[0.5],
        classlabels_ints=[7, 3], post_transform=transform,
    )  # fmt: skip
    check(made, {"x": X})


@pytest.mark.parametrize("shape", [(9, 5), (5,), (2, 3, 5)])
def test_array_feature_extractor(shape: tuple[int, ...]) -> None:
    given = {"x": RANDOM.standard_normal(shape).astype(np.float32), "places": np.array([[3, 0, 3]])}
    check(model("ArrayFeatureExtractor", given, constants=("places",)), given)


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("ZipMap", {"classlabels_int64s": [0, 1]}, r"skl2onnx leaves it out with options=\{'zipmap': False\}"),
        ("LinearClassifier", {"coefficients": [1.0] * 10, "classlabels_strings": ["a", "b"]}, "its labels are strings"),
        ("LabelEncoder", {"keys_int64s": [1], "values_strings": ["a"]}, "it maps strings"),
        ("OneHotEncoder", {"cats_strings": ["a"]}, "its categories are strings"),
        ("LinearRegressor", {"coefficients": [1.0] * 5, "post_transform": "PROBIT"}, "the transform 'PROBIT'"),
    ],
)
def test_what_is_refused(op: str, attrs: dict[str, Any], message: str) -> None:
    outputs = 2 if op == "LinearClassifier" else 1
    with pytest.raises(CaptureError, match=message):
        capture_onnx(model(op, {"x": INTS if op == "LabelEncoder" else X}, outputs, **attrs))


def networks() -> dict[str, Any]:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

    small = {"hidden_layer_sizes": (16, 8), "max_iter": 20, "random_state": 0}
    return {
        "classifier": MLPClassifier(**small), "binary classifier": MLPClassifier(activation="tanh", **small),
        "regressor": MLPRegressor(activation="logistic", **small),
        "scaled": make_pipeline(StandardScaler(), MLPClassifier(**small)),
        "scaled regressor": make_pipeline(MinMaxScaler(), MLPRegressor(**small)),
        "imputed": make_pipeline(SimpleImputer(), Normalizer(), MLPRegressor(**small)),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()), "linear": LinearRegression(),
    }  # fmt: skip


NETWORKS = networks() if find_spec("skl2onnx") else {}


@pytest.mark.parametrize("what", NETWORKS)
def test_scikit_learn(what: str) -> None:
    """A fitted network, its export, and the compiled artifact."""
    skl2onnx = pytest.importorskip("skl2onnx")
    random = np.random.default_rng(1)
    x = random.standard_normal((120, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) if what == "binary classifier" else np.digitize(x @ np.arange(6.0), [-4, 0, 4])
    estimator = NETWORKS[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(x, y.astype(float) if what in ("regressor", "imputed") or "regressor" in what else y)
        classifier = hasattr(estimator, "predict_proba")
        options = {"zipmap": False} if classifier else None
        proto = skl2onnx.to_onnx(estimator, x[:1], options=options, target_opset=17)
    seen = random.standard_normal((11, 6)).astype(np.float32)
    if what == "imputed":
        seen[2, 3] = np.nan
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"X": seen}), strict=True))
    with planish.compile(proto).load() as compiled:
        got = compiled(X=seen)
        assert list(got) == list(expected)
        for name, want in expected.items():
            assert got[name].shape == want.shape
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)
