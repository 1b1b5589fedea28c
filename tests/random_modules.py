"""Random PyTorch modules as text, numerically tame: what the fuzz of the whole way from eager to machine code compiles.

A module is a list of statements. While it grows, every statement runs at each size of the module in three *lanes*: as
written, and twice shaken, where every inexact statement is off by many times its rounding error. A statement whose result
jumps between the lanes (a comparison of two nearly equal numbers, an argmax with two winners, a cancellation) is not
taken, so two correct executions of a module never disagree on an integer, and how far the lanes lie apart says how far two
correct executions may be apart in the floats: conditioning is measured, not guessed.
"""

from __future__ import annotations

import linecache
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Env = Mapping[str, int]

#: The sizes a module with dynamic dimensions is grown and run at; it is exported at the first.
SIZES: tuple[dict[str, int], ...] = ({"b": 3, "s": 5}, {"b": 1, "s": 17}, {"b": 2, "s": 1})
#: Of a module with fixed dimensions.
FIXED: tuple[dict[str, int], ...] = ({"b": 3, "s": 5},)

#: Rounding error of one inexact statement by element type, relative to its result.
NOISE = {torch.float64: 2.0**-50, torch.float32: 2.0**-21, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6.5}
#: The error of what carries the weights where a plan lowers its precision, relative to the root mean square of the result.
PLAN_NOISE = {"f32": 0.0, "bf16": 6e-3, "w8a8-dynamic": 1.2e-2}
#: How many times its noise a statement is off when it is asked whether it jumps; of the types with few bits, less.
SHAKE, SHAKE_LOW = 32.0, 3.0
#: Largest distance of a shaken result from the plain one, relative to its largest element, by precision of the module.
SPREAD = {"f32": 2e-3, "bf16": 0.1, "w8a8-dynamic": 0.15}
LARGEST, ELEMENTS = 1000.0, 20000

PREAMBLE = '''\
import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn


def fill(module, name):
    """Weights that depend on the name alone."""
    for key, t in [*module.named_parameters(), *module.named_buffers()]:
        if not t.is_floating_point():
            continue
        g = torch.Generator().manual_seed(zlib.crc32(f"{name}.{key}".encode()))
        fresh = torch.randn(t.shape, generator=g).clamp(-3, 3)
        if t.dim() > 1:
            fresh = fresh / t[0].numel() ** 0.5
        elif "var" in key:
            fresh = fresh.abs() + 0.5
        else:
            fresh = fresh * 0.2 + (key.endswith("weight") and t.dim() == 1)
        t.data.copy_(fresh)
    return module


def draw(seed, dtype, shape, low, high, special=False):
    """Input data; integers lie in [low, high); ``special``: here and there a NaN, an infinity or a zero."""
    g = torch.Generator().manual_seed(seed * 1000 + sum((i + 2) * d for i, d in enumerate(shape)))
    if dtype.is_floating_point:
        x = torch.randn(shape, generator=g).clamp(-3, 3)
        if special:
            odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
            which = torch.randint(0, 5, shape, generator=g)
            x = torch.where(torch.rand(shape, generator=g) < 0.1, odd[which], x)
        return x.to(dtype)
    return torch.randint(low, high, shape, generator=g).to(dtype)
'''

LANES = 3
_scope: dict[str, Any] = {}
exec(compile(PREAMBLE, "<preamble>", "exec"), _scope)


