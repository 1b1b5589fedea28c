"""Write docs/ops.md from the vocabulary, the capture tables and the CPU backend: ``python docs/make_ops_reference.py``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "ops.md"
sys.path.insert(0, str(ROOT / "tests"))  # the registry of sample calls is the tests'

import torch  # noqa: E402
from graph_harness import B, S, Sketch  # type: ignore[import-not-found]  # noqa: E402
from op_samples import SAMPLES, Sample  # type: ignore[import-not-found]  # noqa: E402

from planish.backends.cpu.backend import BACKEND  # noqa: E402
from planish.codegen.render import render_kernel  # noqa: E402
from planish.compiler.capture.decomposing import decompositions  # noqa: E402
from planish.compiler.capture.lowering import is_random  # noqa: E402
from planish.compiler.capture.torch_export import HANDLERS  # noqa: E402
from planish.compiler.custom_ops import custom_op  # noqa: E402
from planish.compiler.errors import LoweringError, PassError  # noqa: E402
from planish.compiler.graph import Graph  # noqa: E402
from planish.compiler.interpret import interpret  # noqa: E402
from planish.compiler.ops import OPS, schema  # noqa: E402
from planish.compiler.pass_protocol import PassContext  # noqa: E402
from planish.compiler.reference import REFERENCE as MEANINGS  # noqa: E402
from planish.compiler.target import find_target  # noqa: E402
from planish.compiler.types import DType  # noqa: E402

LEVEL = "portable"
#: The interpreter runs these itself.
STRUCTURE = ("constant", "fused")
MODULES = {
    "elementwise": "Element by element", "reduce": "Along axes", "order": "Order and place",
    "anchor": "Products, attention, int8", "spatial": "Windows", "recurrent": "Recurrent layers",
    "data": "Where elements lie and come from",
}  # fmt: skip

HEAD = """\
# Ops

Written by `make docs` from the vocabulary, the capture tables and the CPU backend itself.

A model is read from `torch.export` as a graph of ATen ops; each becomes one op of the vocabulary below, or a few. What an op
means is in `compiler/reference*.py`; the interpreter runs exactly that. The CPU backend has a kernel for every op, alone or
fused with its neighbours, at every instruction set level.

- *from*: the ATen ops (without overloads) that become it, alone or together with others. Ops that have no entry are written by
  torch in simpler ones first.
- *CPU*: the element types for which its kernel is generated. f16 and bf16 are computed in f32 and rounded at the store, i8, u8
  and i16 in i32. Every op is interpreted in all element types that PyTorch has it for.
- Precisions of a plan: {precisions}.

