"""Attention kernels: the template contexts of ``templates/cpu/attention*.j2`` and the memory that a worker needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..compiler.dims import Dim, dim_min, floordiv
from ..compiler.errors import LoweringError
from .render import LANES, template
from .specs import AttentionSpec

_TYPES = {"f32": "f32", "bf16": "bf16"}
_MASK_TYPES = {"none": "f32", "bias": "f32", "bool": "b8"}


@dataclass(frozen=True)
class Blocking:
    """How one ISA level cuts attention into blocks.

    Attributes:
        lanes: queries of one vector.
        step: bf16 (or f32) values in one 32-bit word of an operand: 2 where the level multiplies bf16 pairs, else 1.
        rows: keys, or value dimensions, of a register tile.
        vectors: vectors of queries of a register tile, at most.
        key_block: keys whose probabilities are alive at once (they should stay in the first-level cache).
        key_span: keys that are packed at once (second-level cache); bounds the memory of a worker.
        chunk: vectors of queries whose sums are alive at once when there are more than ``key_span`` keys.
    """

    lanes: int
    step: int
    rows: int
    vectors: int
    key_block: int
    key_span: int
    chunk: int


def blocking(spec: AttentionSpec, isa: str) -> Blocking:
    """The block sizes of ``spec`` at the ISA level ``isa``."""
    lanes = LANES[isa]
    step = 2 if isa == "avx512-bf16" and spec.compute == "bf16" else 1
    if lanes == 16:  # 32 registers: 8 x 3 accumulators, 3 for the lanes, 1 to broadcast
        return Blocking(lanes, step, 8, 3, 256 if step == 2 else 128, 512, 12)
    return Blocking(lanes, step, 4, 3, 256, 512, 24)  # 16 registers: 4 x 3 accumulators


def render(spec: AttentionSpec, isa: str, name: str) -> str:
    """The C++ text of ``static void name(host, p, d, scratch)`` as :class:`~.specs.AttentionSpec` describes it.

    Raises:
        LoweringError: the storage types are neither f32 nor bf16, or a head has no dimension.
    """
    for storage in (spec.qkv, spec.out):
        if storage not in _TYPES:
            raise LoweringError(f"attention cannot keep its operands as {storage}", "f32 and bf16 are supported")
    if spec.head_dim < 1 or spec.value_dim < 1:
        raise LoweringError("attention needs a head size and a value size of at least 1")
    cut = blocking(spec, isa)
    return template(
        "cpu/attention.cpp.j2",
        spec=spec,
        kernel=name,
        scale=_c_float(spec.scale),
        scale_log2e=_c_float(spec.scale * math.log2(math.e)),
        types=_TYPES,
        mask_type=_MASK_TYPES[spec.mask],
        pair=cut.step == 2,
        scaled_q=not (spec.compute == "bf16" and spec.qkv == "bf16"),
        key_words=-(-spec.head_dim // cut.step),
        value_words=-(-spec.value_dim // cut.rows) * cut.rows,
        lanes=cut.lanes,
        step=cut.step,
        rows=cut.rows,
        vectors=cut.vectors,
        key_block=cut.key_block,
        key_span=cut.key_span,
        chunk=cut.chunk,
    )


def scratch_bytes(spec: AttentionSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Bytes of private memory of one worker.

    Bounded whatever the lengths: at most ``key_span`` keys are packed and the sums of ``chunk`` vectors of queries are
    alive. ``dims`` are the launch's (``Sq`` and ``Sk`` count). The C++ struct ``Scratch`` lays the same parts out.
    """
    cut = blocking(spec, isa)
    queries, keys = dims[3], dims[4]
    packed = dim_min(_round_up(keys, cut.rows), cut.key_span)
    block = dim_min(packed, cut.key_block)
    vectors = _round_up(dim_min(floordiv(queries + cut.lanes - 1, cut.lanes), cut.chunk), cut.vectors)
    key_words = -(-spec.head_dim // cut.step)
    value_words = -(-spec.value_dim // cut.rows) * cut.rows
    width = cut.vectors * cut.lanes
    masks = 0 if spec.mask == "none" else 1
    parts: list[Dim] = [
        key_words * width,
        block * width,
        block * (width * masks),
        vectors * (value_words * cut.lanes),
        vectors * cut.lanes,
        vectors * cut.lanes,
        packed * key_words,
        floordiv(packed, cut.step) * value_words,
        packed * masks,
        packed * masks,
        floordiv(vectors + 3, 4),
    ]
    total: Dim = 0
    for part in parts:
        total = total + _round_up(part, 16)
    return total * 4


def _round_up(d: Dim, multiple: int) -> Dim:
    return floordiv(d + (multiple - 1), multiple) * multiple


def _c_float(x: float) -> str:
    """A float32 literal that reads back as ``x`` rounded to float32."""
    return f"{x!r}f" if "." in repr(x) or "e" in repr(x) else f"{x!r}.0f"
