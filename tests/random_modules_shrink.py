"""A failing random module, cut down: fewer outputs, fewer statements, statements replaced by inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from random_modules import Input, Program, lanes_of
from torch import Tensor


def shrunk(program: Program, fails: Callable[[Program], bool], seconds: float = 120.0) -> Program:
    """The smallest module found that still fails.

    Args:
        program: fails.
        fails: whether a module fails the same way.
        seconds: after this long the best so far is it.
    """
    end = time.monotonic() + seconds

    def better(candidate: Program) -> bool:
        return time.monotonic() < end and candidate != program and fails(candidate)

    for name in [n for s in program.body for n in s.writes]:  # the first value that is wrong is where to look
        alone = program.with_outputs(name)
        if better(alone):
            program = alone
            break
    else:
        for name in dict.fromkeys(program.outputs):
            alone = program.with_outputs(name)
            if better(alone):
                program = alone
                break
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for candidate in (*lifted(program), *bridged(program)):
            if better(candidate):
                program, changed = candidate, True
                break
    if program.dynamic and better(pinned(program)):
        program = pinned(program)
    return program


def lifted(program: Program) -> list[Program]:
    """The module with one statement's results as inputs, the last statements first: that drops most."""
    found: list[Program] = []
    values = [lanes_of(program, env)[0] for env in program.sizes]
    for at in range(len(program.body) - 2, -1, -1):
        statement = program.body[at]
        fresh = []
        for name in statement.writes:
            tensors = [v[name] for v in values]
            entry = as_input(name, tensors, program)
            if entry is None:
                break
            fresh.append(entry)
        else:
            if any(name in program.outputs for name in statement.writes):
                continue
            body = (*program.body[:at], *program.body[at + 1 :])
            found.append(replace(program, inputs=(*program.inputs, *fresh), body=body).pruned())
    return found


def as_input(name: str, tensors: list[object], program: Program) -> Input | None:
    """An input like a value; None where its size is no plain dimension."""
    first = tensors[0]
    if not all(isinstance(t, Tensor) for t in tensors) or not isinstance(first, Tensor):
        return None
    shape: list[int | str] = []
    for axis, size in enumerate(first.shape):
        sizes = tuple(t.shape[axis] for t in tensors)  # type: ignore[attr-defined]
        if len(set(sizes)) == 1:
            shape.append(size)
            continue
        symbol = next((s for s in ("b", "s") if tuple(e[s] for e in program.sizes) == sizes), None)
        if symbol is None:
            return None
        shape.append(symbol)
    low, high = (0, 2)
    if not first.is_floating_point() and first.dtype is not torch.bool:
        low, high = int(first.min()), int(first.max()) + 1
    return Input(name, first.dtype, tuple(shape), low, high, program.seed * 100 + 7)


def bridged(program: Program) -> list[Program]:
    """The module without one statement: what read its result reads one of its operands."""
    found = []
    for at in range(len(program.body) - 1, -1, -1):
        statement = program.body[at]
        old = statement.writes[0]
        if len(statement.writes) != 1 or old in program.outputs:
            continue
        for operand in statement.reads:
            body = tuple(
                replace(s, text=_renamed(s.text, old, operand), reads=tuple(operand if r == old else r for r in s.reads))
                for i, s in enumerate(program.body) if i != at
            )  # fmt: skip
            candidate = replace(program, body=body).pruned()
            try:
                for env in candidate.sizes:
                    lanes_of(candidate, env)
            except Exception:  # it does not fit there
                continue
            found.append(candidate)
    return found


def pinned(program: Program) -> Program:
    """With fixed sizes."""
    env = program.sizes[0]
    return replace(
        program,
        inputs=tuple(
            replace(i, shape=tuple(env[d] if isinstance(d, str) else d for d in i.shape)) for i in program.inputs
        ),
    )


def _renamed(text: str, old: str, new: str) -> str:
    out, at = "", 0
    while (found := text.find(old, at)) >= 0:
        end = found + len(old)
        whole = not text[end : end + 1].isalnum() and not (
            found and (text[found - 1].isalnum() or text[found - 1] in "._")
        )
        out += text[at:found] + (new if whole else old)
        at = end
    return out + text[at:]
