"""Precision as data: schemes, named precisions, and what a name means for each kind of op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .errors import UsageError
from .options import nearest
from .target import Capabilities
from .types import DType

Granularity = Literal["tensor", "channel", "row", "group"]
#: Kinds of op that a precision decides; everything else is ``rest``.
Kind = Literal["linear", "attention", "rest"]


@dataclass(frozen=True)
class Scheme:
    """How one tensor is stored.

    Attributes:
        dtype: element type; ``i4`` and ``fp8`` are known by name only.
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
_I4_GROUP = Scheme("i4", "group", 128)

#: The named precisions. Output is f32 throughout: the residual stream, norms and embeddings stay f32, and a store is
#: narrowed by fusion where every reader rounds to the narrower type anyway.
PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        _float("f32"),
        _float("bf16"),
        _float("f16"),
        _float("fp8"),
        Precision("w8a8", _I8_CHANNEL, Scheme("i8", "tensor"), DType.i32),
        Precision("w8a8-dynamic", _I8_CHANNEL, Scheme("i8", "row", dynamic=True), DType.i32),
        Precision("w4a16", _I4_GROUP, Scheme("f16")),
        Precision("w4a8", _I4_GROUP, Scheme("i8", "row", dynamic=True), DType.i32),
        Precision("w8a16", _I8_CHANNEL, Scheme("f16")),
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
    """Which part of a shorthand decides about ``op``."""
    if op in ("linear", "qlinear", "conv"):
        return "linear"
    return "attention" if op == "attention" else "rest"


def expand(precision: Precision, capabilities: Capabilities) -> dict[Kind, Precision]:
    """What a shorthand means on a target.

    ``w8a8-dynamic``: linears w8a8-dynamic; attention bf16 where the target has it, else f32; the rest f32. The same holds
    for every precision below f32: it is for linears; attention becomes bf16 where the target has it (f32 otherwise); norms,
    embeddings and the residual stream stay f32.

    Raises:
        UsageError: the target has no kernel for a linear of this precision.
    """
    f32 = PRECISIONS["f32"]
    there = capabilities.of("linear")
    if precision.name not in there:
        raise UsageError(
            f"the target has no kernel for a linear in {precision.name}", f"it has {', '.join(there) or 'none'}"
        )
    below = precision.name != "f32" and "bf16" in capabilities.of("attention")
    return {"linear": precision, "attention": PRECISIONS["bf16"] if below else f32, "rest": f32}


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
