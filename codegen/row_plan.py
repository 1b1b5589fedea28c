"""A row program in passes: how one row is processed when reductions separate what can be computed together.

A reduction over a row is known only when the row has been seen, so the steps fall into *passes* over the row. A value that a
later pass needs again is *kept*: in registers where the row has a known, small length, else in a buffer that stays in the
first-level cache; a plain load, or one cheap step on a value that is at hand, is done again instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..compiler.dims import Dim, floordiv
from ..compiler.errors import LoweringError
from .expression import REDUCTIONS, Context, Key, Names, argument, bind, evaluate, load_text, store_text
from .operations import DOMAIN_BYTES, NATURAL, VECTOR, Typed, convert, literal
from .render import LANES
from .specs import Operand, RowProgram, Step

#: Vectors of kept values that fit the registers beside what a pass itself needs.
_REGISTERS = {"portable": 10, "avx2": 10, "avx512-vnni": 26, "avx512-bf16": 26}
#: Kept values of a row of known length stand on the stack up to this many bytes.
_STACK_BYTES = 32 * 1024
_CHEAP = frozenset({"add", "sub", "mul", "neg", "abs", "maximum", "minimum", "relu", "square", "cast"})
_COSTLY = frozenset({"exp", "log", "tanh", "erf", "gelu", "sigmoid", "silu", "sin", "cos", "pow", "softplus", "mish"})


@dataclass
class _Pass:
    """What one pass over the row does: values it fetches, steps it computes in order, values it keeps, its roots."""

    fetched: list[str] = field(default_factory=list)
    computed: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    roots: list[Step] = field(default_factory=list)


class RowPlan:
    """How the rows of a program are processed.

    Args:
        program: the steps.
        isa: the ISA level.
        inputs: virtual inputs that lie in memory, by name (``row``); their places are given under the same name.
        targets: operands with numbers outside the program's own (``-1``, ``-2``).

    Raises:
        LoweringError: a step reads what is not defined, or there is no kernel for it.
    """

    def __init__(
        self,
        program: RowProgram,
        isa: str,
        inputs: Mapping[str, Operand] | None = None,
        targets: Mapping[int, Operand] | None = None,
    ) -> None:
        self.program = program
        self.lanes = LANES[isa]
        self._operands: dict[Key, Operand] = dict(enumerate(program.operands))
        for name, operand in (inputs or {}).items():
            self._operands[name] = operand
        for number, operand in (targets or {}).items():
            self._operands[number] = operand
        loads = [Step("load", name, (name,), NATURAL[operand.dtype]) for name, operand in (inputs or {}).items()]
        self._steps = _live([*loads, *program.steps])
        self._by_result = {step.result: step for step in self._steps if step.op != "store"}
        self._level: dict[str, int] = {}
        self._uniform: dict[str, bool] = {}
        self._passes: list[_Pass] = []
        self._scalars: list[list[Step]] = []
        self._sort()
        self.reduces = any(step.op in REDUCTIONS for step in self._steps)
        vectors = -(-program.inner_size // self.lanes) if program.inner_size is not None else 0
        self.in_registers = False
        if vectors and len(self._passes) > 1:
            self._keep(everything=True)
            self.in_registers = self._most_alive() * vectors <= _REGISTERS[isa]
        if not self.in_registers:
            self._keep(everything=False)
        self._vectors = vectors
        self.kept = [name for step in self._passes for name in sorted(step.kept)]

    # -- analysis --------------------------------------------------------------------------------------------------
    def _arguments(self, step: Step) -> list[str]:
        if step.op == "store":
            return [a for a in step.args[1:] if isinstance(a, str)]
        if step.op in ("load", "outer", "dim", "inner", "length"):
            return []
        return [a for a in step.args if isinstance(a, str)]

    def _sort(self) -> None:
        """Find the level of every value, and from it the pass of every root (store or reduction)."""
        roots: dict[int, list[Step]] = {}
        scalars: dict[int, list[Step]] = {}
        for step in self._steps:
            names = self._arguments(step)
            for name in names:
                if name not in self._level:
                    raise LoweringError(f"the step '{step.op}' reads '{name}', which no earlier step defines")
            level = max((self._level[name] for name in names), default=0)
            if step.op == "store":
                broadcast = self._operands[_key(step)].inner == "broadcast"
                (scalars if broadcast else roots).setdefault(level, []).append(step)
                continue
            if step.op in REDUCTIONS:
                roots.setdefault(level, []).append(step)
                self._level[step.result], self._uniform[step.result] = level + 1, True
                continue
            if step.op == "load":
                uniform = self._operands[_key(step)].inner in ("broadcast", "constant")
            else:
                uniform = step.op != "inner" and all(self._uniform[name] for name in names)
            self._level[step.result], self._uniform[step.result] = level, uniform
            if uniform:
                scalars.setdefault(level, []).append(step)
        count = max(roots, default=-1) + 1
        self._passes = [_Pass(roots=roots.get(p, [])) for p in range(count)]
        self._scalars = [scalars.get(p, []) for p in range(max([count, *scalars]) + 1)]

    def _keep(self, everything: bool) -> None:
        """Decide per pass what is computed, fetched and kept."""
        self._passes = [_Pass(roots=p.roots) for p in self._passes]
        first: dict[str, int] = {}
        kept: set[str] = set()
        stored = False  # an earlier pass wrote a row: it may share memory with what is loaded
        for number, current in enumerate(self._passes):
            pending = [name for root in current.roots for name in self._arguments(root)]
            while pending:
                name = pending.pop()
                if self._uniform[name] or name in current.computed or name in current.fetched:
                    continue
                if name in first and first[name] < number and not (
                    not everything and self._again(name, kept, may_load=not stored)
                ):  # fmt: skip
                    kept.add(name)
                    self._passes[first[name]].kept.add(name)
                    current.fetched.append(name)
                    continue
                current.computed.add(name)
                first.setdefault(name, number)
                pending += self._arguments(self._by_result[name])
            stored = stored or any(root.op == "store" for root in current.roots)

    def _again(self, name: str, kept: set[str], may_load: bool) -> bool:
        """Whether computing ``name`` a second time costs no more than keeping it."""
        step = self._by_result[name]
        if name in kept:
            return False
        if step.op == "inner":
            return True
        if step.op == "load":
            return may_load and self._operands[_key(step)].inner == "unit"
        varying = {a for a in self._arguments(step) if not self._uniform[a]}
        if step.op not in _CHEAP or len(varying) != 1:
            return False
        (source,) = varying
        return source in kept or (self._by_result[source].op == "load" and self._again(source, kept, may_load))

    def _most_alive(self) -> int:
        last = {name: p for p, step in enumerate(self._passes) for name in step.fetched}
        born = {name: p for p, step in enumerate(self._passes) for name in step.kept}
        return max(
            (sum(born[n] <= p < last[n] for n in born) for p in range(len(self._passes))),
            default=0,
        )

    # -- sizes -----------------------------------------------------------------------------------------------------
    @property
    def _on_stack(self) -> bool:
        return self.in_registers or (
            self._vectors > 0 and sum(self._kept_bytes(name) for name in self.kept) * self._vectors <= _STACK_BYTES
        )

    def _kept_bytes(self, name: str) -> int:
        return self.lanes * DOMAIN_BYTES[self._by_result[name].domain]

    def scratch_bytes(self, length: Dim) -> Dim:
        """Bytes of private memory that one worker needs for rows of ``length`` elements."""
        if self._on_stack or not self.kept:
            return 0
        total: Dim = 0
        for name in self.kept:
            total = total + floordiv(length + self.lanes - 1, self.lanes) * self._kept_bytes(name) + 64
        return total

    # -- text ------------------------------------------------------------------------------------------------------
    def emit(self, context: Context) -> list[str]:
        """The statements that process one row; see :class:`~planish.codegen.expression.Context` for what they stand on."""
        names = Names()
        scalars: dict[str, Typed] = {}
        lines = self._declare_kept(names, context)
        for number, current in enumerate(self._passes):
            lines += self._emit_scalars(number, names, scalars, context)
            lines += self._emit_pass(current, names, scalars, context)
        for number in range(len(self._passes), len(self._scalars)):
            lines += self._emit_scalars(number, names, scalars, context)
        return lines

    def _declare_kept(self, names: Names, context: Context) -> list[str]:
        lines, offset = [], "0"
        for name in self.kept:
            vector = VECTOR[self._by_result[name].domain]
            if self._on_stack:
                lines.append(f"{vector} {names(name)}kept[{self._vectors}];")
                continue
            lines.append(f"{vector}* const {names(name)}kept = ({vector}*)((char*){context.scratch} + {offset});")
            size = f"(({context.length} + VL - 1) / VL * sizeof({vector}) + 63) / 64 * 64"
            offset = size if offset == "0" else f"{offset} + {size}"
        return lines

    def _emit_scalars(self, number: int, names: Names, scalars: dict[str, Typed], context: Context) -> list[str]:
        lines = []
        for step in self._scalars[number] if number < len(self._scalars) else ():
            if step.op == "store":
                key = _key(step)
                value = argument(step.args[1], step, scalars)
                lines.append(store_text(self._operands[key], context.places[key], value, "0", "full"))
                continue
            if step.op == "load":
                value = convert(
                    load_text(self._operands[_key(step)], context.places[_key(step)], "0", "full"), step.domain
                )
            else:
                arguments = [] if step.op in ("outer", "dim") else [argument(a, step, scalars) for a in step.args]
                value = evaluate(step, arguments, context)
            if value.number is None:
                lines.append(bind(names(step.result), value))
                value = Typed(names(step.result), value.domain, True)
            scalars[step.result] = value
        return lines

    def _emit_pass(self, current: _Pass, names: Names, scalars: dict[str, Typed], context: Context) -> list[str]:
        index, column = ("i", "i * VL") if self.in_registers else ("j / VL", "j")
        values = dict(scalars)
        body: list[str] = []
        reductions = [root for root in current.roots if root.op in REDUCTIONS]
        for name in current.fetched:
            values[name] = Typed(names(name), self._by_result[name].domain)
            body.append(bind(names(name), Typed(f"{names(name)}kept[{index}]", self._by_result[name].domain)))
        for step in self._steps:
            if step.op == "store" or step.op in REDUCTIONS:
                if not any(step is root for root in current.roots):
                    continue
                if step.op == "store":
                    key, value = _key(step), argument(step.args[1], step, values)
                    body.append(store_text(self._operands[key], context.places[key], value, column, "n"))
                else:
                    body.append(_accumulate(step, names(step.result), argument(step.args[0], step, values)))
            elif step.result in current.computed:
                if step.op == "load":
                    key = _key(step)
                    value = convert(load_text(self._operands[key], context.places[key], column, "n"), step.domain)
                else:
                    arguments = [argument(a, step, values) for a in step.args]
                    value = evaluate(step, arguments, _at(context, column))
                # (what ends as a constant, such as isnan of an integer, is spread over the lanes)
                body.append(bind(names(step.result), Typed(value.lanes, value.domain)))
                values[step.result] = Typed(names(step.result), value.domain)
                if step.result in current.kept:
                    body.append(f"{names(step.result)}kept[{index}] = {names(step.result)};")
        ways = self._ways(body, reductions, current)
        lines = [_accumulator(step, names(step.result), ways) for step in reductions]
        begin, end = context.begin, context.end or context.length
        if self.in_registers:
            size = self.program.inner_size or 0
            lines.append(
                f"for_vectors<{size // self.lanes}, {size % self.lanes}, {ways}>([&](int i, auto n, int u) PL_LAMBDA {{"
            )
        else:
            lines.append(f"for_lanes<{ways}>({begin}, {end}, [&](int64_t j, auto n, int u) PL_LAMBDA {{")
        lines += [f"    {line}" for line in [*body, "(void)n, (void)u;"]]
        lines.append("});")
        for step in reductions:
            lines.append(_finish(step, names(step.result), ways))
            scalars[step.result] = Typed(names(step.result), step.domain, True)
        return lines

    def _ways(self, body: list[str], reductions: list[Step], current: _Pass) -> int:
        """How many vectors are in flight: several accumulators hide the latency of a reduction."""
        costly = any(self._by_result[name].op in _COSTLY for name in current.computed)
        if self.in_registers:
            return 4 if len(reductions) == 1 else 2 if reductions else 1
        if costly:
            return 2 if reductions else 1
        return 4 if len(body) <= 8 and len(reductions) <= 2 else 2 if len(body) <= 24 else 1


def _key(step: Step) -> Key:
    key = step.args[0]
    return key if isinstance(key, str) else int(key)


def _live(steps: list[Step]) -> list[Step]:
    """The steps that some store depends on."""
    wanted: set[str] = set()
    kept = []
    for step in reversed(steps):
        if step.op == "store" or step.result in wanted:
            kept.append(step)
            first = 1 if step.op == "store" else 0
            if step.op not in ("load", "outer", "dim"):
                wanted |= {a for a in step.args[first:] if isinstance(a, str)}
    return kept[::-1]


def _at(context: Context, column: str) -> Context:
    return Context(
        places=context.places, inputs=context.inputs, column=column, length=context.length, outer=context.outer,
        extra=context.extra,
    )  # fmt: skip


# -- reductions ------------------------------------------------------------------------------------------------------
def _neutral(step: Step) -> Typed:
    real = step.domain in ("f32", "f64")
    match step.op:
        case "sum" | "absmax":
            return literal(0, step.domain)
        case "prod":
            return literal(1, step.domain)
        case "any" | "all":
            return literal(step.op == "all", "bool")
    if step.domain == "bool":
        return literal(step.op == "min", "bool")
    bound = float("inf") if real else 2 ** (31 if step.domain == "i32" else 63) - 1
    return literal(bound if step.op == "min" else -bound if real else -bound - 1, step.domain)


def _vector(step: Step) -> str:
    return "vi" if step.op == "absmax" else "vm" if step.op in ("any", "all") else VECTOR[step.domain]


def _combine(step: Step, a: str, b: str) -> str:
    match step.op:
        case "sum":
            return {"f32": f"{a} + {b}", "f64": f"{a} + {b}", "bool": f"{a} | {b}"}.get(step.domain, f"v_add({a}, {b})")
        case "prod":
            return {"f32": f"{a} * {b}", "f64": f"{a} * {b}", "bool": f"{a} & {b}"}.get(step.domain, f"v_mul({a}, {b})")
        case "any":
            return f"{a} | {b}"
        case "all":
            return f"{a} & {b}"
    if step.domain == "bool":
        return f"{a} {'|' if step.op == 'max' else '&'} {b}"
    return f"v_{'min' if step.op == 'min' else 'max'}({a}, {b})"


def _accumulator(step: Step, name: str, ways: int) -> str:
    start = "vi{}" if step.op == "absmax" else _neutral(step).lanes
    return f"{_vector(step)} {name}acc[{ways}] = {{{', '.join([start] * ways)}}};"


def _accumulate(step: Step, name: str, value: Typed) -> str:
    value = convert(value, "bool" if step.op in ("any", "all") else step.domain)
    if step.op == "absmax":
        text, neutral = f"magnitude_bits({value.lanes})", "i32(0)"
    else:
        text, neutral = value.lanes, _neutral(step).text
    return f"{name}acc[u] = {_combine(step, f'{name}acc[u]', f'keep({text}, n, {neutral})')};"


def _finish(step: Step, name: str, ways: int) -> str:
    """All accumulators into one, pairwise, and its lanes into the scalar result."""
    texts = [f"{name}acc[{u}]" for u in range(ways)]
    while len(texts) > 1:
        pairs = [f"({_combine(step, texts[i], texts[i + 1])})" for i in range(0, len(texts) - 1, 2)]
        texts = pairs + texts[len(texts) // 2 * 2 :]
    total = texts[0]
    if step.op == "absmax":
        return f"const f32 {name} = absmax_of({total});"
    if _vector(step) == "vm":
        every = step.op in ("all", "prod", "min")
        return f"const bool {name} = {'all' if every else 'any'}({total});"
    function = {"sum": "reduce_add", "prod": "reduce_mul", "max": "reduce_max", "min": "reduce_min"}[step.op]
    return f"const {step.domain} {name} = {function}({total});"
