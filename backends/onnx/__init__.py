"""ONNX Runtime's execution providers as targets: a graph becomes an ONNX model in the form that the provider runs fast."""

from .backend import BACKEND

__all__ = ["BACKEND"]
