"""Fourier transforms of ONNX models against numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node

from planish.compiler.capture.onnx import signals
from planish.compiler.capture.onnx.capture import NotFixed, capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

RNG = np.random.default_rng(3)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def run(op: str, operands: list[Any], opset: int, **attributes: Any) -> np.ndarray:
    data = [o.array(np.random.default_rng(1), {"n": 2, "s": 100}) for o in operands if isinstance(o, Fed)]
    return interpret(capture_onnx(one_node(op, operands, 1, opset, attributes)).graph, data)[0]


def signal(shape: tuple[int | str, ...]) -> tuple[Fed, np.ndarray]:
    fed = Fed(shape)
    return fed, fed.array(np.random.default_rng(1), {"n": 2, "s": 100}).astype(np.float64)


def pairs(z: np.ndarray) -> np.ndarray:
    return np.stack((z.real, z.imag), -1)


@pytest.mark.parametrize("length", [None, 5, 8, 13])
@pytest.mark.parametrize("onesided", [0, 1])
def test_real_signals(length: int | None, onesided: int) -> None:
    fed, x = signal(("n", 8, 3, 1))
    got = run(
        "DFT", [fed, None if length is None else ids(length).reshape(()), np.array(1, np.int64)], 20, onesided=onesided
    )
    want = (np.fft.rfft if onesided else np.fft.fft)(x[..., 0], length, axis=1)
    np.testing.assert_allclose(got, pairs(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("length", [None, 5, 13])
def test_complex_signals(length: int | None, inverse: int) -> None:
    fed, x = signal(("n", 8, 2))
    got = run("DFT", [fed, None if length is None else ids(length).reshape(())], 17, inverse=inverse)
    want = (np.fft.ifft if inverse else np.fft.fft)(x[..., 0] + 1j * x[..., 1], length, axis=1)
    np.testing.assert_allclose(got, pairs(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [None, 9, 12])
def test_signals_from_half_their_spectrum(length: int | None) -> None:
    fed, x = signal(("n", 6, 2))
    got = run("DFT", [fed, None if length is None else ids(length).reshape(())], 20, inverse=1, onesided=1)
    want = np.fft.irfft(x[..., 0] + 1j * x[..., 1], length, axis=1)
    np.testing.assert_allclose(got, want[..., None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("points", [12, 30, 64, 13])
@pytest.mark.parametrize("inverse", [0, 1])
def test_long_transforms_are_taken_apart(monkeypatch: pytest.MonkeyPatch, points: int, inverse: int) -> None:
    monkeypatch.setattr(signals, "MOST_POINTS", 4)
    fed, x = signal(("n", points, 2))
    model = one_node("DFT", [fed], 1, 20, {"inverse": inverse})
    graph = capture_onnx(model).graph
    largest = max(n.inputs[1].shape[1] for n in graph.nodes if n.op == "linear")
    assert (largest < 2 * points) == (points != 13)  # a prime is in one piece
    got = interpret(graph, [x.astype(np.float32)])[0]
    want = (np.fft.ifft if inverse else np.fft.fft)(x[..., 0] + 1j * x[..., 1], axis=1)
    np.testing.assert_allclose(got, pairs(want), rtol=1e-4, atol=1e-4)


def test_long_signals_that_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MOST_POINTS", 4)
    fed, x = signal(("n", 7, 1))
    got = run("DFT", [fed, ids(12).reshape(())], 20, onesided=1)
    np.testing.assert_allclose(got, pairs(np.fft.rfft(x[..., 0], 12, axis=1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [None, np.hanning(16).astype(np.float32), Fed((16,))])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(window: Any, onesided: int) -> None:
    length = ids(16).reshape(()) if window is None else None
    against_runtime(
        "STFT", Fed(("n", 50, 1)), ids(7).reshape(()), window, length, sizes=[{"n": 1}, {"n": 3}], opset=17, onesided=onesided,
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_stft_of_signals_of_any_length() -> None:
    window = np.hanning(16).astype(np.float32)
    graph = capture_onnx(one_node("STFT", [Fed(("n", "s", 1)), ids(8).reshape(()), window], 1, 17, {})).graph
    for count in (16, 40, 47):
        x = RNG.standard_normal((2, count, 1)).astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(x[..., 0], 16, axis=1)[:, ::8]
        got = interpret(graph, [x])[0]
        np.testing.assert_allclose(got, pairs(np.fft.rfft(frames * window)), rtol=1e-4, atol=1e-4)


def test_lengths_must_be_known() -> None:
    with pytest.raises(CaptureError, match="a number that varies"):
        capture_onnx(one_node("DFT", [Fed(("n", "s", 1))], 1, 20, {}))
    whole = lambda rng, shape: np.array(8, np.int64)  # noqa: E731
    with pytest.raises(NotFixed) as caught:
        capture_onnx(one_node("DFT", [Fed(("n", 8, 1)), Fed((), whole)], 1, 20, {}))
    assert caught.value.fixes == ("in1",)


def test_mel_weights_are_constants() -> None:
    operands = [np.array(v, np.int64) for v in (8, 16, 8192)] + [np.array(v, np.float32) for v in (0, 4096)]
    against_runtime("MelWeightMatrix", *operands, opset=17)
