"""From the nodes of a region to the steps of a row program.

Values are computed row by row along the last axis. A value whose last axis has size 1 while the row is longer is one number
per row. Composite ops (norms, softmax, quantisation) are spelled out here in the order of operations that the numbers
contract fixes.
"""

from __future__ import annotations

from ...codegen.specs import Domain, Step
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.ops import COMPARE
from ...compiler.types import DType

Arg = str | int | float

REDUCING = frozenset({
    "layer_norm", "rms_norm", "softmax", "log_softmax", "quantize_dynamic", "reduce_sum", "reduce_mean", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_any", "reduce_all",
})  # fmt: skip

#: What ``quantize`` clamps to.
INTEGERS = {DType.i8: (-128, 127), DType.u8: (0, 255), DType.i16: (-32768, 32767)}
_NARROW_INTEGERS = frozenset({DType.i8, DType.u8, DType.i16})  # computed in i32, so results must be wrapped
#: Ops whose results need no rounding to the type of their operands: they are operands, or always fit.
_EXACT = frozenset({
    "neg", "abs", "relu", "sign", "floor", "ceil", "round", "trunc", "maximum", "minimum", "where", "cast", "clamp",
    "reduce_max", "reduce_min", "reduce_any", "reduce_all", "bitwise_and", "bitwise_or", "bitwise_xor",
    "bitwise_right_shift", "quantize",
    "quantize_dynamic",
})  # fmt: skip
_LEAVES_THE_RANGE = frozenset({"neg", "abs"})  # of the smallest integer, or of an unsigned one
TRANSCENDENTAL = frozenset({"gelu", "silu", "sigmoid", "tanh", "erf", "exp"})  # have a low-precision class
#: Attributes that follow the operand as arguments of the step.
_NUMBERS = {"leaky_relu": ("slope",), "elu": ("alpha",), "softplus": ("beta", "threshold")}


def domain(dtype: DType) -> Domain:
    """The type in which values of ``dtype`` are computed."""
    if dtype in (DType.f16, DType.bf16, DType.f32):
        return "f32"
    if dtype in (DType.i4, DType.i8, DType.u8, DType.i16, DType.i32):
        return "i32"
    return {DType.f64: "f64", DType.i64: "i64", DType.bool: "bool"}[dtype]  # type: ignore[return-value]


