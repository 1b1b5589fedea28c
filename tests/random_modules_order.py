"""Statements of random modules that order, run along an axis, or write by index."""

from __future__ import annotations

import torch
from random_modules_elementwise import symbol_of
from random_modules_grower import Grower, Rejected, Val
from random_modules_shape import axis, indices


def order(g: Grower, x: Val) -> Val:
    """Sort, the largest few, and places in a sorted row."""
    n, at = x.name, axis(g, x)
    if x.dtype is torch.bool:
        raise Rejected("nothing to order")
    kind = g.pick.choice(
        ["sort", "sort", "topk", "topk", "argsort", "msort", "kthvalue", "bucketize", "median", "unique"]
    )
    down = g.pick.choice(["", ", descending=True"])
    if kind == "sort":
        return g.add(f"torch.sort({n}, dim={at}, stable=True{down})", x, exact=True, count=2)[g.pick.randrange(2)]
    if kind == "topk":
        most = min(lane[0].shape[at] for lane in x.data)
        count = g.pick.randint(1, min(most, 4))
        found = f"torch.topk({n}, {count}, dim={at}{g.pick.choice(['', ', largest=False'])})"
        if g.special or any((lane[0].sort(dim=at)[0].diff(dim=at) == 0).any() for lane in x.data):
            return g.add(f"{found}.values", x, exact=True)  # which of two equal numbers it is, torch does not say
        return g.add(found, x, exact=True, count=2)[0]
    if kind == "argsort":
        return g.add(f"torch.argsort({n}, dim={at}, stable=True{down})", x, exact=True)
    if kind == "bucketize":
        return g.add(f"torch.bucketize({n}, torch.tensor([-1.0, 0.25, 0.5, 2.0]))", x, exact=True)
    if kind == "msort":
        return g.add(f"torch.msort({n})", x, exact=True)
    if kind == "kthvalue":
        return g.add(f"torch.kthvalue({n}, 1, dim={at})[0]", x, exact=True)
    if kind == "median":
        return g.add(f"torch.median({n}, dim={at})[0]", x, exact=True)
    raise Rejected("its size depends on the data")


def running(g: Grower, x: Val) -> Val:
    """Sums, products and extremes of all that came before."""
    n, at = x.name, axis(g, x)
    kind = g.pick.choice(["cumsum", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "diff"])
    if kind in ("cummax", "cummin"):
        return g.add(f"torch.{kind}({n}, {at})", x, exact=True, count=2)[g.pick.randrange(2)]
    if kind == "logcumsumexp" and not x.is_float:
        raise Rejected("integers")
    return g.add(f"torch.{kind}({n}, dim={at})", x, exact=not x.is_float)


def scatter(g: Grower, x: Val) -> Val:
    """Writes to places that are data."""
    n, at = x.name, axis(g, x)
    if not x.fixed(at) or x.dtype is torch.bool:
        raise Rejected("no places")
    size = x.first.shape[at]
    kind = g.pick.choice(
        ["scatter_add", "scatter", "index_add", "index_fill", "index_copy", "amax", "put", "accumulate"]
    )
    if kind in ("scatter_add", "scatter", "amax"):
        shape: list[int | str] = []
        for sizes in x.shape:
            found = sizes[0] if len(set(sizes)) == 1 else symbol_of(g, sizes)
            if found is None:
                raise Rejected("a size nothing else has")
            shape.append(found)
        if kind == "scatter":
            shape[at] = 1  # two writes to one place come in no order
        where = g.input(torch.int64, shape, 0, size)
        if kind == "scatter":
            return g.add(f"{n}.scatter({at}, {where.name}, 2)", x, where, exact=True)
        if kind == "amax":
            return g.add(f"{n}.scatter_reduce({at}, {where.name}, {n} * 2, 'amax')", x, where, exact=True)
        return g.add(f"torch.zeros_like({n}).scatter_add({at}, {where.name}, {n})", x, where)
    ids = indices(g, size, rank=1)
    if kind == "index_add":
        return g.add(f"{n}.index_add({at}, {ids.name}, {n}.index_select({at}, {ids.name}))", x, ids)
    if kind == "index_fill":
        return g.add(f"{n}.index_fill({at}, {ids.name}, 2)", x, ids, exact=True)
    if kind == "index_copy":
        return g.add(f"{n}.index_copy({at}, {ids.name}, {n}.index_select({at}, {ids.name}))", x, ids, exact=True)
    if x.fixed(0):
        places = indices(g, x.first.shape[0], rank=1)
        if kind == "put":
            return g.write(x, "{0}[" + places.name + "] = 1", places)
        return g.add(f"{n}.index_put(({places.name},), {n}[{places.name}] * 0.5, accumulate=True)", x, places)
    raise Rejected("nothing to write to")
