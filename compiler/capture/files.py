"""Model files by what they hold, found without unpickling anything; what cannot be read is refused with the way out."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from pathlib import Path

import torch

from ..errors import CaptureError

BY_SUFFIX = {
    ".safetensors": ("weights without the model they belong to", "give the folder that holds it beside a config.json"),
    ".gguf": ("a GGUF model", "take the Hugging Face folder it was made from"),
    ".h5": ("a Keras model", "planish compiles PyTorch and ONNX models"),
    ".keras": ("a Keras model", "planish compiles PyTorch and ONNX models"),
    ".tflite": ("a TensorFlow Lite model", "planish compiles PyTorch and ONNX models"),
    ".pb": ("a TensorFlow model", "planish compiles PyTorch and ONNX models"),
    ".ort": ("a model in ONNX Runtime's own format", "give the .onnx file that it was made from"),
}
SAVE = "torch.export.save(torch.export.export(model, args), 'model.pt2')"


def refuse_file(path: Path) -> None:
    """Return for a file that may be an exported program.

    Raises:
        CaptureError: it is something else; says what, why it is not read, and what to give instead.
    """
    suffix = path.suffix.lower()
    if suffix in BY_SUFFIX:
        what, hint = BY_SUFFIX[suffix]
        raise CaptureError(f"{path} is {what}", hint)
    with path.open("rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if min((entry.header_offset for entry in archive.infolist()), default=0):
                raise _cut(path)  # the archive found is one inside the file, whose own end is missing
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            if "constants.pkl" in names or any(name.startswith("code/") for name in names):
                raise CaptureError(
                    f"{path} is TorchScript, which cannot be captured",
                    "compile the nn.Module that it was made from: FILE.py:callable",
                )
            if "data.pkl" in names and "archive_format" not in names:
                held = _pickled(archive.read(archive.namelist()[names.index("data.pkl")]))
                raise _pickle(path, held)
    elif start == b"PK":
        raise _cut(path)
    elif start[:1] == b"\x80":  # a pickle of any protocol since 2, as torch.save wrote it before 1.6
        raise _pickle(path, _pickled(path.read_bytes(), legacy=True))
    else:
        raise CaptureError(f"{path} is no model", f"write it with {SAVE}, or give FILE.py:callable")


def _cut(path: Path) -> CaptureError:
    return CaptureError(f"{path} is cut short: it ends before it is complete", "write or copy it again")


def refuse_pickles(path: Path) -> None:
    """Return for an exported program without pickled objects.

    ``torch.export.load`` unpickles weights that are no plain tensors, custom objects and example inputs, whatever they hold.

    Raises:
        CaptureError: there is one; says which.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            place = name.partition("/data/")[2]
            if place.startswith(("weights/", "constants/")) and place.endswith(".json"):
                try:
                    entries = json.loads(archive.read(name))["config"].items()
                except (ValueError, KeyError, AttributeError):
                    raise CaptureError(f"{path} is damaged: {name} cannot be read") from None
                for weight, entry in entries:
                    if entry.get("use_pickle"):
                        raise CaptureError(
                            f"{path} holds {weight!r} as a pickle, which executes code when it is read",
                            "only plain tensors can be compiled: no sparse or quantised ones, no subclasses, no script objects",
                        )
            elif place.endswith(".pt") and archive.getinfo(name).file_size:
                data = archive.read(name)
                try:
                    torch.load(io.BytesIO(data), weights_only=True)
                except Exception as error:
                    what = "example inputs" if place.startswith("sample") else "weights"
                    raise CaptureError(
                        f"the {what} in {path} are more than plain tensors, numbers and lists, and reading them executes code",
                        "where you trust it, torch.export.load it in a FILE.py:callable",
                    ) from error


def _pickle(path: Path, held: str) -> CaptureError:
    if held in ("", "collections OrderedDict") or held.startswith(("torch._utils ", "torch._tensor ")):
        return CaptureError(
            f"{path} holds weights without the model they belong to (a state_dict), in a pickle",
            "give FILE.py:callable that builds the model and loads them",
        )
    kind = held.replace(" ", ".")
    return CaptureError(
        f"{path} is a pickled {kind} of torch.save, which executes code when it is read, so planish does not read it",
        f"where you trust it, torch.load it in a FILE.py:callable, or write {SAVE} once",
    )


def _pickled(data: bytes, legacy: bool = False) -> str:
    """``module name`` of the first class that a pickle names, read as text; empty for plain containers.

    A legacy file of torch.save is several pickles; the first three hold numbers of the format.
    """
    stream = io.BytesIO(data)
    texts: list[str] = []
    try:
        for _ in range(5 if legacy else 1):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    return str(argument)
                if opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    return f"{texts[-2]} {texts[-1]}"
                if isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # cut short, or no pickle after all: the sentence does without
        return ""
    return ""
