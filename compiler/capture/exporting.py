"""Running torch.export: quietly, in eval mode, with its failures turned into one plain sentence."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch.export import ExportedProgram

from ..errors import CaptureError
from ..plugins import load_ops
from .examples import DerivedShapes, Warned
from .files import refuse_file, refuse_pickles
from .locations import line_of_error
from .recurrent_shapes import varying_length


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
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a failing export prints its graph
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
        with quiet(debug), inference(model), varying_length():
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
    refuse_file(path)
    try:
        refuse_pickles(path)
        _register_outputs(path)
    except zipfile.BadZipFile as error:
        raise CaptureError(f"{path} is damaged: {error}", "write or copy it again") from error
    load_ops()  # torch reads a program only where the custom ops it uses are defined
    try:
        with quiet(debug):
            return torch.export.load(path)
    except Exception as error:
        hint = f"torch says: {first_sentence(str(error))}"
        raise CaptureError(f"{path} is no exported program", hint) from error


def _register_outputs(path: Path) -> None:
    """Import the modules of transformers whose output classes a .pt2 file names: torch reads it only if they are known."""
    with zipfile.ZipFile(path) as archive:
        texts = [archive.read(name).decode(errors="replace") for name in archive.namelist() if name.endswith(".json")]
    for module in {found for text in texts for found in re.findall(r"\b(transformers(?:\.\w+)*)\.[A-Z]\w+", text)}:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


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


#: What torch says -> how to say it, tried in order.
_REASONS = (
    (r"You marked (.+?) as dynamic but your code specialized it to be a constant \((\w+)\)", r"it fixes \1 at \2"),
    (r"Not all values of (\S+)(?: = \S+)? in the specified range.*? satisfy the generated guard (.+?)\.?$",
     r"not every \1 satisfies \2"),
    (r"The values of (\S+) = \S+ and (\S+) = \S+ must always be equal", r"\1 and \2 must be equal"),
    (r"The values of (\S+)(?: = \S+)? and (.+?) must always be equal", r"\1 and \2 must be equal"),
)  # fmt: skip


class SizesError(CaptureError):
    """Sizes were to vary that cannot; ``fixes`` has for each such symbol what torch suggests:
    ``128``, ``Dim('seq', max=511)``, or nothing."""

    def __init__(self, message: str, hint: str | None, fixes: Mapping[str, str]) -> None:
        """Message and hint as ever."""
        super().__init__(message, hint)
        self.fixes = dict(fixes)


def export_derived(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: DerivedShapes, debug: bool = False
) -> tuple[ExportedProgram, DerivedShapes, list[str]]:
    """:func:`export` with shapes that nobody wrote down: sizes that the model does not let vary so far are narrowed or fixed.

    Returns:
        The program, the shapes it was exported with, and a note for each size that does not vary as derived.

    Raises:
        CaptureError: as :func:`export`.
    """
    notes: dict[str, str] = {}
    while True:
        try:
            return export(model, args, kwargs, dict(shapes), debug), shapes, [Warned(note) for note in notes.values()]
        except SizesError as error:
            narrower, said = shapes.narrowed(error.fixes, notes)
            if not said:
                raise
            notes |= said
            shapes = narrower


#: What torch says where a model does something that is no tensor program -> what it does, and the way out.
_LEAVES_TORCH = (
    (r"\.numpy\(\) is not supported|Can't call numpy\(\)|can't convert .* to numpy",
     "leaves PyTorch for numpy", "write it with torch, or make it an op with planish.register_op"),
    (r"_nested_(tensor_from|view)|NestedTensor|NestedIntNode", "makes a nested tensor", "pad the sequences, and use a mask"),
    (r"not linked with support for cuda|not compiled with CUDA|Found no NVIDIA driver|No CUDA GPUs are available",
     "moves tensors to a CUDA device", "write tensor.to(x.device), or load the model on the CPU"),
    (r"does not require grad and does not have a grad_fn", "computes gradients", "planish compiles inference alone"),
    (r"Quantized(Meta|CPU)|quantized nyi", "works on quantised tensors", "take the float model and let the precision choose"),
)  # fmt: skip


def _packs(code: CodeType) -> bool:
    """Whether a function is one of torch's that pack sequences, or calls one."""
    calls = {"pack_padded_sequence", "pack_sequence", "pad_packed_sequence"} & set(code.co_names)
    return bool(calls) or code.co_filename.endswith("torch/nn/utils/rnn.py")


