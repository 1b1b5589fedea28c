"""recognize: activations and norms that a source spells out in small ops become the one op they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..compiler.graph import Graph, Node
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.rewrite import RewriteRule, apply_rules
from ..compiler.types import DType, floats

_SQRT_HALF = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2.0 / math.pi)


def _only_floats(m: Any) -> str | None:
    return None if m.x.dtype in floats else f"{m.x.dtype} is no float type"


class GeluErf(RewriteRule):
    """x * 0.5 * (1 + erf(x / sqrt(2))), the factors in any order."""

    name = "gelu-erf"

    def pattern(self, op: Any, x: Any) -> Any:
        erf = op.erf(op.any_of(op.div(x, 1.0 / _SQRT_HALF), op.mul(x, _SQRT_HALF)))
        one_plus = op.add(erf, 1.0)
        halves = [
            op.mul(op.any_of(op.mul(x, 0.5), op.div(x, 2.0)), one_plus),
            op.mul(x, op.any_of(op.mul(one_plus, 0.5), op.div(one_plus, 2.0))),
            op.mul(op.mul(x, one_plus), 0.5),
            op.div(op.mul(x, one_plus), 2.0),
        ]
        return op.any_of(*halves)

    def check(self, m: Any) -> str | None:
        return _only_floats(m)

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x)


class GeluTanh(RewriteRule):
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""

    name = "gelu-tanh"

    def pattern(self, op: Any, x: Any) -> Any:
        cube = op.any_of(op.pow(x, 3.0), op.mul(x, op.mul(x, x)), op.mul(x, op.square(x)), op.mul(x, op.pow(x, 2.0)))
        inner = op.any_of(
            op.mul(op.add(x, op.mul(cube, 0.044715)), _TANH_SCALE),
            op.mul(op.mul(x, _TANH_SCALE), op.add(op.mul(op.mul(x, 0.044715), x), 1.0)),
            op.mul(op.mul(x, _TANH_SCALE), op.add(op.mul(op.mul(x, x), 0.044715), 1.0)),
        )
        one_plus = op.add(op.tanh(inner), 1.0)
        return op.any_of(
            op.mul(op.mul(x, 0.5), one_plus), op.mul(x, op.mul(one_plus, 0.5)), op.mul(op.mul(x, one_plus), 0.5)
        )

    def check(self, m: Any) -> str | None:
        return _only_floats(m)

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x, approximate="tanh")


class GeluQuick(RewriteRule):
    """x * sigmoid(1.702 x)."""

    name = "gelu-quick"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.mul(x, op.sigmoid(op.mul(x, 1.702)))

    def check(self, m: Any) -> str | None:
        return _only_floats(m)

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.gelu(m.x, approximate="quick")


class Silu(RewriteRule):
    """x * sigmoid(x)."""

    name = "silu"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.any_of(op.mul(x, op.sigmoid(x)), op.div(x, op.add(op.exp(op.neg(x)), 1.0)))

    def check(self, m: Any) -> str | None:
        return _only_floats(m)

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.silu(m.x)


def _square(op: Any, x: Any) -> Any:
    return op.any_of(op.square(x), op.pow(x, 2.0), op.mul(x, x))


def _inverse_root(op: Any, x: Any) -> Any:
    root = op.sqrt(x)
    return op.any_of(op.rsqrt(x), op.reciprocal(root), op.div(1.0, root), op.pow(x, -0.5))


def _over_last_axis(m: Any, *labels: str) -> str | None:
    rank = m.x.type.rank
    for label in labels:
        node = m.node(label)
        if [a % rank for a in node.attrs["axes"]] != [rank - 1] or not node.attrs["keepdim"]:
            return "the mean is not over the last axis alone, or does not keep it"
    return None


class RmsNorm(RewriteRule):
    """x * rsqrt(mean(x^2) + eps), in f32, the root written in any way; a weight that follows is taken in by the next rule."""

    name = "rms-norm"

    def pattern(self, op: Any, x: Any, eps: Any) -> Any:
        mean = op.reduce_mean(_square(op, x), axes=op.attr("axes"), keepdim=True).named("mean")
        shifted = op.add(mean, eps)
        return op.any_of(op.mul(x, _inverse_root(op, shifted)), op.div(x, op.sqrt(shifted)))

    def check(self, m: Any) -> str | None:
        if m.scalar("eps") is None:
            return "eps is not a constant"
        return _only_floats(m) or _over_last_axis(m, "mean")

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.rms_norm(m.x, eps=float(m.scalar("eps")))


class RmsNormWeight(RewriteRule):
    """weight * rms_norm(x)."""

    name = "rms-norm-weight"

    def pattern(self, op: Any, x: Any, weight: Any) -> Any:
        return op.mul(op.rms_norm(x, eps=op.attr("eps")), weight)

    def check(self, m: Any) -> str | None:
        if len(m.node("rms_norm").inputs) > 1 and m.node("rms_norm").inputs[1] is not None:
            return "it has a weight already"
        if m.array("weight") is None or m.weight.shape != (m.x.shape[-1],):
            return "the factor is no constant per channel"
        return None if m.weight.dtype is m.x.dtype else "weight and x differ in type"

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.rms_norm(m.x, m.weight, eps=m.eps)


class LayerNorm(RewriteRule):
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)."""

    name = "layer-norm"

    def pattern(self, op: Any, x: Any, eps: Any) -> Any:
        mean = op.reduce_mean(x, axes=op.attr("axes"), keepdim=True).named("mean").shared()
        centred = op.sub(x, mean).shared()
        variance = op.reduce_mean(_square(op, centred), axes=op.attr("axes2"), keepdim=True).named("variance")
        shifted = op.add(variance, eps)
        return op.any_of(op.div(centred, op.sqrt(shifted)), op.mul(centred, _inverse_root(op, shifted)))

    def check(self, m: Any) -> str | None:
        if m.scalar("eps") is None:
            return "eps is not a constant"
        return _only_floats(m) or _over_last_axis(m, "mean", "variance")

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.layer_norm(m.x, eps=float(m.scalar("eps")))


