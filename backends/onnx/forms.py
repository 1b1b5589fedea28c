"""The closed list of lowering forms: the spellings of one idea among which a provider is asked for the one that it runs fast.

Every form has a probe: a small model that holds the form alone, at a size that is typical of it, and a baseline: the form in
plain float operators that does the same work, against which it is timed. ``probe.py`` asks an installed provider about all of
them; what it learns is a table (``table.py``), and lowering goes by the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

Probe = Callable[[str], ModelProto]


@dataclass(frozen=True)
class Form:
    """One way to write an idea in ONNX.

    Attributes:
        name: kebab-case, the key of tables.
        doc: one line: which operators, on which types.
        probe: the model of the form alone, with activations of an element type (``f32``, ``f16``, ``bf16``).
        baseline: name of the float form that it is timed against; its own where it is one.
        dtypes: element types of activations that it exists in.
        reference: the model that says what numbers are right, where the probe itself, run node by node on the CPU, would not: a
            kernel that saturates would be compared with itself.
        rounds: it computes with integers, so its numbers are those of the float form only nearly.
    """

    name: str
    doc: str
    probe: Probe
    baseline: str
    dtypes: tuple[str, ...] = ("f32",)
    rounds: bool = False
    reference: Probe | None = None


#: Every form by its name, in the order of the tables.
FORMS: dict[str, Form] = {}

_EVERY_FLOAT = ("f32", "f16", "bf16")


def form(
    name: str, doc: str, *, baseline: str = "", floats: bool = False, rounds: bool = False, reference: Probe | None = None
) -> Callable[[Probe], Probe]:  # fmt: skip
    """Register a form under the function that makes its probe.

    Args:
        floats: it exists in f16 and bf16 too.

    Raises:
        ValueError: the name is taken.
    """

    def add(probe: Probe) -> Probe:
        if name in FORMS:
            raise ValueError(f"two forms are called {name!r}")
        dtypes = _EVERY_FLOAT if floats else ("f32",)
        FORMS[name] = Form(name, doc, probe, baseline or name, dtypes, rounds, reference)
        return probe

    return add


from . import forms_fused, forms_linear  # noqa: E402, F401  (they add their forms to FORMS)
