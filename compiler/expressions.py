"""Elementwise expressions as text: ``cap * tanh(x / cap)`` becomes nodes of a graph.

Names are operands and attributes; operators are Python's; functions are the elementwise ops of the vocabulary, their attributes
given by name (``gelu(x, approximate="tanh")``). What is known without an operand is computed at once.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import UsageError
from .graph import Value
from .ops import OPS
from .options import nearest

_BINARY: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add), ast.Sub: ("sub", operator.sub), ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv), ast.FloorDiv: ("floordiv", operator.floordiv), ast.Mod: ("mod", operator.mod),
    ast.Pow: ("pow", operator.pow), ast.BitAnd: ("bitwise_and", operator.and_), ast.BitOr: ("bitwise_or", operator.or_),
    ast.BitXor: ("bitwise_xor", operator.xor),
}  # fmt: skip
_UNARY: dict[type, tuple[str, Callable[[Any], Any]]] = {
    ast.USub: ("neg", operator.neg), ast.Invert: ("bitwise_not", operator.invert), ast.Not: ("logical_not", operator.not_),
}  # fmt: skip
_COMPARE: dict[type, str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip
_ALIASES = {"max": "maximum", "min": "minimum"}


def check_expression(text: str, operands: Sequence[str], attributes: Sequence[str], owner: str) -> None:
    """Hold an expression against the arguments of the op it belongs to.

    Raises:
        UsageError: it is no expression, or uses a name, function or construct that there is not; names ``owner``.
    """
    tree = _parse(text, owner)
    names = {*operands, *attributes}
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in names:
            raise UsageError(
                f"the expression of the op {owner} uses {node.id!r}, which is none of its arguments",
                f"its arguments are {', '.join([*operands, *attributes])}",
            )
        if isinstance(node, ast.Call):
            _function(node, owner)
        elif isinstance(node, ast.Compare):
            if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARE:
                raise UsageError(
                    f"the expression of the op {owner} may compare two things at a time, not {_show(node)}"
                )
        elif isinstance(node, ast.BinOp) and type(node.op) not in _BINARY:
            raise UsageError(f"the expression of the op {owner} cannot use the operator in {_show(node)}")
        elif not isinstance(
            node,
            (ast.Name, ast.BinOp, ast.UnaryOp, ast.Constant, ast.keyword, ast.expr_context, ast.operator, ast.unaryop,
             ast.cmpop, ast.Expression),
        ):  # fmt: skip
            raise UsageError(
                f"the expression of the op {owner} cannot hold {_show(node)}",
                "it is made of arguments, numbers, operators and elementwise ops",
            )
    if not any(isinstance(n, ast.Name) and n.id in operands for n in ast.walk(tree)):
        raise UsageError(f"the expression of the op {owner} uses none of its operands ({', '.join(operands)})")


def build_expression(text: str, op: Any, arguments: Mapping[str, Any]) -> Value:
    """The value of an expression.

    Args:
        text: held against its owner before.
        op: a builder: ``op.mul(a, b)`` adds a node.
        arguments: values of the graph, and numbers or dimensions.

    Raises:
        PassError: the types of the operands do not fit an op.
    """
    result = _Builder(op, arguments).visit(_parse(text, "").body)
    if not isinstance(result, Value):
        raise UsageError(f"the expression {text!r} gives a number, not a tensor")
    return result


class _Builder(ast.NodeVisitor):
    def __init__(self, op: Any, arguments: Mapping[str, Any]) -> None:
        self.op = op
        self.arguments = arguments

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_Name(self, node: ast.Name) -> Any:
        return self.arguments[node.id]

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        a, b = self.visit(node.left), self.visit(node.right)
        name, compute = _BINARY[type(node.op)]
        return self._apply(name, compute, a, b)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        x = self.visit(node.operand)
        if isinstance(node.op, ast.UAdd):
            return x
        name, compute = _UNARY[type(node.op)]
        return self._apply(name, compute, x)

    def visit_Compare(self, node: ast.Compare) -> Any:
        name = _COMPARE[type(node.ops[0])]
        return self._apply(name, getattr(operator, name), self.visit(node.left), self.visit(node.comparators[0]))

    def visit_Call(self, node: ast.Call) -> Any:
        name = _function(node, "")
        attrs = {str(k.arg): self.visit(k.value) for k in node.keywords}
        return self._apply(name, getattr(math, name, None), *(self.visit(a) for a in node.args), **attrs)

    def _apply(self, name: str, compute: Callable[..., Any] | None, *args: Any, **attrs: Any) -> Any:
        if any(isinstance(a, Value) for a in args):
            return getattr(self.op, name)(*args, **attrs)
        if compute is None:
            raise UsageError(f"{name} of numbers alone cannot be computed in an expression")
        return compute(*args)


def _parse(text: str, owner: str) -> ast.Expression:
    try:
        return ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise UsageError(f"the kernel of the op {owner} is no expression: {error.msg} in {text!r}") from None


def _function(node: ast.Call, owner: str) -> str:
    name = node.func.id if isinstance(node.func, ast.Name) else _show(node.func)
    name = _ALIASES.get(name, name)
    known = [op for op, spec in OPS.items() if spec.elementwise]
    if name not in known:
        raise UsageError(
            f"the expression of the op {owner} calls {name!r}, which is no elementwise op of planish",
            nearest(name, known) or "a kernel that is a function may use every op",
        )
    return name


def _show(node: ast.AST) -> str:
    return repr(ast.unparse(node))
