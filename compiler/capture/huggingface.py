"""A local Hugging Face folder as a model with example inputs: configuration, safetensors, tokenizer; nothing is downloaded and
no code of the folder is run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError, PlanishError, UsageError
from . import sentence_embedding
from .examples import DerivedShapes
from .huggingface_inputs import DerivedInput, derive
from .huggingface_tasks import choose
from .huggingface_weights import check_weights, dtype_note, load_model, offline, weight_files

#: What belongs to a model beside its weights: how text becomes ids and pictures become numbers, and what the outputs are called
#: (``id2label`` of config.json).
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "*.model", "chat_template.jinja", "preprocessor_config.json",
    "processor_config.json", "image_processor_config.json", "feature_extractor_config.json", "normalizer.json",
)  # fmt: skip


@dataclass
class FolderModel:
    """A folder, read.

    Attributes:
        model: in eval mode, f32.
        kwargs: the example call.
        dynamic_shapes: in torch.export's notation.
        task: what it does.
        inputs: how the example was derived, one for each input.
        notes: what is worth knowing.
        companions: name -> file of what goes beside the artifact; empty where there is neither tokenizer nor preprocessor.
    """

    model: torch.nn.Module
    kwargs: dict[str, Tensor]
    dynamic_shapes: DerivedShapes
    task: str
    inputs: list[DerivedInput]
    notes: list[str] = field(default_factory=list)
    companions: dict[str, Path] = field(default_factory=dict)

    def facts(self) -> list[tuple[str, str]]:
        """The model, its task, a line for each input with bounds and origin, and the notes, for people."""
        name = type(self.model).__name__
        bounds = {symbol: bound for i in self.inputs for symbol, bound in i.bounds.items()}
        width = max(len(str(i)) for i in self.inputs)
        ranges = ", ".join(f"{symbol} {low}..{high}" for symbol, (low, high) in bounds.items())
        return [
            ("model", name if name == self.task else f"{name} for {self.task}"),
            ("inputs", "\n".join(f"{i!s:{width}}  {i.origin}" for i in self.inputs)),
            ("dimensions", ranges or "all fixed"),
            *(("note", note) for note in self.notes),
        ]


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder, and so is to be read as a Hugging Face one."""
    return os.path.isdir(path)


