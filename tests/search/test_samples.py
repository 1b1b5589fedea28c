"""Data sources, and what becomes of their items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_models import BATCH, SEQ, graph, images, text
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import planish
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph
from planish.compiler.types import float_to_bf16
from planish.search.samples import BATCH as MOST_ROWS
from planish.search.samples import Samples, load_samples

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((10, 2, 3)).astype(np.float32)
Y = np.arange(10)


def rows(samples: Samples) -> dict[str, np.ndarray]:
    """Sample name -> its lone input without the batch axis."""
    return {s.id: next(iter(s.inputs.values()))[0] for s in samples}


def same(samples: Samples, expected: np.ndarray = X) -> bool:
    found = rows(samples)
    return list(found) == [f"data[{i}]" for i in range(len(expected))] and np.array_equal(
        np.stack(list(found.values())), expected
    )


class Pairs(TorchDataset):
    """A map-style dataset without an end, as PyTorch's are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> Any:
        return {"x": torch.from_numpy(X[i % 10]), "label": int(Y[i % 10])}


class Stream(IterableDataset):
    """An iterable dataset."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(X)


# -- sources -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source",
    [
        X,
        torch.from_numpy(X),
        list(X),
        [X],
        [X[:4], X[4:]],
        [X[:4], *X[4:]],
        [{"x": X[:4]}, {"x": torch.from_numpy(X[4:])}],
        [(X[:4],), [X[4:]]],
        X.tolist(),
        X.astype(np.float64),
        DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4),
        DataLoader(Stream(), batch_size=3),
        planish.Dataset(X),
        planish.Dataset(2 * X, transform=lambda x: x / 2),
        planish.Dataset(Pairs(), label="label"),
        planish.Dataset(DataLoader(Pairs(), batch_size=3), label="label"),
        planish.Dataset(list(zip(X, Y, strict=True)), label=1),
        planish.Dataset(list(zip(Y, X, strict=True)), label=0),
        planish.Dataset(list(zip(X, Y, strict=True)), label=-1),
        planish.Dataset([({"x": x}, y) for x, y in zip(X, Y, strict=True)], label=1),
        planish.Dataset(
            [{"row": x, "y": y} for x, y in zip(X, Y, strict=True)], transform=lambda i: i["row"], label="y"
        ),
        planish.Dataset([{"row": x} for x in X], transform=lambda i: {"x": i["row"], "y": 1}, label="y"),
        planish.Dataset([(x, 3) for x in X], transform=lambda i: i[0], label=lambda i: i[1]),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_kind_of_source_gives_the_same_rows(source: Any) -> None:
    assert same(load_samples(source, images()))


def test_a_generator_is_read_once_with_progress() -> None:
    told: list[tuple[str, int, int]] = []
    samples = load_samples((x for x in X), images(), progress=lambda *p: told.append(p))
    assert same(samples)
    assert told[0] == ("reading data", 1, 0)
    assert told[-1] == ("reading data", 10, 0)


def test_an_endless_generator_has_a_limit() -> None:
    def endless() -> Iterator[np.ndarray]:
        i = 0
        while True:
            yield np.full((2, 3), i, np.float32)
            i += 1

    assert len(load_samples({"a": endless(), "b": -1 - X}, images(), limit=7)) == 14


def test_labels_follow_their_rows() -> None:
    for source in (
        planish.Dataset(list(zip(X, Y, strict=True)), label=1),
        planish.Dataset(DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=4), label=1),
        planish.Dataset(DataLoader(Pairs(), batch_size=4), label="label"),
    ):
        samples = load_samples(source, images())
        assert samples.labelled
        assert [int(s.label) for s in samples if s.label is not None] == Y.tolist()
        (batch,) = samples.batches
        assert batch.labels is not None
        assert batch.labels.tolist() == Y.tolist()
    assert not load_samples(X, images()).labelled


def test_a_label_may_be_an_array_for_each_row() -> None:
    tokens = np.arange(12).reshape(3, 4)
    samples = load_samples(planish.Dataset([(X[:3], tokens)], label=1), images())
    assert np.array_equal(np.stack([np.asarray(s.label) for s in samples]), tokens)


def test_npz_holds_samples_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    assert same(load_samples(tmp_path / "x.npz", images()))
    np.savez(tmp_path / "xy.npz", x=X, y=Y)
    assert same(load_samples(planish.Dataset(str(tmp_path / "xy.npz"), label="y"), images()))
    with pytest.raises(UsageError, match=r"data\[0\]: the model has no input 'y' .*label="):
        load_samples(tmp_path / "xy.npz", images())


def test_jsonl_holds_an_item_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    lines = [{"ids": [1, 2, 3], "mask": [1, 1, 1]}, {"ids": [4, 5], "mask": [1, 0]}]
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    samples = load_samples(str(path), text())
    assert [b.inputs["ids"].tolist() for b in samples.batches] == [[[1, 2, 3]], [[4, 5]]]
    path.write_text('{"ids": [1], "mask": [1]}\n{"ids": [1.5], "mask": [1]}\n')
    with pytest.raises(UsageError, match=rf"data\[1\] \({path}:2\): ids holds float64, and the model takes i64"):
        load_samples(str(path), text())
    path.write_text('{"ids": [1], "mask": [1]}\n{"ids"\n')
    with pytest.raises(UsageError, match=rf"{path}:2 is no JSON"):
        load_samples(str(path), text())


def test_a_file_of_python_gives_any_source(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rows():\n    yield from np.ones((3, 2, 3)) * np.arange(3)[:, None, None]\n"
        "def sliced():\n    return {'a': rows(), 'b': list(-1 - np.stack(list(rows())))}\n"
        "def loops():\n    return __file__ + ':loops'\n"
        "def asks(x):\n    return x\n"
        "def breaks():\n    raise KeyError('gone')\n"
    )
    assert len(load_samples(f"{tmp_path}/mine.py:rows", images())) == 3
    assert load_samples(f"{tmp_path}/mine.py:sliced", images()).counts == {"a": 3, "b": 3}
    for name, message in (
        ("loops", "returns its own name"),
        ("asks", "callable without arguments"),
        ("breaks", "raised KeyError at line 11: 'gone'"),
        ("rwos", "did you mean 'rows'"),
    ):
        with pytest.raises(planish.PlanishError, match=message):
            load_samples(f"{tmp_path}/mine.py:{name}", images())


def test_slices_name_their_samples() -> None:
    samples = load_samples(
        {"easy": X[:4], "hard": planish.Dataset(list(zip(X[4:], Y[4:], strict=True)), label=1)}, images()
    )
    assert samples.counts == {"easy": 4, "hard": 6}
    assert sorted(samples.ids) == [*(f"easy[{i}]" for i in range(4)), *(f"hard[{i}]" for i in range(6))]
    assert dict(zip(samples.ids, samples.slices, strict=True))["hard[5]"] == "hard"
    outside = load_samples(planish.Dataset({"a": [(X[0], 1)], "b": [(X[1], 2)]}, label=1), images())
    assert [int(s.label) for s in outside if s.label is not None] == [1, 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "the data has no samples"),
        ({"easy": X, "hard": []}, "the slice 'hard' has no samples"),
        ({}, "the data has no slices"),
        ({3: X}, "3 is no name for a slice"),
        ({"a": {"b": X}}, "the slice 'a' is made of slices"),
        (3, "a int is no data"),
        (lambda: X, "a function is no data (call it"),
        ("nowhere.npz", "there is no file 'nowhere.npz'"),
        ("data.csv", "'data.csv' is no data"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("nowhere.py", "does not say which callable of the file is data"),
    ],
)
def test_what_is_no_data_is_one_sentence(source: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_samples(source, images())
    assert message in str(error.value)


def test_a_damaged_npz_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(UsageError, match=r"is no \.npz file"):
        load_samples(path, images())
    np.savez(path, x=X, y=Y[:3])
    with pytest.raises(UsageError, match="do not agree on the number of samples"):
        load_samples(path, images())
    np.savez(path)
    with pytest.raises(UsageError, match="holds no arrays"):
        load_samples(path, images())


def test_a_source_that_fails_is_one_sentence() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield X[0]
        raise OSError("the disk is gone")

    with pytest.raises(UsageError, match=r"the data raised OSError at data\[1\]: the disk is gone"):
        load_samples(broken(), images())


# -- items -------------------------------------------------------------------------------------------------------------
def one(**changes: Any) -> dict[str, Any]:
    return {"ids": np.array([1, 2]), "mask": np.array([1, 1]), **changes}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"ids": [1]}, "it has no 'mask'"),
        ({"ids": [1], "maks": [1]}, "it has no 'mask' (did you mean 'maks'?)"),
        (one(label=3), "the model has no input 'label' (planish.Dataset(data, label=...)"),
        (([1], [1], 3), "it has 3 parts, and the model takes ids, mask (planish.Dataset(data, label=...)"),
        (([1],), "it has 1 of 2 parts"),
        (np.ones(3, int), "it is one ndarray (the model takes ids, mask"),
        (one(ids=np.array([1.0, 2.0])), "ids holds float64, and the model takes i64"),
        (one(ids="text"), "ids holds text, and the model takes i64"),
        (one(ids=[[1, 2], [3]]), "ids is a list of rows that differ in length"),
        (one(ids=None), "ids holds NoneType values, not numbers"),
        (one(ids=np.array([1, 2**63], np.uint64)), "ids holds 9223372036854775808, and the model takes i64"),
        (one(ids=np.array(3)), "ids has the shape [], and the model takes [batch, seq]"),
        (one(ids=np.ones((1, 1, 2), int)), "ids has the shape [1, 1, 2], and the model takes [batch, seq]"),
        (one(ids=np.array([1, 2, 3])), "mask has the shape [1, 2], and the model takes [batch, seq], where seq is 3"),
        (one(ids=np.ones((1, 2), int)), "ids has a batch axis, and mask has none"),
        (
            {"ids": np.ones((2, 3), int), "mask": np.ones((3, 3), int)},
            "do not agree on the number of rows: ids 2, mask 3",
        ),
        ({"ids": np.ones((0, 3), int), "mask": np.ones((0, 3), int)}, "it has no rows"),
        ({"ids": np.ones(33, int), "mask": np.ones(33, int)}, "seq is 33, and the model was exported for 1..32"),
    ],
)
def test_an_item_that_does_not_fit_names_the_sample(item: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_samples({"questions": [one(), item]}, text())
    assert str(error.value).startswith("the sample questions[1]: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((2, 3), np.nan), "x holds NaN at [0, 0]"),
        (np.array([[0, 0, 0], [0, -np.inf, 0]]), "x holds an infinite number at [1, 1]"),
        (np.full((2, 3), 1e300), "x holds 1e+300, which is too large for f32"),
        (np.full((2, 3), 2**24 + 1), "x holds 16777217, which f32 does not hold"),
        (np.ones((2, 4)), "x has the shape [1, 2, 4], and the model takes [batch, 2, 3]"),
        (np.ones((2, 3), complex), "x holds complex numbers, and the model takes f32"),
    ],
)
def test_a_value_that_does_not_fit_names_the_sample(value: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_samples([value], images())
    assert "the sample data[0]: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (planish.Dataset([{"x": X[0]}], label="label"), "it has no label 'label'"),
        (planish.Dataset([(X[0], 1)], label="label"), "its label is 'label', and it is a tuple"),
        (planish.Dataset([(X[0], 1)], label=2), "its label is part 2, and it has 2 parts"),
        (planish.Dataset([X[0]], label=1), "its label is part 1, and it is a ndarray"),
        (planish.Dataset([(X[0], "cat")], label=1), "its label is str_, not numbers"),
        (planish.Dataset([(X[:3], [1, 2])], label=1), "its label has the shape [2], and it has 3 rows"),
        (planish.Dataset([X[0]], transform=lambda x: x[9]), "transform raised IndexError"),
        (planish.Dataset([X[0]], label=lambda x: x.gone), "label raised AttributeError"),
        (planish.Dataset([(X[0], 3)], label=lambda i: i[1]), "it has 2 parts, and the model takes x"),
    ],
)
def test_a_label_that_is_not_there_names_the_sample(dataset: planish.Dataset, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_samples(dataset, images())
    assert "the sample data[0]: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": 3}, "transform is a function"),
        ({"label": 1.5}, "label is a key, a position or a function"),
        ({"label": True}, "label is a key, a position or a function"),
    ],
)
def test_a_dataset_checks_what_it_is_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planish.Dataset(X, **arguments)
    with pytest.raises(UsageError, match="two transforms"):
        planish.Dataset(planish.Dataset(X))


def test_types_are_converted_where_nothing_is_lost() -> None:
    everything = graph(
        {"f": ("f32", (BATCH, 2)), "i": ("i32", (BATCH, 2)), "b": ("bool", (BATCH, 2)), "h": ("bf16", (BATCH, 2)),
         "u": ("u8", (BATCH, 2)), "e": ("f16", (BATCH, 2))}, (BATCH, 2), batch=(1, 8),
    )  # fmt: skip
    item = {"f": [1, 2], "i": np.array([True, False]), "b": [0, 1], "h": torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
            "u": np.array([0, 255]), "e": np.array([0.1, 2.0])}  # fmt: skip
    (sample,) = load_samples([item], everything)
    assert {k: v.dtype.str[1:] for k, v in sample.inputs.items()} == {
        "f": "f4", "i": "i4", "b": "b1", "h": "u2", "u": "u1", "e": "f2",
    }  # fmt: skip
    assert np.array_equal(sample.inputs["h"][0], float_to_bf16(np.array([0.5, 3.0], np.float32)))
    for change, message in (
        ({"b": [0, 2]}, "b holds 2"),
        ({"u": [0, 256]}, "u holds 256"),
        ({"h": [257, 0]}, "h holds 257"),
    ):
        with pytest.raises(UsageError, match=message):
            load_samples([{**item, **change}], everything)


def test_nested_inputs_go_by_their_path() -> None:
    cached = graph({"x": ("f32", (BATCH, 2)), "past.0.key": ("f32", (BATCH, 3))}, (BATCH, 2), batch=(1, 8))
    (sample,) = load_samples([{"x": np.ones(2), "past": [{"key": np.zeros(3)}]}], cached)
    assert sample.inputs["past.0.key"].shape == (1, 3)


def test_derived_dimensions_are_checked() -> None:
    audio = graph(
        {"wave": ("f32", (BATCH, SEQ * 4)), "frames": ("f32", (BATCH, SEQ))}, (BATCH, SEQ), batch=(1, 8), seq=(1, 9)
    )
    load_samples([(np.ones(12), np.ones(3))], audio)
    with pytest.raises(UsageError, match=r"the model takes \[batch, 4\*seq\]|the model takes \[batch, seq\]"):
        load_samples([(np.ones(13), np.ones(3))], audio)
    with pytest.raises(UsageError, match=r"seq is 10, and the model was exported for 1\.\.9"):
        load_samples([(np.ones(40), np.ones(10))], audio)


def test_equal_samples_count_once() -> None:
    samples = load_samples([*X, X[3], X[3]], images())
    assert same(samples)
    assert "2 samples are the same as others and count once" in samples.notes
    labelled = planish.Dataset([(X[0], 1), (X[0], 2), (X[0], 2)], label=1)
    assert len(load_samples(labelled, images())) == 2  # the same input with another label is another sample


def test_data_that_changes_later_does_not() -> None:
    buffer = np.zeros((2, 3), np.float32)

    def reused() -> Iterator[np.ndarray]:
        for i in range(3):
            buffer[:] = i
            yield buffer

    assert [float(r[0, 0]) for r in rows(load_samples(reused(), images())).values()] == [0, 1, 2]


# -- rows and batches --------------------------------------------------------------------------------------------------
def test_rows_of_equal_shape_run_together_and_nothing_is_padded() -> None:
    items = [{"ids": np.full(3 + i % 3, i), "mask": np.ones(3 + i % 3, int)} for i in range(40)]
    samples = load_samples(items, text())
    assert sorted(int(s.id[5:-1]) for s in samples) == list(range(40))
    for batch in samples.batches:
        assert batch.rows <= MOST_ROWS
        assert batch.inputs["ids"].shape == batch.inputs["mask"].shape
        assert (batch.inputs["mask"] == 1).all()
        assert [f"data[{v}]" for v in batch.inputs["ids"][:, 0]] == list(batch.ids)
    assert len(samples.batches) == 3
    assert samples.ids == tuple(i for b in samples.batches for i in b.ids)


def test_the_models_bounds_on_rows_are_kept() -> None:
    items = [one(ids=np.array([i, i])) for i in range(11)]
    assert [b.rows for b in load_samples(items, text((1, 4))).batches] == [3, 4, 4]
    assert [b.rows for b in load_samples(items, text((2, 5))).batches] == [3, 4, 4]
    assert [b.rows for b in load_samples(items, text((6, 64))).batches] == [11]
    with pytest.raises(UsageError, match="takes 12 to 64 rows at a time, and there are only 11 samples"):
        load_samples(items, text((12, 64)))


def test_a_fixed_batch_of_one_is_still_a_batch() -> None:
    fixed = graph({"x": ("f32", (1, 2, 3))}, (1, 4))
    for source in (X, X[:, None], [X]):
        samples = load_samples(source, fixed)
        assert same(samples)
        assert all(b.rows == 1 and b.batched and b.inputs["x"].shape == (1, 2, 3) for b in samples.batches)


@pytest.mark.parametrize(
    "model",
    [
        graph({"x": ("f32", (2, 3))}, (4,)),
        graph({"x": ("f32", (SEQ, 3))}, (SEQ, 4), seq=(1, 9)),
    ],
)
def test_a_model_without_a_batch_takes_an_item_at_a_time(model: Graph) -> None:
    samples = load_samples(X, model)
    assert [s.inputs["x"].shape for s in samples] == [(2, 3)] * 10
    assert all(b.rows == 1 and not b.batched for b in samples.batches)
    assert np.array_equal(samples.batches[7].inputs["x"], X[7])


def test_inputs_without_a_batch_are_shared_by_equal_rows() -> None:
    model = graph({"x": ("f32", (BATCH, 2)), "scale": ("f32", (2,))}, (BATCH, 2), batch=(1, 64))
    items = [{"x": np.array([i, i]), "scale": np.full(2, i % 2)} for i in range(6)]
    samples = load_samples(items, model)
    assert [b.rows for b in samples.batches] == [3, 3]
    assert [b.inputs["scale"].tolist() for b in samples.batches] == [[0, 0], [1, 1]]


def test_taking_samples_keeps_them() -> None:
    samples = load_samples(planish.Dataset(list(zip(X, Y, strict=True)), label=1), images())
    taken = samples.take(["data[7]", "data[2]"])
    assert taken.ids == ("data[2]", "data[7]")
    assert [int(s.label) for s in taken if s.label is not None] == [2, 7]
    assert taken.sha256 != samples.sha256
    assert samples.take(samples.ids).sha256 == samples.sha256
    with pytest.raises(KeyError):
        samples.take(["data[99]"])


def test_a_draw_has_every_slice_with_its_share() -> None:
    data = RANDOM.standard_normal((100, 2, 3))
    samples = load_samples({"a": data[:80], "b": data[80:]}, images())
    drawn = samples.sample(20, seed=3)
    assert drawn.counts == {"a": 16, "b": 4}
    assert samples.sample(20, seed=3).ids == drawn.ids
    assert samples.sample(20, seed=4).ids != drawn.ids
    assert samples.sample(1000) is samples
    assert set(samples.sample(2).slices) == {"a", "b"} or len(samples.sample(2)) == 2


def test_the_digest_sees_everything() -> None:
    pairs = list(zip(X, Y, strict=True))
    first = load_samples(planish.Dataset(pairs, label=1), images()).sha256
    assert load_samples(planish.Dataset(pairs, label=1), images()).sha256 == first
    changed = [(x + (i == 3), y) for i, (x, y) in enumerate(pairs)]
    relabelled = [(x, y + (i == 3)) for i, (x, y) in enumerate(pairs)]
    assert (
        len({first, *(load_samples(planish.Dataset(p, label=1), images()).sha256 for p in (changed, relabelled))}) == 3
    )
