"""Where the samples of a model are: which axis of its inputs and outputs counts them."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.dims import Bounds, Dim, symbol, symbols
from ..compiler.graph import Graph
from ..compiler.types import DType

#: Dimensions with such a name count parts of one sample, also where they come first.
_PARTS_OF_ONE = {
    "seq", "seqlen", "sequence", "length", "len", "time", "times", "steps", "frames", "tokens", "nodes", "edges", "points",
    "words", "positions", "height", "width",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input of the model."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Layout:
    """How samples sit in a model's inputs.

    Attributes:
        inputs: in the model's order.
        bounds: of every symbol, inclusive.
        symbol: the dimension that counts samples; None where the model has none.
        single: there is none, but the first axis has size 1 everywhere: one sample at a time, with a batch axis.
        batched: names of the inputs whose axis 0 counts samples; the rest is shared by all rows of a batch.
    """

    inputs: tuple[Port, ...]
    bounds: dict[str, Bounds]
    symbol: str | None
    single: bool
    batched: frozenset[str]

    @staticmethod
    def of(graph: Graph) -> Layout:
        """Read it from a graph: the batch is the symbol that is axis 0 of every output and of at least one input.

        A symbol that is named after a part of a sample (``seq``, ``time``, ...) is none.
        """
        ports = tuple(Port(v.name, v.type.dtype, tuple(v.type.shape)) for v in graph.inputs)
        bounds = {s.name: (s.lower, s.upper) for s in graph.symbols.values()}
        heads = {_bare(v.type.shape[0]) if v.type.shape else None for v in graph.outputs}
        (head,) = heads if len(heads) == 1 else (None,)
        if head is not None and head.casefold().rstrip("0123456789_") not in _PARTS_OF_ONE:
            batched = frozenset(p.name for p in ports if p.shape and _bare(p.shape[0]) == head)
            if batched:
                return Layout(ports, bounds, head, False, batched)
        firsts = [p.shape[0] if p.shape else None for p in ports]
        lasts = [v.type.shape[0] if v.type.shape else None for v in graph.outputs]
        single = bool(ports) and all(d == 1 for d in [*firsts, *lasts])
        return Layout(ports, bounds, None, single, frozenset(p.name for p in ports) if single else frozenset())

    @property
    def symbol_dim(self) -> Dim | None:
        """The dimension that counts samples."""
        return None if self.symbol is None else symbol(self.symbol)

    @property
    def has_rows(self) -> bool:
        """Whether axis 0 of the outputs counts samples."""
        return self.symbol is not None or self.single

    @property
    def rows(self) -> Bounds:
        """How many rows the model takes at a time, inclusive."""
        if self.symbol is None:
            return 1, 1
        low, high = self.bounds[self.symbol]
        return max(1, low), high

    @property
    def words(self) -> str:
        """What a sample is."""
        if self.symbol is not None:
            return f"a sample is a row along {self.symbol!r}"
        return "a sample is one run of the model"


def _bare(dim: Dim) -> str | None:
    """The symbol's name where a dimension is a symbol and nothing else."""
    if isinstance(dim, int):
        return None
    names = symbols(dim)
    (name,) = names if len(names) == 1 else (None,)
    return name if name is not None and str(dim) == name else None
