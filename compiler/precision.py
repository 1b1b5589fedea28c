"""Precision as data: schemes, named precisions, and what a name means for each kind of op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .errors import UsageError
from .graph import Node
from .options import nearest
from .target import Capabilities
from .types import DType

Granularity = Literal["tensor", "channel", "row", "group"]
#: Kinds of op that a precision decides; everything else is ``rest``.
Kind = Literal["linear", "conv", "attention", "embedding", "rest"]


@dataclass(frozen=True)
class Scheme:
    """How one tensor is stored.

    Attributes:
        dtype: element type; ``fp8`` is known by name only.
        granularity: what shares a scale: the tensor, an output channel of a weight, a row of activations, or
            ``group_size`` neighbours of a row. None for a float type, which has no scale.
        group_size: elements per group; 0 without groups.
        symmetric: no zero point.
        dynamic: the scale is found at run time.
    """

    dtype: str
    granularity: Granularity | None = None
    group_size: int = 0
    symmetric: bool = True
    dynamic: bool = False

    @property
    def is_float(self) -> bool:
        return self.granularity is None


@dataclass(frozen=True)
class Precision:
    """How an op computes: how weight and activation are stored, what products are summed in, what comes out.

    Attributes:
        name: one of :data:`PRECISIONS`, or the user's own.
    """

    name: str
    weight: Scheme
    activation: Scheme
    accumulator: DType = DType.f32
    output: DType = DType.f32

    def __str__(self) -> str:
        return self.name


def _float(name: str, dtype: str | None = None) -> Precision:
    scheme = Scheme(dtype or name)
    return Precision(name, scheme, scheme)


_I8_CHANNEL = Scheme("i8", "channel")
_I8_ROW = Scheme("i8", "row", dynamic=True)
_A16 = Scheme("bf16")


def _grouped(activation: str, scheme: Scheme, accumulator: DType) -> list[Precision]:
    """int4 weights in groups of 128 neighbours of a row (the plain name), 64 and 32."""
    return [
        Precision(f"w4{activation}{suffix}", Scheme("i4", "group", size), scheme, accumulator)
        for suffix, size in (("", 128), ("-g64", 64), ("-g32", 32))
    ]


#: The named precisions. Output is f32 throughout: the residual stream, norms and embeddings stay f32, and a store is
#: narrowed by fusion where every reader rounds to the narrower type anyway. ``a16`` is bfloat16: what CPUs multiply.
PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        _float("f32"),
        _float("bf16"),
        _float("f16"),
        _float("fp8"),
        Precision("w8a8", _I8_CHANNEL, Scheme("i8", "tensor", symmetric=False), DType.i32),
        Precision("w8a8-dynamic", _I8_CHANNEL, _I8_ROW, DType.i32),
        Precision("w8a16", _I8_CHANNEL, _A16),
        *_grouped("a16", _A16, DType.f32),
        *_grouped("a8", _I8_ROW, DType.i32),
    )
}

#: Names that people try, and what to write instead.
_MEANT = {
    "int8": "w8a8-dynamic",
    "i8": "w8a8-dynamic",
    "w8a8_dynamic": "w8a8-dynamic",
    "dynamic": "w8a8-dynamic",
    "int4": "w4a16",
    "i4": "w4a16",
    "fp32": "f32",
    "float32": "f32",
    "float": "f32",
    "fp16": "f16",
    "float16": "f16",
    "half": "f16",
    "bfloat16": "bf16",
    "fp8_e4m3": "fp8",
}


def find_precision(name: str) -> Precision:
    """The precision called ``name``.

    Raises:
        UsageError: there is none; suggests what is meant or nearest. A bare "int8" does not say how activations are scaled.
    """
    if name in PRECISIONS:
        return PRECISIONS[name]
    meant = _MEANT.get(name.lower())
    if meant is not None and name.lower() in ("int8", "i8", "int4", "i4"):
        raise UsageError(
            f"the precision {name!r} does not say what becomes of the activations", f"did you mean {meant!r}?"
        )
    raise UsageError(
        f"there is no precision {name!r}", f"did you mean {meant!r}?" if meant else nearest(name, PRECISIONS)
    )


def kind_of(op: str) -> Kind:
    """Which part of a shorthand decides about every node of ``op``; whether a lookup is an embedding depends on the node
    (:func:`kind_of_node`)."""
    if op in ("linear", "qlinear"):
        return "linear"
    if op == "conv":
        return "conv"
    return "attention" if op == "attention" else "rest"


def kind_of_node(node: Node) -> Kind:
    """Which part of a shorthand decides about ``node``: a lookup of rows in a constant matrix of floats is an ``embedding``."""
    if node.op not in ("embedding", "gather"):
        return kind_of(node.op)
    table = node.inputs[0]
    if table is None or table.node is None or table.node.op != "constant":
        return "rest"
    rows = node.op == "embedding" or node.attrs["axis"] % max(table.type.rank, 1) == 0
    return "embedding" if rows and table.type.rank == 2 and table.dtype.is_float else "rest"


def candidates(kind: Kind, capabilities: Capabilities) -> tuple[str, ...]:
    """The precisions that a target offers for a kind of op, ``f32`` always among them.

    A target that says nothing of convolutions computes them in f32 and, where it has bf16 linears, in bf16; one that says
    nothing of embeddings looks rows up in f32.
    """
    if kind == "conv" and "conv" not in capabilities.precisions:
        found = tuple(name for name in capabilities.of("linear") if name in ("f32", "bf16"))
    elif kind in ("embedding", "rest"):
        found = capabilities.precisions.get(kind, ())
    else:
        found = capabilities.of(kind)
    return found if "f32" in found else ("f32", *found)


def expand(precision: Precision, capabilities: Capabilities, *, exact: bool = False) -> dict[Kind, Precision]:
    """What a precision means for every kind of op on a target.

    A shorthand (``exact=False``: the whole model, or all that a wildcard matches) is for linears. Convolutions take it where
    the target has it for them and are f32 otherwise; attention too, and bf16 where the target has that instead; norms,
    embeddings and the residual stream stay f32.

    The name of one node (``exact=True``) also decides an embedding; a kind that the target cannot compute in ``precision`` and
    that has no fallback of the kinds above is left out.

    Raises:
        UsageError: the target has no kernel for a linear of this precision (with ``exact``: for no kind of op).
    """
    f32 = PRECISIONS["f32"]
    offered = {kind: candidates(kind, capabilities) for kind in ("linear", "conv", "attention", "embedding")}
    there = offered["linear"] if capabilities.of("linear") else ()
    kinds = [kind for kind, names in offered.items() if precision.name in names]
    if not kinds or ("linear" not in kinds and not exact):
        raise no_kernel(precision, capabilities)
    found: dict[Kind, Precision] = {}
    if precision.name in there:
        found["linear"] = precision
    found["conv"] = precision if "conv" in kinds else f32
    below = precision.name != "f32" and "bf16" in offered["attention"]
    found["attention"] = precision if "attention" in kinds else PRECISIONS["bf16"] if below else f32
    found["embedding"] = precision if exact and "embedding" in kinds else f32
    found["rest"] = f32
    return found


def expand_nearest(precision: Precision, capabilities: Capabilities, *, exact: bool = False) -> dict[Kind, Precision]:
    """Like :func:`expand`, for a plan that was made for another target: what is lacking here becomes :func:`nearest_offered`."""
    linear = nearest_offered(precision, candidates("linear", capabilities))
    try:
        found = expand(precision, capabilities, exact=exact)
    except UsageError:
        found = expand(linear, capabilities, exact=exact)
    found.setdefault("linear", linear)
    if exact:
        kinds: tuple[Kind, ...] = ("conv", "embedding")
        for kind in kinds:
            found[kind] = nearest_offered(precision, candidates(kind, capabilities))
    return found


def nearest_offered(precision: Precision, offered: Sequence[str]) -> Precision:
    """The coarsest of the precisions ``offered`` that is as fine as ``precision`` in weights and activations; itself where it is
    among them, ``f32`` where there is no other.

    Where eight bits are offered with scales of another kind (calibrated instead of found at run time, or the other way round),
    they are nearer than sixteen: whoever asks for them wants their speed. Smaller groups are as fine as larger ones. Of the
    16-bit floats none stands for the other: one lacks range, the other digits.
    """
    if precision.name in offered:
        return precision
    known = [PRECISIONS[name] for name in offered if name in PRECISIONS]
    fine = [p for p in known if _as_fine(p.weight, precision.weight) and _as_fine(p.activation, precision.activation)]
    return min(fine, key=lambda p: _BITS[p.weight.dtype] + _BITS[p.activation.dtype], default=PRECISIONS["f32"])


#: Bits of an element.
_BITS = {"i4": 4, "i8": 8, "fp8": 8, "f16": 16, "bf16": 16, "f32": 32}


def _as_fine(scheme: Scheme, wanted: Scheme) -> bool:
    bits, least = _BITS[scheme.dtype], _BITS.get(wanted.dtype, 32)
    if bits != least:
        return bits > least
    if scheme.dtype != wanted.dtype:
        return False
    return not wanted.group_size or 0 < scheme.group_size <= wanted.group_size


def no_kernel(precision: Precision, capabilities: Capabilities) -> UsageError:
    """The error that a target has no linear of ``precision``."""
    there = ", ".join(capabilities.of("linear"))
    return UsageError(f"the target has no kernel for a linear in {precision.name}", f"it has {there or 'none'}")


def precision_data(precision: Precision) -> str | dict[str, Any]:
    """A precision as TOML and JSON hold it: its name, or a table if it is the user's own."""
    if PRECISIONS.get(precision.name) == precision:
        return precision.name
    data = asdict(precision)
    return {**data, "accumulator": precision.accumulator.value, "output": precision.output.value}


def precision_from(data: Any) -> Precision:
    """The precision that a name or a table stands for.

    Raises:
        UsageError: neither fits.
    """
    if isinstance(data, Precision):
        return data
    if isinstance(data, str):
        return find_precision(data)
    if not isinstance(data, Mapping):
        raise UsageError(f"{data!r} is no precision", "write a name such as 'w8a8-dynamic', or a table")
    try:
        return Precision(
            data["name"],
            Scheme(**data["weight"]),
            Scheme(**data["activation"]),
            DType(data.get("accumulator", "f32")),
            DType(data.get("output", "f32")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the precision {dict(data)!r} is incomplete or has a wrong entry: {error}",
            "it has name, weight, activation, accumulator and output",
        ) from None
