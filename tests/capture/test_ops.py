"""Every ATen op in the tables against eager PyTorch: fixed sizes, then a dynamic first dimension."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture.oracle import check_ops
from torch import Tensor

Case = tuple[str, Callable[..., Any], tuple[Tensor, ...]]


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Reproducible normal values."""
    generator = torch.Generator().manual_seed(sum(s * 31**i for i, s in enumerate(shape)) + 7)
    return torch.randn(*shape, generator=generator).to(dtype)


def ints(*shape: int, high: int = 4, low: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    """Reproducible integers."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high, shape, generator=generator, dtype=dtype)


X = rand(3, 4, 5)
Y = rand(3, 1, 5)
POSITIVE = X.abs() + 0.1
I = ints(3, 4, 5, high=9, low=-8)  # noqa: E741
J = ints(3, 4, 5, high=5, low=1)
B = X > 0
SPECIAL = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, 1.5, -2.5]] * 3)
IMAGE = rand(3, 4, 8, 8)

UNARY: list[Case] = [
    (name, getattr(torch, name), (X,))
    for name in ("neg", "abs", "sign", "relu", "floor", "ceil", "trunc", "round", "exp", "exp2", "expm1", "sin", "cos", "tan",
                 "atan", "sinh", "cosh", "tanh", "sigmoid", "erf", "square", "fix", "selu", "celu")
] + [
    (name, getattr(torch, name), (POSITIVE,)) for name in ("log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal")
] + [
    (name, getattr(F, name), (X * 4,))
    for name in ("silu", "gelu", "hardswish", "hardsigmoid", "mish", "softplus", "elu", "leaky_relu", "relu6", "hardtanh",
                 "logsigmoid", "softsign", "tanhshrink", "hardshrink", "softshrink")
] + [
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), (X,)),
    ("softplus_beta", lambda x: F.softplus(x, 2.0, 1.0), (X * 4,)),
    ("elu_alpha", lambda x: F.elu(x, 0.5), (X,)),
    ("celu_alpha", lambda x: F.celu(x, 0.5), (X,)),
    ("hardtanh_range", lambda x: F.hardtanh(x, -0.3, 0.7), (X,)),
    ("prelu", F.prelu, (rand(2, 4, 5), rand(4))),
    ("prelu_one", F.prelu, (rand(2, 4, 5), rand(1))),
    ("glu", lambda x: F.glu(x, -1), (rand(2, 6),)),
    ("isnan", torch.isnan, (SPECIAL,)),
    ("isinf", torch.isinf, (SPECIAL,)),
    ("isfinite", torch.isfinite, (SPECIAL,)),
    ("isnan_int", lambda x: torch.isnan(x), (I,)),
    ("isfinite_int", lambda x: torch.isfinite(x), (I,)),
    ("nan_to_num", lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), (SPECIAL,)),
    ("logical_not", torch.logical_not, (I,)),
    ("bitwise_not", torch.bitwise_not, (I,)),
    ("bitwise_not_bool", lambda x: ~x, (B,)),
    ("abs_int", torch.abs, (I,)),
    ("relu_int", torch.relu, (I,)),
    ("exp_int", torch.exp, (J,)),
    ("sqrt_int", torch.sqrt, (J,)),
    ("sigmoid_bool", torch.sigmoid, (B,)),
    ("sqrt_special", torch.sqrt, (SPECIAL,)),
    ("clamp", lambda x: x.clamp(-0.5, 0.5), (X,)),
    ("clamp_low", lambda x: x.clamp(min=0.1), (X,)),
    ("clamp_high", lambda x: x.clamp_max(0.1), (X,)),
    ("clamp_bytes", lambda x: x.clamp(-3, 9), (ints(3, 4, high=20, dtype=torch.uint8),)),
    ("clamp_bytes_low", lambda x: x.clamp(min=-250), (ints(3, 4, high=20, dtype=torch.uint8),)),
    ("clamp_int_by_float", lambda x: x.clamp(min=0.5), (I,)),
    ("clamp_tensor", lambda x, y: torch.clamp(x, min=y), (X, Y)),
    ("clamp_special", lambda x: x.clamp(-1, 1), (SPECIAL,)),
    ("clamp_scalar_tensors", lambda x: torch.clamp(x, torch.tensor(-0.5), torch.tensor(0.5)), (X,)),
]  # fmt: skip

BINARY: list[Case] = [
    (name, getattr(torch, name), (X, Y)) for name in ("add", "sub", "mul", "div", "atan2", "maximum", "minimum", "fmod",
                                                      "remainder", "floor_divide")
] + [
    (f"{name}_int", getattr(torch, name), (I, J))
    for name in ("add", "sub", "mul", "div", "maximum", "minimum", "fmod", "remainder", "floor_divide")
] + [
    (f"{name}_mixed", getattr(torch, name), (X, J)) for name in ("add", "sub", "mul", "div", "remainder", "pow")
] + [
    (f"{name}_scalar", lambda x, f=getattr(torch, name): f(x, 2), (X,))
    for name in ("add", "sub", "mul", "div", "fmod", "remainder", "floor_divide", "pow")
] + [
    (f"{name}_int_scalar", lambda x, f=getattr(torch, name): f(x, 3), (I,))
    for name in ("add", "sub", "mul", "div", "fmod", "remainder", "floor_divide", "pow")
] + [
    (f"{name}_int_float", lambda x, f=getattr(torch, name): f(x, 1.5), (I,))
    for name in ("add", "sub", "mul", "div", "fmod", "remainder")
] + [
    (name, getattr(torch, name), (X, X.round())) for name in ("eq", "ne", "lt", "le", "gt", "ge")
] + [
    (f"{name}_scalar", lambda x, f=getattr(torch, name): f(x, 1.5), (I,)) for name in ("eq", "ne", "lt", "le", "gt", "ge")
] + [
    (f"{name}_mixed", getattr(torch, name), (I, X)) for name in ("eq", "lt", "ge")
] + [
    (name, getattr(torch, name), (I, J)) for name in ("logical_and", "logical_or", "logical_xor", "bitwise_and",
                                                      "bitwise_or", "bitwise_xor")
] + [
    (f"{name}_bool", getattr(torch, name), (B, Y > 0)) for name in ("logical_and", "bitwise_and", "bitwise_or", "bitwise_xor")
] + [
    ("and", lambda a, b: a & b, (B, Y > 0)),
    ("or", lambda a, b: a | b, (B, Y > 0)),
    ("xor", lambda a, b: a ^ b, (B, Y > 0)),
    ("and_scalar", lambda a: a & 3, (I,)),
    ("add_alpha", lambda a, b: torch.add(a, b, alpha=0.5), (X, Y)),
    ("sub_alpha", lambda a, b: torch.sub(a, b, alpha=2), (I, J)),
    ("add_bool", lambda a, b: a + b, (B, Y > 0)),
    ("mul_bool", lambda a, b: a * b, (B, Y > 0)),
    ("bool_plus_int", lambda a: a + 1, (B,)),
    ("bool_times_float", lambda a, b: a * b, (B, X)),
    ("rsub", lambda a: 1 - a, (X,)),
    ("rdiv", lambda a: 1 / a, (POSITIVE,)),
    ("rpow", lambda a: 2.0**a, (X,)),
    ("rank0_tensor", lambda a: a * torch.tensor(2.0, dtype=torch.float64), (X,)),
    ("rank0_int_tensor", lambda a: a * torch.tensor(2), (X,)),
    ("half_mixed", lambda a, b: a + b, (X.half(), Y)),
    ("bf16_scalar", lambda a: a * 1.702, (X.bfloat16(),)),
    ("bf16_add", lambda a, b: a + b, (X.bfloat16(), Y.bfloat16())),
    ("bf16_compare", lambda a: a > 0.3, (X.bfloat16(),)),
    ("i32_scalar", lambda a: a + 1, (I.int(),)),
    ("i32_i64", lambda a, b: a + b, (I.int(), J)),
    ("u8", lambda a, b: a * 2 + b, (J.to(torch.uint8), J.to(torch.uint8))),
    ("div_floor", lambda a, b: torch.div(a, b, rounding_mode="floor"), (X, Y)),
    ("div_trunc", lambda a, b: torch.div(a, b, rounding_mode="trunc"), (X, Y)),
    ("div_trunc_int", lambda a, b: torch.div(a, b, rounding_mode="trunc"), (I, J)),
    ("div_floor_scalar", lambda a: torch.div(a, 3, rounding_mode="floor"), (I,)),
    *((f"pow_{e}", lambda a, e=e: a**e, (POSITIVE,)) for e in (-2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 1.7)),
    ("pow_tensor", lambda a, b: a**b, (POSITIVE, Y)),
    ("where", lambda c, a, b: torch.where(c, a, b), (B, X, Y)),
    ("where_scalar", lambda c, a: torch.where(c, a, 0.0), (B, X)),
    ("where_scalars", lambda c: torch.where(c, 1.0, -1.0), (B,)),
    ("where_mixed", lambda c, a, b: torch.where(c, a, b), (B, X, I)),
    ("masked_fill", lambda a, c: a.masked_fill(c, -1e9), (X, Y > 0)),
    ("masked_fill_min", lambda a, c: a.masked_fill(c, torch.finfo(torch.float32).min), (X, B)),
    ("masked_fill_inf", lambda a, c: a.masked_fill(c, -float("inf")), (X, B)),
    ("masked_fill_tensor", lambda a, c: a.masked_fill(c, torch.tensor(2.0)), (X, B)),
    ("lerp", lambda a, b: torch.lerp(a, b, 0.3), (X, X.flip(0) * 2)),
    ("addcmul", lambda a, b: torch.addcmul(a, b, b, value=0.5), (X, Y)),
    ("addcdiv", lambda a, b: torch.addcdiv(a, b, b.abs() + 1), (X, Y)),
    ("isin", lambda a: torch.isin(a, 2), (I,)),
    ("type_as", lambda a, b: a.type_as(b), (I, X)),
    ("to_bool", lambda a: a.to(torch.bool), (X.round(),)),
    ("to_int", lambda a: a.to(torch.int32), (X * 4,)),
    ("float", lambda a: a.float(), (I,)),
    ("bf16", lambda a: a.to(torch.bfloat16), (X,)),
    ("double", lambda a: a.double() * 2, (X,)),
    ("dropout", lambda a: F.dropout(a, 0.5, training=False) + 1, (X,)),
    ("clone", lambda a: a.clone().contiguous().detach() + 1, (X,)),
]  # fmt: skip

REDUCE: list[Case] = [
    (f"{name}_{label}", lambda x, f=getattr(torch, name), k=kwargs: f(x, **k), (X,))
    for name in ("sum", "mean", "amax", "amin", "var", "std", "logsumexp")
    for label, kwargs in (("one", {"dim": 1}), ("two", {"dim": (1, -1)}), ("keep", {"dim": -1, "keepdim": True}))
] + [
    (f"{name}_all", getattr(torch, name), (X,)) for name in ("sum", "mean", "prod", "max", "min", "var", "std", "argmax")
] + [
    ("sum_int", lambda x: x.sum(1), (I.int(),)),
    ("sum_bool", lambda x: x.sum(-1), (B,)),
    ("sum_dtype", lambda x: x.sum(1, dtype=torch.float64), (X,)),
    ("mean_dtype", lambda x: x.mean(1, dtype=torch.float32), (I,)),
    ("sum_rows", lambda x: x.sum(0), (X,)),
    ("mean_rows", lambda x: x.mean(0), (X,)),
    ("var_rows", lambda x: x.var(0, unbiased=False), (X,)),
    ("var_biased", lambda x: x.var(-1, correction=0), (X,)),
    ("std_middle", lambda x: x.std(1, keepdim=True), (X,)),
    ("var_mean", lambda x: torch.var_mean(x, -1), (X,)),
    ("prod_dim", lambda x: x.prod(1), (X,)),
    ("max_dim", lambda x: x.max(-1), (X,)),
    ("min_dim_keep", lambda x: x.min(1, keepdim=True), (X,)),
    ("max_int", lambda x: x.amax(1), (I,)),
    ("argmax_dim", lambda x: x.argmax(-1), (X,)),
    ("argmin_keep", lambda x: x.argmin(1, keepdim=True), (X,)),
    ("any", lambda x: x.any(), (B,)),
    ("any_dim", lambda x: (x > 1).any(1), (X,)),
    ("all_dim_keep", lambda x: (x > -1).all(-1, keepdim=True), (X,)),
    ("any_int", lambda x: x.any(1), (I,)),
    ("count_nonzero", lambda x: torch.count_nonzero(x, 1), (I,)),
    ("norm", lambda x: torch.linalg.vector_norm(x, dim=-1), (X,)),
    ("norm_one", lambda x: torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True), (X,)),
    ("norm_inf", lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1), (X,)),
    ("norm_three", lambda x: torch.linalg.vector_norm(x, 3, dim=1), (X,)),
    ("norm_method", lambda x: x.norm(dim=-1, keepdim=True), (X,)),
    ("normalize", lambda x: F.normalize(x, dim=-1), (X,)),
    ("cosine_similarity", lambda x: F.cosine_similarity(x, x.flip(1), dim=-1), (X,)),
    ("cumsum", lambda x: x.cumsum(1), (X,)),
    ("cumsum_bool", lambda x: x.cumsum(-1), (B,)),
    ("cumsum_i32", lambda x: x.cumsum(-1), (I.int(),)),
    ("softmax", lambda x: x.softmax(-1), (X,)),
    ("softmax_axis", lambda x: x.softmax(1), (X,)),
    ("softmax_dtype", lambda x: x.softmax(-1, dtype=torch.float32), (X.bfloat16(),)),
    ("log_softmax", lambda x: x.log_softmax(-1), (X,)),
    ("safe_softmax", lambda x: torch._safe_softmax(x.masked_fill(x > -9, -float("inf")), -1), (X,)),
    ("logsumexp_inf", lambda x: torch.logsumexp(x.masked_fill(x < 9, -float("inf")), -1), (X,)),
    ("softmin", lambda x: F.softmin(x, -1), (X,)),
]  # fmt: skip

SHAPE: list[Case] = [
    ("view", lambda x: x.view(x.shape[0], 20), (X,)),
    ("view_infer", lambda x: x.view(-1, 10), (X,)),
    ("reshape_merge", lambda x: x.reshape(-1, 5), (X,)),
    ("reshape_split", lambda x: x.reshape(x.shape[0], 2, -1, 5), (X,)),
    ("flatten", lambda x: x.flatten(1), (X,)),
    ("flatten_all", lambda x: x.flatten(), (X,)),
    ("unflatten", lambda x: x.unflatten(1, (2, 2)), (X,)),
    ("ravel", lambda x: x.ravel(), (X,)),
    ("squeeze", lambda x: x.squeeze(1), (Y,)),
    ("squeeze_all", lambda x: x[:, :1].squeeze((1,)), (X,)),
    ("unsqueeze", lambda x: x.unsqueeze(-1).unsqueeze(0), (X,)),
    ("none_index", lambda x: x[:, None, :, None], (X,)),
    ("transpose", lambda x: x.transpose(1, -1), (X,)),
    ("swapaxes", lambda x: x.swapaxes(0, 1), (X,)),
    ("t", lambda x: x.t(), (X[:, 0],)),
    ("T", lambda x: x.T, (X[:, 0],)),
    ("mT", lambda x: x.mT, (X,)),
    ("permute", lambda x: x.permute(2, 0, -2), (X,)),
    ("movedim", lambda x: x.movedim(0, -1), (X,)),
    ("movedim_two", lambda x: x.movedim((0, 1), (2, 0)), (X,)),
    ("expand", lambda x: x.expand(-1, 4, 5), (Y,)),
    ("expand_front", lambda x: x.expand(2, -1, 4, -1), (Y,)),
    ("expand_as", lambda x, y: y.expand_as(x), (X, Y)),
    ("broadcast_to", lambda x: torch.broadcast_to(x, (2, *x.shape)), (X,)),
    ("repeat", lambda x: x.repeat(2, 1, 3), (X,)),
    ("repeat_front", lambda x: x.repeat(2, 1, 1, 1), (X,)),
    ("repeat_unit", lambda x: x.repeat(1, 4, 1), (Y,)),
    ("tile", lambda x: x.tile(2, 3), (X,)),
    ("repeat_interleave", lambda x: x.repeat_interleave(3, 1), (X,)),
    ("repeat_interleave_rows", lambda x: x.repeat_interleave(2, dim=0), (X,)),
    ("slice", lambda x: x[:, 1:3], (X,)),
    ("slice_negative", lambda x: x[:, -3:-1], (X,)),
    ("slice_over", lambda x: x[:, 2:100], (X,)),
    ("slice_step", lambda x: x[..., ::2], (X,)),
    ("slice_step_offset", lambda x: x[..., 1::2], (X,)),
    ("slice_rows", lambda x: x[1:], (X.repeat(2, 1, 1),)),
    ("slice_empty", lambda x: torch.cat([x[:, 3:3], x], 1), (X,)),
    ("select", lambda x: x[:, 0], (X,)),
    ("select_last", lambda x: x[:, -1], (X,)),
    ("select_row", lambda x: x[0] + x[-1], (X,)),
    ("narrow", lambda x: x.narrow(1, 1, 2), (X,)),
    ("unbind", lambda x: x.unbind(1)[2], (X,)),
    ("split", lambda x: x.split(2, -1), (X,)),
    ("split_sizes", lambda x: x.split([1, 4], -1), (X,)),
    ("chunk", lambda x: x.chunk(3, -1), (X,)),
    ("tensor_split", lambda x: x.tensor_split(3, -1), (X,)),
    ("diagonal", lambda x: x.diagonal(dim1=1, dim2=2), (X,)),
    ("diagonal_offset", lambda x: x.diagonal(1, 1, 2), (X,)),
    ("cat", lambda x, y: torch.cat([x, y, y], 1), (X, Y)),
    ("cat_rows", lambda x, y: torch.cat([x, y], 0), (X, X * 2)),
    ("cat_mixed", lambda x, y: torch.cat([x, y], -1), (X, I)),
    ("stack", lambda x: torch.stack([x, x * 2, x], 1), (X,)),
    ("stack_last", lambda x: torch.stack([x, x * 2], -1), (X,)),
    ("hstack", lambda x: torch.hstack([x, x]), (X,)),
    ("vstack", lambda x: torch.vstack([x, x]), (X,)),
    ("roll", lambda x: x.roll((1, -2), (1, 2)), (X,)),
    ("roll_rows", lambda x: x.roll(1, 0), (X,)),
    ("roll_flat", lambda x: x.roll(3), (rand(4, 5),)),
    ("flip", lambda x: x.flip(1, 2), (X,)),
    ("flip_rows", lambda x: x.flip(0), (X,)),
    ("pad", lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), (X,)),
    ("pad_crop", lambda x: F.pad(x, (-1, 2)), (X,)),
    ("pad_bool", lambda x: F.pad(x, (1, 1), value=True), (B,)),
    ("pad_int", lambda x: F.pad(x, (1, 1), value=7), (I,)),
    ("pad_rows", lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), (X,)),
    ("pad_reflect", lambda x: F.pad(x, (2, 1), mode="reflect"), (X,)),
    ("pad_edge", lambda x: F.pad(x, (2, 1), mode="replicate"), (X,)),
    ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (IMAGE,)),
    ("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (IMAGE,)),
    ("channel_shuffle", lambda x: F.channel_shuffle(x, 2), (IMAGE,)),
    ("meshgrid", lambda x: torch.meshgrid(x[0], x[1, :3], indexing="ij"), (rand(2, 5),)),
    ("assign_slice", lambda x: _assigned(x, (slice(None), slice(1, 3))), (X,)),
    ("assign_select", lambda x: _assigned(x, (slice(None), 2)), (X,)),
    ("assign_all", lambda x: _assigned(x, (slice(None),)), (X,)),
    ("assign_range", lambda x: _assigned(x, (slice(None), torch.arange(1, 3))), (X,)),
    ("assign_masked", lambda x: _assigned(x, x > 0), (X,)),
    ("in_place", lambda x: x.clone().mul_(2).add_(1).relu_(), (X,)),
    ("in_place_view", lambda x: _in_place_view(x), (X,)),
    ("fill", lambda x: x.clone().fill_(3.0) + x, (X,)),
    ("copy", lambda x, y: x.clone().copy_(y), (X, Y)),
]  # fmt: skip


def _assigned(x: Tensor, where: Any) -> Tensor:
    result = x.clone()
    result[where] = 5.0
    return result


def _in_place_view(x: Tensor) -> Tensor:
    result = x * 1
    result[:, 0].add_(10)
    result.transpose(1, 2)[:, :2].zero_()
    return result


IDS = ints(3, 6, high=10)
TABLE = rand(10, 7)
INDEX: list[Case] = [
    ("embedding", F.embedding, (IDS, TABLE)),
    ("embedding_i32", F.embedding, (IDS.int(), TABLE)),
    ("embedding_padding", lambda i, t: F.embedding(i, t, padding_idx=0), (IDS, TABLE)),
    ("index_select", lambda x: x.index_select(1, torch.tensor([2, 0, 2])), (X,)),
    ("index_select_input", lambda x, i: x.index_select(2, i), (X, ints(6, high=5))),
    ("gather", lambda x, i: x.gather(1, i), (X, ints(3, 2, 5))),
    ("gather_smaller", lambda x, i: x.gather(1, i), (X, ints(3, 2, 3))),
    ("gather_expanded", lambda x, i: x.expand(4, -1).gather(1, i), (rand(1, 6), ints(4, 6, high=6))),
    ("take_along_dim", lambda x, i: torch.take_along_dim(x, i, 1), (X, ints(3, 2, 5))),
    ("take_along_broadcast", lambda x, i: torch.take_along_dim(x, i, 1), (X, ints(3, 2, 1))),
    ("index_one", lambda x, i: x[:, i], (X, ints(6))),
    ("index_matrix", lambda x, i: x[:, i], (X, ints(2, 6))),
    ("index_negative", lambda x, i: x[:, i - 4], (X, ints(6))),
    ("index_range", lambda x: x[:, torch.arange(1, 4)], (X,)),
    ("index_pairs", lambda x, i: x[i, i], (rand(4, 4, 5), ints(6))),
    ("index_pairs_inner", lambda x, i: x[:, i, i - 4], (X, ints(6))),
    ("index_apart", lambda x, i: x[i, :, i], (rand(4, 3, 4), ints(6))),
    ("index_rows_by_argmax", lambda x, i: x[torch.arange(x.shape[0]), i.argmax(-1)], (X, ints(3, 4, high=100))),
    ("index_last_token", lambda x, m: x[torch.arange(x.shape[0]), m.sum(-1) - 1], (X, B.any(-1).long() + 0 * ints(3, 4))),
    ("index_identity", lambda x: x[torch.arange(x.shape[0])[:, None, None], torch.arange(4)[None, None, :]], (X,)),
    ("index_identity_slice", lambda x: x[torch.arange(x.shape[0])[:, None], torch.arange(1, 3)[None, :] + 1], (X,)),
    ("index_transposed", lambda x: x[torch.arange(x.shape[0])[None, :], torch.arange(4)[:, None]], (X,)),
    ("index_three", lambda x, i: x[i % 3, i, i], (rand(4, 4, 5), ints(6))),
    ("one_hot", lambda i: F.one_hot(i, 10), (IDS,)),
    ("tril", lambda x: x.tril(), (X,)),
    ("triu", lambda x: x.triu(1), (X,)),
    ("tril_bool", lambda x: x.tril(-1), (B,)),
    ("triu_ones", lambda x: torch.ones(x.shape[0], x.shape[0]).triu(1).bool(), (X,)),
    ("arange", lambda x: x + torch.arange(5), (X,)),
    ("arange_float", lambda x: torch.arange(0, 1, 0.25) + x[0, 0, 0], (X,)),
    ("arange_rows", lambda x: torch.arange(x.shape[0]) * 2, (X,)),
    ("arange_rows_float", lambda x: torch.arange(1, x.shape[0] + 1, dtype=torch.float32), (X,)),
    ("arange_step", lambda x: torch.arange(10, 0, -3) + x[0, 0, :4], (X,)),
    ("arange_two_rows", lambda x: torch.arange(0, 2 * x.shape[0], 2), (X,)),
    ("full", lambda x: torch.full((x.shape[0], 2), 1.5), (X,)),
    ("full_rows", lambda x: torch.full((2,), x.shape[0]), (X,)),
    ("zeros", lambda x: torch.zeros(x.shape[0], 2, dtype=torch.int32), (X,)),
    ("ones_like", lambda x: torch.ones_like(x), (X,)),
    ("zeros_like", lambda x: torch.zeros_like(x, dtype=torch.bool), (X,)),
    ("full_like", lambda x: torch.full_like(x, 2.5), (X,)),
    ("new_zeros", lambda x: x.new_zeros(x.shape[0], 3), (X,)),
    ("new_ones", lambda x: x.new_ones((x.shape[0],), dtype=torch.bool), (X,)),
    ("new_full", lambda x: x.new_full((2, x.shape[0]), 7), (X,)),
    ("eye", lambda x: torch.eye(4) + x[0, :, :4], (X,)),
    ("linspace", lambda x: torch.linspace(0, 1, 5) + x, (X,)),
    ("scalar_tensor", lambda x: x + torch.scalar_tensor(2.0), (X,)),
    ("size_as_number", lambda x: x * x.shape[0], (X,)),
    ("size_as_divisor", lambda x: x / x.shape[0], (X,)),
    ("size_in_sqrt", lambda x: x / (x.shape[0] ** 0.5), (X,)),
    ("size_in_math_sqrt", lambda x: x * (1.0 / torch.sym_sqrt(x.shape[0])), (X,)),
    ("size_compared", lambda x: torch.arange(5) < x.shape[0], (X,)),
]  # fmt: skip

W = rand(6, 5)
ANCHOR: list[Case] = [
    ("linear", F.linear, (X, W, rand(6))),
    ("linear_no_bias", F.linear, (X, W)),
    ("linear_vector", F.linear, (X, rand(5))),
    ("matmul", torch.matmul, (X, rand(5, 6))),
    ("matmul_batched", torch.matmul, (X, rand(3, 5, 2))),
    ("matmul_broadcast", torch.matmul, (rand(3, 2, 4, 5), rand(3, 1, 5, 6))),
    ("matmul_vector", torch.matmul, (X, rand(5))),
    ("vector_matmul", torch.matmul, (rand(4), rand(3, 4, 2))),
    ("dot", torch.dot, (rand(5), rand(5))),
    ("mv", torch.mv, (rand(3, 5), rand(5))),
    ("mm", torch.mm, (rand(3, 5), rand(5, 4))),
    ("mm_transposed", lambda x, w: torch.mm(x, w.t()), (rand(3, 5), W)),
    ("bmm", torch.bmm, (X, rand(3, 5, 2))),
    ("addmm", torch.addmm, (rand(6), rand(3, 5), rand(5, 6))),
    ("addmm_scaled", lambda b, x, w: torch.addmm(b, x, w, beta=0.5, alpha=2), (rand(6), rand(3, 5), rand(5, 6))),
    ("addmm_matrix", torch.addmm, (rand(3, 6), rand(3, 5), rand(5, 6))),
    ("baddbmm", lambda b, x, y: torch.baddbmm(b, x, y, beta=0, alpha=0.125), (rand(3, 4, 2), X, rand(3, 5, 2))),
    ("einsum", lambda x, y: torch.einsum("bid,bjd->bij", x, y), (X, rand(3, 6, 5))),
    ("einsum_heads", lambda x, w: torch.einsum("bsd,hdk->bhsk", x, w), (X, rand(2, 5, 3))),
    ("einsum_outer", lambda x, y: torch.einsum("i,j->ij", x, y), (rand(4), rand(5))),
    ("outer", torch.outer, (rand(4), rand(5))),
    ("tensordot", lambda x, y: torch.tensordot(x, y, ([2], [0])), (X, rand(5, 3))),
    ("baddbmm_bias", torch.baddbmm, (rand(3, 1, 2), X, rand(3, 5, 2))),
    ("linear_bf16", F.linear, (X.bfloat16(), W.bfloat16(), rand(6).bfloat16())),
    ("conv1d", lambda x, w, b: F.conv1d(x, w, b, 2, 1), (rand(3, 4, 9), rand(6, 4, 3), rand(6))),
    ("conv2d", lambda x, w: F.conv2d(x, w, None, 1, 1), (IMAGE, rand(6, 4, 3, 3))),
    ("conv2d_groups", lambda x, w: F.conv2d(x, w, None, 2, (1, 0), 1, 4), (IMAGE, rand(8, 1, 3, 3))),
    ("conv2d_patch", lambda x, w, b: F.conv2d(x, w, b, 4).flatten(2).mT, (IMAGE, rand(6, 4, 4, 4), rand(6))),
    ("conv2d_dilated", lambda x, w: F.conv2d(x, w, None, 1, 2, 2), (IMAGE, rand(6, 4, 3, 3))),
    ("conv2d_same", lambda x, w: F.conv2d(x, w, padding="same"), (IMAGE, rand(6, 4, 3, 3))),
    ("conv2d_same_even", lambda x, w: F.conv2d(x, w, padding="same"), (IMAGE, rand(6, 4, 2, 4))),
    ("conv2d_valid", lambda x, w: F.conv2d(x, w, padding="valid"), (IMAGE, rand(6, 4, 3, 3))),
    ("conv2d_single", lambda x, w: F.conv2d(x, w), (rand(4, 8, 8), rand(6, 4, 3, 3))),
    ("conv3d", lambda x, w: F.conv3d(x, w, stride=2), (rand(3, 2, 4, 6, 6), rand(4, 2, 2, 2, 2))),
    ("conv2d_single_same", lambda x, w: F.conv2d(x, w, padding="same"), (rand(4, 8, 8), rand(6, 4, 4, 2))),
    ("conv_transpose1d", lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1), (rand(3, 4, 9), rand(4, 6, 3), rand(6))),
    ("conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, (1, 0), 2, (1, 2)), (IMAGE, rand(4, 3, 3, 3))),
    ("conv_transpose2d_single", lambda x, w: F.conv_transpose2d(x, w), (rand(4, 8, 8), rand(4, 6, 3, 3))),
    ("conv_transpose3d", lambda x, w: F.conv_transpose3d(x, w, stride=2), (rand(3, 2, 4, 3, 3), rand(2, 4, 2, 2, 2))),
    ("max_pool1d", lambda x: F.max_pool1d(x, 2), (rand(3, 4, 9),)),
    ("max_pool2d_over_the_edge", lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (IMAGE,)),
    ("max_pool3d_ceil", lambda x: F.max_pool3d(x, 2, 3, ceil_mode=True), (rand(3, 2, 5, 6, 7),)),
    ("avg_pool1d_ceil", lambda x: F.avg_pool1d(x, 3, 4, 1, ceil_mode=True), (rand(3, 4, 9),)),
    ("avg_pool2d_ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (IMAGE,)),
    ("avg_pool2d_ceil_inside", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (IMAGE,)),
    ("avg_pool2d_divisor", lambda x: F.avg_pool2d(x, 3, 2, divisor_override=5), (IMAGE,)),
    ("avg_pool3d", lambda x: F.avg_pool3d(x, 2, 1, 1), (rand(3, 2, 5, 6, 7),)),
    ("lp_pool2d", lambda x: F.lp_pool2d(x.abs() + 0.1, 2.0, 3, 2), (IMAGE,)),
    ("adaptive_max_two", lambda x: F.adaptive_max_pool2d(x, (2, 4)), (IMAGE,)),
    ("adaptive_max_uneven", lambda x: F.adaptive_max_pool2d(x, (3, 5)), (IMAGE,)),
    ("adaptive_max1d_uneven", lambda x: F.adaptive_max_pool1d(x, 4), (rand(3, 4, 9),)),
    ("interpolate_volume", lambda x: F.interpolate(x, (6, 3, 5), mode="trilinear"), (rand(3, 2, 4, 4, 3),)),
    ("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), (IMAGE,)),
    ("max_pool2d_dilated", lambda x: F.max_pool2d(x, 2, 1, 0, 2), (IMAGE,)),
    ("max_pool2d_ceil", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), (IMAGE,)),
    ("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2, 1), (rand(3, 4, 9),)),
    ("avg_pool2d", lambda x: F.avg_pool2d(x, 2), (IMAGE,)),
    ("avg_pool2d_no_pad", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (IMAGE,)),
    ("adaptive_avg_one", lambda x: F.adaptive_avg_pool2d(x, 1), (IMAGE,)),
    ("adaptive_avg_two", lambda x: F.adaptive_avg_pool2d(x, (2, 4)), (IMAGE,)),
    ("adaptive_avg_same", lambda x: F.adaptive_avg_pool2d(x, 8), (IMAGE,)),
    ("adaptive_avg1d", lambda x: F.adaptive_avg_pool1d(x, 1), (rand(3, 4, 9),)),
    ("adaptive_max_one", lambda x: F.adaptive_max_pool2d(x, 1), (IMAGE,)),
    ("adaptive_avg_uneven", lambda x: F.adaptive_avg_pool2d(x, (3, 5)), (IMAGE,)),
    *((f"interpolate_{mode}", lambda x, m=mode: F.interpolate(x, (6, 11), mode=m), (IMAGE,))
      for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
    ("interpolate_scale", lambda x: F.interpolate(x, scale_factor=(2.0, 1.5), mode="bilinear"), (IMAGE,)),
    ("interpolate_corners", lambda x: F.interpolate(x, (12, 3), mode="bilinear", align_corners=True), (IMAGE,)),
    ("interpolate_smooth", lambda x: F.interpolate(x, (3, 5), mode="bicubic", antialias=True), (IMAGE,)),
    ("interpolate_line", lambda x: F.interpolate(x, 7, mode="linear"), (X,)),
    ("interpolate_bf16", lambda x: F.interpolate(x, (16, 16), mode="nearest"), (IMAGE.bfloat16(),)),
    ("upsampled_twice", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (IMAGE,)),
    ("layer_norm", lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-6), (X, rand(5), rand(5))),
    ("layer_norm_plain", lambda x: F.layer_norm(x, (4, 5)), (X,)),
    ("layer_norm_bias_free", lambda x, w: F.layer_norm(x, (5,), w), (X, rand(5))),
    ("rms_norm", lambda x, w: F.rms_norm(x, (5,), w, 1e-6), (X, rand(5))),
    ("rms_norm_plain", lambda x: F.rms_norm(x, (5,)), (X,)),
    ("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), (IMAGE, rand(4), rand(4))),
    ("instance_norm", lambda x: F.instance_norm(x), (IMAGE,)),
    ("batch_norm", lambda x, m, v, w, b: F.batch_norm(x, m, v.abs() + 1, w, b), (IMAGE, *(rand(4) for _ in range(4)))),
    ("batch_norm_plain", lambda x, m, v: F.batch_norm(x, m, v.abs() + 1), (IMAGE, rand(4), rand(4))),
]  # fmt: skip

ALL = UNARY + BINARY + REDUCE + SHAPE + INDEX + ANCHOR
#: Wide sums and low precision differ in the last bits.
LOOSE = {"linear_bf16": 1e-2, "bf16_scalar": 1e-2, "softmax_dtype": 1e-3}
#: torch.export itself ties the number of rows to the example's.
FIXED = {"take_along_dim", "take_along_broadcast"}
SIZE = 24


@cache
def outcomes(start: int, moving: bool) -> dict[str, Exception | None]:
    """What became of the cases from ``start`` on: many share one export, which is most of the work.

    If the shared program cannot be captured each case is tried alone.
    """
    cases = [c for c in ALL[start : start + SIZE] if not (moving and c[0] in FIXED)]
    try:
        return check_ops(cases, LOOSE, moving)
    except Exception:
        return {c[0]: error for c in cases for error in check_ops([c], LOOSE, moving, alone=True).values()}


@pytest.mark.parametrize("moving", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("index", range(len(ALL)), ids=[case[0] for case in ALL])
def test_op(index: int, moving: bool) -> None:
    error = outcomes(index - index % SIZE, moving).get(ALL[index][0])
    if error is not None:
        raise error


def test_names_are_unique() -> None:
    names = [case[0] for case in ALL]
    assert len(set(names)) == len(names)


def test_a_wrong_result_is_noticed() -> None:
    wrong = check_ops([("two faces", lambda x: x if torch.compiler.is_exporting() else x + 1, (X,))], {}, False)
    assert isinstance(wrong["two faces"], AssertionError)
