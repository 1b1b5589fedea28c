"""What becomes one kernel: groups, their borders, and what must stay apart."""

from __future__ import annotations

import numpy as np
from graph_harness import B, S, Sketch, near

from planish.backends.cpu.fuse import Fuse
from planish.backends.cpu.legalize import Legalize
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize

F32, F64, BF16, I64, I8, BOOL = (DType(n) for n in ("f32", "f64", "bf16", "i64", "i8", "bool"))
ENV = {"b": 2, "s": 3}


def kernels(g: Sketch, **options: int) -> list[str]:
    """The kernels in order: the ops of each, joined. The numbers stay, the invariants hold."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    context = PassContext()
    for p in (Legalize(), Canonicalize(), Fuse(**options)):
        p.run(g.graph, context)
        verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype) is None
    skip = ("constant", "full", "arange", "reshape", "transpose", "expand", "slice")
    found = []
    for node in g.graph.nodes:
        if node.op == "fused":
            found.append("+".join(n.op for n in node.regions[0].nodes))
        elif node.op not in skip:
            found.append(node.op)
    return found


def dense(g: Sketch, x: Value, n: int) -> Value:
    return g("linear", x, g.random(n, int(x.shape[-1])), g.random(n))


def int8(g: Sketch, x: Value, n: int) -> Value:
    """A linear as the quantize pass writes it."""
    q, scale = g.both("quantize_dynamic", x)
    w = g("dequantize", g.random(n, int(x.shape[-1]), dtype=I8), g.const(np.ones((n, 1))))
    return g("linear", g("dequantize", q, scale), w, g.random(n))


def test_elementwise_work_joins_the_linear_in_front_of_it() -> None:
    g = Sketch()
    y = dense(g, g.input(B, S, 8), 6)
    g.output(g("mul", g("gelu", y), g.input(B, S, 6)))
    assert kernels(g) == ["linear+gelu+mul"]


def test_residual_and_norm_join_as_whole_rows() -> None:
    g = Sketch()
    x = g.input(B, S, 8)
    h = g("add", dense(g, x, 8), x)
    g.output(g("layer_norm", h, g.random(8), g.random(8)), h)
    assert kernels(g) == ["linear+add+layer_norm"]


def test_int8_layers_hand_int8_rows_to_each_other() -> None:
    """The row maximum and the rounding of the next layer run where the rows are made."""
    g = Sketch()
    x = g.input(B, S, 8)
    y = g("layer_norm", g("add", int8(g, x, 8), x), g.random(8), g.random(8))
    g.output(int8(g, y, 4), y)
    assert kernels(g) == ["quantize_dynamic+qlinear+add+layer_norm+quantize_dynamic", "qlinear"]


def test_a_norm_that_one_linear_reads_is_its_prologue() -> None:
    g = Sketch()
    normed = g("layer_norm", g.input(B, S, 8), g.random(8), g.random(8))
    g.output(dense(g, normed, 4))
    assert kernels(g) == ["layer_norm+linear"]


def test_a_norm_that_two_read_or_that_is_an_output_is_not() -> None:
    g = Sketch()
    normed = g("layer_norm", g.input(B, S, 8), g.random(8), g.random(8))
    g.output(dense(g, normed, 4), dense(g, normed, 5))
    assert kernels(g) == ["layer_norm", "linear", "linear"]
    g = Sketch()
    normed = g("layer_norm", g.input(B, S, 8), g.random(8), g.random(8))
    g.output(dense(g, normed, 4), normed)
    assert kernels(g) == ["layer_norm", "linear"]


def test_elementwise_chains_become_one_pass() -> None:
    g = Sketch()
    x, y = g.input(B, S, 8), g.input(B, 1, 8)
    g.output(g("tanh", g("mul", g("add", x, y), g("exp", x))))
    assert kernels(g) == ["add+exp+mul+tanh"]


def test_norms_and_softmax_join_what_surrounds_them() -> None:
    g = Sketch()
    x = g.input(B, S, 8)
    g.output(g("mul", g("softmax", g("layer_norm", g("add", x, x), None, None)), x))
    assert kernels(g) == ["add+layer_norm+softmax+mul"]


def test_a_reduction_over_another_axis_is_a_kernel_of_its_own() -> None:
    g = Sketch()
    x = g("exp", g.input(B, S, 8))
    g.output(g("tanh", g("reduce_sum", x, axes=(1,))))
    found = kernels(g)
    assert found[0] == "exp"
    assert "reduce_sum" in found[1]


def test_lookups_join_what_reads_them_but_not_what_makes_their_table() -> None:
    g = Sketch()
    ids = g.input(B, S, dtype=I64, low=0, high=4)
    g.output(g("add", g("embedding", g.random(4, 8), ids), g("embedding", g.random(4, 8), ids)))
    assert kernels(g) == ["embedding+embedding+add"]
    g = Sketch()
    g.output(g("gather", g("neg", g.input(4, 8)), g.input(B, dtype=I64, low=0, high=4), axis=0))
    assert kernels(g) == ["neg", "gather"]


def test_a_kernel_does_not_wait_for_what_comes_behind_it() -> None:
    """The second operand of the sum is computed from the linear's own result through a column reduction: no epilogue."""
    g = Sketch()
    y = dense(g, g.input(B, S, 8), 8)
    column = g("reduce_sum", y, axes=(1,), keepdim=True)
    g.output(g("add", y, column))
    assert [k for k in kernels(g) if "linear" in k] == ["linear"]


def test_operands_without_one_row_stride_stay_outside_a_linear() -> None:
    """[S, 8] against rows [B * S]: no single stride walks it."""
    g = Sketch()
    g.output(g("add", dense(g, g.input(B, S, 6), 8), g.input(S, 8)))
    assert kernels(g) == ["linear", "add"]
    g = Sketch()
    g.output(g("add", dense(g, g.input(B, S, 6), 8), g.input(1, 1, 8)), dense(g, g.input(S, 6), 3))
    assert kernels(g) == ["linear+add", "linear"]


def test_wide_types_do_not_enter_a_tile() -> None:
    g = Sketch()
    g.output(g("cast", dense(g, g.input(B, 8), 4), dtype=F64))
    assert kernels(g) == ["linear", "cast"]


def test_matmuls_take_elementwise_work_alone() -> None:
    g = Sketch()
    y = g("matmul", g.input(B, S, 8), g.input(B, 8, S))
    g.output(g("softmax", g("add", g("mul", y, g.const(0.5)), g.input(B, 1, S))))
    assert kernels(g) == ["matmul+mul+add", "softmax"]


def test_a_kernel_has_a_largest_size() -> None:
    g = Sketch()
    x = g.input(B, 8)
    for _ in range(10):
        x = g("tanh", x)
    g.output(x)
    assert kernels(g, max_nodes=4) == ["tanh+tanh+tanh+tanh"] * 2 + ["tanh+tanh"]


def test_nothing_to_fuse_is_no_change() -> None:
    g = Sketch()
    g.output(g("reshape", g.input(B, 8), shape=(8 * B,)))
    assert not Fuse().run(g.graph, PassContext()).changed
