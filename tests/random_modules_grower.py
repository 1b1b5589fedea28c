"""How a random module grows: a pool of tensors in every lane and at every size, and statements that are taken if tame."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from random_modules import ELEMENTS, FIXED, LANES, LARGEST, SIZES, SPREAD, Input, Lane, Program, Statement, fill
from torch import Tensor, nn


@dataclass
class Val:
    """A tensor of the module while it grows: its data by size and lane."""

    name: str
    data: list[list[Tensor]]
    inexact: bool = False
    depth: int = 0

    @property
    def first(self) -> Tensor:
        return self.data[0][0]

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    @property
    def rank(self) -> int:
        return self.first.dim()

    @property
    def is_float(self) -> bool:
        return self.dtype.is_floating_point

    def size(self, axis: int) -> tuple[int, ...]:
        """The sizes of an axis, one per environment."""
        return tuple(lane[0].shape[axis] for lane in self.data)

    def fixed(self, axis: int) -> bool:
        return len(self.data) == 1 or len(set(self.size(axis))) == 1

    def dim(self, axis: int) -> str:
        """A size as an expression."""
        return str(self.first.shape[axis]) if self.fixed(axis) else f"{self.name}.size({axis})"

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.size(a) for a in range(self.rank))


class Rejected(Exception):
    """A statement that does not fit; the message says why."""


@dataclass
class Grower:
    """Grows one program a statement at a time."""

    seed: int
    precision: str = "f32"
    dynamic: bool = False
    special: bool = False
    pick: random.Random = field(init=False)
    inputs: list[Input] = field(default_factory=list)
    layers: dict[str, str] = field(default_factory=dict)
    body: list[Statement] = field(default_factory=list)
    pool: list[Val] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pick = random.Random(self.seed)
        self.envs = SIZES if self.dynamic else FIXED
        self.lanes = [[Lane(env, n, self.precision) for n in range(LANES)] for env in self.envs]
        self._count = 0

    # -- what the generators of statements call ------------------------------------------------------------------------
    def name(self, stem: str = "v") -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, dtype: torch.dtype, shape: Sequence[int | str], low: int = 0, high: int = 2) -> Val:
        """A new parameter of ``forward``."""
        if not self.dynamic:
            shape = [FIXED[0][d] if isinstance(d, str) else d for d in shape]
        special = self.special and dtype.is_floating_point
        entry = Input(self.name("x"), dtype, tuple(shape), low, high, self.seed * 100 + self._count, special)
        self.inputs.append(entry)
        for env, lanes in zip(self.envs, self.lanes, strict=True):
            tensor = entry.make(env)
            for lane in lanes:
                lane.values[entry.name] = tensor
        value = Val(entry.name, [[lane.values[entry.name] for lane in lanes] for lanes in self.lanes])
        self.pool.append(value)
        return value

    def layer(self, text: str, share: bool = True) -> str:
        """``self.name`` of a layer; now and then one that is there already."""
        same = [n for n, t in self.layers.items() if t == text]
        if share and same and self.pick.random() < 0.3:
            return f"self.{self.pick.choice(same)}"
        name = self.name("m")
        made = fill(eval(text, {"nn": nn, "torch": torch}), name)
        self.layers[name] = text
        for lanes in self.lanes:
            for lane in lanes:
                setattr(lane.holder, name, made)
        return f"self.{name}"

    def parameter(self, *shape: int) -> str:
        """``self.name`` of a parameter."""
        sizes = "".join(f"{d}, " for d in shape)
        return self.layer(f"nn.ParameterList([torch.zeros(({sizes}))])") + "[0]"

    def add(
        self, text: str, *reads: Val, exact: bool = False, weighs: bool = False, keep: bool = True, count: int = 1
    ) -> Any:
        """Append ``name = text``, if its result is tame in every lane.

        Returns:
            The value, or a list of ``count`` of them.

        Raises:
            Rejected: it is not, or torch refuses it.
        """
        if self.special and "gelu" in text:
            raise Rejected("torch's gelu of infinity is NaN or infinity, by the layout of its operand")
        names = tuple(self.name() for _ in range(count))
        target = names[0] if count == 1 else ", ".join(names)
        statement = Statement(f"{target} = {text}", names, tuple(dict.fromkeys(v.name for v in reads)), exact, weighs)
        results = []
        for lanes in self.lanes:
            row = []
            for lane in lanes:
                try:
                    row.append(lane.run(statement))
                except Exception as error:
                    raise Rejected(f"{statement.text}: {error}") from error
            results.append(row)
        inexact = any(v.inexact for v in reads) or not exact
        made = []
        for name in names:
            data = [[found[name] for found in row] for row in results]
            why = tame(data, self.precision, self.special)
            if why:
                raise Rejected(f"{statement.text}: {why}")
            made.append(
                Val(
                    name, data, inexact and data[0][0].is_floating_point(), max((v.depth for v in reads), default=0) + 1
                )
            )
        for lanes, row in zip(self.lanes, results, strict=True):
            for lane, found in zip(lanes, row, strict=True):
                lane.values.update(found)
        self.body.append(statement)
        if keep:
            self.pool.extend(made)
        return made[0] if count == 1 else made

    def write(self, x: Val, text: str, *reads: Val) -> Val:
        """A statement that changes a tensor in place: a clone of ``x`` under a new name, then ``text`` with ``{}`` as it."""
        fresh = self.name()
        lines = f"{fresh} = {x.name}.clone(); {text.format(fresh)}"
        values = []
        statement = Statement(lines, (fresh,), tuple(dict.fromkeys(v.name for v in (x, *reads))))
        for lanes in self.lanes:
            try:
                values.append([lane.run(statement) for lane in lanes])
            except Exception as error:
                raise Rejected(f"{lines}: {error}") from error
        data = [[found[fresh] for found in row] for row in values]
        why = tame(data, self.precision, self.special)
        if why:
            raise Rejected(f"{lines}: {why}")
        for lanes, row in zip(self.lanes, values, strict=True):
            for lane, found in zip(lanes, row, strict=True):
                lane.values.update(found)
        self.body.append(statement)
        made = Val(fresh, data, data[0][0].is_floating_point(), x.depth + 1)
        self.pool.append(made)
        return made

    def undo(self, mark: tuple[int, int, int, int]) -> None:
        """Back to what :meth:`mark` saw."""
        inputs, body, pool, _ = mark
        del self.inputs[inputs:], self.body[body:], self.pool[pool:]

    def mark(self) -> tuple[int, int, int, int]:
        return len(self.inputs), len(self.body), len(self.pool), len(self.layers)

    def program(self, outputs: Sequence[Val], result: str = "") -> Program:
        """What has grown, cut down to what the outputs read."""
        names = tuple(v.name for v in outputs)
        whole = Program(
            self.seed, self.precision, tuple(self.inputs), tuple(self.layers.items()), tuple(self.body), names, result
        )
        return whole.pruned()


def tame(data: Sequence[Sequence[Any]], precision: str, special: bool = False) -> str | None:
    """Why a result is not to be used: None if it is small, finite, and much the same in every lane.

    Args:
        data: by size and lane.
        precision: of the module.
        special: NaN and infinity may be among the numbers, at the same places in every lane.
    """
    for plain, *shaken in data:
        if not isinstance(plain, Tensor):
            return "no tensor"
        if plain.dim() > 5 or plain.numel() > ELEMENTS or not plain.numel():
            return "too many axes or elements, or none"
        if plain.dtype.is_complex or plain.dtype is torch.int16:
            return "an element type that is not tried"
        if not plain.is_floating_point():
            if any(not torch.equal(plain, s) for s in shaken):
                return "it jumps"
            if plain.dtype is not torch.bool and plain.long().abs().max() > 10**6:
                return "too large"
            continue
        wide, others = plain.double(), [s.double() for s in shaken]
        finite = wide.isfinite()
        if not finite.all():
            if not special or not finite.any():
                return "not finite"
            if any(not torch.equal(finite, s.isfinite()) for s in others):
                return "it jumps"
            if any(not torch.equal(wide[~finite].nan_to_num(), s[~finite].nan_to_num()) for s in others):
                return "it jumps"
        largest = float(wide[finite].abs().max())
        if largest > LARGEST:
            return "too large"
        limit = SPREAD[precision]
        if plain.dtype in (torch.bfloat16, torch.float16):
            limit = max(limit, 0.15)
        if any(s.shape != wide.shape or float((s - wide)[finite].abs().max()) > limit * largest for s in others):
            return "it is ill-conditioned"
    return None
