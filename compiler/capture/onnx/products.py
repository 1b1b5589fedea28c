"""Matrix products: MatMul, Gemm, Einsum, Det. A constant matrix on the right becomes the weight of a ``linear``."""

from __future__ import annotations

import numpy as np

from ...dims import Dim, product
from ...graph import Graph, Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .moving import counting, select
from .registry import op

#: Determinants of larger matrices are refused: their elimination is written out, a few dozen nodes for each row.
MAX_DETERMINANT = 32


def stem(value: Value, otherwise: str = "weight") -> str:
    """What a constant is called in the file."""
    return str(value.node.attrs["ref"]) if value.node is not None and value.node.op == "constant" else otherwise


def weighted(at: Importer, x: Value, matrix: np.ndarray, like: Value, bias: Value | None = None) -> Value:
    """``x @ matrix + bias`` for a constant ``matrix`` [in, out], which was ``like`` or made from it."""
    turned = like.node is not None and like.node.op == "transpose"
    stored = like.node.inputs[0] if turned and like.node is not None else like
    if _is(at.array(stored), matrix.T):
        weight = stored  # the file holds it as a weight is held
    else:
        weight = at.constant(np.ascontiguousarray(matrix.T), like.dtype, stem(like))
    return at.emit("linear", x, weight) if bias is None else at.emit("linear", x, weight, bias)


def _is(held: np.ndarray | None, array: np.ndarray) -> bool:
    """Whether two arrays are the same memory, read in the same order."""
    if held is None or held.shape != array.shape or held.dtype != array.dtype or held.strides != array.strides:
        return False
    return bool(held.__array_interface__["data"][0] == array.__array_interface__["data"][0])


@op("MatMul")
def matmul(at: Importer, a: Value, b: Value) -> Value:
    """As numpy has it: a vector on the left is a row, one on the right is a column."""
    weight = at.array(b)
    if weight is not None and weight.ndim == 2 and a.type.rank:
        return weighted(at, a, weight, b)
    left = at.reshape(a, (1, a.shape[0])) if a.type.rank == 1 else a
    right = at.reshape(b, (b.shape[0], 1)) if b.type.rank == 1 else b
    result = at.emit("matmul", left, right)
    shape = (
        result.shape[:-2]
        + (result.shape[-2:-1] if a.type.rank > 1 else ())
        + (result.shape[-1:] if b.type.rank > 1 else ())
    )
    return at.reshape(result, shape)


