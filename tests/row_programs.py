"""Row programs that several tests and measurements build: what lowering makes of common operators."""

from __future__ import annotations

from planish.codegen.specs import Domain, Operand, RowProgram, Step, Storage


class Steps:
    """Collects steps; each method call appends one and returns the name of its result."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, op: str, *args: str | int | float, domain: Domain = "f32", mode: str = "") -> str:
        name = f"{op}{len(self.steps)}"
        self.steps.append(Step(op, name, args, domain, mode))
        return name

    def store(self, operand: int, value: str | int | float) -> None:
        self.steps.append(Step("store", "", (operand, value)))

    def mean(self, x: str) -> str:
        return self("div", self("sum", x), self("cast", self("length", domain="i64")))

    def layer_norm(self, x: str, gamma: str, beta: str, eps: float = 1e-12) -> str:
        centred = self("sub", x, self.mean(x))
        variance = self.mean(self("mul", centred, centred))
        y = self("mul", centred, self("rsqrt", self("add", variance, eps)))
        return self("add", self("mul", y, gamma), beta)

    def quantize(self, x: str) -> tuple[str, str]:
        """The int8 values of a row and its scale."""
        largest = self("absmax", x)
        inverse = self("where", self("gt", largest, 0.0, domain="bool"), self("div", 127.0, largest), 0.0)
        return self("quantize_i8", x, inverse, domain="i32"), self("div", largest, 127.0)


def copy(source: Storage, to: Storage, rank: int = 1, inner: str = "unit", out: str = "unit") -> RowProgram:
    """An element by element copy or conversion."""
    s, kind = Steps(), domain_of(to)
    s.store(1, s("load", 0, domain=kind))
    return RowProgram((Operand(source, inner), Operand(to, out)), tuple(s.steps), rank)  # type: ignore[arg-type]


def domain_of(storage: Storage) -> Domain:
    """The domain a storage type is computed in."""
    kinds: dict[str, Domain] = {"f64": "f64", "i64": "i64", "bool": "bool", "f32": "f32", "f16": "f32", "bf16": "f32"}
    return kinds.get(storage, "i32")


def add_norm_quantize(size: int | None = None) -> RowProgram:
    """LayerNorm(x + r) -> f32 and int8 with a scale per row. Operands: x, r, gamma, beta, y, q, scale."""
    s = Steps()
    h = s("add", s("load", 0), s("load", 1))
    y = s.layer_norm(h, s("load", 2), s("load", 3))
    s.store(4, y)
    q, scale = s.quantize(y)
    s.store(5, q)
    s.store(6, scale)
    f32 = Operand("f32")
    return RowProgram((f32, f32, f32, f32, f32, Operand("i8b"), Operand("f32", "broadcast")), tuple(s.steps), 1, size)


def softmax(size: int | None = None, inner: str = "unit") -> RowProgram:
    """Softmax along the row. Operands: x, y."""
    s = Steps()
    x = s("load", 0)
    e = s("exp", s("sub", x, s("max", x)))
    s.store(1, s("mul", e, s("reciprocal", s("sum", e))))
    return RowProgram((Operand("f32", inner), Operand("f32", inner)), tuple(s.steps), 1, size)  # type: ignore[arg-type]


def rms_norm(storage: Storage = "f32", size: int | None = None) -> RowProgram:
    """x / rms(x) * weight. Operands: x, weight, y."""
    s = Steps()
    x = s("load", 0)
    scale = s("rsqrt", s("add", s.mean(s("mul", x, x)), 1e-6))
    s.store(2, s("mul", s("mul", x, scale), s("load", 1)))
    return RowProgram((Operand(storage), Operand("f32"), Operand(storage)), tuple(s.steps), 1, size)


def embed_norm_quantize(size: int | None = None) -> RowProgram:
    """LayerNorm(words[ids] + positions) as i8b: ids [batch, seq], outer rank 2.

    Operands: words, ids, positions, gamma, beta, y, q, scale.
    """
    s = Steps()
    h = s("add", s("load", 0), s("load", 2))
    y = s.layer_norm(h, s("load", 3), s("load", 4))
    s.store(5, y)
    q, scale = s.quantize(y)
    s.store(6, q)
    s.store(7, scale)
    f32 = Operand("f32")
    operands = (
        Operand("f32", index=1), Operand("i64", "broadcast"), f32, f32, f32, f32, Operand("i8b"), Operand("f32", "broadcast")
    )  # fmt: skip
    return RowProgram(operands, tuple(s.steps), 2, size)


def quantize(source: Storage = "f32", size: int | None = None) -> RowProgram:
    """Dynamic int8 quantisation per row. Operands: x, q (i8), scale."""
    s = Steps()
    q, scale = s.quantize(s("load", 0))
    s.store(1, q)
    s.store(2, scale)
    return RowProgram((Operand(source), Operand("i8"), Operand("f32", "broadcast")), tuple(s.steps), 1, size)
