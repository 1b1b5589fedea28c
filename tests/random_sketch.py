"""Random graphs over the whole op table, numerically tame: what a fuzz test compiles and compares.

Two executions of one graph round differently, so a step that jumps (``floor``, ``eq``, a cast to an integer, quantisation)
only ever reads *exact* values: inputs, integers, and what exact ops make of them. Each value carries a bound on its
magnitude, so that nothing overflows, and the least precise type among its ancestors, by which it is compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from graph_harness import TOLERANCE, B, S, Sketch

from planish.compiler.dims import Dim, floordiv, product
from planish.compiler.errors import PassError
from planish.compiler.graph import Value
from planish.compiler.types import DType

F32, F64, F16, BF16, I64, I32, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "bool"))
SMALL = (1, 2, 3, 4, 6, 8)
LIMIT = 300.0


@dataclass(frozen=True)
class Facts:
    """Of one value: whether it is the same in every execution, its largest magnitude, the least precise type before it."""

    exact: bool
    bound: float
    rough: DType


class Fuzz:
    """Grows one sketch, an op at a time."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self.g = Sketch()
        self.g._rng = np.random.default_rng(seed)
        self.facts: dict[Value, Facts] = {}
        self.pool: list[Value] = []
        for symbol in (B, S):
            self.input((symbol,), F32)
        for _ in range(self.pick.randint(1, 3)):
            self.pool.append(
                self.input(self.shape(), self.pick.choice([F32, F32, F32, F32, BF16, F64, I64, I32, BOOL]))
            )

    # -- values --------------------------------------------------------------------------------------------------------
    def input(self, shape: tuple[Dim, ...], dtype: DType, low: int = -3, high: int = 4) -> Value:
        value = self.g.input(*shape, dtype=dtype, low=low, high=high)
        draw = self.g.data[value.name]
        if dtype.is_float and dtype is not BF16:
            self.g.data[value.name] = lambda rng, size: np.clip(draw(rng, size), -3, 3)
        self.facts[value] = Facts(True, 6.0 if dtype.is_float else float(max(abs(low), abs(high))), self._rough(dtype))
        return value

    def const(self, shape: tuple[int, ...], dtype: DType, scale: float = 1.0) -> Value:
        array: np.ndarray = np.clip(self.g._rng.standard_normal(shape), -3, 3) * scale
        if not dtype.is_float:
            array = self.g._rng.integers(0, 3, shape)
        value = self.g.const(array, dtype)
        self.facts[value] = Facts(True, 3.0 * scale, self._rough(dtype))
        return value

    @staticmethod
    def _rough(dtype: DType) -> DType:
        return dtype if dtype.is_float else F64

    def dim(self, *choices: Dim) -> Dim:
        return self.pick.choice(choices)

    def shape(self) -> tuple[Dim, ...]:
        rank = self.pick.choice([0, 1, 2, 2, 3, 3, 3, 4])
        if rank == 4:
            return (B, self.dim(2, 4), self.dim(S, 4, 5), self.dim(4, 6))
        return tuple(self.dim(B, S, *SMALL) for _ in range(rank))

    def add(
        self, op: str, *inputs: Value | None, exact: bool = False, bound: float | None = None, **attrs: Any
    ) -> Value:
        """Insert an op; its facts follow from its operands and the given ones."""
        known = [self.facts[v] for v in inputs if v is not None]
        value = self.g(op, *inputs, **attrs)
        order = list(TOLERANCE)  # most precise first
        rough = max((f.rough for f in known), key=order.index, default=F64)
        if value.dtype.is_float:
            rough = max(rough, value.dtype, key=order.index)
        largest = max((f.bound for f in known), default=1.0)
        self.facts[value] = Facts(exact and all(f.exact for f in known), largest if bound is None else bound, rough)
        return value

    def peer(self, x: Value) -> Value:
        """A value of the same element type that broadcasts with ``x``."""
        fit = [v for v in self.pool if v.dtype is x.dtype and v is not x and self._broadcasts(v, x)]
        if fit and self.pick.random() < 0.6:
            return self.pick.choice(fit)
        shape = tuple(1 if self.pick.random() < 0.25 else d for d in x.shape)[self.pick.choice([0, 0, 0, 1]) :]
        if all(isinstance(d, int) for d in shape) and self.pick.random() < 0.5:
            return self.const(shape, x.dtype)  # type: ignore[arg-type]
        return self.input(shape, x.dtype)

    @staticmethod
    def _broadcasts(a: Value, b: Value) -> bool:
        pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
        return all(d == e or d == 1 or e == 1 for d, e in pairs)

    # -- growing -------------------------------------------------------------------------------------------------------
    def grow(self) -> None:
        """Add one op to the pool, if the one that was drawn fits."""
        x = self.pick.choice(self.pool[-6:])
        kinds: list[Callable[[Value], Value | None]] = [
            self.view, self.view, self.view, self.join, self.cast, self.unary, self.unary, self.binary, self.binary,
            self.compare, self.reduce, self.reduce, self.lookup, self.norm, self.norm, self.anchor, self.anchor,
            self.anchor, self.window, self.generated,
        ]  # fmt: skip
        try:
            new = self.pick.choice(kinds)(x)
        except PassError:  # the draw does not fit the op
            return
        if new is not None and self.facts[new].bound <= LIMIT and new.type.rank <= 5:
            self.pool.append(new)

    def view(self, x: Value) -> Value | None:
        rank = x.type.rank
        kind = self.pick.choice(["transpose", "merge", "split", "one", "expand", "slice", "drop"])
        keep = {"exact": True}
        if kind == "transpose":
            return self.add("transpose", x, perm=tuple(self.pick.sample(range(rank), rank)), **keep)
        if kind == "merge" and rank >= 2:
            at = self.pick.randrange(rank - 1)
            return self.add(
                "reshape", x, shape=(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :]), **keep
            )
        if kind == "split":
            even = [i for i, d in enumerate(x.shape) if isinstance(d, int) and d % 2 == 0 and d]
            if even and rank < 5:
                at = self.pick.choice(even)
                return self.add("reshape", x, shape=(*x.shape[:at], 2, x.shape[at] // 2, *x.shape[at + 1 :]), **keep)
        if kind == "one" and rank < 4:
            at = self.pick.randint(0, rank)
            return self.add("reshape", x, shape=(*x.shape[:at], 1, *x.shape[at:]), **keep)
        if kind == "drop" and 1 in x.shape:
            return self.add("reshape", x, shape=tuple(d for d in x.shape if d != 1), **keep)
        if kind == "expand" and rank < 4:
            wide = tuple(self.pick.choice([B, S, 3]) if d == 1 else d for d in x.shape)
            return self.add("expand", x, shape=(*((2,) if self.pick.random() < 0.3 else ()), *wide), **keep)
        if kind == "slice" and rank:
            at = self.pick.randrange(rank)
            size = x.shape[at]
            if not isinstance(size, int):
                end = self.pick.choice([size, floordiv(size + 1, 2), 1])
                return self.add("slice", x, axis=at, end=end, **keep)
            start = self.pick.randint(0, max(size - 1, 0))
            end = self.pick.randint(min(start + 1, size), size)
            return self.add(
                "slice",
                x,
                axis=at - self.pick.choice([0, rank]),
                start=start,
                end=end,
                step=self.pick.choice([1, 1, 2]),
                **keep,
            )
        return None

    def join(self, x: Value) -> Value | None:
        rank = x.type.rank
        if not rank:
            return None
        if self.pick.random() < 0.4:
            amounts = [tuple(self.pick.choice([0, 0, 1, 2]) for _ in range(rank)) for _ in range(2)]
            return self.add("pad", x, low=amounts[0], high=amounts[1], value=self.pick.choice([0, 1, 2]), exact=True)
        at = self.pick.randrange(rank)
        shape = (*x.shape[:at], self.pick.choice([S, 2, x.shape[at]]), *x.shape[at + 1 :])
        fit = [v for v in self.pool if v.type.with_shape(()) == x.type.with_shape(()) and v.type.rank == rank
               and all(i == at or a == b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)))]  # fmt: skip
        other = self.pick.choice(fit) if fit and self.pick.random() < 0.6 else self.input(shape, x.dtype)
        parts = [x, other] if self.pick.random() < 0.5 else [other, x, x]
        return self.add("concat", *parts, axis=at - self.pick.choice([0, rank]), exact=True)

    def cast(self, x: Value) -> Value | None:
        to = self.pick.choice([F32, F32, F64, BF16, F16, I64, I32, BOOL])
        if x.dtype.is_float and not to.is_float and not self.facts[x].exact:
            return None
        return None if to is x.dtype else self.add("cast", x, dtype=to, exact=True)

    def unary(self, x: Value) -> Value | None:
        known = self.facts[x]
        if x.dtype is BOOL:
            return self.add("logical_not", x, exact=True)
        if not x.dtype.is_float:
            return self.add(self.pick.choice(["neg", "abs", "sign", "relu"]), x, exact=True)
        kind = self.pick.random()
        if kind < 0.25:
            return self.add(self.pick.choice(["neg", "abs", "relu"]), x, exact=True)
        if kind < 0.35 and known.exact:
            return self.add(self.pick.choice(["floor", "ceil", "round", "trunc", "sign"]), x, exact=True)
        if kind < 0.5:
            positive = self.add("add", self.add("abs", x), self.const((), x.dtype), bound=known.bound + 3)
            positive = self.add("clamp", positive, min=0.25)
            op = self.pick.choice(["sqrt", "rsqrt", "log", "log1p", "reciprocal", "log2"])
            return self.add(op, positive, bound=max(4.0, known.bound))
        if kind < 0.6 and known.bound < 20:
            return self.add("square", x, bound=known.bound**2)
        if kind < 0.7:
            op = self.pick.choice(["exp", "expm1", "exp2", "sinh", "cosh"])
            return self.add(op, self.add("clamp", x, min=-4.0, max=3.0), bound=30.0)
        op = self.pick.choice(["tanh", "sigmoid", "erf", "silu", "gelu", "softplus", "elu", "leaky_relu", "hardswish", "sin",
                               "cos", "atan", "hardsigmoid", "mish", "clamp"])  # fmt: skip
        attrs: dict[str, Any] = {}
        if op == "clamp":
            attrs = {"min": -1.0, "max": 1.5}
        elif op == "gelu":
            attrs = {"approximate": self.pick.choice(["none", "tanh"])}
        return self.add(op, x, **attrs)

    def binary(self, x: Value) -> Value | None:
        y = self.peer(x)
        a, b = self.facts[x], self.facts[y]
        if x.dtype is BOOL:
            return self.add(self.pick.choice(["logical_and", "logical_or", "bitwise_xor"]), x, y, exact=True)
        op = self.pick.choice(["add", "sub", "mul", "maximum", "minimum", "add", "mul", "div", "where"])
        exact = op in ("maximum", "minimum") or not x.dtype.is_float
        if op == "where":
            condition = [v for v in self.pool if v.dtype is BOOL and self._broadcasts(v, x) and self._broadcasts(v, y)]
            chosen = self.pick.choice(condition) if condition else self.input(x.shape, BOOL)
            return self.add("where", chosen, x, y, exact=True, bound=max(a.bound, b.bound))
        if op == "div":
            if not x.dtype.is_float:
                return None
            y = self.add("clamp", self.add("abs", y), min=0.5)
            return self.add("div", x, y, bound=2 * a.bound)
        bound = {"add": a.bound + b.bound, "sub": a.bound + b.bound, "mul": a.bound * b.bound}.get(
            op, max(a.bound, b.bound)
        )
        if self.pick.random() < 0.5 and not (op == "sub" and self.pick.random() < 0.5):
            x, y = y, x
        return self.add(op, x, y, exact=exact, bound=bound)

    def compare(self, x: Value) -> Value | None:
        y = self.peer(x)
        if not (self.facts[x].exact and self.facts[y].exact):
            return None
        return self.add(self.pick.choice(["eq", "ne", "lt", "le", "gt", "ge"]), x, y, exact=True)

    def reduce(self, x: Value) -> Value | None:
        rank, known = x.type.rank, self.facts[x]
        if not rank:
            return None
        at = self.pick.randrange(rank)
        axes = tuple(self.pick.sample(range(-rank, 0), self.pick.choice([1, 1, 1, min(2, rank)])))
        keep = self.pick.random() < 0.5
        if x.dtype is BOOL:
            return self.add(self.pick.choice(["reduce_any", "reduce_all"]), x, axes=axes, keepdim=keep, exact=True)
        kind = self.pick.random()
        if kind < 0.1 and known.exact:
            return self.add(self.pick.choice(["argmax", "argmin"]), x, axis=at, keepdim=keep, exact=True, bound=64)
        if kind < 0.2:
            return self.add("cumsum", x, axis=at, exact=not x.dtype.is_float, bound=known.bound * 33)
        if kind < 0.4:
            return self.add(self.pick.choice(["reduce_max", "reduce_min"]), x, axes=axes, keepdim=keep, exact=True)
        if kind < 0.7 or not x.dtype.is_float:
            return self.add(
                "reduce_sum", x, axes=axes, keepdim=keep, exact=not x.dtype.is_float, bound=known.bound * 33
            )
        return self.add("reduce_mean", x, axes=axes, keepdim=keep)

    def norm(self, x: Value) -> Value | None:
        rank = x.type.rank
        if not rank or not x.dtype.is_float:
            return None
        kind = self.pick.choice(
            ["softmax", "log_softmax", "layer_norm", "layer_norm", "layer_norm2", "rms_norm", "group", "batch"]
        )
        if kind == "softmax":
            return self.add("softmax", x, axis=self.pick.randrange(rank), bound=1.0)
        if kind == "log_softmax":
            return self.add("log_softmax", x, axis=self.pick.randrange(-rank, 0), bound=2 * self.facts[x].bound + 5)
        if kind == "rms_norm":
            weight = self._affine(x, 1) if self.pick.random() < 0.5 else None
            return self.add("rms_norm", x, *([weight] if weight is not None else []), eps=1e-2, bound=20.0)
        if kind in ("layer_norm", "layer_norm2"):
            axes = 2 if kind == "layer_norm2" and rank > 1 else 1
            affine = [self._affine(x, axes) if self.pick.random() < 0.6 else None for _ in range(2)]
            return self.add("layer_norm", x, *affine, axes=axes, eps=1e-2, bound=30.0)
        channels = x.shape[1] if rank > 2 else None
        if not isinstance(channels, int) or not channels or x.dtype is not F32:
            return None
        rows = [self.const((channels,), x.dtype) for _ in range(3)]
        if kind == "batch":
            var = self.g.const(np.linspace(0.5, 2, channels), x.dtype)
            self.facts[var] = Facts(True, 2.0, x.dtype)
            return self.add("batch_norm", x, rows[0], rows[1], rows[2], var, bound=5 * self.facts[x].bound + 10)
        groups = self.pick.choice([n for n in (1, 2, 3) if channels % n == 0])
        return self.add("group_norm", x, rows[0], rows[1], groups=groups, eps=1e-2, bound=30.0)

    def _affine(self, x: Value, axes: int) -> Value | None:
        shape = x.shape[x.type.rank - axes :]
        return self.const(shape, x.dtype) if all(isinstance(d, int) for d in shape) else None  # type: ignore[arg-type]

    def lookup(self, x: Value) -> Value | None:
        static = [i for i, d in enumerate(x.shape) if isinstance(d, int) and d]
        if not static:
            return None
        at = self.pick.choice(static)
        size = int(x.shape[at])
        if self.pick.random() < 0.3:
            shape = tuple(3 if i == at else d for i, d in enumerate(x.shape))
            return self.add(
                "take_along", x, self.input(shape, I64, 0, size), axis=at, exact=True, bound=self.facts[x].bound
            )
        shape = self.pick.choice([(), (S,), (B, 2), (3,)])
        ids = self.input(shape, self.pick.choice([I64, I32]), -size, size)
        if at == 0 and x.type.rank == 2 and self.pick.random() < 0.5:
            return self.add("embedding", x, self.input(shape, I64, 0, size), exact=True, bound=self.facts[x].bound)
        return self.add("gather", x, ids, axis=at, exact=True, bound=self.facts[x].bound)

    def anchor(self, x: Value) -> Value | None:
        if not x.dtype.is_float or not x.type.rank:
            return None
        kind = self.pick.choice(["linear", "linear", "linear", "int8", "matmul", "self", "attention"])
        last, known = x.shape[-1], self.facts[x]
        if kind in ("linear", "int8") and (not isinstance(last, int) or not last):
            return None
        if kind == "linear":
            n = self.pick.choice([1, 3, 4, 8, 17])
            bias = self.const((n,), x.dtype) if self.pick.random() < 0.6 else None
            weight = self.const((n, int(last)), x.dtype, 1 / np.sqrt(int(last)))
            return self.add("linear", x, weight, bias, bound=3 * known.bound * np.sqrt(int(last)) + 3)
        if kind == "int8" and known.exact and x.dtype is F32:
            n = self.pick.choice([3, 8])
            q, scale = self.g.both("quantize_dynamic", x)
            self.facts[q], self.facts[scale] = Facts(True, 127, F32), Facts(False, 1, F32)
            weight = self.g.random(n, int(last), dtype=DType.i8, low=-127, high=128)
            self.facts[weight] = Facts(True, 127, F32)
            wide = self.add("dequantize", weight, self.const((n, 1), F32, 0.01))
            return self.add("linear", self.add("dequantize", q, scale), wide, bound=known.bound * 4 * int(last))
        if kind == "matmul":
            other = self.input((last, self.dim(1, 4, S)), x.dtype)
            return self.add("matmul", x, other, bound=known.bound * 100)
        if kind == "self" and x.type.rank >= 2 and known.bound < 4:
            perm = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
            return self.add("matmul", x, self.add("transpose", x, perm=perm), bound=known.bound**2 * 8)
        if kind == "attention" and x.type.rank == 3 and isinstance(last, int) and last % 2 == 0 and last:
            q = self.add("transpose", self.add("reshape", x, shape=(*x.shape[:2], 2, last // 2)), perm=(0, 2, 1, 3))
            k, v = (self.input((x.shape[0], self.pick.choice([2, 1]), S, last // 2), x.dtype) for _ in range(2))
            if k.shape != v.shape:
                v = k
            mask = self.pick.choice([None, None, self.input((x.shape[0], 1, 1, S), F32)])
            inputs = [q, k, v] if mask is None else [q, k, v, mask]
            return self.add("attention", *inputs, scale=0.4, causal=self.pick.random() < 0.3, bound=6.0)
        return None

    def window(self, x: Value) -> Value | None:
        if (
            x.type.rank != 4
            or x.dtype is not F32
            or not all(isinstance(d, int) for d in x.shape[1:])
            or x.shape[1] in (0, 1)
        ):
            x = self.input((B, self.pick.choice([2, 4]), 5, 6), F32)
        _, channels, height, width = x.shape
        if min(height, width) < 3:
            return None
        known = self.facts[x]
        size = self.pick.choice([1, 2, 3])
        attrs: dict[str, Any] = {
            "stride": (self.pick.choice([1, 2, size]),) * 2,
            "padding": (self.pick.choice([0, size // 2]),) * 2,
        }
        kind = self.pick.choice(["max", "avg", "conv", "conv", "depthwise"])
        if kind in ("max", "avg"):
            return self.add(f"{kind}_pool", x, kernel=(size, size), exact=kind == "max", **attrs)
        groups = channels if kind == "depthwise" else 1
        outputs = channels if kind == "depthwise" else 5
        weight = self.const((outputs, channels // groups, size, size), F32, 0.2)
        bias = self.const((outputs,), F32) if self.pick.random() < 0.5 else None
        return self.add(
            "conv", x, weight, bias, **attrs, dilation=(1, 1), groups=groups, bound=known.bound * 4 * size + 3
        )

    def generated(self, x: Value) -> Value | None:
        kind = self.pick.choice(["arange", "mask", "full", "dim"])
        if kind == "arange":
            return self.add("arange", end=self.pick.choice([S, B + 2, 5]), exact=True, bound=65.0)
        if kind == "mask":
            run = self.add("arange", end=S, exact=True, bound=65.0)
            return self.add("le", run, self.add("reshape", run, shape=(S, 1), exact=True), exact=True)
        if kind == "dim":
            return self.add(
                "full",
                value=self.pick.choice([S, B, S * 2 + 1]),
                shape=(),
                dtype=self.pick.choice([I64, F32]),
                exact=True,
                bound=130.0,
            )
        shape = self.pick.choice([(), (S,), x.shape])
        return self.add("full", value=self.pick.choice([0, 1, 2]), shape=shape, dtype=x.dtype, exact=True, bound=2.0)


def random_sketch(seed: int, ops: int = 14) -> Sketch:
    """The graph of ``seed``; equal seeds, equal graphs. ``sketch.rough`` holds the type to compare each output by."""
    fuzz = Fuzz(seed)
    for _ in range(ops * 2):
        fuzz.grow()
        if len(fuzz.pool) > ops:
            break
    readable = [v for v in fuzz.pool if product(v.shape) != 0]
    last = readable[-4:]
    outputs = [
        last[-1],
        *fuzz.pick.choices(last, k=fuzz.pick.randint(0, 2)),
        *fuzz.pick.choices(readable, k=fuzz.pick.randint(0, 1)),
    ]
    fuzz.g.output(*outputs)
    fuzz.g.rough = [fuzz.facts[v].rough for v in outputs]
    return fuzz.g
