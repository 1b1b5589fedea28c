"""Statements of random modules that move elements: views, joins, parts, indices, padding; and those that make tensors."""

from __future__ import annotations

from math import prod

import torch
from random_modules_elementwise import symbol_of
from random_modules_grower import Grower, Rejected, Val


def axis(g: Grower, x: Val) -> int:
    """An axis as Python may spell it."""
    if not x.rank:
        raise Rejected("no axes")
    return g.pick.randrange(x.rank) - g.pick.choice([0, x.rank])


def factors(g: Grower, size: int) -> tuple[int, int]:
    ways = [(d, size // d) for d in range(1, size + 1) if size % d == 0]
    return g.pick.choice(ways[1:-1] or ways)


def reorder(g: Grower, x: Val) -> Val:
    n, r = x.name, x.rank
    kind = g.pick.choice(["permute", "permute", "transpose", "transpose", "movedim", "T", "flip", "roll"])
    if kind == "permute":
        return g.add(
            f"{n}.permute({', '.join(str(p - g.pick.choice([0, r])) for p in g.pick.sample(range(r), r))})",
            x,
            exact=True,
        )
    if kind == "transpose":
        return g.add(f"{n}.transpose({axis(g, x)}, {axis(g, x)})", x, exact=True)
    if kind == "movedim":
        return g.add(f"torch.movedim({n}, {axis(g, x)}, {axis(g, x)})", x, exact=True)
    if kind == "T":
        return g.add(f"{n}.t()" if r == 2 else f"{n}.mT", x, exact=True)
    if kind == "flip":
        return g.add(f"torch.flip({n}, [{axis(g, x)}])", x, exact=True)
    at = axis(g, x)
    return g.add(
        f"torch.roll({n}, {g.pick.choice([1, -1, 2]) if x.fixed(at) else g.pick.choice([1, -1])}, {at})", x, exact=True
    )


def view(g: Grower, x: Val) -> Val:
    n, r = x.name, x.rank
    way = g.pick.choice(["reshape", "reshape", "view"])
    kind = g.pick.choice(
        [
            "merge",
            "merge",
            "flatten",
            "split",
            "split",
            "unflatten",
            "unsqueeze",
            "squeeze",
            "none",
            "minus",
            "expand",
            "as",
        ]
    )
    if kind == "merge" and r >= 2:
        at = g.pick.randrange(r - 1)
        dims = [x.dim(a) for a in range(r)]
        joined = (
            f"{dims[at]} * {dims[at + 1]}"
            if not (dims[at] + dims[at + 1]).isdigit()
            else str(int(dims[at]) * int(dims[at + 1]))
        )
        if g.pick.random() < 0.5:
            joined = "-1"
        return g.add(f"{n}.{way}({', '.join([*dims[:at], joined, *dims[at + 2 :]])})", x, exact=True)
    if kind == "flatten" and r:
        start = g.pick.randrange(r)
        return g.add(f"torch.flatten({n}, {start}, {g.pick.choice([-1, g.pick.randrange(start, r)])})", x, exact=True)
    even = [a for a in range(r) if x.fixed(a) and x.first.shape[a] > 1]
    if kind in ("split", "unflatten") and even:
        at = g.pick.choice(even)
        one, two = factors(g, x.first.shape[at])
        if kind == "unflatten":
            return g.add(
                f"{n}.unflatten({at - g.pick.choice([0, r])}, ({one}, {g.pick.choice([two, -1])}))", x, exact=True
            )
        dims = [x.dim(a) for a in range(r)]
        return g.add(f"{n}.{way}({', '.join([*dims[:at], str(one), str(two), *dims[at + 1 :]])})", x, exact=True)
    if kind == "unsqueeze":
        return g.add(f"{n}.unsqueeze({g.pick.randint(-r - 1, r)})", x, exact=True)
    if kind == "squeeze" and r:
        ones = [a for a in range(r) if x.fixed(a) and x.first.shape[a] == 1]
        return g.add(f"{n}.squeeze({g.pick.choice(ones or [0])})" if not g.dynamic or ones else n, x, exact=True)
    if kind == "none":
        return g.add(f"{n}[{g.pick.choice(['None', ':, None', '..., None', 'None, ..., None'])}]", x, exact=True)
    if kind == "minus" and r:
        dims = [x.dim(a) for a in range(r)]
        dims[g.pick.randrange(r)] = "-1"
        return g.add(f"{n}.{way}({', '.join(dims)})", x, exact=True)
    if kind == "expand":
        return expand(g, x)
    if kind == "as":
        same = [
            v
            for v in g.pool
            if v is not x
            and v.rank
            and all(prod(t[0].shape) == prod(u[0].shape) for t, u in zip(v.data, x.data, strict=True))
        ]
        if same:
            y = g.pick.choice(same)
            return g.add(f"{n}.reshape({y.name}.shape)", x, y, exact=True)
    return g.add(f"{n}.reshape(-1)", x, exact=True)


def expand(g: Grower, x: Val) -> Val:
    n, r = x.name, x.rank
    kind = g.pick.choice(["expand", "repeat", "tile", "interleave", "lead"])
    if kind == "interleave":
        return g.add(f"{n}.repeat_interleave({g.pick.choice([2, 3])}, dim={axis(g, x)})", x, exact=True)
    if kind == "repeat":
        return g.add(
            f"{n}.repeat({', '.join(str(g.pick.choice([1, 1, 2, 3])) for _ in range(r + g.pick.choice([0, 0, 1])))})",
            x,
            exact=True,
        )
    if kind == "tile":
        return g.add(
            f"torch.tile({n}, ({', '.join(str(g.pick.choice([1, 2])) for _ in range(max(r, 1)))},))", x, exact=True
        )
    source = g.pick.choice([v for v in g.pool if v.rank] or [x])
    if not source.rank:
        return g.add(f"{n}.expand(3, 2)", x, exact=True)
    wide = [
        g.pick.choice([source.dim(0), "3", "2"]) if x.fixed(a) and x.first.shape[a] == 1 else "-1" for a in range(r)
    ]
    if kind == "lead" or not wide:
        wide.insert(0, g.pick.choice([source.dim(0), "2"]))
    reads = [x] + ([source] if any(source.name in w for w in wide) else [])
    return g.add(f"{n}.expand({', '.join(wide)})", *reads, exact=True)


def part(g: Grower, x: Val) -> Val:
    n, r = x.name, x.rank
    if not r:
        raise Rejected("no axes")
    kind = g.pick.choice(
        ["index", "index", "index", "narrow", "select", "chunk", "split", "sizes", "unbind", "diagonal", "tensor_split"]
    )
    at = axis(g, x)
    size, fixed = x.first.shape[at], x.fixed(at)
    if kind == "index":
        items = [one_index(g, x, a) for a in range(g.pick.randint(1, r))]
        if g.pick.random() < 0.25 and len(items) < r:
            items = ["...", *reversed([one_index(g, x, r - 1 - i) for i in range(len(items))])]
        return g.add(f"{n}[{', '.join(items)}]", x, exact=True)
    if kind == "narrow" and fixed:
        start = g.pick.randrange(size)
        return g.add(f"{n}.narrow({at}, {start}, {g.pick.randint(1, size - start)})", x, exact=True)
    if kind == "select":
        return g.add(f"{n}.select({at}, {g.pick.choice([0, -1])})", x, exact=True)
    if kind == "diagonal" and r >= 2:
        return g.add(
            f"torch.diagonal({n}, {g.pick.choice([0, 0, 1, -1])}, {g.pick.choice(['0, 1', '-2, -1'])})", x, exact=True
        )
    if not fixed or size < 2:
        raise Rejected("no parts")
    if kind in ("chunk", "tensor_split"):
        count = g.pick.randint(2, min(4, size))
        made = g.add(f"{n}.{kind}({count}, dim={at})", x, exact=True, count=len(getattr(x.first, kind)(count, dim=at)))
    elif kind == "split":
        step = g.pick.randint(max(1, size // 4), max(1, size - 1))
        made = g.add(f"{n}.split({step}, dim={at})", x, exact=True, count=-(-size // step))
    elif kind == "unbind" and size <= 4:
        made = g.add(f"torch.unbind({n}, {at})", x, exact=True, count=size)
    else:
        cut = g.pick.randrange(1, size)
        made = g.add(f"torch.split({n}, [{cut}, {size - cut}], dim={at})", x, exact=True, count=2)
    return made[0] if isinstance(made, list) else made


def one_index(g: Grower, x: Val, at: int) -> str:
    size = x.first.shape[at]
    if not x.fixed(at):
        return g.pick.choice([":", ":", ":1", "0", "-1", "-1:", f":{x.name}.size({at}) // 2 + 1"])
    kind = g.pick.choice(["all", "slice", "slice", "step", "one", "end", "negative"])
    low = g.pick.randrange(size)
    return {
        "all": ":", "slice": f"{low}:{g.pick.randint(low + 1, size)}",
        "step": f"{g.pick.choice(['', str(low)])}::{g.pick.choice([2, 3])}",
        "one": str(g.pick.choice([low, low - size])), "end": f"{-g.pick.randint(1, size)}:",
        "negative": f":{-g.pick.randint(1, size - 1)}" if size > 1 else ":",
    }[kind]  # fmt: skip


def join(g: Grower, x: Val) -> Val:
    if not x.rank:
        raise Rejected("no axes")
    at = axis(g, x)
    place = at % x.rank
    kind = g.pick.choice(["cat", "cat", "cat", "stack", "hstack", "self"])
    alike = [v for v in g.pool if v is not x and v.rank == x.rank and (v.dtype is x.dtype or g.pick.random() < 0.2)]
    if kind == "stack":
        fit = [v for v in alike if v.shape == x.shape]
        other = g.pick.choice(fit) if fit else x
        return g.add(
            f"torch.stack([{x.name}, {other.name}], {g.pick.randint(-x.rank - 1, x.rank)})", x, other, exact=True
        )
    if kind == "self":
        return g.add(
            f"torch.cat([{x.name}, {x.name}{g.pick.choice(['', ' * 2', '[..., :1]' if place == x.rank - 1 else ''])}], {at})",
            x,
        )
    fit = [v for v in alike if all(i == place or a == b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)))]
    others = g.pick.sample(fit, min(len(fit), g.pick.randint(1, 2))) if fit else []
    if not others:
        shape: list[int | str] = []
        for i, sizes in enumerate(x.shape):
            found = sizes[0] if len(set(sizes)) == 1 else symbol_of(g, sizes)
            if i == place and g.pick.random() < 0.5:
                found = g.pick.choice([1, 2, 5])
            if found is None:
                raise Rejected("a size nothing else has")
            shape.append(found)
        others = [g.input(x.dtype, shape, -3, 4)]
    row = [x, *others]
    g.pick.shuffle(row)
    word = g.pick.choice(["torch.cat", "torch.concat"])
    return g.add(f"{word}([{', '.join(v.name for v in row)}], dim={at})", *row, exact=True)


def pad(g: Grower, x: Val) -> Val:
    count = g.pick.randint(1, max(1, min(x.rank, 3)))
    amounts = [g.pick.choice([0, 1, 2, 1]) for _ in range(2 * count)]
    if g.pick.random() < 0.2 and x.rank and x.first.shape[-1] > 2 and x.fixed(x.rank - 1):
        amounts[g.pick.randrange(2)] = -1
    kind = g.pick.random()
    if kind < 0.15 and x.is_float and x.rank in (3, 4):
        mode = g.pick.choice(["reflect", "replicate", "circular"])
        return g.add(f"F.pad({x.name}, ({', '.join(['1', '1'] * (x.rank - 2))}), mode='{mode}')", x, exact=True)
    value = "" if g.pick.random() < 0.5 else f", value={g.pick.choice([1, -2, 0])}"
    return g.add(f"F.pad({x.name}, ({', '.join(map(str, amounts))}){value})", x, exact=True)


def create(g: Grower, x: Val) -> Val:
    """A tensor that no input decides, sizes apart."""
    n = x.name
    dim = x.dim(g.pick.randrange(x.rank)) if x.rank else "4"
    reads = [x] if n in dim else []
    text = g.pick.choice([
        f"torch.arange({dim})", f"torch.arange({dim}).float()", f"torch.arange(1, {dim} + 1)", f"torch.arange(0, {dim} * 2, 2)",
        f"torch.ones({dim}, {dim})", f"torch.ones({dim}, {dim}).tril()", f"torch.triu(torch.ones({dim}, {dim}), diagonal=1)",
        f"torch.eye({dim})", f"torch.zeros({dim}, 1)", f"torch.full(({dim},), 0.5)",
        f"torch.arange({dim})[:, None] >= torch.arange({dim})[None, :]",
        f"torch.ones({dim}, {dim}, dtype=torch.bool).tril()", f"torch.arange({dim}, dtype=torch.float32)",
        f"torch.arange({dim}) % 3",
        "torch.tensor([0.5, 1.0, -2.0])", "torch.tensor(1.5)", "torch.linspace(0, 1, 5)", "torch.tensor([1, 0, 2])",
    ])  # fmt: skip
    if g.pick.random() < 0.3:
        reads = [x]
        text = g.pick.choice(
            [
                f"torch.zeros_like({n})",
                f"torch.ones_like({n})",
                f"torch.full_like({n}, 2)",
                f"{n}.new_zeros({dim}, 2)",
                f"{n}.new_ones(3)",
            ]
        )
    return g.add(text, *reads, exact="linspace" not in text)


def look_up(g: Grower, x: Val) -> Val:
    """Elements picked by integer tensors."""
    n, r = x.name, x.rank
    if not r:
        raise Rejected("no axes")
    at = axis(g, x)
    size = x.first.shape[at]
    kind = g.pick.choice(
        ["select", "take", "gather", "along", "embedding", "embedding", "two", "list", "one_hot", "fancy"]
    )
    if kind == "embedding":
        count, width = g.pick.choice([5, 7, 11]), g.pick.choice([1, 3, 8, 16, 24])
        layer = g.layer(f"nn.Embedding({count}, {width})")
        which = indices(g, count)
        return g.add(f"{layer}({which.name})", which, exact=True)
    if kind == "one_hot":
        count = g.pick.choice([4, 6])
        which = indices(g, count)
        return g.add(f"F.one_hot({which.name}, {count})", which, exact=True)
    if kind == "select" and x.fixed(at):
        ids = indices(g, size, rank=1)
        return g.add(f"torch.index_select({n}, {at}, {ids.name})", x, ids, exact=True)
    if kind == "list" and x.fixed(0):
        first = x.first.shape[0]
        picked = ", ".join(str(g.pick.randrange(-first, first)) for _ in range(3))
        return g.add(f"{n}[[{picked}]]" if g.pick.random() < 0.5 else f"{n}[torch.tensor([{picked}])]", x, exact=True)
    if kind == "take" and x.fixed(r - 1):
        last = indices(g, x.first.shape[-1])
        return g.add(f"{n}[..., {last.name}]", x, last, exact=True)
    if kind == "two" and r >= 2 and x.fixed(0) and x.fixed(1):
        one, two = indices(g, x.first.shape[0], rank=1), indices(g, x.first.shape[1], rank=1)
        return g.add(f"{n}[{one.name}, {two.name}]", x, one, two, exact=True)
    if kind in ("gather", "along") and x.fixed(at):
        shape: list[int | str] = []
        for i, sizes in enumerate(x.shape):
            found = sizes[0] if len(set(sizes)) == 1 else symbol_of(g, sizes)
            if i == at % r:
                found = g.pick.choice([1, 2, size])
            if found is None:
                raise Rejected("a size nothing else has")
            shape.append(found)
        which = g.input(torch.int64, shape, 0, size)
        word = "torch.gather({}, {}, {})" if kind == "gather" else "torch.take_along_dim({0}, {2}, {1})"
        return g.add(word.format(n, at, which.name), x, which, exact=True)
    if x.fixed(0):
        which = indices(g, x.first.shape[0])
        return g.add(f"{n}[{which.name}]", x, which, exact=True)
    raise Rejected("nothing to index")


def indices(g: Grower, below: int, rank: int | None = None) -> Val:
    """Integers in [0, below): an input, or what is there already."""

    def fits(v: Val) -> bool:
        return (
            v.dtype in (torch.int64, torch.int32)
            and v.rank in (1, 2)
            and all(int(t.min()) >= 0 and int(t.max()) < below for lanes in v.data for t in lanes)
        )

    fit = [v for v in g.pool if fits(v) and (rank is None or v.rank == rank)]
    if fit and g.pick.random() < 0.5:
        return g.pick.choice(fit)
    rank = rank or g.pick.choice([1, 1, 2])
    shape = (
        [g.pick.choice(["b", "s", 1, 3, 4]) for _ in range(rank)]
        if rank == 2 or g.pick.random() < 0.5
        else [g.pick.choice([1, 3, 5])]
    )
    return g.input(
        g.pick.choice([torch.int64, torch.int64, torch.int32]) if rank != 1 else torch.int64, shape, 0, below
    )
