"""The CPU backend: generated C++, built by g++ or clang."""

from .backend import BACKEND

__all__ = ["BACKEND"]
