"""The weights of a Hugging Face folder: found, checked before anything is built, and loaded as f32 from safetensors alone."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CaptureError
from .exporting import first_sentence, quiet

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: Where else weights may lie -> what they are and what to do.
OTHERS = (
    ("pytorch_model*.bin*", "a pickle, which executes code when it is read",
     "convert it where you trust it: AutoModel.from_pretrained(folder).save_pretrained(new_folder) writes safetensors"),
    ("adapter_model.*", "an adapter without the model it belongs to",
     "merge it first: PeftModel.merge_and_unload(), then save_pretrained"),
    ("*.gguf", "in the GGUF format", "take the safetensors of the model it was made from"),
    ("tf_model.h5", "of TensorFlow", "an older transformers converts it: from_pretrained(folder, from_tf=True)"),
    ("flax_model.msgpack", "of Flax", "an older transformers converts it: from_pretrained(folder, from_flax=True)"),
    ("*.onnx", "an ONNX file", "give that file itself: planish compile model.onnx"),
    ("*.pt*", "a pickle, which executes code when it is read", "save_pretrained of transformers writes model.safetensors"),
    ("*.safetensors", "not named as transformers names them", f"rename it to {SINGLE}"),
)  # fmt: skip

#: safetensors' element types that are plain numbers of the model.
FLOATS = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
PLAIN = {*FLOATS, "I64", "I32", "I16", "I8", "U8", "BOOL"}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the folder, as transformers looks for them.

    Raises:
        CaptureError: there are none, one that the index names is missing, or the index is no JSON.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CaptureError(f"{index} is no index of weights", "download it again") from None
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise CaptureError(
                f"{folder} has {len(names) - len(missing)} of {len(names)} parts of the weights: {missing[0]} is missing",
                "download the rest",
            )
        return [folder / n for n in names]
    for pattern, what, hint in OTHERS:
        found = sorted(folder.glob(pattern))
        if found:
            raise CaptureError(f"{folder} has no {SINGLE}; its weights ({found[0].name}) are {what}", hint)
    raise CaptureError(f"{folder} holds no weights: there is no {SINGLE}", "save_pretrained of transformers writes one")


def check_weights(files: list[Path]) -> dict[str, int]:
    """Element type -> bytes of the tensors in ``files``, from their headers alone.

    Raises:
        CaptureError: a file is damaged, or holds quantised numbers.
    """
    sizes: dict[str, int] = {}
    for path in files:
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise CaptureError(f"{path} is a pointer of Git LFS, not the weights themselves", "run git lfs pull")
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    part = tensors.get_slice(name)
                    kind = part.get_dtype()
                    if kind not in PLAIN:
                        raise CaptureError(
                            f"{path.name} holds {name!r} as {kind}, which is a quantised format",
                            "take the model in f32, f16 or bf16 and let --precision choose",
                        )
                    count = 1
                    for size in part.get_shape():
                        count *= size
                    sizes[kind] = sizes.get(kind, 0) + count * _width(kind)
        except SafetensorError as error:
            raise CaptureError(
                f"{path} is damaged: {first_sentence(str(error))}", "it may be cut short; download it again"
            ) from error
    return sizes


def _width(kind: str) -> int:
    digits = re.sub(r"\D", "", kind)
    return int(digits) // 8 if digits else 1


def dtype_note(sizes: Mapping[str, int]) -> str | None:
    """What is said about weights that are not f32 in the file."""
    other = [FLOATS[k] for k in sizes if k in FLOATS and k != "F32"]
    if not other:
        return None
    kinds = " and ".join(sorted(other))
    return f"the weights are {kinds} in the file and loaded as f32; --precision chooses how they are compiled"


@contextmanager
def offline() -> Iterator[None]:
    """transformers and huggingface_hub reach no network, print nothing and draw no bars."""
    from huggingface_hub import constants
    from transformers.utils import logging

    reporter: Any = logging
    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE, reporter.get_verbosity()
    bars = reporter.is_progress_bar_enabled()
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    reporter.set_verbosity(reporter.CRITICAL)
    reporter.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before[1]
        if before[0] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[0]
        reporter.set_verbosity(before[2])
        if bars:
            reporter.enable_progress_bar()


def load_model(kind: Any, config: Any, folder: Path, notes: list[str], pooler: bool = True) -> torch.nn.Module:
    """The model with the weights of the folder, f32 and in eval mode; what was left over goes to ``notes``.

    Args:
        kind: a model class of transformers.
        config: the folder's configuration.
        folder: where the weights are.
        notes: gets a line for each thing worth knowing.
        pooler: whether the output of the pooler is wanted; one without weights is left out in any case.

    Raises:
        CaptureError: weights are missing or have another shape than the configuration says.
    """
    options: dict[str, Any] = {}
    can_drop = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    if can_drop and not pooler:
        options["add_pooling_layer"] = False
    model, info = _from_pretrained(kind, config, folder, options)
    missing = sorted(info["missing_keys"])
    if missing and can_drop and not options and all(re.search(r"(^|\.)pooler\.", name) for name in missing):
        options["add_pooling_layer"] = False
        notes.append("the folder has no weights for the pooler, so it is left out")
        model, info = _from_pretrained(kind, config, folder, options)
        missing = sorted(info["missing_keys"])
    wrong = sorted(info["mismatched_keys"], key=str)
    if wrong:
        name, theirs, ours = wrong[0]
        more = f", and {len(wrong) - 1} more do not fit" if len(wrong) > 1 else ""
        raise CaptureError(
            f"the weights hold {name!r} as {list(theirs)}, but config.json makes it {list(ours)}{more}",
            "config.json and the weights are of different models",
        )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CaptureError(
            f"the folder has no weights for {missing[0]!r}{more}, which {kind.__name__} needs",
            "--task feature-extraction compiles the model without a head" if "For" in kind.__name__
            else "config.json and the weights are of different models",
        )  # fmt: skip
    extra = sorted(k for k in info["unexpected_keys"] if pooler or "pooler" not in k)
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        notes.append(f"weights that {kind.__name__} does not use: {extra[0]}{more}")
    return model.eval().requires_grad_(False)


def _from_pretrained(
    kind: Any, config: Any, folder: Path, options: dict[str, Any]
) -> tuple[torch.nn.Module, dict[str, Any]]:
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    try:
        with offline():
            return kind.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, attn_implementation=attention, ignore_mismatched_sizes=True,
                output_loading_info=True, **options,
            )  # fmt: skip
    except Exception as error:
        raise CaptureError(
            f"{kind.__name__} cannot be made from {folder}: {type(error).__name__}: {first_sentence(str(error))}",
            "is it the config.json of these weights?",
        ) from error
