"""From the nodes of a region to the steps of a row program.

Values are computed row by row along the last axis. A value whose last axis has size 1 while the row is longer is one number
per row. Composite ops (norms, softmax, quantisation) are spelled out here in the order of operations that the numbers
contract fixes.
"""

from __future__ import annotations

from collections.abc import Callable

from ...codegen.specs import Domain, Step
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.ops import BINARY, COMPARE
from ...compiler.types import DType

Arg = str | int | float

REDUCING = frozenset({
    "layer_norm", "rms_norm", "softmax", "log_softmax", "quantize_dynamic", "reduce_sum", "reduce_mean", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_any", "reduce_all",
})  # fmt: skip


def domain(dtype: DType) -> Domain:
    """The type in which values of ``dtype`` are computed."""
    if dtype in (DType.f16, DType.bf16, DType.f32):
        return "f32"
    if dtype in (DType.i8, DType.u8, DType.i16, DType.i32):
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
            return
        args = [self.read(v) for v in node.inputs]
        kind = domain(node.output.dtype)
        if node.op in SPELLED:
            self.env[node.output] = SPELLED[node.op](self, node, args)
        elif node.op in ("gelu", "silu", "sigmoid", "tanh", "erf", "exp"):
            mode = {"none": "erf"}.get(node.attrs.get("approximate", ""), node.attrs.get("approximate", ""))
            if self.fast:
                mode = f"{mode},fast" if mode else "fast"
            self.env[node.output] = self.emit(node.op, *args, domain=kind, mode=mode)
        elif node.op == "cast":
            self.env[node.output] = self._converted(args[0], node.inputs[0].dtype, node.output.dtype)  # type: ignore[union-attr]
        elif node.op in COMPARE or node.op in ("isnan", "isinf"):
            self.env[node.output] = self.emit(node.op, *args, domain="bool")
        else:
            self.env[node.output] = self.emit(node.op, *args, domain=kind)
        if node.output.dtype in (DType.bf16, DType.f16) and node.op in BINARY:
            self.env[node.output] = self.emit("cast", self.env[node.output], domain="f32", mode=node.output.dtype.value)

    def _converted(self, x: Arg, source: DType, to: DType) -> Arg:
        if to in (DType.bf16, DType.f16) and source not in (to,):
            return self.emit("cast", x, domain="f32", mode=to.value)
        if domain(source) == domain(to) and to.size >= source.size:
            return x
        return self.emit("cast", x, domain=domain(to), mode=to.value if to in (DType.i8, DType.u8, DType.i16) else "")

    def _mean_of(self, total: Arg) -> str:
        length = self.emit("cast", self.emit("length", domain="i64"), domain="f32")
        return self.emit("div", total, length)

    # -- composite ops ------------------------------------------------------------------------------------------------
    def _layer_norm(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        centred = self.emit("sub", x, self._mean_of(self.emit("sum", x)))
        variance = self._mean_of(self.emit("sum", self.emit("mul", centred, centred)))
        y = self.emit("mul", centred, self.emit("rsqrt", self.emit("add", variance, float(node.attrs["eps"]))))
        self.env[node.output] = self._affine(node, y)

    def _rms_norm(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        square = self._mean_of(self.emit("sum", self.emit("mul", x, x)))
        y = self.emit("mul", x, self.emit("rsqrt", self.emit("add", square, float(node.attrs["eps"]))))
        self.env[node.output] = self._affine(node, y)

    def _affine(self, node: Node, y: str) -> str:
        for at, op in ((1, "mul"), (2, "add")):
            if len(node.inputs) > at and node.inputs[at] is not None:
                y = self.emit(op, y, self.read(node.inputs[at]))
        return y

    def _softmax(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        e = self.emit("exp", self.emit("sub", x, self.emit("max", x)), mode="fast" if self.fast else "")
        self.env[node.output] = self.emit("mul", e, self.emit("reciprocal", self.emit("sum", e)))

    def _log_softmax(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        shifted = self.emit("sub", x, self.emit("max", x))
        self.env[node.output] = self.emit("sub", shifted, self.emit("log", self.emit("sum", self.emit("exp", shifted))))

    def _quantize_dynamic(self, node: Node) -> None:
        x = self.read(node.inputs[0])
        amax = self.emit("absmax", x)
        positive = self.emit("gt", amax, 0.0, domain="bool")
        inverse = self.emit("where", positive, self.emit("div", 127.0, amax), 0.0)
        self.env[node.outputs[1]] = self.emit("div", amax, 127.0)
        self.env[node.outputs[0]] = self.emit("quantize_i8", x, inverse, domain="i32")

    def _reduce(self, node: Node) -> None:
        x, kind = self.read(node.inputs[0]), node.op[len("reduce_") :]
        if kind == "mean":
            self.env[node.output] = self._mean_of(self.emit("sum", x))
        else:
            self.env[node.output] = self.emit(kind, x, domain=domain(node.output.dtype))

    _reduce_sum = _reduce_mean = _reduce_max = _reduce_min = _reduce_prod = _reduce_any = _reduce_all = _reduce

    def _dequantize(self, node: Node) -> None:
        q = self.emit("cast", self.read(node.inputs[0]), domain="f32")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            q = self.emit("sub", q, self.emit("cast", self.read(node.inputs[2]), domain="f32"))
        self.env[node.output] = self.emit("mul", q, self.read(node.inputs[1]))

    def _constant(self, node: Node) -> None:
        raise LoweringError(f"the constant {node.name or node.output.name} is no single number")


def _clamp(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    x, kind = args[0], domain(node.output.dtype)
    if node.attrs["min"] is not None:
        x = w.emit("maximum", x, node.attrs["min"], domain=kind)
    if node.attrs["max"] is not None:
        x = w.emit("minimum", x, node.attrs["max"], domain=kind)
    return x


def _positive_else(w: StepWriter, x: Arg, other: Arg) -> Arg:
    return w.emit("where", w.emit("gt", x, 0.0, domain="bool"), x, other)


def _leaky_relu(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    return _positive_else(w, args[0], w.emit("mul", args[0], float(node.attrs["slope"])))


def _elu(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    return _positive_else(w, args[0], w.emit("mul", w.emit("expm1", args[0]), float(node.attrs["alpha"])))


def _softplus(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    scaled = w.emit("mul", args[0], float(node.attrs["beta"]))
    soft = w.emit("div", w.emit("log1p", w.emit("exp", scaled)), float(node.attrs["beta"]))
    return w.emit("where", w.emit("gt", scaled, float(node.attrs["threshold"]), domain="bool"), args[0], soft)


def _mish(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    x = args[0]
    soft = w.emit("where", w.emit("gt", x, 20.0, domain="bool"), x, w.emit("log1p", w.emit("exp", x)))
    return w.emit("mul", x, w.emit("tanh", soft))


def _hard_sigmoid(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    return w.emit("div", w.emit("minimum", w.emit("maximum", w.emit("add", args[0], 3.0), 0.0), 6.0), 6.0)


def _hard_swish(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    return w.emit("mul", args[0], _hard_sigmoid(w, node, args))


def _square(w: StepWriter, node: Node, args: list[Arg]) -> Arg:
    return w.emit("mul", args[0], args[0], domain=domain(node.output.dtype))


SPELLED: dict[str, Callable[[StepWriter, Node, list[Arg]], Arg]] = {
    "clamp": _clamp, "leaky_relu": _leaky_relu, "elu": _elu, "softplus": _softplus, "mish": _mish,
    "hardsigmoid": _hard_sigmoid, "hardswish": _hard_swish, "square": _square,
}  # fmt: skip