An index outside its axis fails the call with a plain error and neither reads nor writes memory that is not the tensor's. Sorting
is stable, NaN is the greatest number, and where an index is written to twice the last write wins.
"""


#: Ops that capture emits through methods of the same name.
SPELLED = frozenset({"cast", "reshape", "transpose", "expand", "slice"})


# -- captured -------------------------------------------------------------------------------------------------------------
def _codes(function: Any) -> Iterator[CodeType]:
    stack = [inspect.unwrap(function).__code__]
    while stack:
        code = stack.pop()
        yield code
        stack += [c for c in code.co_consts if isinstance(c, CodeType)]


def _strings(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (tuple, frozenset, list)):
            yield from _strings(value)
        elif isinstance(value, dict):
            yield from _strings((*value, *value.values()))


def mentioned(handler: Any, packet: str, depth: int = 2) -> set[str]:
    """The ops of the vocabulary that a handler names, itself or through the functions of its module that it calls."""
    found: set[str] = set()
    if isinstance(handler, partial):
        found |= set(_strings(handler.args))
        handler = handler.func
    if not isinstance(handler, FunctionType):
        return found
    for code in _codes(handler):
        words = set(_strings(code.co_consts))
        found |= words
        found |= {f"{word}{packet}" for word in words if word in ("reduce_", "arg", "logical_", "bitwise_")}
        found.add(packet)
        if depth:
            for name in code.co_names:
                inner = handler.__globals__.get(name)
                if isinstance(inner, FunctionType) and inner.__module__ == handler.__module__:
                    found |= mentioned(inner, packet, depth - 1)
    emitted = found & set(OPS) - set(STRUCTURE)
    if not emitted:  # it changes how the elements are seen, and no more
        emitted = {name for code in _codes(handler) for name in code.co_names if name in SPELLED}
    return emitted


def sources() -> dict[str, list[str]]:
    """Per op the ATen packets that become it."""
    result: dict[str, set[str]] = {name: set() for name in OPS}
    for name, handler in HANDLERS.items():
        packet = name.split(".")[1]
        for op in mentioned(handler, packet):
            result[op].add(packet)
    return {op: sorted(packets) for op, packets in result.items()}


# -- on the CPU -----------------------------------------------------------------------------------------------------------
def lowers(one: Sample, dtype: DType) -> bool:
    """Whether the CPU backend generates a kernel for a sample call in an element type."""
    sketch = Sketch()
    try:
        sketch.output(*one.write(sketch, dtype, {}))
        if not sketch.graph.inputs:
            sketch.input(B, S)  # what the sizes are read from
        graph: Graph = sketch.graph
        target = find_target(f"cpu:{LEVEL}")
        if not _meant(graph, sketch.inputs(SIZES)):
            return False
        for step in (p for passes in BACKEND.passes(target).values() for p in passes):
            step.run(graph, PassContext())
        for launch in BACKEND.lower(graph, target).launches:
            _rendered(launch.spec)
    except (LoweringError, PassError, KeyError, ValueError):
        return False
    return True


SIZES = {"b": 1, "s": 2}


def _meant(graph: Graph, inputs: dict[str, Any]) -> bool:
    """Whether PyTorch itself has the op in this element type."""
    try:
        interpret(graph, inputs)
    except (RuntimeError, IndexError, TypeError, NotImplementedError):
        return False
    return True


_RENDERED: dict[Any, None] = {}


def _rendered(spec: Any) -> None:
    if spec not in _RENDERED:
        render_kernel(spec, LEVEL)
        _RENDERED[spec] = None


def element_types(op: str, captured: bool) -> list[str]:
    """The element types (of the first operand) for which a kernel of an op is generated.

    Ops that only passes make are tried in the types in which these make them.
    """
    first = next(s for s in SAMPLES if s.op == op)
    if first.operands and first.operands[0] is not None and first.operands[0].dtype is not None:
        return [first.operands[0].dtype.value]
    return [d.value for d in (tuple(DType) if captured else first.dtypes) if lowers(first, d)]


# -- the page -------------------------------------------------------------------------------------------------------------
def _packets(names: list[str], most: int = 14) -> str:
    public = [n for n in names if not n.startswith("_")] or names
    shown = ", ".join(f"`{n}`" for n in public[:most])
    return shown + (f" and {len(public) - most} more" if len(public) > most else "")


def _groups() -> dict[str, list[str]]:
    """The ops of each part of the vocabulary, in order."""
    texts = {part: inspect.getsource(import_module(f"planish.compiler.ops_{part}")) for part in MODULES}
    result: dict[str, list[str]] = {part: [] for part in MODULES}
    for op in OPS:
        if custom_op(op) is not None:
            continue  # a plugin's
        inferred = (schema(op).infer.__module__ or "").rsplit("ops_", 1)[-1]
        named = [part for part in MODULES if f'"{op}"' in texts[part]]
        result[inferred if inferred in MODULES else named[0]].append(op)
    return result


def op_tables() -> list[str]:
    """One table per part of the vocabulary."""
    captured = sources()
    lines: list[str] = []
    for part, members in _groups().items():
        lines += [f"## {MODULES[part]}", "", "| op | meaning | from | interpreted | CPU |", "|---|---|---|---|---|"]
        for op in members:
            types = "in every kernel" if op in STRUCTURE else ", ".join(element_types(op, bool(captured[op])))
            known = "yes" if op in MEANINGS or op in STRUCTURE else "no"
            meaning = schema(op).doc.replace("|", "\\|")
            lines.append(f"| `{op}` | {meaning} | {_packets(captured[op]) or '-'} | {known} | {types or '-'} |")
        lines.append("")
    return lines


def verdict(op: Any) -> str:
    """What becomes of an op of torch's core ATen set."""
    name, packet = str(op), str(op).split(".")[1]
    if "backward" in packet:
        return "refused: it is of training"
    if packet.startswith("sym_"):
        return "captured: a size becomes a dimension"
    if op._schema.is_mutable:
        return "refused: it writes to a tensor that it is given (torch.export leaves none)"
    handler = HANDLERS.get(name)
    if handler is not None and getattr(handler, "__name__", "") in ("_depends_on_data", "_item"):
        return "refused: the size of its result depends on the data"
    if handler is not None:
        return "captured"
    if is_random(op):
        return "refused: it draws random numbers"
    if "_fft" in packet:
        return "refused: it works on complex numbers"
    return "captured: torch writes it in simpler ones" if decompositions([op]) else "refused: there is no op for it"


def core_ops() -> list[Any]:
    """torch's core ATen set."""
    # by the dispatcher, not by dir(torch.ops.aten): that one lists what this process happens to have touched
    names = sorted({name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")})
    found = []
    for name in names:
        packet, _, overload = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None and torch.Tag.core in op.tags:
            found.append(op)
    return found


def core_table() -> list[str]:
    """The core ATen set by what becomes of each op."""
    groups: dict[str, list[str]] = {}
    for op in core_ops():
        groups.setdefault(verdict(op), []).append(str(op).removeprefix("aten.").removesuffix(".default"))
    lines = ["## torch's core ATen set", "", f"The {len(core_ops())} ops that torch tags as core:", ""]
    for what in sorted(groups):
        lines += [f"- **{what}** ({len(groups[what])}): {', '.join(f'`{n}`' for n in groups[what])}", ""]
    return lines


def text() -> str:
    """The whole page."""
    known = BACKEND.capabilities(find_target("cpu:avx512-bf16")).precisions
    precisions = "; ".join(f"{unit}: {', '.join(names)}" for unit, names in known.items())
    return "\n".join([HEAD.format(precisions=precisions), *op_tables(), *core_table()]).rstrip() + "\n"


if __name__ == "__main__":
    REFERENCE.write_text(text())
    print(f"written: docs/{REFERENCE.name}")
