"""Methods for weights, each where its paper says that it helps."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from planish.compiler.errors import UsageError
from planish.compiler.precision import PRECISIONS, Scheme
from planish.compiler.types import DType
from planish.passes.weights import Reaching, default_method, find_method, methods
from planish.passes.weights.gptq import Gptq
from planish.passes.weights.rtn import greatest_scales, quantize_rows, round_to, searched_scales, stored_scales
from planish.passes.weights.store import WeightStore, digest

K, N = 128, 48
CHANNEL, GROUPS = PRECISIONS["w8a8"].weight, PRECISIONS["w4a16-g32"].weight


def correlated(rows: int = 1024, seed: int = 0, outlier: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that lie near a subspace, the last two channels of them larger; and a weight."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 24)) @ rng.standard_normal((24, K)) + 0.3 * rng.standard_normal((rows, K))
    x[:, -2:] *= outlier
    return x.astype(np.float32), rng.standard_normal((N, K)).astype(np.float32)


def reaching(x: np.ndarray) -> Reaching:
    return Reaching(x[:256], x[:256], (x.T @ x / len(x)).astype(np.float32))


def error(x: np.ndarray, weight: np.ndarray, rounded: np.ndarray) -> float:
    want = x @ weight.T
    return float(np.square(x @ rounded.T - want).sum() / np.square(want).sum())


@pytest.mark.parametrize("scheme", [CHANNEL, GROUPS, Scheme("i4", "group", 128), Scheme("i8", "group", 32)])
@pytest.mark.parametrize("name", ["rtn", "gptq", "smoothquant"])
def test_weights_keep_to_their_scheme(name: str, scheme: Scheme) -> None:
    x, weight = correlated()
    weight[3] = 0
    for given in (None, reaching(x)):
        made = find_method(name).quantize(weight, given, scheme)
        ends = (-8, 7) if scheme.dtype == "i4" else (-127, 127)
        assert made.values.dtype == np.int8 and made.values.shape == (N, K) and made.dtype is DType(scheme.dtype)
        assert made.values.min() >= ends[0] and made.values.max() <= ends[1]
        assert made.scale.shape == (N, K // scheme.group_size if scheme.group_size else 1)
        assert made.scale.dtype == np.float32 and not made.values[3].any()
        size = scheme.group_size or K
        wide = made.values.astype(np.float32) * np.repeat(made.scale, size, axis=1)
        np.testing.assert_array_equal(made.dequantised(), wide)
        assert error(x, weight, made.dequantised()) < (0.03 if scheme.dtype == "i4" else 1e-3)


def test_searched_scales_beat_the_greatest_and_match_brute_force() -> None:
    weight = np.random.default_rng(1).standard_t(3, (20, 64)).astype(np.float32)
    energy = np.random.default_rng(2).uniform(0.1, 10, 64).astype(np.float32)
    scheme = Scheme("i4", "group", 16)

    def lost(scale: np.ndarray) -> np.ndarray:
        wide = round_to(weight, scale, DType.i4).reshape(20, 4, 16) * scale[:, :, None]
        return (np.square(wide - weight.reshape(20, 4, 16)) * energy.reshape(4, 16)).sum(axis=2)

    full = greatest_scales(weight, scheme)
    found = searched_scales(weight, scheme, energy)
    every = np.stack([lost(stored_scales(full * np.float32(1 - 0.04 * i), scheme)) for i in range(13)])
    np.testing.assert_allclose(lost(found), every.min(axis=0), rtol=1e-5)
    assert lost(found).sum() < 0.97 * lost(full).sum()


def test_the_scale_of_four_bits_takes_the_sign_of_the_greatest() -> None:
    weight = np.array([[0.5, -1.0, 3.5, 8.0]], np.float32)
    scale = greatest_scales(weight, Scheme("i4", "group", 4))
    assert scale[0, 0] == -1.0 and round_to(weight, scale, DType.i4).tolist() == [[0, 1, -4, -8]]


def test_gptq_lowers_the_output_error_on_correlated_inputs() -> None:
    for scheme, at_least in ((GROUPS, 2.0), (CHANNEL, 2.0)):
        rows, weight = correlated(rows=2048)
        x, unseen = rows[:1024], rows[1024:]
        plain = find_method("rtn").quantize(weight, reaching(x), scheme)
        made = find_method("gptq").quantize(weight, reaching(x), scheme)
        assert made.method == "gptq"
        assert error(unseen, weight, made.dequantised()) < error(unseen, weight, plain.dequantised()) / at_least


def test_act_order_helps_with_an_outlier_channel() -> None:
    ordered, plain = [], []
    for seed in range(6):
        x, weight = correlated(seed=seed, outlier=25.0)
        for found, act_order in ((ordered, True), (plain, False)):
            made = Gptq(act_order=act_order).quantize(weight, reaching(x), GROUPS)
            found.append(error(x, weight, made.dequantised()))
    assert np.mean(ordered) < 0.9 * np.mean(plain)


def test_gptq_in_blocks_is_gptq_one_column_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = correlated(seed=4)
    in_blocks = [find_method("gptq").quantize(weight, reaching(x), GROUPS).values]
    for block in (1, 7, K):
        monkeypatch.setattr("planish.passes.weights.gptq.BLOCK", block)
        in_blocks.append(find_method("gptq").quantize(weight, reaching(x), GROUPS).values)
    for other in in_blocks[1:]:
        assert np.mean(other != in_blocks[0]) < 0.01  # the order of sums may turn a tie


def test_gptq_is_optimal_brain_quantization_in_a_fixed_order() -> None:
    """Against the update as the paper derives it: each error spread by the inverse of the Hessian of what is left."""
    x, weight = correlated(seed=5)
    x, weight = x[:, :12], weight[:6, :12].astype(np.float64)
    hessian = (x.T @ x / len(x)).astype(np.float32)
    method = Gptq(act_order=False)
    scheme = Scheme("i4", "group", 12)
    made = method.quantize(weight.astype(np.float32), Reaching(x, x, hessian), scheme)
    scale = searched_scales(weight.astype(np.float32), scheme, np.diagonal(hessian))[:, 0].astype(np.float64)
    h = hessian.astype(np.float64)
    h[np.diag_indices(12)] += method.damping * np.diagonal(h).mean()
    rest, want = weight.copy(), np.empty((6, 12), np.int8)
    for i in range(12):
        inverse = np.linalg.inv(h[i:, i:])
        q = np.clip(np.rint(rest[:, i] / scale), -8, 7)
        want[:, i] = q
        rest[:, i:] -= np.outer((rest[:, i] - q * scale) / inverse[0, 0], inverse[0])
    np.testing.assert_array_equal(made.values, want)


def test_gptq_falls_back_and_says_so() -> None:
    x, weight = correlated()
    for given, words in (
        (None, "no calibration data"),
        (Reaching(x, x), "no calibration data"),
        (Reaching(x, x, np.zeros((K, K), np.float32)), "degenerate"),
        (Reaching(x, x, np.full((K, K), np.nan, np.float32)), "degenerate"),
    ):
        made = find_method("gptq").quantize(weight, given, GROUPS)
        assert made.method == "rtn" and words in made.remark
    dead = x.copy()
    dead[:, 10:20] = 0
    assert find_method("gptq").quantize(weight, reaching(dead), GROUPS).method == "gptq"


def test_methods_by_name() -> None:
    assert set(methods()) == {"rtn", "smoothquant", "gptq"}
    with pytest.raises(UsageError, match=r"no method 'gpqt' for weights \(did you mean 'gptq'\?\)"):
        find_method("gpqt")
    names = {p: default_method(PRECISIONS[p], True) for p in ("w8a8", "w8a8-dynamic", "w8a16", "w4a16", "w4a8-g32")}
    assert names == {
        "w8a8": "smoothquant", "w8a8-dynamic": "smoothquant", "w8a16": "rtn", "w4a16": "gptq", "w4a8-g32": "gptq",
    }  # fmt: skip
    assert default_method(PRECISIONS["w4a16"], False) == "rtn"


def test_rows_of_a_weight_are_what_they_were() -> None:
    q, scale = quantize_rows(np.array([[1.0, -2.0, 0.5]], np.float32))
    assert q.tolist() == [[64, -127, 32]] and scale[0, 0] == np.float32(2 / 127)


# -- the store ------------------------------------------------------------------------------------------------------------
def test_an_entry_is_made_once_by_two_threads() -> None:
    store, started, calls = WeightStore(), threading.Barrier(2), []

    def make() -> int:
        calls.append(1)
        return len(calls)

    def ask(found: list[int]) -> None:
        started.wait()
        found.append(store.get("key", make))

    found: list[int] = []
    threads = [threading.Thread(target=ask, args=(found,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1] and (store.made, store.reused) == (1, 1)


def test_an_error_leaves_no_entry_and_other_data_drops_all() -> None:
    store = WeightStore()
    with pytest.raises(ZeroDivisionError):
        store.get("key", lambda: 1 // 0)
    assert "key" not in store and store.get("key", lambda: 2) == 2
    store.use("first")
    store.get("key", lambda: 3)
    store.use("first")
    assert "key" in store
    store.use("second")
    assert "key" not in store


def test_a_digest_tells_dtype_shape_and_data() -> None:
    a = np.arange(6, dtype=np.float32)
    others = [a.reshape(2, 3), a.view(np.int32), a + 1, a[:5]]
    assert len({digest(x) for x in (a, *others)}) == 5 and digest(a) == digest(a.copy())
