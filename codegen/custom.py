"""A user's C++ kernel (``CustomSpec``) as C++ text: their function in a namespace of its own, and the call of it.

``#line`` gives their text the name of the op, so that an error of the compiler says which op and which of its lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ..compiler.dims import Dim
from .render import template
from .specs import CustomSpec

#: Elements (times operations each) that pay for waking another worker.
GRAIN = 8192
#: The C++ type in which a kernel sees elements of a storage type.
CPP_TYPE = {
    "f64": "double", "f32": "float", "i64": "int64_t", "i32": "int32_t", "i16": "int16_t", "i8": "int8_t", "u8": "uint8_t",
    "bool": "bool",
}  # fmt: skip

_LISTS = frozenset({"ints", "floats", "bools"})
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<[^>\n]+>.*$", re.M)


def scratch_bytes(spec: CustomSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """A user's kernel is given no scratch memory."""
    return 0


def render(spec: CustomSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``."""
    includes = list(dict.fromkeys(line.strip() for line in _INCLUDE.findall(spec.source)))
    arguments: list[str] = []
    dim = 0
    for number, (port, written) in enumerate(
        [*((o, False) for o in spec.operands), *((r, True) for r in spec.results)]
    ):
        if port is None:
            arguments.append("nullptr, nullptr")
            continue
        dtype, rank = port
        const = "" if written else "const "
        arguments.append(f"({const}{CPP_TYPE[dtype]}*)p[{number}], d + {dim}")
        if number == len(spec.operands):
            first_result = dim
        dim += rank
    declarations: list[str] = []
    for number, (kind, value) in enumerate(spec.attributes):
        declared, texts, dim = _attribute(f"a{number}", kind, value, dim)
        declarations += declared
        arguments += texts
    rank = spec.results[0][1]
    sizes = [f"d[{first_result + axis}]" for axis in range(rank)]
    text: str = template(
        "cpu/custom.cpp.j2",
        name=name,
        op=spec.op,
        label=json.dumps(spec.op),
        call_label=json.dumps(f"the call of {spec.function} for the op {spec.op}"),
        includes=includes,
        source=_INCLUDE.sub("", spec.source),
        function=spec.function,
        declarations=declarations,
        arguments=arguments,
        items=" * ".join(sizes[: spec.parallel]) or "1",
        elements=" * ".join(sizes) or "1",
        flops=max(spec.flops, 1),
        shared=spec.parallel > 0,
        grain=GRAIN,
    )
    return text


def _attribute(name: str, kind: str, value: object, dim: int) -> tuple[list[str], list[str], int]:
    """Declarations, arguments and the number of the next run-time dim of one attribute."""
    plain = kind.removesuffix("?")
    if value is None:
        return [], ["nullptr, int64_t(0)" if plain in _LISTS else "nullptr"], dim
    if plain in _LISTS:
        assert isinstance(value, tuple)
        texts = []
        for item in value:
            text, dim = _scalar(plain[:-1], item, dim)
            texts.append(text)
        element = _scalar_type(plain[:-1])
        listed = [f"const {element} {name}[] = {{{', '.join(texts) or '0'}}};"]
        return listed, [f"(const {element}*){name}, int64_t({len(value)})"], dim
    text, dim = _scalar(plain, value, dim)
    if kind.endswith("?"):
        return [f"const {_scalar_type(plain)} {name} = {text};"], [f"&{name}"], dim
    return [], [text], dim


def _scalar_type(kind: str) -> str:
    return {"int": "int64_t", "float": "double", "bool": "bool", "str": "char", "dtype": "char"}[kind]


def _scalar(kind: str, value: object, dim: int) -> tuple[str, int]:
    if value == RUN_TIME and kind in ("int", "float"):
        return f"{_scalar_type(kind)}(d[{dim}])", dim + 1
    if kind == "bool":
        return ("true" if value else "false"), dim
    if kind in ("str", "dtype"):
        return json.dumps(str(value)), dim
    if kind == "float":
        number = float(value)  # type: ignore[arg-type]
        if number != number:
            return "double(NAN)", dim
        if number in (float("inf"), -float("inf")):
            return f"double({'-' if number < 0 else ''}INFINITY)", dim
        return f"double({number!r})", dim
    return f"INT64_C({int(value)})", dim  # type: ignore[call-overload]


#: Stands for a number in ``CustomSpec.attributes`` that arrives among the dims of a launch.
RUN_TIME = "@"
