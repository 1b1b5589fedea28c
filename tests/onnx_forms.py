"""Providers as tests make them up: which lowering forms they take."""

from __future__ import annotations

from collections.abc import Callable

from onnx_harness import Session

from planish.backends.onnx.forms import FORMS

#: Sizes that emitted models are run at.
SIZES = ({"b": 2, "s": 5}, {"b": 1, "s": 1}, {"b": 3, "s": 17})


def takes(*forms: str) -> Callable[[str, str], bool]:
    """A provider that takes these forms, in f32 alone."""
    assert set(forms) <= set(FORMS)
    return lambda name, dtype: name in forms and dtype == "f32"


def operators(session: Session) -> list[str]:
    """The operators of a model, those outside of the standard with their domain."""
    return [f"{n.domain}:{n.op_type}".removeprefix(":") for n in session.model.graph.node]
