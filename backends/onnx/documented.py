"""What the documentation of the providers says that nobody could be asked about where planish is built.

A row that rests on it says so, with the reference, and gives no times. It serves until the provider is asked where it is
installed (``planish targets --probe``); where the documentation is silent the form counts as not taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from .forms import FORMS
from .providers import Provider
from .table import Row, Table

_KERNELS = "ONNX Runtime, docs/OperatorKernels.md"
_CUDA, _DML = f"{_KERNELS} (CUDAExecutionProvider)", f"{_KERNELS} (DmlExecutionProvider)"
_TRT = "onnx-tensorrt, docs/operators.md; ONNX Runtime, TensorRT Execution Provider"
_COREML = "ONNX Runtime, CoreML Execution Provider: supported operators"
_XNNPACK = "ONNX Runtime, XNNPACK Execution Provider: supported operators"
_WEBGPU = "ONNX Runtime, WebGPU Execution Provider; release notes of onnxruntime-ep-webgpu 0.1 to 0.4"
_F32, _HALF, _ALL = ("f32",), ("f32", "f16"), ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Claim:
    """What a page says of forms.

    Attributes:
        forms: patterns of their names.
        dtypes: element types of the activations that are taken; empty: none.
        reference: the page.
        reason: why it is not taken; else what is worth knowing.
    """

    forms: Sequence[str]
    dtypes: Sequence[str]
    reference: str
    reason: str = ""


_PLAIN = ("*-decomposed", "matmul", "gemm", "conv", "layer-normalization", "sum-layer-normalization")
_DYNAMIC = ("dynamic-*", "static-u8s8-linear")

#: Short name of a provider -> claims; the first that fits a form counts.
CLAIMS: Mapping[str, Sequence[Claim]] = {
    "cuda": (
        Claim(("conv",), _HALF, _CUDA, "bf16 from opset 22 on"),
        Claim(_PLAIN, _ALL, _CUDA),
        Claim(("gelu*-20", "fast-gelu", "bias-gelu"), _ALL, _CUDA),
        Claim(("quick-gelu", "skip-layer-normalization", "multi-head-attention"), _HALF, _CUDA),
        Claim(("group-query-attention",), ("f16", "bf16"), _CUDA, "no f32: the kernels are those of flash attention"),
        Claim(("microsoft-rotary-embedding",), _ALL, _CUDA),
        Claim(("attention-23", "rms-normalization-23", "rotary-embedding-23"), (), _CUDA, "models for it have opset 21"),
        Claim(("matmul-nbits-*",), ("f32", "f16"), _CUDA),
        Claim(("dequantize-int?-linear",), ("f32", "f16"), _CUDA, "DequantizeLinear in front of a float product"),
        Claim(("qdq-*",), (), _CUDA, "no integer products: QuantizeLinear and DequantizeLinear around float ones"),
        Claim(_DYNAMIC, (), _CUDA, "no DynamicQuantizeLinear and no MatMulIntegerToFloat"),
    ),
    "tensorrt": (
        Claim(_PLAIN, _HALF, _TRT),
        Claim(("gelu*-20",), _HALF, _TRT),
        Claim(("qdq-s8s8-*",), _F32, _TRT, "symmetric, a pair of QuantizeLinear and DequantizeLinear of its own for each tensor"),
        Claim(("qdq-*",), (), _TRT, "zero points have to be 0"),
        Claim(("dequantize-int4-linear",), _HALF, _TRT, "blocks of 128 or 64 only on some devices"),
        Claim(("*",), (), _TRT, "not among the operators of its parser"),
    ),
    "directml": (
        Claim(_PLAIN, _HALF, _DML),
        Claim(("gelu*-20",), (), _DML, "standard Gelu is not among its kernels"),
        Claim(("fast-gelu", "quick-gelu", "bias-gelu", "skip-layer-normalization"), _HALF, _DML),
        Claim(("multi-head-attention", "group-query-attention", "microsoft-rotary-embedding"), _HALF, _DML),
        Claim(("matmul-nbits-4*",), _HALF, _DML),
        Claim(("dynamic-u8s8-standard-linear",), _F32, _DML),
        Claim(("dynamic-*", "static-u8s8-linear"), _F32, _DML, "DynamicQuantizeMatMul and MatMulIntegerToFloat"),
        Claim(("qdq-u8*", "qdq-s8*"), _F32, _DML, "QLinearMatMul and QLinearConv"),
        Claim(("*",), (), _DML, "models for it have opset 20, or no kernel"),
    ),
    "coreml": (
        Claim(("matmul", "gemm"), _HALF, _COREML, "the second operand has to be constant"),
        Claim(("conv", "gelu-decomposed", "layer-norm-decomposed"), _HALF, _COREML),
        Claim(("layer-normalization", "sum-layer-normalization", "gelu-20", "gelu-tanh-20"), _HALF, _COREML),
        Claim(("qdq-*", "dynamic-*", "static-*", "dequantize-*"), (), _COREML, "no quantised operators"),
        Claim(("*",), (), _COREML, "not among its operators"),
    ),
    "xnnpack": (
        Claim(("matmul", "gemm", "conv"), _F32, _XNNPACK, "two-dimensional, with constant weights"),
        Claim(("qdq-u8u8-conv", "qdq-s8s8-conv"), _F32, _XNNPACK, "QLinearConv with constant scales"),
        Claim(("*",), (), _XNNPACK, "not among its operators"),
    ),
    "webgpu": (
        Claim(_PLAIN, _HALF, _WEBGPU),
        Claim(("gelu*-20", "fast-gelu", "quick-gelu", "bias-gelu", "skip-layer-normalization"), _HALF, _WEBGPU),
        Claim(("multi-head-attention", "group-query-attention", "microsoft-rotary-embedding"), _HALF, _WEBGPU),
        Claim(("matmul-nbits-4*", "matmul-nbits-8*"), _HALF, _WEBGPU),
        Claim(("qdq-*", "dynamic-*", "static-*"), (), _WEBGPU, "no integer products"),
        Claim(("*",), (), _WEBGPU, "models for it have opset 21, or no kernel"),
    ),
}  # fmt: skip


def documented(provider: Provider) -> Table:
    """The table of a provider by its documentation.

    Raises:
        KeyError: nothing is written down of it.
    """
    rows = []
    for form in FORMS.values():
        claim = next((c for c in CLAIMS[provider.short] if any(fnmatch(form.name, p) for p in c.forms)), None)
        for dtype in form.dtypes:
            taken = claim is not None and dtype in claim.dtypes
            reason = "" if claim is None else claim.reason
            if not taken and claim is not None and claim.dtypes:
                reason = f"no kernel in {dtype}"
            source = "documentation" if claim is None else f"documentation: {claim.reference}"
            rows.append(Row(form.name, dtype, taken, None, None, source, reason if claim else "not mentioned"))
    return Table(provider.name, "", "", tuple(rows))
