"""From a seed to a random module: which statements, how many, and what is handed out."""

from __future__ import annotations

from collections.abc import Callable

import random_modules_elementwise as elementwise
import random_modules_idioms as idioms
import random_modules_layers as layers
import random_modules_order as order
import random_modules_shape as shape
import torch
from random_modules import Program
from random_modules_grower import Grower, Rejected, Val

#: Statements and how often they are drawn.
KINDS: tuple[tuple[Callable[[Grower, Val], Val], int], ...] = (
    (elementwise.unary, 12), (elementwise.binary, 14), (elementwise.cast, 5), (elementwise.compare, 3),
    (elementwise.select, 5), (elementwise.in_place, 3), (elementwise.sized, 2), (idioms.more, 4), (shape.reorder, 8),
    (shape.view, 9), (shape.expand, 3), (shape.part, 10), (shape.join, 7), (shape.pad, 3), (shape.create, 4),
    (shape.look_up, 6), (layers.linear, 12), (layers.convolution, 5), (layers.pool, 3), (layers.norm, 7),
    (layers.softmax, 4), (layers.reduce, 9), (order.order, 2), (order.running, 2), (order.scatter, 3),
    (idioms.attention, 4), (idioms.block, 2), (idioms.library, 1), (idioms.vision, 2), (idioms.text, 2),
    (idioms.recurrence, 1),
)  # fmt: skip

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 24, 31, 32, 33, 64, 100, 129)


def start(g: Grower) -> None:
    """The first inputs: a sequence, an image, rows, integers."""
    kind = g.pick.random()
    width = g.pick.choice(SIZES)
    if kind < 0.3:
        g.input(torch.float32, ["b", "s", width])
    elif kind < 0.45:
        g.input(
            torch.float32,
            ["b", g.pick.choice([1, 2, 3, 4, 6, 8]), g.pick.choice([4, 5, 8, 9, 12]), g.pick.choice([4, 7, 8, 11])],
        )
    elif kind < 0.6:
        g.input(torch.float32, ["b", width])
    for _ in range(g.pick.randint(1, 2)):
        rank = g.pick.choice([0, 1, 2, 2, 3, 3, 4])
        dtype = g.pick.choice(
            [torch.float32] * 7
            + [
                torch.int64,
                torch.int32,
                torch.bool,
                torch.bfloat16,
                torch.int8,
                torch.uint8,
                torch.float64,
                torch.float16,
            ]
        )
        low, high = (0, 2) if dtype is torch.bool else (0, 9) if dtype is torch.uint8 else (-4, 5)
        g.input(dtype, [g.pick.choice(["b", "s", *SIZES[:12]]) for _ in range(rank)], low, high)


def precision_of(seed: int) -> str:
    """Most modules are compiled as they are; every eighth in a precision of its own."""
    return {3: "bf16", 7: "w8a8-dynamic"}.get(seed % 16 if seed % 16 in (3, 7) else -1, "f32")


def random_program(seed: int, length: int = 9) -> Program:
    """The module of ``seed``; equal seeds give equal modules."""
    g = Grower(
        seed, precision_of(seed), dynamic=seed % 5 in (1, 3), special=seed % 20 == 9 and precision_of(seed) == "f32"
    )
    start(g)
    kinds, weights = [k for k, _ in KINDS], [w for _, w in KINDS]
    if g.precision != "f32":
        weights = [w * (4 if k in (layers.linear, idioms.attention, idioms.block) else 1) for k, w in KINDS]
    wanted = g.pick.randint(3, length + 4)
    for _ in range(wanted * 4):
        x = g.pick.choice(g.pool[-g.pick.choice([2, 4, 12]) :])
        kind = g.pick.choices(kinds, weights)[0]
        mark = g.mark()
        try:
            kind(g, x)
        except Rejected:
            g.undo(mark)
        if len(g.body) >= wanted:
            break
    if not g.body:
        g.add(f"{g.pool[0].name} * 2", g.pool[0])
    return finished(g)


def finished(g: Grower) -> Program:
    """With outputs: the newest values, now and then an input, a value twice, a size, a dict."""
    made = [v for v in g.pool if v.depth] or g.pool
    read = {name for s in g.body for name in s.reads}
    leaves = [v for v in made[:-1] if v.name not in read]
    outputs = [made[-1], *g.pick.sample(leaves, min(len(leaves), 4))]
    outputs += g.pick.sample(made[-6:], min(len(made[-6:]), g.pick.choice([0, 0, 0, 1])))
    chance = g.pick.random()
    if chance < 0.06:
        outputs.append(g.pool[0])  # an input handed through
    elif chance < 0.1:
        outputs.append(outputs[0])
    names = [v.name for v in outputs]
    result = ", ".join(names)
    if chance > 0.96:
        result = "{" + ", ".join(f"'{'abcdefgh'[i]}': {n}" for i, n in enumerate(names)) + "}"
    elif 0.9 < chance < 0.94:
        result = f"[{result}], ({names[0]}, None)"
    elif 0.94 < chance < 0.96 and outputs[0].rank:
        result = f"{result}, {names[0]}.size(0)"
    return g.program(outputs, result)
