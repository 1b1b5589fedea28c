"""Example inputs of a Hugging Face model, with the axes that vary and their bounds: from its configuration, tokenizer and
preprocessor."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import Dim

from ..errors import CaptureError
from .example_text import PAIRS, TEXTS
from .huggingface_weights import offline

#: The most elements of a batch. Nothing is reserved for it; it is a bound because every dimension has one.
MAX_BATCH = 1024
#: The longest text where neither the configuration nor the tokenizer says.
MAX_TEXT = 512
#: The longest example text in tokens: enough to see what the model meets, quick to run.
EXAMPLE_TEXT = 128
#: The longest sound where nothing says, in seconds.
MAX_SECONDS = 30


@dataclass(frozen=True)
class DerivedInput:
    """One input as it is told to the user: ``shape`` has symbols, ``bounds`` their ranges, ``origin`` where it comes from."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: Mapping[str, tuple[int, int]]
    origin: str

    def __str__(self) -> str:
        """``input_ids: i64[batch, seq]``."""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass
class Example:
    """The call a model is shown with; see :func:`derive`."""

    kwargs: dict[str, Tensor] = field(default_factory=dict)
    dynamic_shapes: dict[str, dict[int, Any]] = field(default_factory=dict)
    inputs: list[DerivedInput] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor, axes: Mapping[int, tuple[Any, tuple[int, int]]], origin: str) -> None:
        """Add an input; ``axes`` gives the torch ``Dim`` and the bounds of each axis that varies."""
        self.kwargs[name] = tensor
        self.dynamic_shapes[name] = {axis: dim for axis, (dim, _) in axes.items()}
        shape = tuple(axes[i][0].__name__ if i in axes else n for i, n in enumerate(tensor.shape))
        bounds = {getattr(dim, "root", dim).__name__: bound for dim, bound in axes.values()}
        dtype = {torch.int64: "i64", torch.float32: "f32"}[tensor.dtype]
        self.inputs.append(DerivedInput(name, dtype, shape, bounds, origin))


def derive(model: torch.nn.Module, config: Any, folder: Path, pairs: bool = False, mask: bool = False) -> Example:
    """Inputs for ``model.forward``.

    Args:
        model: of transformers.
        config: its configuration.
        folder: with tokenizer and preprocessor files, as far as there are any.
        pairs: whether it reads a question and a passage.
        mask: whether a word is left out of each text for it to fill in.

    Raises:
        CaptureError: it takes something else than text, images or sound.
    """
    names = list(inspect.signature(model.forward).parameters)
    main = str(getattr(model, "main_input_name", ""))
    known: list[str] = ["input_ids", "pixel_values", "input_features", "input_values"]
    kinds = [kind for kind in known if kind in names] or [main]
    example = Example()
    several = "input_ids" in kinds and "pixel_values" in kinds
    if "input_ids" in kinds:
        _text(
            example,
            model,
            _part(config, "text_config"),
            folder,
            names,
            "text_batch" if several else "batch",
            pairs,
            mask,
        )
    if "pixel_values" in kinds:
        _image(example, _part(config, "vision_config"), folder, "image_batch" if several else "batch")
    if "input_features" in kinds:
        _spectrum(example, config, folder)
    if "input_values" in kinds:
        _sound(example, config, folder)
    if not example.kwargs:
        raise CaptureError(
            f"{type(model).__name__} takes {main or ', '.join(names[:3])}, for which no example can be derived",
            "write FILE.py:callable that returns the model with its example inputs",
        )
    return example


def _part(config: Any, name: str) -> Any:
    """The configuration of one tower, or the whole where there are none."""
    part = getattr(config, name, None)
    return config if part is None or isinstance(part, dict) else part


def _batch(name: str) -> tuple[Any, tuple[int, int]]:
    return Dim(name, min=1, max=MAX_BATCH), (1, MAX_BATCH)


# -- text -----------------------------------------------------------------------------------------------------------------
def _text(
    example: Example, model: torch.nn.Module, config: Any, folder: Path, names: Sequence[str], batch: str, pairs: bool,
    mask: bool,
) -> None:  # fmt: skip
    tokenizer = load_tokenizer(folder, example.notes)
    longest, why = _longest_text(model, config, tokenizer)
    length = min(EXAMPLE_TEXT, longest)
    arrays = _tokenised(tokenizer, length, pairs, mask) if tokenizer is not None else {}
    origin = "example texts through the tokenizer"
    vocabulary = _vocabulary(model, config)
    if arrays and int(arrays["input_ids"].max()) >= vocabulary:
        example.notes.append(
            f"the tokenizer is of another model (it gives ids beyond the {vocabulary} of this one), so the example is made up"
        )
        arrays = {}
    if not arrays:
        arrays, origin = _made_up(vocabulary, length, config, names), "made-up token ids"
    wanted = ["input_ids", "attention_mask"]
    if "token_type_ids" in arrays:
        wanted.append("token_type_ids")
    axes = {0: _batch(batch), 1: (Dim("seq", min=1, max=longest), (1, longest))}
    for name in wanted:
        if name in names and name in arrays:
            example.add(name, arrays[name], axes, f"{origin}; {why}" if name == "input_ids" else origin)