def load_folder(path: str | os.PathLike[str], task: str | None = None) -> FolderModel:
    """Read a local Hugging Face folder.

    Args:
        path: a folder with config.json and model.safetensors, or its parts and their index.
        task: what to compile it for; by the architecture if None.

    Raises:
        CaptureError: there is no model in it, or one that cannot be read safely.
        UsageError: there is no such task, or the model is not made for it.
    """
    folder = Path(path)
    described = sentence_embedding.described(folder)
    root = folder if described is None or (folder / "config.json").is_file() else described[0]
    settings = _settings(root)
    notes: list[str] = []
    files = weight_files(root)
    _refuse_quantised(settings)
    note = dtype_note(check_weights(files))
    if note:
        notes.append(note)
    config = _config(root, settings, notes)
    kind, chosen = choose(config, task, described is not None)
    parts: list[Any] = [config, getattr(config, "text_config", None)]
    for part in parts:
        if hasattr(part, "use_cache"):
            part.use_cache = False
    pooler = chosen.part == ""
    model = load_model(kind, config, root, notes, pooler)
    if chosen.part == "encoder":
        model = _encoder(model, notes)
    elif chosen.part in ("text", "image"):
        _narrow_to_tower(model, chosen.part)
    elif chosen.part == "sentence" and described is not None:
        _narrow_to_sentence(model, described[1])
    example = derive(model, config, root, pairs=chosen.name == "question-answering", mask=chosen.name == "fill-mask")
    return FolderModel(
        model, example.kwargs, DerivedShapes(example.dynamic_shapes), chosen.name, example.inputs,
        notes + example.notes, _companions(root),
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        if (folder / "adapter_config.json").is_file():
            raise CaptureError(
                f"{folder} holds an adapter without the model it belongs to",
                "merge it first: PeftModel.merge_and_unload(), then save_pretrained",
            )
        if (folder / "model_index.json").is_file():
            raise CaptureError(f"{folder} is a pipeline of several models", "give one of its folders, for example unet")
        raise CaptureError(
            f"{folder} is no Hugging Face folder: it has no config.json",
            "give FILE.py:callable, FILE.pt2, or a folder that save_pretrained wrote",
        )
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CaptureError(f"{file} is no JSON: {error}", "download it again") from None
    if not isinstance(data, dict):
        raise CaptureError(f"{file} is no configuration: it holds a {type(data).__name__}")
    return data


def _refuse_quantised(settings: Mapping[str, Any]) -> None:
    quantised = settings.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
        raise CaptureError(
            f"the folder is quantised already, by {method}",
            "take the model in f32, f16 or bf16 and let --precision choose",
        )


def _config(folder: Path, settings: Mapping[str, Any], notes: list[str]) -> Any:
    """The configuration as an object of transformers.

    Raises:
        CaptureError: transformers is missing or does not know the model, or the folder wants code of its own to be run.
    """
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        raise PlanishError(
            "a Hugging Face folder is read with transformers, which is not installed",
            "pip install 'planish[huggingface]'",
        ) from None
    model_type = settings.get("model_type")
    architecture = next(iter(settings.get("architectures") or ()), None)
    known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if settings.get("auto_map"):
        if not known:
            raise CaptureError(
                f"{folder} wants Python code of its own to be run ({_code(settings['auto_map'])}), and planish runs none",
                "where you trust it, load it with trust_remote_code=True in a FILE.py:callable",
            )
        notes.append("the folder's own Python code was not run; transformers' own classes were used")
    if not known:
        raise CaptureError(
            f"{folder / 'config.json'} names no model_type" if model_type is None
            else f"the installed transformers {transformers.__version__} does not know the model_type {model_type!r}",
            f"it is a {architecture}; install the transformers that the folder was made with" if architecture
            else "give FILE.py:callable for a model of your own",
        )  # fmt: skip
    try:
        with offline():
            return CONFIG_MAPPING[model_type].from_pretrained(folder, local_files_only=True)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CaptureError(
            f"{folder / 'config.json'} is no {model_type} configuration: {why}",
            "is it the config.json of these weights?",
        ) from error


def _code(auto_map: Any) -> str:
    names = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    first = next((n for n in names if isinstance(n, str)), "auto_map")
    return f"{first.rpartition('--')[2].partition('.')[0]}.py" if "." in first else first


def _encoder(model: torch.nn.Module, notes: list[str]) -> torch.nn.Module:
    get: Any = getattr(model, "get_encoder", None)
    encoder = get() if get is not None else None
    if encoder is None or encoder is model:
        return model
    notes.append(f"of {type(model).__name__} the encoder is compiled; its decoder is not")
    found: torch.nn.Module = encoder
    return found


# A wrapper would put its own name before every layer's, and plans name layers. So the model's own object gets a subclass of its
# class with another forward.
def _become(model: torch.nn.Module, name: str, forward: Any) -> None:
    model.__class__ = type(name, (type(model),), {"forward": forward})


def _narrow_to_tower(model: torch.nn.Module, tower: str) -> None:
    features: Any = getattr(model, f"get_{tower}_features", None)
    if features is None:
        raise UsageError(f"a {type(model).__name__} has no {tower} tower", "leave --task out")

    def vector(result: Any) -> Tensor:
        found: Tensor = result if isinstance(result, Tensor) else result.pooler_output
        return found

    def text(self: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"text_features": vector(self.get_text_features(input_ids=input_ids, attention_mask=attention_mask))}

    def image(self: Any, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"image_features": vector(self.get_image_features(pixel_values=pixel_values))}

    _become(model, f"{type(model).__name__}{tower.title()}Features", text if tower == "text" else image)


def _narrow_to_sentence(model: torch.nn.Module, entries: list[tuple[str, Path]]) -> None:
    base: Any = type(model)
    model.add_module("sentence", sentence_embedding.steps(entries).eval().requires_grad_(False))

    def with_types(self: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        return pooled(
            self, attention_mask, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )

    def without(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return pooled(self, attention_mask, input_ids=input_ids, attention_mask=attention_mask)

    def pooled(self: Any, mask: Tensor, **inputs: Tensor | None) -> dict[str, Tensor]:
        x = base.forward(self, **inputs).last_hidden_state
        for name, step in self.sentence.items():
            x = step(x, mask) if name == "pooling" else step(x)
        return {"sentence_embedding": x}

    import inspect

    typed = "token_type_ids" in inspect.signature(base.forward).parameters
    _become(model, f"{base.__name__}Sentence", with_types if typed else without)


def _companions(folder: Path) -> dict[str, Path]:
    """The files that go beside the artifact, if there is more than the configuration."""
    found = {p.name: p for pattern in COMPANIONS for p in sorted(folder.glob(pattern)) if p.is_file()}
    return found if any(not name.endswith("config.json") or "processor" in name for name in found) else {}
