"""Every model of the zoo through the whole house, in every precision, beside eager PyTorch at sizes it was not captured with."""

from __future__ import annotations

import numpy as np
import pytest
import zoo
from zoo_runs import captured, cosine, flat, module, runs

from planish import driver
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType

pytest.importorskip("transformers")

PRECISIONS = (None, "bf16", "w8a8-dynamic")
#: A model of every kind in the quick suite; the rest is slow.
QUICK = ("bert", "llama", "cnn", "gru")


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in zoo.MODELS])
def test_model(name: str, precision: str | None) -> None:
    attention = zoo.MODELS[name].attentions[0]
    source, target, plan = captured(name, attention), find_target("cpu"), Plan.of(precision)
    built = driver.build(source.graph, plan, target, calibration=[source.examples])
    artifact = driver.package(source, built, plan, target, module(name, attention), [source.examples])
    with artifact.load(threads=2) as model:
        for run in runs(name, attention):
            got = flat(model(**run.inputs))
            assert got.keys() == run.expected.keys()
            for key, wanted in run.expected.items():
                assert got[key].dtype == wanted.dtype and got[key].shape == wanted.shape
                where = f"{name} {precision} {key} at {run.size}"
                if precision is None:
                    assert relative_distance(wanted, got[key]) <= MODEL[DType.f32], where
                elif wanted.dtype.kind == "f":
                    assert np.isfinite(got[key]).all() and cosine(wanted, got[key]) >= 0.99, where
