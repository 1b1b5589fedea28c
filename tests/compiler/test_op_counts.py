"""Ops of a graph, counted for the report."""

from __future__ import annotations

import torch
from torch import nn

import planish
from planish.compiler.report import op_counts


def test_ops_in_fused_regions_are_counted_and_constants_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Tanh()).eval()
    artifact = planish.compile(model, (torch.randn(2, 8),))
    counts = op_counts(artifact.graph)
    assert counts["linear"] == 2
    assert counts["gelu"] == counts["tanh"] == 1
    assert "constant" not in counts
    assert "fused" not in counts
    assert artifact.report["graph"]["lowered"] == counts
    assert artifact.report["graph"]["captured"]["linear"] == 2
