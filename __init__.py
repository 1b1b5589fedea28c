"""planish: an ahead-of-time compiler for neural networks.

``planish.compile`` turns a PyTorch model into one file, ``planish.load`` runs it; the latter needs numpy alone. Names are
imported when they are first used, so ``import planish`` is cheap and ``planish.load`` pulls in nothing of the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name -> the module of this package that defines it.
_HOME = {
    "Artifact": "assembly",
    "compile": "driver",
    "load": "runtime",
    "Dataset": "search.dataset",
    "Workload": "search.workload",
    "Instrument": "compiler.pipeline",
    "Pass": "compiler.pipeline",
    "PassContext": "compiler.pipeline",
    "PassResult": "compiler.pipeline",
    "Pipeline": "compiler.pipeline",
    "CppKernel": "compiler.custom_ops",
    "CustomOp": "compiler.custom_ops",
    "register_op": "compiler.custom_ops",
    "after": "compiler.pipeline",
    "before": "compiler.pipeline",
    "RewriteRule": "compiler.rewrite",
    "DType": "compiler.types",
    "TensorType": "compiler.types",
    "floats": "compiler.types",
    "ArtifactError": "runtime.errors",
    "BudgetError": "compiler.errors",
    "CaptureError": "compiler.errors",
    "InputError": "runtime.errors",
    "LoweringError": "compiler.errors",
    "PassError": "compiler.errors",
    "PlanishError": "errors",
    "RunError": "runtime.errors",
    "ToolchainError": "compiler.errors",
    "UsageError": "errors",
    "VerifyError": "compiler.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` on first use.

    Raises:
        AttributeError: there is no such public name.
    """
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
