"""What running reductions, sorting, searching and writing by index mean, as torch code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .types import DType

Attrs = Mapping[str, Any]
_TORCH_REDUCE = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin"}


def _scan(name: str, attrs: Attrs, x: Tensor) -> Tensor:
    if name == "logcumsumexp":
        return torch.logcumsumexp(x, attrs["axis"])
    return getattr(torch, name)(x, attrs["axis"], dtype=x.dtype)  # type: ignore[no-any-return]


def _sort(attrs: Attrs, x: Tensor) -> tuple[Tensor, Tensor]:
    values, places = torch.sort(x, dim=attrs["axis"], descending=attrs["descending"], stable=True)
    return values, places


def _topk(attrs: Attrs, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted, cut: of equal elements the first ones are taken, which ``torch.topk`` leaves open."""
    values, places = torch.sort(x, dim=attrs["axis"], descending=attrs["largest"], stable=True)
    return values.narrow(attrs["axis"], 0, attrs["k"]), places.narrow(attrs["axis"], 0, attrs["k"])


def _searchsorted(attrs: Attrs, edges: Tensor, x: Tensor) -> Tensor:
    whole = torch.searchsorted(edges.contiguous(), x.contiguous(), right=attrs["right"])
    return whole.to(torch.int32 if attrs["dtype"] is DType.i32 else torch.int64)


def _write(x: Tensor, axis: int, ids: Tensor, source: Tensor, reduce: str) -> Tensor:
    """``x`` with ``source`` at ``ids`` (all of one rank); what comes later in row-major order is applied later."""
    ids = torch.where(ids < 0, ids + x.shape[axis], ids)
    if reduce == "none":
        return _last_wins(x, axis, ids, source)
    if x.dtype == torch.bool:
        combined = x.to(torch.uint8).scatter_reduce(axis, ids, source.to(torch.uint8), _TORCH_REDUCE[reduce])
        return combined != 0
    return x.scatter_reduce(axis, ids, source, _TORCH_REDUCE[reduce])


def _last_wins(x: Tensor, axis: int, ids: Tensor, source: Tensor) -> Tensor:
    """``scatter`` leaves open who wins where an id comes twice; here the last one along the axis does."""
    order = torch.arange(ids.shape[axis]).reshape([-1 if i == axis else 1 for i in range(ids.dim())]).expand(ids.shape)
    none = torch.full(x.shape, -1, dtype=torch.int64)
    winner = none.scatter_reduce(axis, ids, order, "amax")
    if not ids.numel():
        return x.clone()
    grown = source.new_zeros([ids.shape[axis] if i == axis else d for i, d in enumerate(x.shape)])
    grown[tuple(slice(0, d) for d in source.shape)] = (
        source  # the ids may cover only the leading part of the other axes
    )
    return torch.where(winner >= 0, grown.gather(axis, winner.clamp(min=0)), x)


def _put_along(attrs: Attrs, x: Tensor, ids: Tensor, source: Tensor) -> Tensor:
    return _write(x, attrs["axis"] % x.dim(), ids.long(), source, attrs["reduce"])


def _scatter(attrs: Attrs, x: Tensor, ids: Tensor, source: Tensor) -> Tensor:
    axis = attrs["axis"] % x.dim()
    lined = source.reshape((*x.shape[:axis], ids.numel(), *x.shape[axis + 1 :]))
    spread = ids.reshape([-1 if i == axis else 1 for i in range(x.dim())]).expand(lined.shape)
    return _write(x, axis, spread.long(), lined, attrs["reduce"])


ORDER_REFERENCE: dict[str, Any] = {
    **{name: (lambda attrs, x, name=name: _scan(name, attrs, x)) for name in ("cumsum", "cumprod", "logcumsumexp")},
    "cummax": lambda attrs, x: tuple(torch.cummax(x, attrs["axis"])),
    "cummin": lambda attrs, x: tuple(torch.cummin(x, attrs["axis"])),
    "sort": _sort,
    "topk": _topk,
    "searchsorted": _searchsorted,
    "put_along": _put_along,
    "scatter": _scatter,
}
