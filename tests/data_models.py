"""Graphs whose inputs and outputs the tests of data speak of; nothing in them computes anything worth looking at."""

from __future__ import annotations

from planish.compiler.dims import Dim, symbol
from planish.compiler.graph import Graph, Symbol
from planish.compiler.types import DType, TensorType

BATCH, SEQ = symbol("batch"), symbol("seq")


def graph(inputs: dict[str, tuple[str, tuple[Dim, ...]]], output: tuple[Dim, ...], **bounds: tuple[int, int]) -> Graph:
    """A graph with these inputs (dtype and shape) and one output of that shape."""
    made = Graph()
    for name, (dtype, shape) in inputs.items():
        made.add_input(name, TensorType(DType(dtype), shape))
    made.symbols = {name: Symbol(name, low, high) for name, (low, high) in bounds.items()}
    made.outputs = [made.inputs[0]]
    if output != made.inputs[0].type.shape:
        other = Graph()
        made.outputs = [other.add_input("out", TensorType(DType.f32, output))]
    return made


def images() -> Graph:
    """One f32 input [batch, 2, 3]."""
    return graph({"x": ("f32", (BATCH, 2, 3))}, (BATCH, 4), batch=(1, 64))


def text(batch: tuple[int, int] = (1, 64)) -> Graph:
    """Two i64 inputs [batch, seq]."""
    shape = (BATCH, SEQ)
    return graph({"ids": ("i64", shape), "mask": ("i64", shape)}, (BATCH, SEQ, 8), batch=batch, seq=(1, 32))
