"""Running torch.export: quietly, in eval mode, with its failures turned into one plain sentence."""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..errors import CaptureError
from .locations import line_of_error


@contextmanager
def quiet(debug: bool = False) -> Iterator[None]:
    """torch's loggers and warnings say nothing, unless ``debug``."""
    if debug:
        yield
        return
    loggers = [
        logger for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and (name == "torch" or name.startswith("torch."))
    ]  # fmt: skip
    before = [(logger, logger.disabled) for logger in loggers]
    handlers = {h for logger in loggers for h in logger.handlers}  # of loggers that appear meanwhile, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        for handler in handlers:
            handler.addFilter(_silent)
        try:
            yield
        finally:
            for logger, disabled in before:
                logger.disabled = disabled
            for handler in handlers:
                handler.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode, without gradients and fused encoder paths; restored afterwards."""
    training = [m for m in model.modules() if m.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module in training:
                module.training = True


def export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, debug: bool = False
) -> ExportedProgram:
    """``torch.export.export`` without its logs.

    Raises:
        CaptureError: torch cannot export the model; says why and where.
    """
    try:
        with quiet(debug), inference(model):
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if isinstance(error, CaptureError):
            raise
        raise explained(error) from error


def load(path: Path, debug: bool = False) -> ExportedProgram:
    """Read a ``.pt2`` file.

    Raises:
        CaptureError: there is no such file, or it holds no exported program.
    """
    if not path.is_file():
        raise CaptureError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise CaptureError(f"{path} is no model", "a .pt2 file written by torch.export.save is expected")
    try:
        with quiet(debug):
            return torch.export.load(path)
    except Exception as error:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(n.endswith("data.pkl") for n in names):
            hint = "it looks like a state_dict or a TorchScript file; torch.export.save writes what is expected"
        else:
            hint = f"torch says: {first_sentence(str(error))}"
        raise CaptureError(f"{path} is no exported program", hint) from error


def first_sentence(text: str) -> str:
    """The first telling line of a message of torch, without addresses and advertising."""
    for line in text.strip().splitlines():
        line = re.sub(r"\s+", " ", line).strip()
        if line and not line.startswith(("#", "-", "File ", "Traceback", "The following call raised", "===")):
            return line.rstrip(".:")[:300]
    return type(text).__name__ if not text else text[:300]


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def explained(error: BaseException) -> CaptureError:
    """A failure of torch.export as one sentence with the line of the model it comes from."""
    line = line_of_error(error)
    where = f" at {line}" if line else ""
    text = "\n".join(str(e) for e in _causes(error))
    names = {type(e).__name__ for e in _causes(error)}
    if "GuardOnDataDependentSymNode" in names or "data-dependent" in text.lower():
        return CaptureError(
            f"the model takes a decision that depends on the data{where}, which cannot be captured",
            "use torch.where in place of the branch, or move it out of the model",
        )
    if "Constraints violated" in text or "ConstraintViolationError" in names:
        return _violated(text)
    if re.search(r"infer.*constant|specialized|specialised", text) and "dynamic" in text:
        return CaptureError(f"a dimension that was declared dynamic is fixed by the model{where}: {_reason(text)}")
    if "dynamic_shapes" in text or "dynamic shape" in text.lower():
        return CaptureError(f"dynamic_shapes does not fit the model: {first_sentence(text)}")
    if any(isinstance(e, (TypeError,)) and "argument" in str(e) for e in _causes(error)) and line is None:
        return CaptureError(f"the model does not take these arguments: {_last_text(error)}")
    return CaptureError(f"torch.export cannot export the model{where}: {_last_text(error)}")


def _last_text(error: BaseException) -> str:
    chain = _causes(error)
    telling = [e for e in chain if str(e).strip()]
    return first_sentence(str(telling[0])) if telling else type(error).__name__


def _reason(text: str) -> str:
    for line in text.splitlines():
        line = line.strip(" -\t")
        if any(word in line for word in ("inferred", "specialized", "marked", "constant")):
            return re.sub(r"\s+", " ", line).rstrip(".")[:300]
    return first_sentence(text)


def _violated(text: str) -> CaptureError:
    reasons = [
        re.sub(r"\s+", " ", m).strip() for m in re.findall(r"^\s*-\s+(.*(?:\n(?!\s*-|Suggested|\s*$).*)*)", text, re.M)
    ]
    fixes = re.search(r"Suggested fixes:\s*\n((?:\s+.*\n?)+)", text)
    suggestion = None
    if fixes:
        lines = [re.sub(r"\s+", " ", f).strip() for f in fixes.group(1).splitlines() if "=" in f]
        suggestion = "torch suggests " + "; ".join(lines) if lines else None
    reason = reasons[0].rstrip(".") if reasons else first_sentence(text)
    return CaptureError(
        f"the model does not work for every size that dynamic_shapes allows: {reason[:300]}", suggestion
    )


def decompose(program: ExportedProgram, table: Mapping[Any, Any], debug: bool = False) -> ExportedProgram:
    """``program`` made functional, with the ops in ``table`` (and no others) written as simpler ones.

    Raises:
        CaptureError: torch fails at it.
    """
    try:
        with quiet(debug), torch.no_grad():
            return program.run_decompositions(dict(table))
    except Exception as error:
        raise explained(error) from error


def decompositions(targets: Sequence[Any]) -> dict[Any, Any]:
    """torch's own decompositions of ``targets``, as far as there are any."""
    table = torch.export.default_decompositions()
    return {t: table[t] for t in targets if isinstance(t, torch._ops.OpOverload) and t in table}