def explained(error: BaseException) -> CaptureError:
    """A failure of torch.export as one sentence with the line of the model it comes from."""
    line = line_of_error(error)
    where = f" at {line}" if line else ""
    causes = _causes(error)
    text = "\n".join(str(e) for e in causes)
    names = {type(e).__name__ for e in causes}
    opaque = re.search(r"no fake impl registered for (?:<CustomOpDef\()?([\w:.]+)", text)
    if opaque is not None:
        return CaptureError(
            f"the custom op {opaque.group(1)} has no fake implementation{where}, so its shapes are not known",
            "give it one with torch.library.register_fake, then planish.register_op",
        )
    if "GuardOnDataDependentSymNode" in names or "data-dependent" in text.lower():
        return CaptureError(
            f"the model takes a decision that depends on the data{where}, which cannot be captured",
            "use torch.where in place of the branch, or move it out of the model",
        )
    for pattern, what, hint in _LEAVES_TORCH:
        if re.search(pattern, text):
            return CaptureError(f"the model {what}{where}, which cannot be captured", hint)
    if any(_packs(frame.f_code) for e in causes for frame, _ in traceback.walk_tb(e.__traceback__)):
        return CaptureError(
            f"the model packs sequences{where}, which cannot be captured",
            "run the layer on padded sequences and mask its result",
        )
    found = re.search(r"Found <class '(.+?)'> in output", text)
    if found:
        return CaptureError(
            f"the model returns a {found.group(1).rpartition('.')[2]}, which cannot be captured",
            "return tensors in tuples, lists or dicts; torch.export.register_dataclass makes a dataclass known",
        )
    if "Constraints violated" in text or "ConstraintViolationError" in names:
        return _violated(text)
    if "`dynamic_shapes`" in text or "dynamic shape" in text.lower():
        reason = re.split(r"(?<=[.\]]) (?:Alternatively|For more)", first_sentence(text))[0]
        return CaptureError(f"dynamic_shapes does not fit the model: {reason.rstrip('.')}")
    wrong_call = (
        r"too many positional arguments|missing a required argument|got an unexpected keyword|multiple values for"
    )
    if re.search(wrong_call, text):
        return CaptureError(f"the model does not take these arguments: {_last_text(error)}")
    return CaptureError(f"torch.export cannot export the model{where}: {_last_text(error)}")


def _last_text(error: BaseException) -> str:
    telling = [e for e in _causes(error) if str(e).strip()]
    return first_sentence(str(telling[0])) if telling else type(error).__name__


def _plain(reason: str) -> str:
    reason = re.sub(
        r"L\['(\w+)'\]((?:\['?\w+'?\])*)\.size\(\)\[(\d+)\]", r"\1\2.shape[\3]", re.sub(r"\s+", " ", reason).strip()
    )
    for pattern, words in _REASONS:
        found = re.search(pattern, reason)
        if found:
            return found.expand(words)
    return reason.rstrip(".")[:300]


def _violated(text: str) -> CaptureError:
    items = re.findall(r"^[ ]*- (.*(?:\n(?![ ]*- |Suggested|[ ]*$).*)*)", text, re.M)
    reasons = list(dict.fromkeys(_plain(item) for item in items))
    fixes = re.search(r"Suggested fixes:\s*\n((?:[ ]+\S.*\n?)+)", text)
    lines = [re.sub(r"\s+", " ", f).strip() for f in fixes.group(1).splitlines() if "=" in f] if fixes else []
    reason = "; ".join(reasons[:3]) if reasons else first_sentence(text)
    return SizesError(
        f"the model does not work for every size that dynamic_shapes allows: {reason}",
        "torch suggests " + "; ".join(lines) if lines else None,
        dict.fromkeys(re.findall(r"not every (\w+) satisfies", reason), "")
        | dict(line.split(" = ", 1) for line in lines if " = " in line),
    )
