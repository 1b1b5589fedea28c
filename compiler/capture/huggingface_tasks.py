"""What a Hugging Face folder is for, and which class of transformers does it: by ``architectures``, or by the task asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import CaptureError, UsageError
from ..options import nearest


@dataclass(frozen=True)
class Task:
    """One thing a model is used for.

    Attributes:
        name: as Hugging Face's pipelines call it, where they have a name.
        auto: the ``AutoModel`` class of transformers.
        part: what of the model is compiled: all of it (""), its ``encoder``, ``text`` or ``image`` tower, or ``sentence``: the
            embedding that a folder of sentence-transformers describes.
    """

    name: str
    auto: str
    part: str = ""


#: Tried in order for an architecture: the more telling ones first.
TASKS = (
    Task("speech-encoder", "AutoModelForSpeechSeq2Seq", "encoder"),
    Task("text2text-encoder", "AutoModelForSeq2SeqLM", "encoder"),
    Task("text-classification", "AutoModelForSequenceClassification"),
    Task("token-classification", "AutoModelForTokenClassification"),
    Task("question-answering", "AutoModelForQuestionAnswering"),
    Task("fill-mask", "AutoModelForMaskedLM"),
    Task("text-generation", "AutoModelForCausalLM"),
    Task("image-classification", "AutoModelForImageClassification"),
    Task("semantic-segmentation", "AutoModelForSemanticSegmentation"),
    Task("object-detection", "AutoModelForObjectDetection"),
    Task("depth-estimation", "AutoModelForDepthEstimation"),
    Task("zero-shot-image-classification", "AutoModelForZeroShotImageClassification"),
    Task("audio-classification", "AutoModelForAudioClassification"),
    Task("automatic-speech-recognition", "AutoModelForCTC"),
    Task("feature-extraction", "AutoModel"),
    Task("text-features", "AutoModel", "text"),
    Task("image-features", "AutoModel", "image"),
    Task("sentence-embedding", "AutoModel", "sentence"),
)
BY_NAME = {task.name: task for task in TASKS}

#: Other names that people know these by.
ALIASES = {
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "sentiment-analysis": "text-classification",
    "sequence-classification": "text-classification",
    "ner": "token-classification",
    "sentence-similarity": "sentence-embedding",
    "image-segmentation": "semantic-segmentation",
    "image-feature-extraction": "feature-extraction",
}

#: Tasks whose decoder reads an encoder: of these the encoder can be compiled, and is what they are pointed to.
WITH_DECODER = {
    "text2text-generation": "text2text-encoder",
    "translation": "text2text-encoder",
    "summarization": "text2text-encoder",
    "speech-to-text": "speech-encoder",
}


def named(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in WITH_DECODER:
        raise UsageError(
            f"{name} needs a decoder that reads an encoder, which cannot be compiled yet",
            f"--task {WITH_DECODER[name]} compiles the encoder",
        )
    task = BY_NAME.get(ALIASES.get(name, name))
    if task is None:
        raise UsageError(f"there is no task {name!r}", nearest(name, BY_NAME, f"there are {', '.join(BY_NAME)}"))
    return task


def choose(config: Any, wanted: str | None, sentence: bool) -> tuple[Any, Task]:
    """The class of transformers, and the task.

    Args:
        config: a configuration of transformers.
        wanted: the task asked for, or None.
        sentence: whether the folder says how tokens become the embedding of a sentence.

    Raises:
        UsageError: there is no such task, or the model is not made for it.
        CaptureError: transformers knows no class for the folder.
    """
    import transformers

    architecture = next(iter(config.architectures or ()), None)
    if wanted is not None:
        return _for_task(config, named(wanted), architecture, sentence)
    if sentence:
        return _for_task(config, BY_NAME["sentence-embedding"], architecture, sentence)
    if architecture is None:
        return _for_task(config, _narrowed(config, BY_NAME["feature-extraction"]), None, sentence)
    kind = getattr(transformers, architecture, None)
    if not (isinstance(kind, type) and hasattr(kind, "from_pretrained")):
        raise CaptureError(
            f"the installed transformers {transformers.__version__} has no {architecture}, which config.json names",
            "give --task for a class that it has, or install the transformers that the folder was made with",
        )
    task = next((t for t in TASKS if architecture in _architectures(t, config.model_type)), None)
    if task is None:  # a head that no task is for, or a part of a model (T5EncoderModel)
        task = Task("feature-extraction" if architecture.endswith("Model") else architecture, architecture)
        return kind, task
    return kind, _narrowed(config, task)


def _narrowed(config: Any, task: Task) -> Task:
    """For a model of encoder and decoder whose features are wanted: its encoder."""
    if task.name == "feature-extraction" and getattr(config, "is_encoder_decoder", False):
        speech = hasattr(config, "num_mel_bins")
        return Task("speech-encoder" if speech else "text2text-encoder", "AutoModel", "encoder")
    return task


def _for_task(config: Any, task: Task, architecture: str | None, sentence: bool) -> tuple[Any, Task]:
    import transformers

    if task.part == "sentence" and not sentence:
        raise UsageError(
            "the folder has no modules.json that says how tokens become the embedding of a sentence",
            "use --task feature-extraction, and pool its last_hidden_state",
        )
    own = _architectures(task, config.model_type)
    task = _narrowed(config, task)
    if architecture in own:
        return getattr(transformers, architecture), task
    try:
        return getattr(transformers, task.auto)._model_mapping[type(config)], task
    except KeyError:
        kinds = [t.name for t in TASKS if t.part in ("", "encoder") and _architectures(t, config.model_type)]
        raise UsageError(
            f"a {config.model_type} model is not made for {task.name}",
            f"it can do {', '.join(kinds)}" if kinds else None,
        ) from None


def _architectures(task: Task, model_type: str) -> tuple[str, ...]:
    """The names of the classes that do a task for a type of model."""
    import transformers

    names = getattr(transformers, task.auto)._model_mapping._model_mapping.get(model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)
