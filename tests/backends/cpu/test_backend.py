"""The backend as the driver and the command line see it: what it can do, what it supports, and that lowering is pure."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from graph_harness import B, S, Sketch, optimised

from planish.backends.cpu import isa, toolchain
from planish.backends.cpu.backend import BACKEND
from planish.codegen.program import Program
from planish.codegen.specs import ISA_LEVELS
from planish.codegen.unit import render_unit, split_unit
from planish.compiler.errors import LoweringError
from planish.compiler.graph import Node
from planish.compiler.structure import difference
from planish.compiler.target import find_target
from planish.compiler.types import DType

F64, I8, I64 = DType.f64, DType.i8, DType.i64
TARGETS = [find_target(f"cpu:{level}") for level in ISA_LEVELS]


def encoder(g: Sketch) -> None:
    """A block with most of what there is."""
    ids = g.input(B, S, dtype=I64, low=0, high=9)
    x = g("layer_norm", g("embedding", g.random(9, 16), ids), g.random(16), g.random(16))
    heads = [
        g("transpose", g("reshape", g("linear", x, g.random(16, 16), None), shape=(B, S, 2, 8)), perm=(0, 2, 1, 3))
        for _ in range(3)
    ]
    y = g("reshape", g("transpose", g("attention", *heads, scale=0.3), perm=(0, 2, 1, 3)), shape=(B, S, 16))
    h = g("add", x, g("linear", y, g.random(16, 16), g.random(16)))
    g.output(g("reduce_mean", g("gelu", g("linear", h, g.random(32, 16), g.random(32))), axes=(1,)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.level)
def test_lowering_is_pure_and_repeats_itself(target) -> None:  # type: ignore[no-untyped-def]
    g = Sketch()
    encoder(g)
    graph = optimised(g.graph, target.level)
    before = graph.copy()
    first = render_unit(BACKEND.lower(graph, target))
    assert difference(before, graph, provenance=True) is None
    assert render_unit(BACKEND.lower(graph, target)) == first
    assert render_unit(BACKEND.lower(optimised(g.graph, target.level), target)) == first


def test_models_share_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit is one file to a reader, which compiles by itself to the same kernels; and a kernel that another model has
    is not compiled again."""
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path))
    level = "avx2" if "avx2" in isa.available() else "portable"

    def units(widths: Sequence[int]) -> Program:
        g = Sketch()
        x = g.input(B, 16)
        for number, width in enumerate(widths):
            x = g("relu" if number % 2 else "tanh", g("linear", x, g.random(width, x.shape[-1]), g.random(width)))
        g.output(x)
        return BACKEND.lower(optimised(g.graph, level), find_target(f"cpu:{level}"))

    calls: list[tuple[int, int]] = []
    first, second = units([16, 16, 8]), units([8, 24])
    text = split_unit(first)
    assert len(text.kernels) == 2
    assert list(text.shared) == ["tiles_F32"]
    binary, whole = BACKEND.build(first, lambda *call: calls.append(call))
    assert calls[-1] == (4, 4), "two linears, their tiles, the tables"
    BACKEND.build(second, lambda *call: calls.append(call))
    assert calls[-1] == (1, 1), "the tables"

    def of_interest(binary: bytes) -> list[str]:
        (tmp_path / "unit.so").write_bytes(binary)
        found = subprocess.check_output(["nm", "-D", "--defined-only", str(tmp_path / "unit.so")], text=True)
        return sorted(line.split()[-1] for line in found.splitlines())

    names = of_interest(binary)
    assert "planish_run" in names
    assert not any("k_" in name or "gemm" in name for name in names), "kernels are seen by nobody else"
    assert of_interest(toolchain.build(whole, level).read_bytes()) == names


def test_launches_say_what_they_do() -> None:
    g = Sketch()
    encoder(g)
    program = BACKEND.lower(optimised(g.graph, "avx2"), find_target("cpu:avx2"))
    labels = [launch.label for launch in program.launches]
    assert any("embedding" in label and "layer_norm" in label for label in labels)
    assert any(label.startswith("attention") for label in labels)
    for launch in program.launches:
        assert launch.bytes != 0
        assert launch.sources
    assert sum(1 for launch in program.launches if launch.label.startswith("linear")) == 3, "Q, K and V are one linear"


def supports(write) -> str | None:  # type: ignore[no-untyped-def]
    """What the backend says of the last node of a graph."""
    g = Sketch()
    value = write(g)
    g.output(value)
    node: Node = value.node
    return BACKEND.supports(node, find_target("cpu:avx2"))


def test_supports() -> None:
    assert supports(lambda g: g("linear", g.input(B, 4), g.random(3, 4))) is None
    assert supports(lambda g: g("tanh", g("exp", g.input(B, S)))) is None
    assert supports(lambda g: g("cumsum", g.input(B, S), axis=0)) is None
    attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "output_padding": (0, 0)}
    assert supports(lambda g: g("conv_transpose", g.input(B, 3, 4, 4), g.input(3, 5, 2, 2), None, **attrs)) is None
    reason = supports(
        lambda g: g("conv_transpose", g.input(B, 3, 4, 4, dtype=F64), g.input(3, 5, 2, 2, dtype=F64), None, **attrs)
    )
    assert reason is not None
    assert "f64" in reason


def test_what_cannot_be_lowered_is_named_with_its_line() -> None:
    g = Sketch()
    q, scale = g.both("quantize_dynamic", g.input(B, 4))
    node = g.graph.insert(
        "qlinear", [q, scale, g.input(3, 4, dtype=I8), g.const(np.ones(3))], name="head.dense", location="model.py:12"
    )
    g.output(node.output)
    with pytest.raises(LoweringError, match=r"head\.dense.*model\.py:12.*not a constant"):
        BACKEND.lower(g.graph, find_target("cpu:portable"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.level)
def test_capabilities(target) -> None:  # type: ignore[no-untyped-def]
    can = BACKEND.capabilities(target)
    assert "w8a8-dynamic" in can.precisions["linear"]
    assert can.precisions["attention"][0] == ("bf16" if target.level == "avx512-bf16" else "f32")
