"""Recurrent layers of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, Operand, against_runtime, one_node, ops_of
from onnx_node_tests import outcomes

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}
SIZES = [{"t": 5, "n": 2}, {"t": 1, "n": 3}, {"t": 8, "n": 1}]
HIDDEN, FEATURES = 4, 3


def lengths(rng: np.random.Generator, shape: Any) -> np.ndarray:
    return rng.integers(1, 6, shape).astype(np.int32)


def layer(
    cell: str,
    direction: str,
    *,
    steps: int | str = "t",
    lens: Operand = None,
    states: bool = True,
    peepholes: bool = False,
) -> list[Operand]:
    """Operands: a sequence of any length and batch, constant weights, states that are fed."""
    rng, ways, rows = np.random.default_rng(5), WAYS[direction], GATES[cell] * HIDDEN

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal((ways, *shape)).astype(np.float32)

    state = Fed((ways, "n", HIDDEN)) if states else None
    operands: list[Operand] = [
        Fed((steps, "n", FEATURES)), weights(rows, FEATURES), weights(rows, HIDDEN), weights(2 * rows), lens, state,
    ]  # fmt: skip
    if cell == "LSTM":
        operands += [state, weights(3 * HIDDEN) if peepholes else None]
    return operands


def results(cell: str) -> int:
    return 3 if cell == "LSTM" else 2


def test_node_tests() -> None:
    found = {case.name: result for case, result in outcomes("RNN", "GRU", "LSTM")}
    assert len(found) == 18
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("cell", GATES)
def test_any_length_by_the_kernel(cell: str, direction: str) -> None:
    more = {"linear_before_reset": 1} if cell == "GRU" else {}
    graph = against_runtime(
        cell,
        *layer(cell, direction),
        sizes=SIZES,
        outputs=results(cell),
        hidden_size=HIDDEN,
        direction=direction,
        **more,
    )
    assert ops_of(graph).count("recurrent") == ops_of(graph).count("linear") == WAYS[direction]


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("cell", GATES)
def test_sequences_of_different_lengths(cell: str, direction: str) -> None:
    more = {"linear_before_reset": 1} if cell == "GRU" else {}
    operands = layer(cell, direction, lens=Fed(("n",), lengths))
    sizes = [{"t": 5, "n": 4}, {"t": 7, "n": 2}]
    against_runtime(
        cell, *operands, sizes=sizes, outputs=results(cell), hidden_size=HIDDEN, direction=direction, **more
    )


def test_lengths_that_are_all_of_the_sequence_vanish() -> None:
    operands = layer("LSTM", "forward", steps=6, lens=np.full(3, 6, np.int32))
    graph = against_runtime("LSTM", *operands, sizes=[{"n": 3}], hidden_size=HIDDEN)
    assert "take_along" not in ops_of(graph)


def test_weights_that_are_computed() -> None:
    operands = [
        Fed(("t", "n", FEATURES)),
        Fed((1, 3 * HIDDEN, FEATURES)),
        Fed((1, 3 * HIDDEN, HIDDEN)),
        Fed((1, 6 * HIDDEN)),
    ]
    against_runtime("GRU", *operands, sizes=SIZES, outputs=2, hidden_size=HIDDEN, linear_before_reset=1)


def test_relu_cells_without_bias_and_states() -> None:
    operands = layer("RNN", "bidirectional", states=False)
    operands[3] = None
    against_runtime(
        "RNN", *operands, sizes=SIZES, hidden_size=HIDDEN, direction="bidirectional", activations=["Relu", "Tanh"]
    )


@pytest.mark.parametrize("lens", [None, Fed(("n",), lengths)], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize(
    ("cell", "attributes"),
    [
        ("GRU", {}),
        ("GRU", {"clip": 0.4, "linear_before_reset": 1}),
        ("GRU", {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]}),
        ("LSTM", {"clip": 0.3}),
        ("LSTM", {"activations": ["HardSigmoid", "ScaledTanh", "Affine"], "activation_alpha": [0.25, 1.5, 0.8],
                  "activation_beta": [0.5, 0.6, 0.1]}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}),
        ("RNN", {"activations": ["Elu"], "activation_alpha": [0.7]}),
        ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]}),
        ("RNN", {"activations": ["Softplus"]}),
    ],
    ids=str,
)  # fmt: skip
def test_other_cells_step_by_step(cell: str, attributes: dict[str, Any], direction: str, lens: Operand) -> None:
    repeated = {
        k: v * WAYS[direction] if isinstance(v, list) else v for k, v in attributes.items()
    }  # one set for each direction
    operands = layer(cell, direction, steps=5, lens=lens)
    graph = against_runtime(
        cell, *operands, sizes=[{"n": 2}, {"n": 4}], outputs=results(cell), hidden_size=HIDDEN, direction=direction,
        **repeated,
    )  # fmt: skip
    assert "recurrent" not in ops_of(graph)


@pytest.mark.parametrize("attributes", [{}, {"input_forget": 1}], ids=str)
def test_peepholes(attributes: dict[str, Any]) -> None:
    operands = layer("LSTM", "bidirectional", steps=4, peepholes=True)
    against_runtime(
        "LSTM", *operands, sizes=[{"n": 2}], outputs=3, hidden_size=HIDDEN, direction="bidirectional", **attributes
    )


def test_a_cell_without_a_kernel_over_any_length_is_refused() -> None:
    model = one_node("GRU", layer("GRU", "forward"), 1, 17, {"hidden_size": HIDDEN})
    with pytest.raises(CaptureError, match="whose length varies"):
        capture_onnx(model)


def test_an_unknown_activation_is_refused() -> None:
    model = one_node("RNN", layer("RNN", "forward"), 1, 17, {"hidden_size": HIDDEN, "activations": ["Swish"]})
    with pytest.raises(CaptureError, match="'Swish' is not known"):
        capture_onnx(model)
