"""In-place ops: which can be read as their functional twins, because nobody else sees the tensor they write to.

``x += y`` on a fresh tensor becomes ``x = x + y``. Where views of the tensor are around, torch is asked to make the program
functional instead, which traces it once more and costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.export import ExportedProgram

#: Composite ops that always return a new tensor; any other composite op may hand back a view of its operand.
_FRESH = frozenset({
    "aten::linear", "aten::matmul", "aten::layer_norm", "aten::rms_norm", "aten::group_norm", "aten::batch_norm",
    "aten::softmax", "aten::log_softmax", "aten::scaled_dot_product_attention", "aten::einsum", "aten::conv1d", "aten::conv2d",
    "aten::conv3d", "aten::embedding", "aten::repeat_interleave", "aten::where", "aten::__and__", "aten::__or__", "aten::__xor__",
    "aten::arange", "aten::max", "aten::min", "aten::index_select", "aten::type_as_copy", "aten::var", "aten::std",
    "aten::floor_divide", "aten::one_hot", "aten::cosine_similarity", "aten::adaptive_avg_pool2d", "aten::silu", "aten::pad",
})  # fmt: skip


def _overload(node: fx.Node) -> torch._ops.OpOverload | None:
    return node.target if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) else None


def is_mutable(node: fx.Node) -> bool:
    """Whether an fx node writes to an operand."""
    op = _overload(node)
    return op is not None and op._schema.is_mutable


def _may_alias(node: fx.Node) -> bool:
    """Whether the result of a node may share memory with an operand."""
    op = _overload(node)
    if op is None:
        return node.op == "call_function"
    if any(r.alias_info is not None for r in op._schema.returns):
        return True
    if op._schema.name in _FRESH:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def twin(target: torch._ops.OpOverload) -> str | None:
    """The functional spelling of an in-place overload (``aten.add_.Tensor`` -> ``aten.add.Tensor``); None for others."""
    schema = target._schema
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if (
        not schema.name.endswith("_")
        or schema.name.endswith("__")
        or len(written) != 1
        or written[0] is not schema.arguments[0]
    ):
        return None
    namespace, packet, overload = str(target).split(".")
    return f"{namespace}.{packet[:-1]}.{overload}"


def _graphs(program: ExportedProgram) -> Iterator[fx.Graph]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield module.graph


def roots(graph: fx.Graph) -> dict[fx.Node, fx.Node] | None:
    """For every in-place op the fx node whose tensor it writes; None if one of them cannot be read as its twin."""
    found: dict[fx.Node, fx.Node] = {}
    shared: set[fx.Node] = set()  # tensors that something seen so far may be a view of
    for node in graph.nodes:
        if is_mutable(node):
            written = node.args[0] if node.args else None
            root = found.get(written, written) if isinstance(written, fx.Node) else None
            if root is None or root.op != "call_function" or root in shared or twin(node.target) is None:
                return None
            if written not in found and _may_alias(root):
                return None
            found[node] = root
        elif _may_alias(node):
            shared.update(found.get(n, n) for n in node.all_input_nodes)
    return found


def needs_functionalization(program: ExportedProgram) -> bool:
    """Whether torch has to make the program functional before it can be read."""
    for graph in _graphs(program):
        if any(is_mutable(n) for n in graph.nodes) and (graph is not program.graph or roots(graph) is None):
            return True
    return False
