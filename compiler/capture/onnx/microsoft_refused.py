"""Operators of ``com.microsoft`` that are known and not read, with the reason."""

from __future__ import annotations

from .registry import MICROSOFT, refuse

_REFUSED = {
    "it generates text in a loop of its own (compile the model inside of it)": (
        "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch",
    ),
    "the size of its result depends on the data": ("Unique", "RemovePadding"),
    "it writes into a cache in place, or reads a cache of pages": (
        "DecoderAttention", "DecoderMaskedSelfAttention", "PagedAttention", "SparsePagedAttention",
    ),
    "attention to chosen blocks is not supported": ("SparseAttention", "LongformerAttention", "DynamicSparseAttention"),
    "its numbers are laid out for one kind of device (quantise with MatMulNBits or QDQ)": (
        "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedLongformerAttention", "QOrderedMatMul",
        "QuantizeWithOrder", "DequantizeWithOrder", "QuantizeBFP", "DequantizeBFP", "MatMulFpQ4", "GemmFloat8",
        "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "DynamicQuantizeLSTM",
    ),
    "a mixture of experts in one node is not supported": ("MoE", "QMoE"),
    "it works on text": ("Tokenizer", "MurmurHash3", "WordConvEmbedding", "NGramRepeatBlock", "NGramHashMapping"),
    "it holds a program for one device": ("EPContext", "Snpe"),
    "it is not supported": ("ConvTransposeWithDynamicPads", "CropAndResize", "Inverse", "MaxpoolWithMask", "RestorePadding"),
}  # fmt: skip

for _why, _names in _REFUSED.items():
    refuse(*_names, why=_why, domain=MICROSOFT)