def load_tokenizer(folder: Path, notes: list[str]) -> Any:
    """The tokenizer of the folder, or None; a folder whose tokenizer cannot be read gets a note."""
    if not any((folder / n).is_file() for n in TOKENIZER_FILES) and not list(folder.glob("*.model")):
        return None
    from transformers import AutoTokenizer

    try:
        with offline():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:160]
        notes.append(f"the tokenizer cannot be loaded, so the example is made up: {reason}")
        return None


#: A folder with one of these has a tokenizer (or ``*.model``, of SentencePiece).
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


def _longest_text(model: torch.nn.Module, config: Any, tokenizer: Any) -> tuple[int, str]:
    """The most tokens the model takes, and who says so."""
    found: list[tuple[int, str]] = []
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 1:
            found.append((value, f"{name} {value}"))
            break
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in (
            "position_embeddings",
            "embed_positions",
        ):
            # A table with a padding row counts from the row after it (RoBERTa and its kin).
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append((module.num_embeddings - first, f"{module.num_embeddings - first} learned positions"))
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, int) and 1 < limit < 10**7:
        found.append((limit, f"the tokenizer's model_max_length {limit}"))
    return min(found, key=lambda item: item[0], default=(MAX_TEXT, f"no limit is given, {MAX_TEXT} is assumed"))


