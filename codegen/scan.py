"""Running reductions along an axis: ``ScanSpec`` to C++ text."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from ..compiler.errors import LoweringError
from .operations import ELEMENT, NATURAL
from .render import template
from .specs import ScanSpec

#: Elements that pay for waking another worker.
GRAIN = 8192
_PLACES = frozenset({"max", "min"})


def render(spec: ScanSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``.

    Raises:
        LoweringError: the running reduction is not defined for the element type.
    """
    natural = NATURAL[spec.dtype]
    if (natural == "bool" and spec.op not in _PLACES) or (natural[0] != "f" and spec.op == "logsumexp"):
        raise LoweringError(f"there is no running {spec.op} of {spec.dtype}")
    real = natural[0] == "f"
    # PyTorch accumulates f32 in f64, f16 and bf16 in f32; integers wrap around, which signed C++ integers must not.
    accumulator: str = natural
    if spec.op in ("sum", "prod"):
        accumulator = "f64" if spec.dtype == "f32" else natural if real else "uint64_t"
    elif spec.op == "logsumexp" and spec.dtype == "f32":
        accumulator = "f64"
    sign = ">=" if spec.op == "max" else "<="
    better = f"v {sign} total[c]"
    return template(
        "cpu/scan.cpp.j2",
        spec=spec,
        name=name,
        element=ELEMENT[spec.dtype],
        accumulator=accumulator,
        natural=natural,
        places=spec.op in _PLACES,
        better=f"(v != v || (total[c] == total[c] && {better}))" if real else better,
        combine={"sum": "A(total[c] + v)", "prod": "A(total[c] * v)"}.get(spec.op, "log_add(total[c], v)"),
        grain=GRAIN,
    )


def scratch_bytes(spec: ScanSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker: none."""
    return 0