class LayerNormAffine(RewriteRule):
    """layer_norm(x) * weight + bias."""

    name = "layer-norm-affine"

    def pattern(self, op: Any, x: Any, weight: Any, bias: Any) -> Any:
        return op.add(op.mul(op.layer_norm(x, eps=op.attr("eps"), axes=1), weight), bias)

    def check(self, m: Any) -> str | None:
        if any(v is not None for v in m.node("layer_norm").inputs[1:]):
            return "it has a weight already"
        for v in ("weight", "bias"):
            if m.array(v) is None or m[v].shape != (m.x.shape[-1],) or m[v].dtype is not m.x.dtype:
                return f"the {v} is no constant per channel"
        return None

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.layer_norm(m.x, m.weight, m.bias, eps=m.eps)


class Softmax(RewriteRule):
    """exp(x - max(x)) / sum(exp(x - max(x)))."""

    name = "softmax"

    def pattern(self, op: Any, x: Any) -> Any:
        largest = op.reduce_max(x, axes=op.attr("axes"), keepdim=True).named("max").shared()
        e = op.exp(
            op.sub(x, largest).shared()
        ).shared()  # the sum and the quotient both read e, so it stays until swept
        return op.div(e, op.reduce_sum(e, axes=op.attr("axes2"), keepdim=True).named("sum"))

    def check(self, m: Any) -> str | None:
        rank = m.x.type.rank
        axes = [[a % rank for a in m.node(name).attrs["axes"]] for name in ("max", "sum")]
        return (
            None if axes[0] == axes[1] and len(axes[0]) == 1 else "maximum and sum are not over one and the same axis"
        )

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.softmax(m.x, axis=m.node("max").attrs["axes"][0])


RULES: tuple[RewriteRule, ...] = (
    GeluErf(), GeluTanh(), GeluQuick(), Silu(), RmsNorm(), RmsNormWeight(), LayerNorm(), LayerNormAffine(), Softmax(),
)  # fmt: skip


def patch_conv_to_linear(graph: Graph, node: Node) -> bool:
    """A convolution whose windows tile the image (stride = kernel, no padding) is a linear over patches."""
    x, w = node.inputs[:2]
    assert x is not None and w is not None
    array = graph.array(w)
    attrs = node.attrs
    if array is None or attrs["groups"] != 1 or any(attrs["padding"]) or any(d != 1 for d in attrs["dilation"]):
        return False
    kernel, sizes, spatial = array.shape[2:], node.output.shape[2:], x.type.rank - 2
    if tuple(kernel) != tuple(attrs["stride"]) or all(k == 1 for k in kernel):
        return False
    for axis, (k, size) in enumerate(zip(kernel, sizes, strict=True), start=2):
        if x.shape[axis] != k * size:
            x = graph.derive(node, "slice", [x], {"axis": axis, "start": 0, "end": k * size})
    split = [x.shape[0], x.shape[1]]
    for k, size in zip(kernel, sizes, strict=True):
        split.extend([size, k])
    perm = (0, *range(2, 2 + 2 * spatial, 2), 1, *range(3, 3 + 2 * spatial, 2))
    apart = graph.derive(node, "reshape", [x], {"shape": tuple(split)})
    moved = graph.derive(node, "transpose", [apart], {"perm": perm})
    rows = graph.derive(node, "reshape", [moved], {"shape": (x.shape[0], *sizes, array[0].size)})
    flat = np.ascontiguousarray(array.reshape(array.shape[0], -1))
    weight = graph.add_constant(flat, w.name, DType.bf16 if array.dtype == np.uint16 else None, before=node)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    y = graph.derive(node, "linear", [rows, weight, bias], {"out_dtype": attrs["out_dtype"]})
    back = (0, spatial + 1, *range(1, spatial + 1))
    graph.replace(node.output, graph.derive(node, "transpose", [y], {"perm": back}))
    graph.erase(node)
    return True


@dataclass(frozen=True)
class Recognize:
    """Find the activations and norms that are spelled out, and the convolutions that are linears over patches."""

    name: ClassVar[str] = "recognize"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        result = apply_rules(graph, RULES, context)
        for rule, count in result.fired.items():
            if count:
                context.note(f"{rule} found {count} time{'s' if count > 1 else ''}")
        for rule, miss in result.misses.items():
            if miss.reason and miss.node:  # the whole pattern was there, and something still held it back
                context.note(f"{rule} {miss}", kind="miss")
        patches = sum(patch_conv_to_linear(graph, n) for n in list(graph.nodes) if n.op == "conv")
        if patches:
            context.note(f"{patches} patch convolution{'s' if patches > 1 else ''} became linear")
            graph.sweep()
        return PassResult(any(result.fired.values()) or bool(patches))
