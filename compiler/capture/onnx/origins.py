"""Where a node comes from: the module path that plans and reports know it by."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from onnx import NodeProto

#: What torch's exporter keeps of the modules that a node was traced in, outermost first, the node's own name last.
_SCOPES = "pkg.torch.onnx.name_scopes"
_STACK = "pkg.torch.onnx.stack_trace"


def origin(node: NodeProto, outer: Sequence[str]) -> tuple[str, str | None]:
    """The module path of a node, and the source line where the file tells it.

    torch's exporters write the path down (``encoder.layer.0.output.dense``): one in the metadata, the other as the node's name
    (``/encoder/layer.0/output/dense/MatMul``). Else it is the name of the node, or of its first result.

    Args:
        node: the node.
        outer: names of the function calls it stands in, outermost first.
    """
    metadata = {p.key: p.value for p in node.metadata_props}
    location = _line(metadata.get(_STACK, ""))
    scopes = _scopes(metadata.get(_SCOPES, ""))
    if len(scopes) > 1:
        return scopes[-2], location
    name = node.name or next(filter(None, node.output), node.op_type)
    if name.startswith("/"):
        parts = name.strip("/").split("/")
        name = _joined(parts[:-1]) if len(parts) > 1 else parts[0]
    return ".".join([*(o.strip("/").replace("/", ".") for o in outer if o), name]) if outer else name, location


def _joined(parts: Sequence[str]) -> str:
    """The path of a module from its scopes. A member of an ``nn.Sequential`` is called ``layers.0`` inside of ``layers``."""
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    return ".".join(kept)


def _scopes(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return []
    return [str(s) for s in found] if isinstance(found, list) else []


def _line(trace: str) -> str | None:
    """``file:line`` of the innermost frame of a stack trace."""
    lines = [part for part in trace.splitlines() if part.strip().startswith("File ")]
    if not lines:
        return None
    words = lines[-1].split('"')
    number = lines[-1].partition(", line ")[2].partition(",")[0]
    return f"{words[1]}:{number}" if len(words) > 2 and number.isdigit() else None
