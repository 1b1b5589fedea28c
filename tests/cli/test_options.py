"""The small languages of option values."""

from __future__ import annotations

import pytest

from planish.cli.options import parse_dims, parse_precision
from planish.compiler.errors import UsageError


@pytest.mark.parametrize(
    ("values", "plan"),
    [
        ([], None),
        (["bf16"], "bf16"),
        (["enc.*=bf16"], {"enc.*": "bf16"}),
        (["w8a8-dynamic", "enc.0.*=bf16", "enc.*=f32"], {"enc.0.*": "bf16", "enc.*": "f32", "*": "w8a8-dynamic"}),
        (["*=bf16", "f32"], {"*": "bf16"}),
        ([" a.b = f32 "], {"a.b": "f32"}),
    ],
)
def test_precision(values: list[str], plan: object) -> None:
    parsed = parse_precision(values)
    assert parsed == plan
    if isinstance(plan, dict) and isinstance(parsed, dict):
        assert list(parsed) == list(plan)  # the first match wins, so order counts


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["bf16", "f32"], "two defaults"),
        (["a=bf16", "a=f32"], "the pattern 'a' twice"),
        (["=bf16"], "neither a precision nor"),
        (["a="], "neither a precision nor"),
        ([""], "neither a precision nor"),
    ],
)
def test_precision_that_makes_no_sense(values: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_precision(values)


def test_dims() -> None:
    assert parse_dims(["batch=1,seq=128", " rows = 3 "]) == {"batch": 1, "seq": 128, "rows": 3}
    assert parse_dims(None) == {}


@pytest.mark.parametrize("text", ["batch", "batch=x", "=3", "batch=-1"])
def test_dims_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="is not of the form NAME=N"):
        parse_dims([text])