@dataclass(frozen=True)
class Input:
    """A parameter of ``forward``: sizes are numbers or the names of dynamic ones."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]
    low: int = 0
    high: int = 2
    seed: int = 0
    special: bool = False

    @property
    def drawn(self) -> str:
        """The expression that makes its data."""
        shape = "".join(f"{d}, " for d in self.shape)
        special = ", special=True" if self.special else ""
        return f"draw({self.seed}, {self.dtype}, ({shape}), {self.low}, {self.high}{special})"

    def make(self, env: Env) -> Tensor:
        return eval(self.drawn, {**_scope, **env})


@dataclass(frozen=True)
class Statement:
    """One line of ``forward``.

    Attributes:
        text: ``v3 = torch.relu(v1)``.
        writes, reads: names of tensors.
        exact: equal operands give equal results in every correct execution.
        weighs: a plan may lower its precision.
    """

    text: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    exact: bool = False
    weighs: bool = False


@dataclass(frozen=True)
class Program:
    """A module as data, so that it can be cut down."""

    seed: int
    precision: str
    inputs: tuple[Input, ...]
    layers: tuple[tuple[str, str], ...]  # name -> expression
    body: tuple[Statement, ...]
    outputs: tuple[str, ...]
    result: str = ""  # the expression of the return statement

    @property
    def dynamic(self) -> bool:
        """Whether a size varies."""
        return any(isinstance(d, str) for i in self.inputs for d in i.shape)

    @property
    def sizes(self) -> tuple[dict[str, int], ...]:
        return SIZES if self.dynamic else FIXED

    def pruned(self) -> Program:
        """Without what no output reads; at least one input stays."""
        wanted, body = set(self.outputs), []
        for s in reversed(self.body):
            if wanted & set(s.writes):
                body.append(s)
                wanted |= set(s.reads)
        text = " ".join(s.text for s in body)
        layers = tuple((n, e) for n, e in self.layers if f"self.{n}" in text and _named(n, text))
        inputs = tuple(i for i in self.inputs if i.name in wanted) or self.inputs[:1]
        return replace(self, inputs=inputs, layers=layers, body=tuple(reversed(body)))

    def with_outputs(self, *names: str) -> Program:
        return replace(self, outputs=names, result=", ".join(names)).pruned()

    @property
    def source(self) -> str:
        """The module as a Python file that runs by itself."""
        init = [f"self.{name} = fill({text}, {name!r})" for name, text in self.layers]
        forward = [*(s.text for s in self.body), f"return {self.result or ', '.join(self.outputs)}"]
        args = ", ".join(i.name for i in self.inputs)
        lines = [
            PREAMBLE,
            "",
            "class Model(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in init),
            "",
            f"    def forward(self, {args}):",
            *(f"        {line}" for line in forward),
            "",
            "",
            "def inputs(b=3, s=5):",
            f"    return ({', '.join(i.drawn for i in self.inputs)},)",
            "",
            "",
            f"PRECISION = {self.precision!r}",
            f"DYNAMIC = {self.shapes_text()}",
        ]
        return "\n".join(lines) + "\n"

    def shapes_text(self) -> str:
        """``dynamic_shapes`` of torch.export, as text."""
        if not self.dynamic:
            return "None"
        limit = {"b": 64, "s": 128}
        parts = []
        for i in self.inputs:
            moving = [
                f'{a}: torch.export.Dim("{d}", min=1, max={limit[d]})'
                for a, d in enumerate(i.shape)
                if isinstance(d, str)
            ]
            parts.append("{" + ", ".join(moving) + "}")
        return f"({', '.join(parts)},)"

    def load(self) -> Loaded:
        """The module as Python sees it."""
        path = f"<random module {self.seed}>"
        text = self.source
        linecache.cache[path] = (len(text), None, text.splitlines(True), path)
        scope: dict[str, Any] = {}
        exec(compile(text, path, "exec"), scope)
        return Loaded(scope["Model"]().eval(), scope["inputs"], scope["DYNAMIC"])


@dataclass(frozen=True)
class Loaded:
    """A module, its inputs by size, and the dynamic shapes it is exported with."""

    model: nn.Module
    inputs: Any
    shapes: Any


def _named(name: str, text: str) -> bool:
    at = text.find(f"self.{name}")
    while at >= 0:
        end = at + 5 + len(name)
        if not text[end : end + 1].isalnum():
            return True
        at = text.find(f"self.{name}", at + 1)
    return False


# -- lanes -------------------------------------------------------------------------------------------------------------
class Lane:
    """One execution of the statements at one size; lane 0 is as written, the others are shaken."""

    def __init__(self, env: Env, number: int, precision: str, amount: float = SHAKE) -> None:
        self.values: dict[str, Any] = {}
        self.precision = precision
        self.holder = nn.Module()
        self.scope = {"torch": torch, "F": F, "nn": nn, "math": math, "self": self.holder}
        self.shaken = number > 0
        self.amount, self.least = amount, min(amount, SHAKE_LOW)
        self.random = torch.Generator().manual_seed(number * 17 + sum(env.values()))
        self.env = env

    def shake(self, x: Any, amount: float, weighs: bool) -> Any:
        """``x`` off by some noise; anything but a tensor of floats as it is."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
            return x
        wide = x.double()
        finite = wide[wide.isfinite()]
        if not finite.numel():
            return x
        noise = torch.randn(x.shape, generator=self.random, dtype=torch.float64).clamp(-2, 2)
        times = self.least if x.dtype in (torch.bfloat16, torch.float16) else self.amount
        size = amount * times * NOISE[x.dtype] * (wide.abs() + 0.25 * finite.abs().max())
        if weighs:
            size = size + amount * self.least * PLAN_NOISE[self.precision] * finite.square().mean().sqrt()
        return torch.where(wide.isfinite(), wide + noise * size, wide).to(x.dtype)

    def run(self, statement: Statement) -> dict[str, Any]:
        """The values the statement writes; the lane itself changes only by :meth:`keep`."""
        scope = dict(self.scope)
        for name in statement.reads:
            value = self.values[name]
            if self.shaken and not statement.exact:
                value = self.shake(value, 0.1, False)
            scope[name] = value
        with torch.no_grad():
            exec(statement.text, scope)
        found = {name: scope[name] for name in statement.writes}
        if self.shaken and not statement.exact:
            found = {n: self.shake(v, 1.0, statement.weighs) for n, v in found.items()}
        return found


def fill(layer: nn.Module, name: str) -> nn.Module:
    """A layer with the weights it has in the module's text."""
    return _scope["fill"](layer, name).eval()


def lanes_of(program: Program, env: Env, amount: float = 4.0) -> list[dict[str, Any]]:
    """Every value of the program by lane, shaken by ``amount`` times the noise."""
    model = program.load().model
    found = []
    for number in range(LANES):
        lane = Lane(env, number, program.precision, amount)
        lane.scope["self"] = model
        lane.values = {i.name: i.make(env) for i in program.inputs}
        for statement in program.body:
            lane.values.update(lane.run(statement))
        found.append(lane.values)
    return found


def shown(source: str) -> str:
    """Source as it is printed in reports."""
    return textwrap.indent(source, "    ")
