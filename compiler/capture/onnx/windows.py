"""Where windows lie, and convolution and transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...dims import Dim, Expr, dim_max, floordiv
from ...graph import Value
from ...ops_spatial import conv_output
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op


@dataclass(frozen=True)
class Windows:
    """Windows over the axes of space of a tensor [batch, channels, *space]; one entry per axis.

    Attributes:
        kernel, stride, dilation: cells, and the distances of windows and of the cells of one.
        low, high: cells in front of the tensor and behind it.
        count: how many windows there are.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    count: tuple[Dim, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """From the first cell of a window to behind its last one."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def fixed(self) -> bool:
        """Whether the padding is known, and adds cells."""
        return all(isinstance(d, int) and d >= 0 for d in (*self.low, *self.high))

    @property
    def even(self) -> bool:
        """Whether there is as much padding in front as behind, and it is known."""
        return self.low == self.high and self.fixed

    @property
    def dense(self) -> bool:
        """Whether the cells of a window are neighbours."""
        return set(self.dilation) <= {1}


def windows_over(
    x: Value,
    kernel: Sequence[Dim],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil: bool = False,
) -> Windows:
    """The windows that attributes as ONNX has them say.

    Args:
        x: [batch, channels, *space].
        kernel: cells per axis of space.
        strides, pads, dilations: 1, none and 1 where they are None; pads are those in front, then those behind.
        auto_pad: NOTSET (``pads`` count), VALID (none), SAME_UPPER or SAME_LOWER (as many windows as strides fit into the
            tensor, an odd cell of padding behind or in front).
        ceil: a window may reach over the end; not with ``auto_pad``.

    Raises:
        Unsupported: no axes of space, or attributes that do not fit their number.
    """
    space = x.shape[2:]
    rank = len(space)
    if not rank:
        raise Unsupported(f"an operand of rank {x.type.rank} has no axes of space")
    cells = tuple(k for k in kernel if isinstance(k, int))
    if len(cells) < len(kernel):
        raise Unsupported("windows of a size that varies are not supported")
    stride, dilation = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    given = tuple(pads or (0,) * (2 * rank))
    if not len(cells) == len(stride) == len(dilation) == rank or len(given) != 2 * rank:
        raise Unsupported(f"its attributes do not fit {rank} axes of space")
    low: Sequence[Dim] = given[:rank]
    high: Sequence[Dim] = given[rank:]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        count = tuple(floordiv(d + s - 1, s) for d, s in zip(space, stride, strict=True))
        totals = [
            _not_negative((n - 1) * s + g * (k - 1) + 1 - d, certain=g * (k - 1) + 1 >= s)
            for n, s, g, k, d in zip(count, stride, dilation, cells, space, strict=True)
        ]
        low, high = halves(totals, upper=auto_pad == "SAME_UPPER")
        return Windows(cells, stride, dilation, tuple(low), tuple(high), count)
    if auto_pad == "VALID":
        low, high, ceil = (0,) * rank, (0,) * rank, False
    elif auto_pad != "NOTSET":
        raise Unsupported(f"the padding {auto_pad!r} is not known")
    count = tuple(
        conv_output(d, k, s, a, g, b, ceil)  # type: ignore[arg-type]
        for d, k, s, a, g, b in zip(space, cells, stride, low, dilation, high, strict=True)
    )
    return Windows(cells, stride, dilation, tuple(low), tuple(high), count)


def _not_negative(size: Dim, certain: bool) -> Dim:
    if isinstance(size, int):
        return max(size, 0)
    return size if certain else dim_max(size, 0)


def halves(totals: Sequence[Dim], upper: bool) -> tuple[list[Dim], list[Dim]]:
    """Padding in front and behind that makes these totals; an odd cell is behind if ``upper``."""
    less = [floordiv(t, 2) for t in totals]
    more = [t - half for t, half in zip(totals, less, strict=True)]
    return (less, more) if upper else (more, less)


def padded(at: Importer, x: Value, low: Sequence[Dim], high: Sequence[Dim], value: float | int = 0) -> Value:
    """``x`` with cells around its axes of space; itself where there are none. Negative amounts cut off."""
    if not any(isinstance(d, Expr) or d for d in (*low, *high)):
        return x
    return at.emit("pad", x, low=(0, 0, *low), high=(0, 0, *high), value=value)


def present(*operands: Value | None) -> list[Value | None]:
    """Operands without the absent ones at the end."""
    kept = list(operands)
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _check_space(x: Value) -> None:
    if not 3 <= x.type.rank <= 5:
        raise Unsupported(f"it has 1 to 3 axes of space, and its operand is {x.type}")


@op("Conv")
def conv(
    at: Importer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    group: int = 1,
    auto_pad: str = "NOTSET",
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
) -> Value:
    _check_space(x)
    w = windows_over(x, weight.shape[2:], strides, pads, dilations, auto_pad)
    padding: Any = w.low, w.high
    if not w.fixed:
        x, padding = padded(at, x, w.low, w.high), ((0,) * len(w.low),) * 2
    low, high = padding
    attrs = {"stride": w.stride, "padding": low, "padding_high": None if low == high else high, "dilation": w.dilation}
    return at.emit("conv", *present(x, weight, bias), **attrs, groups=group)


@op("ConvTranspose")
def conv_transpose(
    at: Importer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    group: int = 1,
    auto_pad: str = "NOTSET",
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
) -> Value:
    """The vocabulary has equal padding on both sides and less output padding than a step; all else is cut or filled after it."""
    _check_space(x)
    w = windows_over(x, weight.shape[2:], strides, None, dilations)
    rank = len(w.kernel)
    extra = tuple(output_padding or (0,) * rank)
    low, high = _transposed_padding(x, w, extra, auto_pad, pads, output_shape)
    attrs = {"stride": w.stride, "dilation": w.dilation, "groups": group}
    behind = [e - h for e, h in zip(extra, high, strict=True)]  # cells more than the contributions reach, or fewer
    grown = [b + a for a, b in zip(low, behind, strict=True)]
    if all(isinstance(d, int) for d in (*low, *grown)) and all(
        a >= 0 and 0 <= g < max(s, d)  # type: ignore[operator]
        for a, g, s, d in zip(low, grown, w.stride, w.dilation, strict=True)
    ):
        return at.emit(
            "conv_transpose", *present(x, weight, bias), **attrs, padding=tuple(low), output_padding=tuple(grown)
        )
    none = (0,) * rank
    filled = any(isinstance(b, Expr) or b > 0 for b in behind) or any(isinstance(a, Expr) or a < 0 for a in low)
    inner = None if filled else bias  # cells that nothing contributes to are the bias alone
    whole = at.emit("conv_transpose", *present(x, weight, inner), **attrs, padding=none, output_padding=none)
    result = padded(at, whole, [-a for a in low], behind)
    if bias is None or inner is not None:
        return result
    return at.emit("add", result, at.reshape(bias, (*bias.shape, *(1 for _ in none))))


def _transposed_padding(
    x: Value,
    w: Windows,
    extra: Sequence[int],
    auto_pad: str,
    pads: Sequence[int] | None,
    output_shape: Sequence[int] | None,
) -> tuple[Sequence[Dim], Sequence[Dim]]:
    """What is cut off in front and behind of all that contributions reach (and ``extra`` cells)."""
    rank = len(w.kernel)
    if output_shape is not None:
        sizes: Sequence[Dim] = list(output_shape)[-rank:]
        ends = [(d - 1) * s + r for d, s, r in zip(x.shape[2:], w.stride, w.reach, strict=True)]
        totals = [end + e - size for end, e, size in zip(ends, extra, sizes, strict=True)]
        # a shape beyond what contributions reach is filled behind, as ONNX Runtime and the standard's own example do
        front = [max(t, 0) if isinstance(t, int) else t for t in totals]
        low, _ = halves(front, upper=auto_pad == "SAME_UPPER")
        return low, [t - a for t, a in zip(totals, low, strict=True)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        totals = [r + e - s for r, e, s in zip(w.reach, extra, w.stride, strict=True)]
        return halves(totals, upper=auto_pad == "SAME_UPPER")
    given = tuple(pads or (0,) * (2 * rank)) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    return given[:rank], given[rank:]
