"""Constants by ONNX's own reference implementation (numpy): slow, and exactly what the standard says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper

from ...types import DType
from .types import dtype_of, plain, tensor_of

#: Results of more bytes than this, and than what they are computed from, are computed at run time.
MAX_BYTES = 1 << 22


def fold(
    node: NodeProto, arrays: Sequence[np.ndarray | None], dtypes: Sequence[DType | None], opsets: Mapping[str, int]
) -> list[tuple[np.ndarray, DType]] | None:
    """The results of a node on constants; None where the reference cannot compute them or they are large.

    Args:
        node: of the standard domain, without bodies.
        arrays: per operand its data, None for one that is absent.
        dtypes: likewise.
        opsets: version per domain.
    """
    from onnx.reference import ReferenceEvaluator

    twin = NodeProto()
    twin.CopyFrom(node)
    initializers, names = [], []
    for number, (array, dtype) in enumerate(zip(arrays, dtypes, strict=True)):
        names.append("" if array is None else f"in.{number}")
        if array is not None and dtype is not None:
            initializers.append(tensor_of(array, dtype, names[-1]))
    del twin.input[:]
    twin.input.extend(names)
    wanted = [name for name in node.output if name]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph([twin], "fold", [], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.get("", 1))])
    try:
        types = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        codes = [o.type.tensor_type.elem_type for o in types]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, {})
        found = [plain(r, dtype_of(c)) for r, c in zip(results, codes, strict=True)]
    except Exception:  # the reference lacks operators and raises all sorts; the handler says what is wrong
        return None
    given = sum(a.nbytes for a in arrays if a is not None)
    if sum(f.nbytes for f in found) > max(MAX_BYTES, given):
        return None
    of = dict(zip(wanted, ((f, dtype_of(c)) for f, c in zip(found, codes, strict=True)), strict=True))
    empty = (np.zeros(0, np.float32), DType.f32)
    return [of.get(name, empty) for name in node.output]
