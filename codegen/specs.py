"""What a kernel must do, as data: the contract between lowering (which makes specs) and the templates (which render them).

A spec holds everything that is compiled into the kernel; shapes, strides and pointers arrive at run time. Equal specs give
equal text, so a kernel is built once per spec digest. Two specs cover every memory-bound op: a :class:`RowProgram` computes
over *rows* (an outer index space of any rank times one inner dimension), alone or as the prologue or epilogue of an anchor.

The run-time arguments of each kernel, in order, are stated per class as ``pointers`` and ``dims``; every stride counts
elements of the operand's storage type.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, is_dataclass
from typing import Literal

#: Storage types. ``i8b`` is an int8 value stored as the byte ``value + 128``, which is how the activations of the int8 dot
#: product are kept (its first operand is unsigned).
Storage = Literal["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool", "i8b"]

#: Types a step computes in. f16 and bf16 are computed in f32; i8, u8, i16 in i32.
Domain = Literal["f64", "f32", "i64", "i32", "bool"]

#: How an operand moves along the inner dimension: stride 1, stride 0 (one element per row), or a run-time stride.
Inner = Literal["unit", "broadcast", "strided"]

#: ISA levels, each implying the one before.
ISA_LEVELS = ("portable", "avx2", "avx512-vnni", "avx512-bf16")


@dataclass(frozen=True)
class Operand:
    """One tensor read or written by a row program.

    ``index``: None, or the number of another operand of the same program that holds integer row numbers: the address of
    this operand's row is then ``base + index_value * gather_stride + sum(outer_i * stride_i)`` (an embedding or a gather).
    The run-time ``gather_stride`` follows the operand's strides. Negative row numbers count from the end; rows outside
    ``[-rows, rows)`` set the call's error flag and read row 0; the run-time ``rows`` follows ``gather_stride``.
    """

    dtype: Storage
    inner: Inner = "unit"
    index: int | None = None


@dataclass(frozen=True)
class Step:
    """``result = op(args)``. An argument is the name of an earlier result or a number (a constant).

    op is one of:
      ``load``  (operand number)          the operand at (row, inner); a ``broadcast`` operand gives one scalar per row
      ``store`` (operand number, value)   writes, converting to the storage type (float -> bf16/f16 nearest even;
                                          float -> int truncates; any -> bool tests non-zero)
      ``inner`` ()                        the inner index, i64;    ``outer`` (axis)   an outer index, i64;
      ``length`` ()                       the inner length, i64
      ``dim``   (number)                  an extra run-time integer, i64
      ``sum prod max min any all``        reductions along the row (max and min propagate NaN)
      ``absmax``                          max of |x|; NaN if the row holds a NaN or an infinity
      ``quantize_i8`` (x, inv)            round-to-nearest-even(x * inv) clamped to [-127, 127], 0 for NaN; domain i32;
                                          mode "row": inv is 127 / absmax of the row, and the result is only stored to 8 bits
      any elementwise op of the IR's vocabulary (``add``, ``gelu`` with its ``approximate`` in ``mode``, ``cast`` ...)

    ``domain`` is the type of the result. ``mode`` is the op's string attribute (``gelu``: erf, tanh, quick; ``accuracy`` of
    transcendental functions: suffix ``fast`` allows the low-precision class, e.g. "erf,fast").
    """

    op: str
    result: str
    args: tuple[str | int | float, ...] = ()
    domain: Domain = "f32"
    mode: str = ""


@dataclass(frozen=True)
class RowProgram:
    """A program over rows: ``outer_rank`` outer dimensions times one inner dimension.

    Alone, its kernel takes
      pointers: one per operand;
      dims: the ``outer_rank`` outer sizes, the inner length, then per operand its ``outer_rank`` outer strides (0 where it
      broadcasts), its inner stride if ``strided``, ``gather_stride`` and ``rows`` if it has an index; then the extra dims.

    ``inner_size`` is the inner length when it is known at compile time (lets the row stay in registers), else None.
    As a prologue or epilogue of a linear (``outer_rank`` 1) the virtual inputs named in ``LinearSpec`` are defined before
    the first step.
    """

    operands: tuple[Operand, ...]
    steps: tuple[Step, ...]
    outer_rank: int = 1
    inner_size: int | None = None
    extra_dims: int = 0


@dataclass(frozen=True)
class LinearSpec:
    """``y = x @ w.T`` with what is fused around it. ``w`` is constant and packed at compile time (``backends/cpu/packing``).

    compute ``f32``:  x is f32.   ``bf16``: x is bf16, products accumulate in f32.   ``w8a8``: x is i8b with one f32 scale
    per row, w is int8 with one f32 scale per column; ``acc = float(int32 sum) * (row_scale * column_scale)``.

    prologue: computes rows of x from the operands it loads; its single ``store`` step has operand number -1 and goes to x
    in x's storage type (and, for w8a8, a ``store`` with operand number -2 gives the row's f32 scale). None: x is read from
    memory (and for w8a8 the scales too).
    tile: elementwise steps on the accumulators, from the virtual input ``acc`` (f32), ending in stores.
    row: whole-row steps after the tile; reads the virtual input ``row`` (f32), which is what the tile *stored* to operand
    number -1. None: the tile stores directly.

    Kernel arguments
      pointers: x (or null), row scales (w8a8 only; or null), packed weights, column scales (w8a8 only), column sums times
      -128 as int32 (w8a8 only), then the operands of prologue, tile and row in that order;
      dims: M, N, K, leading dimension of x, then for prologue, tile and row in that order, per operand its row stride
      (0 = broadcast over rows; tile and row operands with inner ``broadcast`` are one scalar per row), then its inner
      stride if ``strided``, ``gather_stride`` and ``rows`` if it has an index; then the extra dims of each in that order.
    """

    compute: Literal["f32", "bf16", "w8a8"]
    tile: RowProgram
    prologue: RowProgram | None = None
    row: RowProgram | None = None
    n: int | None = None
    k: int | None = None


@dataclass(frozen=True)
class MatmulSpec:
    """Batched ``c[b] = a[b] @ b[b]`` of two run-time tensors; accumulates in f32 (f64 for f64, i64/i32 for integers).

    pointers: a, b, c, then the tile's operands.
    dims: batch rank R (compile-time ``batch_rank``): R batch sizes, M, N, K, then for a, b and c each: R batch strides,
    row stride, column stride; then per tile operand: R batch strides, row stride, column stride; then the extra dims.
    tile: elementwise steps on the virtual input ``acc`` (f32; f64, i32, i64 for those types); a store to operand -1 goes to
    c, whose storage type is ``out``. Integers wrap around; operands cannot gather.
    """

    dtype: Literal["f32", "bf16", "f64", "i32", "i64"]
    batch_rank: int
    tile: RowProgram
    out: Storage = "f32"


@dataclass(frozen=True)
class AttentionSpec:
    """``softmax(scale * q @ k.T + mask) @ v`` per head.

    compute ``f32`` or ``bf16`` (q, k, v rounded to bf16 where they are not already, probabilities too; sums in f32).
    mask: ``none``, ``bias`` (f32, added), ``bool`` (true = attend); ``causal``: query i sees keys j <= i + causal_offset.
    A row whose scores are all -inf (no visible key) gives zeros where ``empty_row`` is "zero", NaN where "nan".

    pointers: q, k, v, mask (or null), out.
    dims: B, H, Hkv (H = g * Hkv), Sq, Sk, then strides (batch, head, sequence) of q, k, v, out - the last dimension is
    contiguous - then the mask's strides (batch, head, query, key), then causal_offset.
    scratch: see ``attention_scratch`` of the renderer.
    """

    compute: Literal["f32", "bf16"]
    head_dim: int
    value_dim: int
    qkv: Storage
    out: Storage
    mask: Literal["none", "bias", "bool"] = "none"
    causal: bool = False
    scale: float = 1.0
    empty_row: Literal["zero", "nan"] = "nan"


KernelSpec = RowProgram | LinearSpec | MatmulSpec | AttentionSpec


def canonical(spec: object) -> object:
    """``spec`` as JSON-able data with the class named."""
    assert is_dataclass(spec) and not isinstance(spec, type)
    return {"kind": type(spec).__name__, **asdict(spec)}


def digest(spec: KernelSpec) -> str:
    """Hex digest of a spec: equal specs, equal digests."""
    return hashlib.sha256(json.dumps(canonical(spec), sort_keys=True).encode()).hexdigest()[:16]
