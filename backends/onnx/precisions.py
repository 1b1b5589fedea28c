"""Which precisions a provider has fast forms for, by the kind of op: what a plan may ask for."""

from __future__ import annotations

from .table import Table

_STATIC = ("static-u8s8-linear", "dynamic-u8u8-linear", "qdq-u8s8-linear", "qdq-s8s8-linear")
#: Attention in one operator.
WHOLE_ATTENTION = ("attention-23", "multi-head-attention")
_FOUR_BITS = ("w4a16", "w4a16-g64", "w4a16-g32")


def int8_scores(table: Table) -> bool:
    """Whether attention is written as two products, of which the first is faster on int8."""
    whole = any(table.pays(form) for form in WHOLE_ATTENTION)
    return not whole and table.pays("attention-int8-scores")


def precisions(table: Table) -> dict[str, tuple[str, ...]]:
    """The precisions by anchor op, as :class:`~planish.compiler.target.Capabilities` holds them.

    Args:
        table: what the provider takes. A form that it takes but is slower in than in float is not offered, weights in few bits
            apart: they are asked for their size.
    """
    half = ("bf16",) if table.pays("matmul", "bf16") or table.pays("matmul", "f16") else ()
    linear = ["f32", *half]
    if any(table.pays(form) for form in _STATIC):
        linear.append("w8a8")
    if any(table.pays(f"dynamic-{kind}-linear") for kind in ("u8s8", "u8u8")):
        linear.append("w8a8-dynamic")  # behind w8a8: no faster, and one scale that is not calibrated holds less
    if any(table.takes(form) for form in ("matmul-nbits-8", "matmul-nbits-8-int8")):
        linear.append("w8a16")
    if any(table.takes(form) for form in ("matmul-nbits-4", "matmul-nbits-4-int8", "dequantize-int4-linear")):
        linear.extend(_FOUR_BITS)
    conv = ["f32", *half]
    if any(table.pays(f"qdq-{kind}-conv") for kind in ("u8s8", "s8s8")):
        conv.append("w8a8")
    attention = ("f32", "w8a8") if int8_scores(table) else ("f32",)
    return {
        "linear": tuple(linear), "conv": tuple(conv), "embedding": ("f32", "w8a16"), "attention": attention, "rest": ("f32",),
    }  # fmt: skip