@op("Gemm", since=7)
def gemm(
    at: Importer, a: Value, b: Value, c: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Value:  # fmt: skip
    x = at.transpose(a, (1, 0)) if transA else a
    matrix = at.array(b)
    scale = alpha
    if matrix is None or b.type.rank != 2:
        result = at.emit("matmul", x, at.transpose(b, (1, 0)) if transB else b)
    else:
        if alpha != 1 and b.dtype in (DType.f32, DType.f64):
            matrix, scale = (matrix * alpha).astype(matrix.dtype), 1.0
        bias = _row(at, c, matrix.shape[0 if transB else 1]) if beta == scale == 1 else None
        result = weighted(at, x, matrix.T if transB else matrix, b, bias)
        c = None if bias is not None else c
    result = _scaled(at, result, scale)
    return result if c is None or beta == 0 else at.emit("add", result, _scaled(at, c, beta))


def _scaled(at: Importer, x: Value, factor: float) -> Value:
    """``x`` times a number, which for integers is a whole one."""
    return x if factor == 1 else at.emit("mul", x, at.scalar(factor, x.dtype))


def _row(at: Importer, c: Value | None, size: int) -> Value | None:
    """A constant with one element for each column, as a vector; None for any other."""
    data = at.array(c)
    if c is None or data is None or data.shape not in ((size,), (1, size)):
        return None
    return c if data.ndim == 1 else at.constant(data.reshape(size), c.dtype, stem(c, "bias"))


def absorb_biases(graph: Graph) -> None:
    """``linear(x, w) + b`` as ``linear(x, w, b)`` where ``b`` is a constant with one element for each output and nobody else
    wants the sum without it."""
    outputs = set(graph.outputs)
    for node in list(graph.nodes):
        if node.op != "add":
            continue
        for value, other in (node.operands, node.operands[::-1]):
            made = value.node
            if made is None or made.op != "linear" or len(made.inputs) > 2 or made.attrs["out_dtype"] is not None:
                continue
            data, width = graph.array(other), value.shape[-1]
            alone = len(value.users) == 1 and value not in outputs
            if data is None or not alone or other.type.rank > value.type.rank or other.shape[-1:] != (width,):
                continue
            if data.size != width:
                continue
            bias = other
            if data.ndim != 1:
                bias = graph.add_constant(data.reshape(-1), other.name, other.dtype, before=node)
            joined = graph.insert(
                "linear", [*made.inputs, bias], made.attrs, before=node, name=made.name, location=made.location
            )
            graph.replace(node.output, joined.output)
            break


# -- Einstein's summation ----------------------------------------------------------------------------------------------------
@op("Einsum", since=12)
def einsum(at: Importer, *operands: Value, equation: str) -> Value:
    """Two operands at a time from the left: what no later operand and no output wants is summed at once."""
    terms, wanted = _parsed(equation, operands)
    current, labels = _diagonals(at, operands[0], terms[0])
    for number in range(1, len(operands)):
        other, theirs = _diagonals(at, operands[number], terms[number])
        later = set(wanted).union(*terms[number + 1 :])
        current, labels = _contracted(at, current, labels, other, theirs, later)
    current, labels = _summed(at, current, labels, set(wanted))
    return at.transpose(current, [labels.index(label) for label in wanted])


def _parsed(equation: str, operands: tuple[Value, ...]) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand's axes and of the result's; an axis behind "..." is labelled by its number from the end."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(operands):
        raise Unsupported(f"the equation {equation!r} is not of {len(operands)} operands")
    terms: list[list[str]] = []
    dots = 0
    for part, operand in zip(parts, operands, strict=True):
        before, ellipsis, behind = part.partition("...")
        free = operand.type.rank - len(before) - len(behind)
        if free < 0 or (free and not ellipsis):
            raise Unsupported(f"the equation {equation!r} does not fit {operand.type}")
        terms.append([*before, *(f".{i}" for i in range(free, 0, -1)), *behind])
        dots = max(dots, free)
    unnamed = [f".{i}" for i in range(dots, 0, -1)]
    if not arrow:  # what comes once, in the order of the alphabet, behind the unnamed axes
        every = [label for term in terms for label in term if not label.startswith(".")]
        return terms, [*unnamed, *sorted(label for label in set(every) if every.count(label) == 1)]
    before, ellipsis, behind = right.partition("...")
    wanted = [*before, *(unnamed if ellipsis else ()), *behind]
    unknown = [label for label in wanted if not any(label in term for term in terms)]
    if unknown or len(set(wanted)) < len(wanted):
        raise Unsupported(f"the equation {equation!r} makes no sense")
    return terms, wanted


def _diagonals(at: Importer, x: Value, labels: list[str]) -> tuple[Value, list[str]]:
    """``x`` with one axis for each label: of axes with one label only the diagonal counts."""
    labels = list(labels)
    while len(set(labels)) < len(labels):
        first = next(i for i, label in enumerate(labels) if labels.count(label) > 1)
        second = labels.index(labels[first], first + 1)
        size = x.shape[first]
        if not isinstance(size, int) or x.shape[second] != size:
            raise Unsupported("the diagonal of a tensor of varying size is not supported")
        rest = [i for i in range(x.type.rank) if i not in (first, second)]
        moved = at.transpose(x, [*rest, first, second])
        flat = at.reshape(moved, (*moved.shape[:-2], size * size))
        x = at.slice(flat, len(rest), 0, size * size, size + 1)
        labels = [labels[i] for i in rest] + [labels[first]]
    return x, labels


def _summed(at: Importer, x: Value, labels: list[str], kept: set[str]) -> tuple[Value, list[str]]:
    gone = tuple(i for i, label in enumerate(labels) if label not in kept)
    if not gone:
        return x, labels
    return at.emit("reduce_sum", x, axes=gone, keepdim=False), [label for label in labels if label in kept]


def _contracted(
    at: Importer, a: Value, mine: list[str], b: Value, theirs: list[str], later: set[str]
) -> tuple[Value, list[str]]:
    """Two operands as one: a product of matrices where a label is summed, else of elements."""
    a, mine = _summed(at, a, mine, later | set(theirs))
    b, theirs = _summed(at, b, theirs, later | set(mine))
    shared = [label for label in mine if label in theirs]
    summed = [label for label in shared if label not in later]
    batch = [label for label in shared if label in later]
    rows = [label for label in mine if label not in shared]
    columns = [label for label in theirs if label not in shared]
    sizes: dict[str, Dim] = {}
    for value, labels in ((a, mine), (b, theirs)):
        for label, size in zip(labels, value.shape, strict=True):
            if label not in sizes or sizes[label] == 1:
                sizes[label] = size
    a, b = (
        at.expand(v, [sizes[label] if label in summed else d for label, d in zip(labels, v.shape, strict=True)])
        for v, labels in ((a, mine), (b, theirs))
    )
    left = at.transpose(a, [mine.index(label) for label in (*batch, *rows, *summed)])
    result = [*batch, *rows, *columns]
    if not summed:
        right = at.transpose(b, [theirs.index(label) for label in (*batch, *columns)])
        count = len(batch)
        left = at.reshape(left, (*left.shape, *(1 for _ in columns)))
        right = at.reshape(right, (*right.shape[:count], *(1 for _ in rows), *right.shape[count:]))
        return at.emit("mul", left, right), result
    inner = product(sizes[label] for label in summed)
    wide, narrow = (product(sizes[label] for label in labels) for labels in (columns, rows))
    shape = tuple(sizes[label] for label in result)
    matrix = at.array(b)
    if matrix is not None and not batch:
        held = np.transpose(matrix, [theirs.index(label) for label in (*summed, *columns)])
        held = held.reshape(int(np.prod(held.shape[: len(summed)])), -1)
        lined = at.reshape(left, (*(sizes[label] for label in rows), inner))
        return at.reshape(weighted(at, lined, held, b), shape), result
    right = at.transpose(b, [theirs.index(label) for label in (*batch, *summed, *columns)])
    left = at.reshape(left, (*left.shape[: len(batch)], narrow, inner))
    right = at.reshape(right, (*right.shape[: len(batch)], inner, wide))
    return at.reshape(at.emit("matmul", left, right), shape), result


# -- determinants --------------------------------------------------------------------------------------------------------------
@op("Det", since=11)
def det(at: Importer, x: Value) -> Value:
    """Gaussian elimination with the largest element of each column as pivot (Golub & Van Loan 2013, 3.4), written out row by
    row."""
    if x.type.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise Unsupported(f"{x.type} is no square matrix")
    size = x.shape[-1]
    if not isinstance(size, int) or size > MAX_DETERMINANT:
        raise Unsupported(f"the determinant of a matrix of {size} rows is not supported")
    batch = product(x.shape[:-2])
    rest = at.reshape(x, (batch, size, size))
    zero, one = at.scalar(0, x.dtype), at.scalar(1, x.dtype)
    result = at.emit("full", value=1, shape=(batch,), dtype=x.dtype)
    for left in range(
        size, 1, -1
    ):  # ``rest`` is [batch, left, left]: the first column is eliminated from the other rows
        pivot = at.emit("argmax", at.emit("abs", select(at, rest, 2, 0)), axis=1, keepdim=True)
        rows = counting(at, left, 1, 2)
        order = at.emit("where", at.emit("eq", rows, pivot), at.scalar(0, DType.i64), rows)
        order = at.emit("where", at.emit("eq", rows, at.scalar(0, DType.i64)), pivot, order)
        spread = at.expand(at.reshape(order, (batch, left, 1)), (batch, left, left))
        swapped = at.emit("take_along", rest, spread, axis=1)
        head = at.slice(swapped, 1, 0, 1)
        first = at.slice(head, 2, 0, 1)
        swap = at.emit("eq", at.reshape(pivot, (batch,)), at.scalar(0, DType.i64))
        number = at.reshape(first, (batch,))
        result = at.emit("mul", result, at.emit("where", swap, number, at.emit("neg", number)))
        # a column of zeros makes the determinant 0, whatever is divided by here
        divisor = at.emit("where", at.emit("eq", first, zero), one, first)
        below = at.slice(swapped, 1, 1, left)
        factor = at.emit("div", at.slice(below, 2, 0, 1), divisor)
        rest = at.emit("sub", at.slice(below, 2, 1, left), at.emit("mul", factor, at.slice(head, 2, 1, left)))
    if size:
        result = at.emit("mul", result, at.reshape(rest, (batch,)))
    return at.reshape(result, x.shape[:-2])