def _tokenised(tokenizer: Any, length: int, pairs: bool, mask: bool) -> dict[str, Tensor]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    texts: list[Any] = list(TEXTS)
    if mask and tokenizer.mask_token:
        texts = [" ".join(w if i != 3 else tokenizer.mask_token for i, w in enumerate(t.split(" "))) for t in texts]
    first, second = (list(p) for p in zip(*PAIRS, strict=True)) if pairs else (texts, None)
    try:
        encoded = tokenizer(
            first,
            second,
            padding=tokenizer.pad_token is not None,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
    except Exception:  # no padding token at all: texts of one length
        encoded = tokenizer(max(first, key=len), truncation=True, max_length=length, return_tensors="pt")
    return {name: tensor.to(torch.int64) for name, tensor in encoded.items() if isinstance(tensor, Tensor)}


def _vocabulary(model: torch.nn.Module, config: Any) -> int:
    table: Any = None
    with contextlib.suppress(NotImplementedError, AttributeError):  # a model of two towers has no single table
        table = cast(Any, model).get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    size = rows if isinstance(rows, int) else getattr(config, "vocab_size", None)
    return size if isinstance(size, int) and size > 1 else 2


def _made_up(vocabulary: int, length: int, config: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Random ids in eight rows, the later ones padded; the id of a sentence's end closes each row where there is one."""
    generator = torch.Generator().manual_seed(0)
    rows = 8
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    lengths = torch.tensor([max(1, length - length * row // (rows + 2)) for row in range(rows)])
    mask = (torch.arange(length)[None] < lengths[:, None]).to(torch.int64)
    special = [getattr(config, n, None) for n in ("pad_token_id", "bos_token_id", "eos_token_id")]
    pad, _, end = (s if isinstance(s, int) and 0 <= s < vocabulary else None for s in special)
    if pad is not None:  # not in the middle of a text: some models count positions by it
        ids = torch.where(ids == pad, torch.full_like(ids, (pad + 1) % vocabulary), ids)
    if end is not None:
        ids[torch.arange(rows), lengths - 1] = end
    ids = torch.where(mask.bool(), ids, torch.full_like(ids, pad or 0))
    arrays = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in names and (getattr(config, "type_vocab_size", 0) or 0) > 1:
        arrays["token_type_ids"] = torch.zeros_like(ids)
    return arrays


# -- images and sound -----------------------------------------------------------------------------------------------------
def preprocessor(folder: Path, part: str) -> dict[str, Any]:
    """The preprocessor's configuration; empty without one. ``part`` is ``image_processor`` or ``feature_extractor``."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            data = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and isinstance(data.get(part), dict):
            return dict(data[part])
        if isinstance(data, dict) and name.startswith("preprocessor"):
            return data
    return {}


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of the many ways a size is written."""
    if isinstance(size, Mapping):
        size = [size["height"], size["width"]] if "height" in size and "width" in size else size.get("shortest_edge")
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and size and all(isinstance(s, int) for s in size):
        return int(size[0]), int(size[-1])
    return None


def _image(example: Example, config: Any, folder: Path, batch: str) -> None:
    settings = preprocessor(folder, "image_processor")
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    choices = (
        (_pair(crop), "the preprocessor's crop_size"),
        (_pair(settings.get("size")), "the preprocessor's size"),
        (_pair(getattr(config, "image_size", None)), "image_size of config.json"),
        ((224, 224), "no size is given, 224 is assumed"),
    )
    (height, width), why = next((pair, why) for pair, why in choices if pair is not None)
    channels = getattr(config, "num_channels", 3)
    mean, std = (settings.get(n) for n in ("image_mean", "image_std"))
    pixels = _pictures(4, channels, height, width)
    if settings.get("do_normalize", True):
        spread = [
            torch.tensor(v if isinstance(v, list) and len(v) == channels else [0.5] * channels) for v in (mean, std)
        ]
        pixels = (pixels - spread[0][:, None, None]) / spread[1][:, None, None]
    example.add("pixel_values", pixels, {0: _batch(batch)}, f"made-up pictures; {why}")


def _pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    """Pictures in [0, 1] with the spectrum of photographs: amplitude falls as 1 / frequency (Field 1987)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, channels, height, width, generator=generator) + torch.randn(
        count, 1, height, width, generator=generator
    )
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    spectrum = torch.fft.rfft2(noise) / frequency.clamp(min=1 / max(height, width))
    pictures = torch.fft.irfft2(spectrum, s=(height, width))
    low, high = (f(pictures.flatten(1), 1).values[:, None, None, None] for f in (torch.min, torch.max))
    return ((pictures - low) / (high - low).clamp(min=1e-6)).contiguous()


def _waveform(samples: int, rate: int) -> Tensor:
    """Two voiced-like sounds of mean 0 and variance 1: gliding harmonics that swell and fade, with some noise."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / rate
    rows = []
    for pitch in (110.0, 210.0):
        glide = pitch * (time + 0.03 * torch.sin(5.0 * time))
        voice = sum(torch.sin(2 * torch.pi * k * glide) / k for k in range(1, 12)) * torch.sin(8.0 * time).abs()
        sound = voice + 0.05 * torch.randn(samples, generator=generator)
        rows.append((sound - sound.mean()) / sound.std().clamp(min=1e-6))
    return torch.stack(rows)


def _mel(bands: int, frames: int) -> Tensor:
    """Two log-mel spectra, bands x frames, mean 0: slow smooth bands as speech has them."""
    return (_pictures(2, 1, bands, frames)[:, 0] * 2 - 1).contiguous()


def _spectrum(example: Example, config: Any, folder: Path) -> None:
    settings = preprocessor(folder, "feature_extractor")
    bands = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None)
    bands = bands or getattr(config, "feature_projection_input_dim", None) or settings.get("feature_size")
    positions = getattr(config, "max_source_positions", None)
    if not isinstance(bands, int):
        raise CaptureError(
            "config.json does not say how many mel bands the model takes",
            "write FILE.py:callable that returns the model with its example inputs",
        )
    if isinstance(positions, int) and getattr(config, "num_mel_bins", None):
        # Two frames for each position, and always all of them: the model pads sound to its full length.
        frames = settings.get("nb_max_frames") or 2 * positions
        example.add(
            "input_features", _mel(bands, frames), {0: _batch("batch")},
            f"made-up log-mel spectra; {bands} bands and {frames} frames by config.json, the length is fixed",
        )  # fmt: skip
        return
    longest = positions if isinstance(positions, int) else 100 * MAX_SECONDS
    axes = {0: _batch("batch"), 1: (Dim("frames", min=16, max=longest), (16, longest))}
    example.add("input_features", _mel(bands, 200).transpose(1, 2).contiguous(), axes,
                f"made-up log-mel spectra; {bands} bands by config.json")  # fmt: skip


def _sound(example: Example, config: Any, folder: Path) -> None:
    settings = preprocessor(folder, "feature_extractor")
    bands, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_length", None)
    if isinstance(bands, int) and isinstance(frames, int):
        example.add("input_values", _mel(bands, frames).transpose(1, 2).contiguous(), {0: _batch("batch")},
                    f"made-up log-mel spectra; {bands} bands and {frames} frames by config.json")  # fmt: skip
        return
    rate = int(settings.get("sampling_rate", 16000))
    strides = getattr(config, "conv_stride", None)
    if strides:  # whole frames: torch.export cannot show that strided convolutions work for every number of samples
        step = math.prod(strides)
        low, high = max(2, rate // 10 // step), max(3, rate * MAX_SECONDS // step)
        frames = Dim("frames", min=low, max=high)
        example.add(
            "input_values", _waveform(rate // step * step, rate), {0: _batch("batch"), 1: (step * frames, (low, high))},
            f"made-up sounds at {rate} Hz, up to {MAX_SECONDS} s, in whole frames of {step} samples",
        )  # fmt: skip
        return
    axes = {
        0: _batch("batch"),
        1: (Dim("samples", min=rate // 10, max=rate * MAX_SECONDS), (rate // 10, rate * MAX_SECONDS)),
    }
    example.add("input_values", _waveform(rate, rate), axes, f"made-up sounds at {rate} Hz, up to {MAX_SECONDS} s")
