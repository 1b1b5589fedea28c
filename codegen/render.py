"""Specs to C++ text: one jinja2 environment, one function per kernel, one preamble per ISA level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..compiler.dims import Dim
from .specs import (
    ISA_LEVELS,
    AttentionSpec,
    CustomSpec,
    GroupStatsSpec,
    KernelSpec,
    LinearSpec,
    MatmulSpec,
    RecurrentSpec,
    RowProgram,
    ScanSpec,
    ScatterSpec,
    SearchSpec,
    SortSpec,
    WindowSpec,
    digest,
)

#: float32 lanes of one vector, by ISA level.
LANES = {"portable": 4, "avx2": 8, "avx512-vnni": 16, "avx512-bf16": 16}

#: The module that renders a class of specs: it has ``render(spec, isa, name) -> str``, the text of
#: ``static void NAME(const planish_host* host, void* const* p, const int64_t* d, void* scratch)`` with whatever it needs
#: before it, ``scratch_bytes(spec, dims, isa) -> Dim``, and where kernels have code in common ``shared(spec, isa)``, see
#: :func:`shared_text`.
_RENDERERS: dict[type, str] = {
    RowProgram: "row",
    LinearSpec: "linear",
    MatmulSpec: "matmul",
    AttentionSpec: "attention",
    WindowSpec: "window",
    RecurrentSpec: "recurrent",
    GroupStatsSpec: "group_stats",
    CustomSpec: "custom",
    ScanSpec: "scan",
    SortSpec: "sort",
    SearchSpec: "search",
    ScatterSpec: "scatter",
}


@cache
def environment() -> Environment:
    """The jinja2 environment of all templates: an undefined name is an error, nothing is escaped."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["lines"] = lambda lines, width=4: indent_lines(lines, width)
    return env


def indent_lines(lines: Sequence[str], width: int = 4) -> str:
    """``lines`` joined, each but the first indented by ``width`` spaces (jinja puts the first where the tag stands)."""
    return "\n".join(line if i == 0 or not line else " " * width + line for i, line in enumerate(lines))


def template(name: str, /, **context: object) -> str:
    """Render ``templates/<name>`` with ``context``."""
    return environment().get_template(name).render(**context)


def includes(isa: str) -> str:
    """The system headers that kernels for ``isa`` include: a file of its own, because a compiler can keep it precompiled."""
    return template("cpu/includes.hpp.j2", avx2=ISA_LEVELS.index(isa) >= 1)


def vectors(isa: str) -> str:
    """What every kernel builds on, after :func:`includes`: the host table, ``parallel`` and the vectors of ``isa``."""
    index = ISA_LEVELS.index(isa)
    return template("cpu/vec.hpp.j2", isa=isa, lanes=LANES[isa], avx2=index >= 1, avx512=index >= 2, bf16=index >= 3)


def preamble(isa: str) -> str:
    """:func:`includes` and :func:`vectors`: what stands before a kernel."""
    return includes(isa) + vectors(isa)


def kernel_name(spec: KernelSpec) -> str:
    """The name of the C++ function of a spec: equal specs share one."""
    return f"k_{digest(spec)}"


def render_kernel(spec: KernelSpec, isa: str) -> str:
    """The C++ text of one kernel; it stands after :func:`preamble` of the same ISA level."""
    text: str = _renderer(spec).render(spec, isa, kernel_name(spec))
    return text


def shared_text(spec: KernelSpec, isa: str) -> dict[str, str]:
    """The C++ texts that the kernel of ``spec`` is linked with, by name: other kernels may need the same, and each is
    compiled once. They stand before the kernel where all is one file."""
    find = getattr(_renderer(spec), "shared", None)
    found: dict[str, str] = {} if find is None else find(spec, isa)
    return found


def entry_name(name: str) -> str:
    """The symbol under which the kernel function ``name`` is known to other translation units of its unit."""
    return f"planish_{name}"


def declaration(name: str) -> str:
    """The C++ declaration of the entry point of the kernel function ``name``; nothing outside the shared object sees it."""
    arguments = "const planish_host* host, void* const* p, const int64_t* d, void* scratch"
    return f'extern "C" __attribute__((visibility("hidden"))) void {entry_name(name)}({arguments})'


def entry(name: str) -> str:
    """The entry point of the kernel function ``name``, which stands before it in the same file; the call is inlined."""
    return f"{declaration(name)} {{ {name}(host, p, d, scratch); }}\n"


def scratch_bytes(spec: KernelSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Bytes of private memory that one worker of a kernel needs, as a function of the launch's ``dims``; 0 for none."""
    size: Dim = _renderer(spec).scratch_bytes(spec, dims, isa)
    return size


def _renderer(spec: KernelSpec) -> ModuleType:
    return import_module(f".{_RENDERERS[type(spec)]}", __package__)