class StepWriter:
    """Collects steps; ``env`` maps values of the region to the names (or numbers) that hold them.

    Args:
        fast: allow the low-precision class of transcendental functions.
    """

    def __init__(self, fast: bool = False) -> None:
        self.steps: list[Step] = []
        self.env: dict[Value, Arg] = {}
        # Of ``quantize`` nodes: one over a constant scale; that, the range less the zero point, and the zero point.
        self.inverse: dict[Node, Arg] = {}
        self.known: dict[Node, tuple[Arg, ...]] = {}
        self.fast = fast
        self._count = 0

    def emit(self, op: str, *args: Arg, domain: Domain = "f32", mode: str = "") -> str:
        """Append a step and return the name of its result."""
        self._count += 1
        name = f"v{self._count}"
        self.steps.append(Step(op, name, args, domain, mode))
        return name

    def store(self, operand: int, value: Arg) -> None:
        self.steps.append(Step("store", "", (operand, value)))

    def read(self, value: Value | None) -> Arg:
        assert value is not None
        return self.env[value]

    def node(self, node: Node) -> None:
        """Compute the outputs of ``node``.

        Raises:
            LoweringError: the op cannot be computed row by row.
        """
        special = getattr(self, f"_{node.op}", None)
        if special is not None:
            special(node)
        else:
            self.env[node.output] = self._elementwise(node, [self.read(v) for v in node.inputs])
        for value in node.outputs:
            narrow = value.dtype in (DType.bf16, DType.f16) or value.dtype in _NARROW_INTEGERS
            exact = _EXACT if value.dtype.is_float else _EXACT - _LEAVES_THE_RANGE
            if narrow and node.op not in exact and isinstance(self.env[value], str):
                self.env[value] = self.emit("cast", self.env[value], domain=domain(value.dtype), mode=value.dtype.value)

    def _elementwise(self, node: Node, args: list[Arg]) -> Arg:
        kind = domain(node.output.dtype)
        if node.op == "clamp":
            return self._clamp_to(args[0], node.attrs["min"], node.attrs["max"], kind)
        if node.op == "square":
            return self.emit("mul", args[0], args[0], domain=kind)
        if node.op == "cast":
            return self._converted(args[0], node.inputs[0].dtype, node.output.dtype)  # type: ignore[union-attr]
        if node.op in COMPARE or node.op in ("isnan", "isinf"):
            return self.emit(node.op, *args, domain="bool")
        numbers = [float(node.attrs[name]) for name in _NUMBERS.get(node.op, ())]
        mode = str(node.attrs.get("approximate", ""))
        mode = "erf" if mode == "none" else mode
        if self.fast and node.op in TRANSCENDENTAL:
            mode = f"{mode},fast" if mode else "fast"
        return self.emit(node.op, *args, *numbers, domain=kind, mode=mode)

    def _clamp_to(self, x: Arg, low: Arg | None, high: Arg | None, kind: Domain) -> Arg:
        if low is not None:
            x = self.emit("maximum", x, low, domain=kind)
        return x if high is None else self.emit("minimum", x, high, domain=kind)

    def _converted(self, x: Arg, source: DType, to: DType) -> Arg:
        if to in (DType.bf16, DType.f16) and source is not to:
            return self.emit("cast", x, domain="f32", mode=to.value)
        if domain(source) == domain(to) and to.size >= source.size and (to.is_float or DType.u8 not in (source, to)):
            return x
        return self.emit("cast", x, domain=domain(to), mode=to.value if to in _NARROW_INTEGERS else "")

    def _mean_of(self, total: Arg, kind: Domain) -> str:
        length = self.emit("cast", self.emit("length", domain="i64"), domain=kind)
        return self.emit("div", total, length, domain=kind)

    # -- composite ops ------------------------------------------------------------------------------------------------
    def _layer_norm(self, node: Node) -> None:
        x, kind = self.read(node.inputs[0]), domain(node.output.dtype)
        centred = self.emit("sub", x, self._mean_of(self.emit("sum", x, domain=kind), kind), domain=kind)
        self._normalise(node, centred, centred, kind)

    def _rms_norm(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        self._normalise(node, x, x, domain(node.output.dtype))

    def _normalise(self, node: Node, x: Arg, deviation: Arg, kind: Domain) -> None:
        """x over the root of the mean square of ``deviation``, times the weight, plus the bias."""
        squares = self.emit("sum", self.emit("mul", deviation, deviation, domain=kind), domain=kind)
        shifted = self.emit("add", self._mean_of(squares, kind), float(node.attrs["eps"]), domain=kind)
        y = self.emit("mul", x, self.emit("rsqrt", shifted, domain=kind), domain=kind)
        for at, op in ((1, "mul"), (2, "add")):
            if len(node.inputs) > at and node.inputs[at] is not None:
                y = self.emit(op, y, self.read(node.inputs[at]), domain=kind)
        self.env[node.output] = y

    def _softmax(self, node: Node) -> None:
        x, kind = self.read(node.inputs[0]), domain(node.output.dtype)
        shifted = self.emit("sub", x, self.emit("max", x, domain=kind), domain=kind)
        e = self.emit("exp", shifted, domain=kind, mode="fast" if self.fast else "")
        inverse = self.emit("reciprocal", self.emit("sum", e, domain=kind), domain=kind)
        self.env[node.output] = self.emit("mul", e, inverse, domain=kind)

    def _log_softmax(self, node: Node) -> None:
        x, kind = self.read(node.inputs[0]), domain(node.output.dtype)
        shifted = self.emit("sub", x, self.emit("max", x, domain=kind), domain=kind)
        total = self.emit("sum", self.emit("exp", shifted, domain=kind), domain=kind)
        self.env[node.output] = self.emit("sub", shifted, self.emit("log", total, domain=kind), domain=kind)

    def _quantize_dynamic(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        amax = self._centred_absmax(node.inputs[0])
        if amax is None:
            amax = self.emit("absmax", x)
        positive = self.emit("gt", amax, 0.0, domain="bool")
        inverse = self.emit("where", positive, self.emit("div", 127.0, amax), 0.0)
        self.env[node.outputs[1]] = self.emit("div", amax, 127.0)
        mode = "" if node.outputs[0].users else "row"  # no reader in this kernel: it is only stored
        self.env[node.outputs[0]] = self.emit("quantize_i8", x, inverse, domain="i32", mode=mode)

    def _centred_absmax(self, value: Value | None) -> str | None:
        """absmax(y - c) as max(max(y) - c, c - min(y)) where the row's extremes are known already; None elsewhere.

        Subtraction rounds monotonically, so the two are equal to the last bit, for NaN and infinities too.
        """
        node = None if value is None else value.node
        if node is None or node.op != "sub" or not isinstance(self.env.get(node.output), str):
            return None
        y, centre = node.inputs
        if y is None or centre is None or centre.shape[-1:] != (1,) or centre.type.rank != y.type.rank:
            return None
        ends = [
            self.env.get(u.output)
            for op in ("reduce_max", "reduce_min")
            for u in y.users
            if u.op == op and u.attrs["keepdim"] and [a % y.type.rank for a in u.attrs["axes"]] == [y.type.rank - 1]
        ]
        if len(ends) != 2 or any(end is None for end in ends):
            return None
        c = self.read(centre)
        amax = self.emit("maximum", self.emit("sub", ends[0], c), self.emit("sub", c, ends[1]))  # type: ignore[arg-type]
        finite = self.emit("lt", amax, float("inf"), domain="bool")  # as absmax: an infinity counts as NaN
        return self.emit("where", finite, amax, float("nan"))

    def _reduce(self, node: Node) -> None:
        x, name, kind = self.read(node.inputs[0]), node.op[len("reduce_") :], domain(node.output.dtype)
        if name == "mean":
            self.env[node.output] = self._mean_of(self.emit("sum", x, domain=kind), kind)
        else:
            self.env[node.output] = self.emit(name, x, domain=kind)

    _reduce_sum = _reduce_mean = _reduce_max = _reduce_min = _reduce_prod = _reduce_any = _reduce_all = _reduce

    def _quantize(self, node: Node) -> None:
        x, zero = self.read(node.inputs[0]), node.inputs[2] if len(node.inputs) > 2 else None
        mode, factor = [node.output.dtype.value], self.inverse.get(node)
        if not node.output.users:  # no reader in this kernel
            mode.append("stored")
        if node in self.known:
            self.env[node.output] = self.emit("quantize", x, *self.known[node], domain="i32", mode=",".join(mode))
            return
        if zero is None and node.output.dtype is DType.i8:
            mode.append("symmetric")
        if node.attrs["division"]:
            mode.append("division")
            factor = self.read(node.inputs[1])
        elif factor is None:
            factor = self.emit("div", 1.0, self.read(node.inputs[1]))
        args = (x, factor, 0 if zero is None else self.read(zero))
        self.env[node.output] = self.emit("quantize", *args, domain="i32", mode=",".join(mode))

    def _dequantize(self, node: Node) -> None:
        q = self.emit("cast", self.read(node.inputs[0]), domain="f32")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            q = self.emit("sub", q, self.emit("cast", self.read(node.inputs[2]), domain="f32"))
        self.env[node.output] = self.emit("mul", q, self.read(node.inputs[1]))

    def _constant(self, node: Node) -> None:
        raise LoweringError(f"the constant {node.name or node.output.name} is no single number")
