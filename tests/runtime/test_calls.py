"""Calling a model: what may go in, what comes out, and the one sentence for what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit_harness import BATCH, SEQ, Builder, affine_program, save

import planish
from planish.codegen.program import Program
from planish.compiler.dims import symbol
from planish.compiler.types import DType, float_to_bf16
from planish.runtime.model import Model
from planish.runtime.structure import Record, builder


def two_inputs() -> Program:
    """Ids of a table plus a mask-like second input with the same dimensions; outputs f32[batch, seq, 4] and the mask."""
    b = Builder(batch=(1, 8), seq=(2, 64))
    ids, mask = b.input("input_ids", (BATCH, SEQ), DType.i64), b.input("attention_mask", (BATCH, SEQ), DType.i64)
    table = b.weight("table", np.arange(40, dtype=np.float32).reshape(10, 4))
    b.launch("embed", [ids, table, b.output("rows", (BATCH, SEQ, 4))], [BATCH * SEQ, 10, 4])
    b.launch("copy", [mask, b.output("mask", (BATCH, SEQ), DType.i64)], [BATCH * SEQ * 8])
    return b.program


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = save(tmp_path_factory.mktemp("affine"), affine_program(), {"kind": "tensor", "index": 0})
    with planish.load(path) as model:
        yield model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    items = [{"kind": "tensor", "index": 0}, {"kind": "tensor", "index": 1}]
    structure = {"kind": "object", "class": "Output", "keys": ["rows", "mask"], "items": items}
    path = save(tmp_path_factory.mktemp("encoder"), two_inputs(), structure, absent_inputs=["token_type_ids"])
    with planish.load(path) as model:
        yield model


X = np.arange(12, dtype=np.float32).reshape(3, 4)
IDS = np.array([[1, 2, 9], [0, 3, 4]])


# -- what goes in ------------------------------------------------------------------------------------------------------
def test_by_name_and_by_position(affine: Model) -> None:
    np.testing.assert_array_equal(affine(x=X), 2 * X + 1)
    np.testing.assert_array_equal(affine(X), 2 * X + 1)


@pytest.mark.parametrize(
    "x",
    [
        X.T,
        X[:, ::2],
        X[::-1],
        np.asfortranarray(X),
        np.broadcast_to(X[:1], (3, 4)),
        X[1:2],
        X.astype(">f4").astype("<f4"),
    ],
    ids=["transposed", "strided", "reversed", "fortran", "broadcast", "slice", "swapped twice"],
)
def test_any_layout(affine: Model, x: np.ndarray) -> None:
    np.testing.assert_array_equal(affine(x), 2 * x + 1)


def test_read_only_and_unaligned_inputs(affine: Model) -> None:
    fixed = X.copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(affine(fixed), 2 * X + 1)
    raw = np.zeros(X.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(X.shape)
    odd[:] = X
    assert not odd.flags.aligned
    np.testing.assert_array_equal(affine(odd), 2 * X + 1)


def test_subclasses_and_scalars_of_numpy(affine: Model) -> None:
    np.testing.assert_array_equal(affine(X.view(np.recarray)), 2 * X + 1)
    np.testing.assert_array_equal(affine(np.ma.masked_array(X)), 2 * X + 1)


def test_torch_tensors(affine: Model) -> None:
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(X.copy())
    result = affine(given)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, 2 * X + 1)
    np.testing.assert_array_equal(affine(given.t()), 2 * X.T + 1)
    with pytest.raises(planish.InputError, match=r"x cannot be read as a tensor: .*grad.* \(pass x.detach\(\)\)"):
        affine(given.requires_grad_())


def test_bfloat16_travels_as_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    b = Builder(n=(1, 64))
    n = symbol("n")
    b.launch("copy", [b.input("x", (n,), DType.bf16), b.output("y", (n,), DType.bf16)], [n * 2])
    x = np.array([1.5, -2.25, 3e38, 0], np.float32)
    with planish.load(save(tmp_path, b.program)) as model:
        for given in (float_to_bf16(x), torch.from_numpy(x).to(torch.bfloat16)):
            np.testing.assert_array_equal(model(given)["y"], float_to_bf16(x))
        ml_dtypes = pytest.importorskip("ml_dtypes")
        np.testing.assert_array_equal(model(x.astype(ml_dtypes.bfloat16))["y"], float_to_bf16(x))
        with pytest.raises(
            planish.InputError, match="x has the type float32 and this model takes bfloat16 bits in uint16"
        ):
            model(x)


@pytest.mark.parametrize("dtype", [d for d in DType if d not in (DType.bf16, DType.i4)], ids=str)
def test_every_element_type(tmp_path: Path, dtype: DType) -> None:
    b = Builder(n=(0, 64))
    n = symbol("n")
    b.launch("copy", [b.input("x", (n,), dtype), b.output("y", (n,), dtype)], [n * dtype.size])
    with planish.load(save(tmp_path, b.program)) as model:
        for count in (5, 0):
            x = (np.arange(count) % 2).astype(dtype.numpy)
            y = model(x)["y"]
            assert y.dtype == dtype.numpy
            np.testing.assert_array_equal(y, x)


# -- what comes out ----------------------------------------------------------------------------------------------------
def test_outputs_are_fresh(affine: Model) -> None:
    first = affine(X)
    second = affine(X + 1)
    np.testing.assert_array_equal(first, 2 * X + 1)
    np.testing.assert_array_equal(second, 2 * X + 3)


def test_an_output_object_is_mapping_attributes_and_sequence(encoder: Model) -> None:
    result = encoder(input_ids=IDS, attention_mask=np.ones_like(IDS))
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)[IDS]
    np.testing.assert_array_equal(result.rows, rows)
    assert result[0] is result["rows"] is result.rows
    assert list(result) == ["rows", "mask"]
    assert len(result) == 2
    assert result.to_tuple()[1] is result.mask
    assert result[:1] == (result.rows,)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.mask, result.mask)
    with pytest.raises(AttributeError, match="Output has no 'pooled'; it has rows, mask"):
        result.pooled
    with pytest.raises(AttributeError, match="read-only"):
        result.rows = None
    with pytest.raises(KeyError):
        result["pooled"]


def test_any_nesting() -> None:
    a, b = np.zeros(1), np.array(7)
    leaf = {"kind": "tensor", "index": 0}
    structure = {
        "kind": "tuple",
        "items": [
            {"kind": "list", "items": [leaf, {"kind": "constant", "value": None}]},
            {"kind": "dict", "keys": ["x", 3], "items": [leaf, {"kind": "constant", "value": 2.5}]},
            {"kind": "int", "index": 1},
            {"kind": "namedtuple", "class": "Point", "keys": ["u", "v"], "items": [leaf, leaf]},
            {"kind": "object", "class": "Empty", "keys": [], "items": []},
        ],
    }
    found = builder(structure)([a, b])
    assert isinstance(found, tuple)
    assert found[0] == [a, None]
    assert found[1] == {"x": a, 3: 2.5}
    assert found[2] == 7
    assert type(found[2]) is int
    assert found[3].u is a
    assert found[3]._fields == ("u", "v")
    assert isinstance(found[4], Record)
    with pytest.raises(planish.ArtifactError, match="describes its output as 'set'"):
        builder({"kind": "set", "items": []})


def test_out(affine: Model, encoder: Model) -> None:
    out = np.empty((3, 4), np.float32)
    assert affine(X, out=out) is out
    np.testing.assert_array_equal(out, 2 * X + 1)
    rows, mask = np.empty((2, 3, 4), np.float32), np.empty((2, 3), np.int64)
    for given in ({"mask": mask, "rows": rows}, [rows, mask]):
        result = encoder(IDS, IDS, out=given)
        assert result.rows is rows
        assert result.mask is mask


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((3, 5), np.float32), r"out for y is float32\(3, 5\) and has to be an array of float32\(3, 4\)"),
        (np.empty((3, 4)), r"out for y is float64\(3, 4\)"),
        (np.empty((4, 3), np.float32).T, "out for y has to be writable and C-contiguous"),
        ([], "out holds 0 arrays and the model has 1 outputs: y"),
        ({"z": X}, "out does not match the outputs at z; they are y"),
        ({}, "out does not match the outputs at y"),
        (["text"], "out for y is str"),
        (X, "out for y overlaps an input"),
    ],
)
def test_out_that_does_not_fit(affine: Model, out: Any, message: str) -> None:
    with pytest.raises(planish.InputError, match=message):
        affine(X, out=out)


# -- what does not fit -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ([IDS], {}, r"the input attention_mask is missing \(it takes input_ids and attention_mask\)"),
        ([], {}, "the input input_ids and attention_mask is missing"),
        ([IDS, IDS, IDS], {}, "3 inputs were given and this model takes 2"),
        ([IDS], {"input_ids": IDS, "attention_mask": IDS}, "the input input_ids was given twice"),
        (
            [IDS, IDS], {"token_type_ids": IDS},
            r"compiled without the input token_type_ids; it takes input_ids and attention_mask \(leave token_type_ids out",
        ),
        ([IDS], {"atention_mask": IDS}, r"does not take an input atention_mask; .* \(did you mean attention_mask\?\)"),
        ([IDS, IDS], {"labels": IDS}, r"does not take an input labels; .* \(leave labels out\)"),
        ([IDS.tolist(), IDS], {}, "input_ids is a list and has to be a tensor"),
        ([None, IDS], {}, "input_ids is a NoneType and has to be a tensor"),
        ([IDS.astype(np.int32), IDS], {}, r"input_ids has the type int32 and this model takes int64 \(convert it: input_ids.ast"),
        ([IDS.astype(float), IDS], {}, "input_ids has the type float64 and this model takes int64"),
        ([IDS[0], IDS], {}, r"input_ids has 1 dimension and this model takes 2 dimensions \(its shape is \(batch, seq\)\)"),
        ([IDS[:, :1], IDS[:, :1]], {}, r"dimension 1 of input_ids \(seq\) is 1 and this model takes 2 to 64"),
        ([np.zeros((9, 3), int), IDS], {}, r"dimension 0 of input_ids \(batch\) is 9 and this model takes 1 to 8"),
        (
            [IDS, IDS[:, :2]], {},
            r"dimension 1 of attention_mask \(seq\) is 2 and has to be 3 \(seq is taken from dimension 1 of input_ids\)",
        ),
    ],
)  # fmt: skip
def test_one_sentence(encoder: Model, args: list[Any], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(planish.InputError, match=message) as caught:
        encoder(*args, **kwargs)
    assert isinstance(caught.value, planish.PlanishError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_fixed_dimension_and_an_expression(tmp_path: Path) -> None:
    b = Builder(n=(1, 100))
    n = symbol("n")
    x, y = b.input("x", (2 * n + 1, 3)), b.output("y", (2 * n + 1, 3))
    b.launch("copy", [x, y], [(2 * n + 1) * 12])
    with planish.load(save(tmp_path, b.program)) as model:
        given = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
        np.testing.assert_array_equal(model(given)["y"], given)
        with pytest.raises(planish.InputError, match="dimension 1 of x is 4 and has to be 3"):
            model(np.zeros((7, 4), np.float32))
        with pytest.raises(planish.InputError, match=r"dimension 0 of x \(2\*n \+ 1\) is 8 and has to be 7"):
            model(np.zeros((8, 3), np.float32))
        with pytest.raises(
            planish.InputError, match=r"dimension 0 of x \(2\*n \+ 1\) is 203 and this model takes 3 to 201"
        ):
            model(np.zeros((203, 3), np.float32))


def test_an_index_out_of_range(encoder: Model) -> None:
    bad = IDS.copy()
    bad[1, 1] = 10
    for call in (lambda: encoder(bad, IDS), encoder.bind(bad, IDS)):
        with pytest.raises(planish.RunError, match=r"an index is out of range in embed\.0"):
            call()
    np.testing.assert_array_equal(encoder(IDS, IDS).mask, IDS)  # the error does not stick


# -- preset calls ------------------------------------------------------------------------------------------------------
def test_bind_reads_its_inputs_anew(encoder: Model) -> None:
    bound = encoder.bind(input_ids=IDS.copy(), attention_mask=np.ones_like(IDS))
    first = bound()
    assert first.rows is bound.outputs["rows"]
    before = first.rows.copy()
    bound.inputs["input_ids"][:] = IDS[::-1]
    assert bound() is first
    np.testing.assert_array_equal(first.rows, before[::-1])
    assert bound.symbols == {"batch": 2, "seq": 3}
    encoder(IDS[:, :2], IDS[:, :2])  # other calls do not disturb it
    bound.inputs["input_ids"][:] = IDS
    np.testing.assert_array_equal(bound().rows, before)


def test_bind_of_what_has_to_be_copied(affine: Model) -> None:
    bound = affine.bind(X.T)
    np.testing.assert_array_equal(bound(), 2 * X.T + 1)
    bound.inputs["x"][:] = 3
    np.testing.assert_array_equal(bound(), np.full((4, 3), 7))


def test_warmup(encoder: Model) -> None:
    encoder.warmup(batch=2, seq=16)
    encoder.warmup()
    with pytest.raises(
        planish.InputError, match=r"there is no dimension sequ; .* batch and seq \(did you mean seq\?\)"
    ):
        encoder.warmup(sequ=3)
    with pytest.raises(planish.InputError, match="seq is 65 and has to be 2 to 64"):
        encoder.warmup(seq=65)


def test_what_a_model_says_of_itself(encoder: Model) -> None:
    assert [str(port) for port in encoder.inputs] == ["input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]"]
    assert encoder.outputs[0].shape == ("batch", "seq", 4)
    assert [(s.name, s.lower, s.upper) for s in encoder.symbols] == [("batch", 1, 8), ("seq", 2, 64)]
    assert encoder.manifest["name"] == "test"
    assert "rows: f32[batch, seq, 4]" in repr(encoder)


def test_a_closed_model(tmp_path: Path) -> None:
    model = planish.load(save(tmp_path, affine_program()))
    bound = model.bind(X)
    with model:
        bound()
    model.close()
    for call in (lambda: model(X), bound, lambda: model.bind(X), model.warmup):
        with pytest.raises(planish.RunError, match="the model is closed"):
            call()


def test_flat_outputs_come_in_their_order(encoder: Model) -> None:
    ids = np.arange(6).reshape(2, 3)
    mask = np.ones((2, 3), np.int64)
    outputs = encoder.flat({"attention_mask": mask, "input_ids": ids})
    called = encoder(input_ids=ids, attention_mask=mask)
    assert [o.shape for o in outputs] == [(2, 3, 4), (2, 3)]
    assert np.array_equal(outputs[0], np.arange(40, dtype=np.float32).reshape(10, 4)[ids])
    assert len(outputs) == len(encoder.outputs) and called is not None
    with pytest.raises(planish.InputError):
        encoder.flat({"input_ids": ids})
