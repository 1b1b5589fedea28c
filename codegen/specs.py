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

#: How an operand moves along the inner dimension: stride 1, stride 0 (one element per row), or a run-time stride. ``constant`` is
#: one element for all rows, which an anchor's kernel reads once, before all else (a row kernel has ``broadcast`` for it).
Inner = Literal["unit", "broadcast", "strided", "constant"]

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
      ``quantize`` (x, inv, zero)         zero + round-to-nearest-even(x * inv), clamped to the type named in ``mode`` (i8, u8,
                                          i16); zero for NaN; domain i32. mode "division": x / inv in place of x * inv;
                                          "symmetric": i8 from -127, zero is 0; "stored": the result is only stored to the
                                          type. With (x, inv, low, high, zero) the range less the zero point is given
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
    With ``static`` the rows have no scales: ``acc = float(int32 sum) * column_scale``, where the column scales hold the one
    scale of x, and the sums start at what the launch gives (``backends/cpu/static_int8``), so that x may have a zero point.
    ``w8a16``: x is bf16, w is int8; ``acc = sum * column_scale``. ``w4a16``: x is bf16, w is int4 with a scale (stored as
    ``scales``) per column and group of k; ``acc = sum over groups, in order, of group sum * scale``. ``w4a8``: x is i8 with one
    f32 scale per row, w is int4; ``acc = row_scale * (sum over groups, in order, of float(int32 sum) * scale)``.

    prologue: computes rows of x from the operands it loads; its single ``store`` step has operand number -1 and goes to x
    in x's storage type (and, for w8a8 and w4a8, a ``store`` with operand number -2 gives the row's f32 scale). None: x is
    read from memory (and for w8a8 and w4a8 the scales too).
    tile: elementwise steps on the accumulators, from the virtual input ``acc`` (f32), ending in stores.
    row: whole-row steps after the tile; reads the virtual input ``row`` (f32), which is what the tile *stored* to operand
    number -1. None: the tile stores directly. Steps that reduce nothing run tile by tile, a second time over each.

    Kernel arguments
      pointers: x (or null), row scales (w8a8 and w4a8 only; or null), packed weights, column scales (w8a8 and w8a16 only),
      column sums times -128 as int32 (w8a8 only; ``static``: what the sums start at), scales of the groups (int4 only), then
      the operands of prologue, tile and row in that order;
      dims: M, N, K, leading dimension of x, then for prologue, tile and row in that order, per operand its row stride
      (0 = broadcast over rows; tile and row operands with inner ``broadcast`` are one scalar per row), then its inner
      stride if ``strided``, ``gather_stride`` and ``rows`` if it has an index; then the extra dims of each in that order;
      with ``patches`` the geometry of the windows (see :class:`WindowSpec`), the channels per group and the byte that stands
      outside of x (0 for floats); with ``grouped`` the number of groups and the elements of w per group; of int4 weights the
      values of k in a group, a multiple of 32.

    patches: an implicit convolution. x is channels-last, and row m of the product is the window of output position m:
    every tap's channels one after the other, the filling outside x. There is no prologue then.
    grouped: N, K and w are those of one group; group g reads its own channels and writes columns g * N onwards of the tile's
    operands; column scales and sums are padded to whole vectors per group. There is no row program then.
    """

    compute: Literal["f32", "bf16", "w8a8", "w8a16", "w4a16", "w4a8"]
    tile: RowProgram
    prologue: RowProgram | None = None
    row: RowProgram | None = None
    n: int | None = None
    k: int | None = None
    patches: bool = False
    grouped: bool = False
    static: bool = False
    scales: Literal["f32", "bf16"] = "f32"


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
    A row whose scores are all -inf (no visible key) gives zeros where ``empty_row`` is "zero", NaN where "nan", the mean of
    the values of all keys, hidden ones too, where "mean".

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
    empty_row: Literal["zero", "nan", "mean"] = "nan"


@dataclass(frozen=True)
class CustomSpec:
    """A kernel that a user wrote in C++ (``compiler/custom_ops.py:CppKernel`` says what it is called with).

    op: the torch name; source, function: the text and the function in it; operands, results: element type and rank of each,
    None for an absent operand; attributes: (kind, value), a number that is known only at run time being ``"@"``; parallel: how
    many leading axes of the first result are shared out; flops: operations per element of it.

    pointers: operands (null where absent), results; all row-major without gaps.
    dims: the sizes of each operand that is there and of each result, then the run-time attributes in order.
    """

    op: str
    source: str
    function: str
    operands: tuple[tuple[Storage, int] | None, ...]
    results: tuple[tuple[Storage, int], ...]
    attributes: tuple[tuple[str, object], ...] = ()
    parallel: int = 0
    flops: int = 1


@dataclass(frozen=True)
class WindowSpec:
    """What slides a window over a channels-last tensor, lane by lane of the channels, with elementwise steps behind it.

    kind ``depthwise``: the sum over the taps of x * w, w f32 [taps, channels]; where x is i8b, of (x - zero) * w, exact.
    ``max``: the largest, NaN first, -inf where nothing lies inside x. ``mean``: the sum over the divisor. ``fold``: the adjoint
    of taking windows: x is [batch, *space, taps, channels], and every output position sums the taps that reach it (the second
    half of a transposed convolution). Sums are f32; positions outside x do not count.

    tile: elementwise steps on the virtual input ``acc`` (f32), ending in stores; rows are output positions.

    pointers: x, w (``depthwise``; else null), then the tile's operands.
    dims: batch, channels, the geometry: per axis z, y, x (absent ones first, of size 1) the size of x, the size of the
    output, kernel, stride, dilation and the padding in front, then the strides of x along batch, z, y and x (channels are
    contiguous); the divisor (``mean``: a number, 0 = the cells inside x, -1 = those inside x and its padding, which is as
    wide behind as in front; ``depthwise`` of i8b: 128 + zero); then per operand of the tile its row stride, inner stride if
    ``strided``; then the extra dims.
    """

    kind: Literal["depthwise", "max", "mean", "fold"]
    x: Storage
    tile: RowProgram


@dataclass(frozen=True)
class ScanSpec:
    """A running reduction along an axis, one element after the other.

    op: ``sum``, ``prod``, ``logsumexp`` (f32 is accumulated in f64, f16 and bf16 in f32; integers wrap around), or ``max`` and
    ``min``, which keep the index of the last extreme; a NaN is the extreme of what follows it.

    pointers: x, out (or null), indices i64 (or null; ``max`` and ``min`` alone).
    dims: the ``outer_rank`` outer sizes, the length of the axis, the number of columns; then for x, out and indices each its
    outer strides, the stride along the axis, the stride along the columns.
    """

    op: Literal["sum", "prod", "logsumexp", "max", "min"]
    dtype: Storage
    outer_rank: int


@dataclass(frozen=True)
class SortSpec:
    """The first ``count`` elements of every row in sorted order, and their places in the row. Equal elements keep their order
    (-0 equals 0), NaN is the greatest.

    pointers: x, values (or null), places i64 (or null).
    dims: the ``outer_rank`` outer sizes, the length of a row, ``count``; then for x, values and places each its outer strides
    and the stride along the row.
    scratch: two lists of (key, place), see ``sort.scratch_bytes``.
    """

    dtype: Storage
    descending: bool
    outer_rank: int


@dataclass(frozen=True)
class SearchSpec:
    """How many of a row's sorted numbers are below each x (``right``: not above it); a NaN is above all of them.

    pointers: the sorted numbers, x, out (i64 or i32).
    dims: the ``outer_rank`` outer sizes, how many sorted numbers and how many x a row has; then for the sorted numbers, x and
    out each its outer strides and the stride along the row.
    """

    dtype: Storage
    right: bool
    out: Literal["i64", "i32"]
    outer_rank: int


@dataclass(frozen=True)
class ScatterSpec:
    """Writes by index into ``out``: for every outer index, j and column, in this order, the element of ``out`` at row
    ``ids[j]`` (or ``ids[j, column]``, where ``elements``) is replaced by, or combined with, the one of the source.

    reduce: ``none`` (the last write wins), ``sum``, ``prod``, ``max``, ``min`` (NaN wins); f16 and bf16 round after each.
    Negative ids count from the end; an id outside of ``[-rows, rows)`` sets the call's error flag and writes nothing.

    pointers: ids (``index``), source, out.
    dims: the ``outer_rank`` outer sizes, how many j, columns and rows; then for ids, source and out each its outer strides, the
    stride along j (of ``out``: along the rows) and along the columns.
    """

    dtype: Storage
    index: Storage
    reduce: Literal["none", "sum", "prod", "max", "min"]
    elements: bool
    outer_rank: int


@dataclass(frozen=True)
class GroupStatsSpec:
    """What a group normalisation does to every channel: y = x * scale + shift. Sums are f32 per channel, f64 across channels.

    pointers: x (channels-last), weight and bias of the channels (f32 [channels], or null), scale, shift (f32 [batch, channels]).
    dims: batch, cells (positions of space), channels, groups, then the strides of x along batch and cells.
    """

    x: Storage
    eps: float


@dataclass(frozen=True)
class RecurrentSpec:
    """One recurrent layer in one direction over a whole sequence, in f32; see the op ``recurrent``.

    pointers: x (the input's share of the gates), weights (``backends/cpu/lower_recurrent.packed_gates``), h0, c0 (null: zeros),
    bias of gru's new gate (or null), steps, last h, last c (null: not wanted).
    dims: length, batch, hidden, then the strides (step, row) of x and of the steps - the last axis is contiguous, the states
    are dense - and whether the walk begins at the end.
    """

    cell: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]


KernelSpec = (
    RowProgram
    | LinearSpec
    | MatmulSpec
    | AttentionSpec
    | WindowSpec
    | GroupStatsSpec
    | RecurrentSpec
    | CustomSpec
    | ScanSpec
    | SortSpec
    | SearchSpec
    | ScatterSpec
)


def canonical(spec: object) -> object:
    """``spec`` as JSON-able data with the class named."""
    assert is_dataclass(spec) and not isinstance(spec, type)
    return {"kind": type(spec).__name__, **asdict(spec)}


def digest(spec: KernelSpec) -> str:
    """Hex digest of a spec: equal specs, equal digests."""
    return hashlib.sha256(json.dumps(canonical(spec), sort_keys=True).encode()).hexdigest()[:16]
