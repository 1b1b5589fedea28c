"""ATen ops that sort, search, scan, and read or write by index, against eager PyTorch; what cannot be captured, and why."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture.oracle import Function, check_ops
from capture.test_ops import IMAGE, SPECIAL, B, Case, I, J, X, Y, ints, rand
from torch import Tensor

from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import CaptureError

V = rand(3, 7)
IDS = ints(3, 4, 5)
PLACES = X.argsort(-1)
SOURCE = rand(3, 4, 5, dtype=torch.float64).float() * 2
TABLE = rand(10, 6)
BAGS = (ints(9, high=4), torch.tensor([0, 3, 3, 7]))
GRID = torch.tanh(rand(3, 6, 5, 2)) * 1.2

SORTED: list[Case] = [
    ("sort", lambda x: x.sort(-1), (X,)),
    ("sort_down", lambda x: torch.sort(x, dim=1, descending=True, stable=True), (I,)),
    ("sort_special", lambda x: torch.sort(x, stable=True), (SPECIAL,)),
    ("sort_special_down", lambda x: torch.sort(x, stable=True, descending=True), (SPECIAL,)),
    ("sort_bool", lambda x: torch.sort(x, stable=True), (B,)),
    ("sort_bf16", lambda x: torch.sort(x, stable=True), (X.bfloat16(),)),
    ("sort_number", lambda x: x.sum().sort(), (X,)),
    ("argsort", lambda x: x.argsort(-1), (X,)),
    ("argsort_down", lambda x: x.argsort(dim=1, descending=True, stable=True), (I,)),
    ("msort", torch.msort, (X,)),
    ("topk", lambda x: x.topk(3), (X,)),
    ("topk_smallest", lambda x: x.topk(2, 1, largest=False), (X,)),
    ("topk_special", lambda x: x.topk(3)[0], (SPECIAL,)),
    ("kthvalue", lambda x: x.kthvalue(2, 1, keepdim=True), (X,)),
    ("median", lambda x: x.median(), (X,)),
    ("median_dim", lambda x: x.median(-1), (X,)),
    ("median_int", lambda x: x.median(1)[0], (I,)),
    ("median_nan", lambda x: x.median(-1)[0], (SPECIAL,)),
    ("nanmedian", lambda x: x.nanmedian(-1)[0], (SPECIAL,)),
    ("mode", lambda x: x.mode(-1)[0], (I,)),
    ("quantile", lambda x: x.quantile(0.3, dim=-1), (X,)),
    *((name, lambda x, f=getattr(torch, name): f(x, 1), (X,))
      for name in ("cumprod", "cummax", "cummin", "logcumsumexp")),
    ("cummax_special", lambda x: x.cummax(-1), (SPECIAL,)),
    ("cumsum_special", lambda x: x.cumsum(-1), (SPECIAL,)),
    ("cumprod_int", lambda x: x.cumprod(-1), (J,)),
    ("searchsorted", torch.searchsorted, (rand(3, 6).sort(-1)[0], V)),
    ("searchsorted_row", lambda s, x: torch.searchsorted(s, x, side="right", out_int32=True), (rand(6).sort()[0], X)),
    ("searchsorted_number", lambda s: torch.searchsorted(s, 0.3), (rand(6).sort()[0],)),
    ("searchsorted_sorter", lambda s, x: torch.searchsorted(s, x, sorter=torch.argsort(s)), (rand(6), V)),
    ("bucketize", lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])), (SPECIAL,)),
    ("bucketize_right", lambda x: torch.bucketize(x, torch.tensor([1, 3, 5]), right=True), (I,)),
    ("histc", lambda x: torch.histc(x, 6, -2, 2), (X,)),
    ("histc_range", lambda x: torch.histc(x, 6), (X,)),
    ("top_mask", lambda x: torch.zeros_like(x).scatter(-1, x.topk(2, -1)[1], 1.0) * x, (X,)),
]  # fmt: skip


def _masked(x: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    result = x.clone()
    result[mask] = values
    return result


def _put(x: Tensor, indices: list[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    return torch.ops.aten.index_put(x, indices, values, accumulate)


WRITES: list[Case] = [
    ("scatter_value", lambda x, i: x.scatter(1, i, 2.5), (X, IDS)),
    ("scatter_source", lambda x, i, s: x.scatter(-1, i, s), (X, PLACES, SOURCE)),
    ("scatter_in_place", lambda i: torch.zeros(i.shape[0], 10).scatter_(1, i[:, None], 1.0), (ints(3, high=10),)),
    ("scatter_add", lambda x, i, s: x.scatter_add(1, i, s), (X, IDS, SOURCE)),
    ("scatter_add_slices", lambda x, i, s: x.scatter_add(0, i[:, None].expand(-1, 5), s), (rand(4, 5), ints(6), rand(6, 5))),
    ("scatter_multiply", lambda x, i, s: torch.scatter(x, 1, i, s, reduce="multiply"), (X, IDS, SOURCE)),
    *((f"scatter_{r}{'' if own else '_anew'}", lambda x, i, s, r=r, own=own: x.scatter_reduce(1, i, s, r, include_self=own),
       (X, IDS, SOURCE)) for r in ("sum", "prod", "mean", "amax", "amin") for own in (True, False)),
    ("scatter_mean_int", lambda x, i, s: x.scatter_reduce(1, i, s, "mean"), (I, IDS, J)),
    ("index_add", lambda x, i, s: x.index_add(1, i, s, alpha=2), (X, ints(6), rand(3, 6, 5))),
    ("index_copy", lambda x, s: x.index_copy(1, torch.tensor([3, 0]), s), (X, rand(3, 2, 5))),
    ("index_fill", lambda x: x.index_fill(1, torch.tensor([3, 0]), 9.0), (X,)),
    ("index_reduce", lambda x, s: x.index_reduce(1, torch.tensor([3, 0, 3]), s, "mean", include_self=False), (X, rand(3, 3, 5))),
    ("put_pairs", lambda x, i, v: _put(x, [i, i], v, True), (rand(4, 4, 5), ints(6), rand(6, 5))),
    ("put_apart", lambda x, i, v: _put(x, [i, None, i], v, True), (rand(4, 2, 4), ints(6), rand(6, 2))),
    ("put_inner", lambda x, i, v: _put(x, [None, i], v, True), (X, ints(6), rand(3, 6, 5))),
    ("put_negative", lambda x: _put(x, [torch.tensor([-1, -3])], torch.tensor(3.0)), (rand(4, 5),)),
    ("put_masked", lambda x, m: _masked(x, m, torch.tensor(-1.0)), (X, X[..., 0] > 0)),
    ("put_masked_rows", lambda x, v: _masked(x, torch.tensor([True, False, True, True]), v), (rand(4, 5), rand(3, 5))),
    ("put_masked_adding", lambda x, m: _put(x, [m], torch.tensor(2.0), True), (X, X > 0)),
    ("masked_scatter", lambda x, m, s: x.masked_scatter(m[..., None], s), (X, B[..., 0], rand(60))),
    ("put", lambda x: x.put(torch.tensor([1, 1]), torch.tensor([9.0, 8.0]), accumulate=True), (X,)),
    ("slice_scatter_step", lambda x, s: torch.slice_scatter(x, s, 1, 0, 4, 2), (X, rand(3, 2, 5))),
    ("diagonal_scatter", lambda x, s: torch.diagonal_scatter(x, s, 0, 1, 2), (X, rand(3, 4))),
    ("fill_diagonal", lambda x: x.clone().fill_diagonal_(0.0), (rand(4, 4),)),
]  # fmt: skip

READS: list[Case] = [
    *((f"bag_{mode}", lambda i, t, m=mode: F.embedding_bag(i, t, mode=m), (ints(3, 4, high=10), TABLE))
      for mode in ("sum", "mean", "max")),
    *((f"bag_{mode}_offsets", lambda i, o, t, m=mode: F.embedding_bag(i, t, o, mode=m, padding_idx=2), (*BAGS, TABLE))
      for mode in ("sum", "mean", "max")),
    ("bag_last", lambda i, t: F.embedding_bag(i, t, torch.tensor([0, 3, 9]), mode="sum", include_last_offset=True),
     (BAGS[0], TABLE)),
    ("bag_weights", lambda i, w, t: F.embedding_bag(i, t, mode="sum", per_sample_weights=w), (ints(3, 4), rand(3, 4), TABLE)),
    ("bag_padding", lambda i, t: F.embedding_bag(i, t, mode="mean", padding_idx=2), (ints(3, 4), TABLE)),
    *((f"grid_{mode}_{pad}", lambda x, g, m=mode, p=pad: F.grid_sample(x, g, mode=m, padding_mode=p, align_corners=False),
       (IMAGE, GRID)) for mode, pad in (("bilinear", "zeros"), ("nearest", "border"), ("bicubic", "reflection"))),
    ("repeat_each", lambda x: x.repeat_interleave(torch.tensor([1, 2, 3, 1]), 1), (X,)),
    ("repeat_each_sized", lambda x, r: torch.repeat_interleave(x, r, dim=1, output_size=6), (X, torch.tensor([1, 2, 0, 3]))),
    ("unfold", lambda x: x.unfold(-1, 3, 2), (X,)),
    ("unfold_apart", lambda x: x.unfold(1, 2, 2), (X,)),
    ("fold", lambda x: F.fold(x, (6, 7), (3, 3), padding=1, stride=2), (rand(3, 18, 12),)),
    ("unfold_image", lambda x: F.unfold(x, 3, padding=1, stride=2), (IMAGE,)),
    ("take", lambda x: torch.take(x, torch.tensor([[0, 5], [9, -1]])), (rand(3, 5),)),
    ("cdist", torch.cdist, (X, rand(3, 6, 5))),
    ("cdist_one", lambda x, y: torch.cdist(x, y, p=1.0), (X, rand(3, 6, 5))),
    ("pdist", F.pdist, (rand(5, 4),)),
    ("pairwise", F.pairwise_distance, (V, V.flip(1))),
    ("diag_embed", lambda x: torch.diag_embed(x, 1), (V,)),
    ("tensor_split_at", lambda x: x.tensor_split([1, 3], -1)[1], (X,)),
    ("dsplit", lambda x: torch.dsplit(x, 5)[2], (X,)),
    ("local_response_norm", lambda x: F.local_response_norm(x, 3), (IMAGE,)),
    ("bilinear", F.bilinear, (rand(3, 5), rand(3, 6), rand(4, 5, 6), rand(4))),
    ("addbmm", torch.addbmm, (rand(4, 2), X, rand(3, 5, 2))),
    ("batch_statistics", lambda x: F.batch_norm(x, None, None, training=True), (IMAGE,)),
    *((name, getattr(torch, name), (torch.tanh(X) * 0.95,)) for name in ("asin", "acos", "atanh", "erfinv", "erfc", "asinh")),
    ("acosh", torch.acosh, (X.abs() + 1.1,)),
    ("lgamma", torch.lgamma, (X.abs() + 0.1,)),
    ("log10", torch.log10, (X.abs() + 0.1,)),
    ("shift_left", lambda x: x << 2, (I,)),
    ("shift_right", lambda x, y: torch.bitwise_right_shift(x, y), (I, J)),
    *((name, getattr(torch, name), (X, Y)) for name in ("hypot", "copysign", "fmax", "fmin")),
    ("fmax_special", lambda x: torch.fmax(x, x.flip(1)), (SPECIAL,)),
    ("round_decimals", lambda x: torch.round(x, decimals=2), (X,)),
    ("elu_scales", lambda x: torch.ops.aten.elu(x, 1.0, 2.0, 0.5), (X,)),
    ("rrelu", F.rrelu, (X,)),
    ("norm_zero", lambda x: torch.linalg.vector_norm(x, 0, dim=-1), (I.float(),)),
    ("dist", lambda x, y: torch.dist(x, y, 2), (X, X * 2)),
    ("std_mean", lambda x: torch.std_mean(x, dim=-1), (X,)),
    ("softmax_number", lambda x: x.sum().softmax(0), (X,)),
]  # fmt: skip

ALL = SORTED + WRITES + READS
#: What only works at the sizes of the example, or that torch.export ties to them.
FIXED = {"put_masked_rows", "fold", "batch_statistics", "addbmm", "pdist", "put_negative", "take"}
SIZE = 24


@cache
def outcomes(start: int, moving: bool) -> dict[str, Exception | None]:
    """What became of the cases from ``start`` on; each is tried alone if the shared program cannot be captured."""
    cases = [c for c in ALL[start : start + SIZE] if not (moving and c[0] in FIXED)]
    try:
        return check_ops(cases, {}, moving)
    except Exception:
        return {c[0]: error for c in cases for error in check_ops([c], {}, moving, alone=True).values()}


@pytest.mark.parametrize("moving", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("index", range(len(ALL)), ids=[case[0] for case in ALL])
def test_op(index: int, moving: bool) -> None:
    error = outcomes(index - index % SIZE, moving).get(ALL[index][0])
    if error is not None:
        raise error


REFUSED: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], str]] = {
    "nonzero": (torch.nonzero, (I,), "depends on the data"),
    "unique": (torch.unique, (I,), "depends on the data"),
    "masked_select": (torch.masked_select, (X, B), "depends on the data"),
    "bool_index": (lambda x: x[x > 0], (X,), "depends on the data"),
    "bincount": (lambda x: torch.bincount(x, minlength=5), (ints(9),), "depends on the data"),
    "repeats": (lambda x, r: x.repeat_interleave(r, 0), (X, ints(3, low=1)), "give output_size"),
    "rand": (lambda x: x + torch.rand(5), (X,), "draws random numbers"),
    "multinomial": (lambda x: torch.multinomial(x.softmax(-1), 1), (V,), "draws random numbers"),
    "dropout": (lambda x: F.dropout(x, 0.5, True), (X,), "draws random numbers"),
    "digamma": (torch.digamma, (X,), "aten.digamma"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_says_why(name: str) -> None:
    fn, args, why = REFUSED[name]
    with pytest.raises(CaptureError, match=why):
        capture(Function(fn), args)
