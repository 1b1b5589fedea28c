"""Bytes and operations of a node: what has to be done at least."""

from __future__ import annotations

import numpy as np

from planish.compiler.dims import symbol
from planish.compiler.graph import Graph
from planish.compiler.ops import cost
from planish.compiler.types import DType, TensorType


def test_a_linear_reads_everything_once() -> None:
    graph = Graph()
    rows = symbol("rows")
    x = graph.add_input("x", TensorType(DType.f32, (rows, 8)))
    w = graph.add_constant(np.ones((4, 8), np.float32))
    found = cost(graph.insert("linear", [x, w, None]))
    assert found.flops == 2 * rows * 8 * 4
    assert found.bytes == rows * 8 * 4 + 4 * 8 * 4 + rows * 4 * 4


def test_a_lookup_reads_the_rows_it_picks_not_the_table() -> None:
    graph = Graph()
    ids = graph.add_input("ids", TensorType(DType.i64, (5,)))
    table = graph.add_constant(np.ones((1000, 8), np.float32))
    assert cost(graph.insert("embedding", [table, ids])).bytes == 5 * 8 + 2 * (5 * 8 * 4)


def test_a_lookup_inside_a_fused_region_counts_alike() -> None:
    graph, body = Graph(), Graph("body")
    ids_type, table_type = TensorType(DType.i64, (5,)), TensorType(DType.f32, (1000, 8))
    inner_table, inner_ids = body.add_input("table", table_type), body.add_input("ids", ids_type)
    body.outputs = [body.insert("relu", [body.insert("embedding", [inner_table, inner_ids]).output]).output]
    ids, table = graph.add_input("ids", ids_type), graph.add_constant(np.ones((1000, 8), np.float32))
    assert cost(graph.insert("fused", [table, ids], regions=[body])).bytes == 5 * 8 + 2 * (5 * 8 * 4)


def test_a_table_that_is_also_read_whole_counts_whole() -> None:
    graph, body = Graph(), Graph("body")
    ids_type, table_type = TensorType(DType.i64, (5,)), TensorType(DType.f32, (10, 8))
    inner_table, inner_ids = body.add_input("table", table_type), body.add_input("ids", ids_type)
    rows = body.insert("embedding", [inner_table, inner_ids]).output
    body.outputs = [rows, body.insert("relu", [inner_table]).output]
    ids, table = graph.add_input("ids", ids_type), graph.add_constant(np.ones((10, 8), np.float32))
    assert (
        cost(graph.insert("fused", [table, ids], regions=[body])).bytes == 5 * 8 + 10 * 8 * 4 + 5 * 8 * 4 + 10 * 8 * 4
    )
