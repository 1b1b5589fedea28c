"""Inputs for a compiled model: taken from a source's example, a .npz file or made up, and cut to the sizes asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.dims import Bounds, Dim, evaluate, parse
from ..compiler.errors import PlanishError, UsageError
from ..compiler.options import nearest
from ..compiler.sizes import Sizes, sizes_of
from ..compiler.sizes import resized as sized
from .compare import leaves

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Port:
    """An input of a compiled model: its name, element type and shape over the symbols."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Signature:
    """What a compiled model takes: its inputs, and its dynamic dimensions with their inclusive bounds."""

    inputs: tuple[Port, ...]
    symbols: dict[str, Bounds]

    @staticmethod
    def of(manifest: Mapping[str, Any]) -> Signature:
        """Read it from an artifact's manifest."""
        ports = tuple(Port(p["name"], p["dtype"], tuple(parse(str(d)) for d in p["shape"])) for p in manifest["inputs"])
        return Signature(ports, {s["name"]: (int(s["min"]), int(s["max"])) for s in manifest["symbols"]})

    def check(self, sizes: Sizes) -> None:
        """Raise a UsageError for a size whose dimension does not exist or that is outside its bounds."""
        for name, value in sizes.items():
            if name not in self.symbols:
                hint = nearest(name, self.symbols, "" if self.symbols else "every dimension of this model is fixed")
                raise UsageError(f"the model has no dynamic dimension {name!r}", hint)
            low, high = self.symbols[name]
            if not low <= value <= high:
                raise UsageError(
                    f"{name} = {value} is outside the bounds {low}..{high} that the model was compiled for"
                )

    def sizes_of(self, arrays: Arrays) -> Sizes:
        """The value that each symbol has in ``arrays``; those that no input shows alone are left out."""
        return sizes_of(self.inputs, arrays)

    def usual(self) -> Sizes:
        """Sizes to measure at where nothing else is known: one sample, and 128 along every other dynamic dimension."""
        return {
            name: max(low, min(high, 1 if "batch" in name or i == 0 else 128))
            for i, (name, (low, high)) in enumerate(self.symbols.items())
        }


def by_name(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arrays:
    """A source's example inputs under the names that the compiled model knows them by.

    Raises:
        PlanishError: they do not match, or there are none.
    """
    if signature.inputs and not args and not kwargs:
        raise PlanishError("the source carries no example inputs", "give --input IN.npz")
    found: Arrays = {}
    names = [p.name for p in signature.inputs]
    for path, array in leaves(dict(kwargs)):
        if path in names:
            found[path] = array
    rest = [name for name in names if name not in found]
    positional = [array for _, array in leaves(list(args))]
    if len(positional) < len(rest):
        raise PlanishError(
            f"the model takes {', '.join(names)}, and the example has no {rest[len(positional)]!r}",
            "is this the source the artifact was compiled from?",
        )
    return {name: {**found, **dict(zip(rest, positional, strict=False))}[name] for name in names}


def from_file(path: Path) -> Arrays:
    """The arrays of a .npz file.

    Raises:
        UsageError: no such file, or it is none.
    """
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            raise UsageError(
                f"{str(path)!r} holds one array without a name", "np.savez('in.npz', input_name=array) names it"
            )
        with data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise UsageError(f"there is no file {str(path)!r}") from None
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(
            f"{str(path)!r} is no .npz file: {error}", "np.savez('in.npz', input_name=array) writes one"
        ) from None


def resized(signature: Signature, arrays: Arrays, sizes: Sizes) -> Arrays:
    """The same data with other sizes of the dynamic dimensions: cut where too long, repeated where too short."""
    return sized(signature.inputs, arrays, sizes)


def fitted(signature: Signature, arrays: Arrays) -> Arrays:
    """The same data inside of the bounds that the model was compiled for: an example may be larger, or smaller."""
    sizes = signature.sizes_of(arrays)
    inside = {
        name: max(low, min(high, sizes[name])) for name, (low, high) in signature.symbols.items() if name in sizes
    }
    return resized(signature, arrays, inside) if set(inside) == set(signature.symbols) else arrays


def made_up(signature: Signature, sizes: Sizes, seed: int = 0) -> Arrays:
    """Inputs where nobody gave any: ones for integers and booleans (a valid id, an open mask), else normal numbers."""
    random = np.random.default_rng(seed)
    result: Arrays = {}
    for port in signature.inputs:
        shape = tuple(evaluate(d, sizes) for d in port.shape)
        if port.dtype in ("f64", "f32", "f16"):
            result[port.name] = random.standard_normal(shape).astype(
                {"f64": "f8", "f32": "f4", "f16": "f2"}[port.dtype]
            )
        elif port.dtype == "bf16":
            result[port.name] = (random.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(
                np.uint16
            )
        else:
            names = {"i64": "i8", "i32": "i4", "i16": "i2", "i8": "i1", "u8": "u1", "bool": "?"}
            result[port.name] = np.ones(shape, names[port.dtype])
    return result


def variants(signature: Signature, example: Sizes) -> list[Sizes]:
    """Sizes worth checking beside the example's: each dimension at its least, all at a prime, all at their least."""
    if not signature.symbols or set(example) != set(signature.symbols):
        return [example]
    least = {name: max(low, 1) for name, (low, _) in signature.symbols.items()}
    prime = {name: max(low, min(high, 7)) for name, (low, high) in signature.symbols.items()}
    found = [example, *({**example, name: low} for name, low in least.items()), prime, least]
    unique: list[Sizes] = []
    for sizes in found:
        if sizes not in unique:
            unique.append(sizes)
    return unique


def shown(sizes: Sizes) -> str:
    """Sizes in one word: ``batch=1,seq=128``; "fixed sizes" where there are none."""
    return ",".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"
