"""Small Hugging Face folders of random weights, with a tokenizer made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from planish.compiler.capture.example_text import TEXTS

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 200,
        "max_position_embeddings": 64}  # fmt: skip
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
          "patch_size": 8}  # fmt: skip


def save(folder: Path, model: str, config: str, **options: Any) -> Path:
    """A model of transformers with random weights, as ``save_pretrained`` writes it."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    getattr(transformers, model)(getattr(transformers, config)(**options)).save_pretrained(folder)
    return folder


def add_tokenizer(folder: Path, **settings: Any) -> Path:
    """A WordPiece tokenizer of 200 pieces, with [CLS] and [SEP] around each text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named, **settings})
    return folder


def write(path: Path, data: Any) -> None:
    """JSON into a file."""
    path.write_text(json.dumps(data))


def change(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    data = {**json.loads(path.read_text()), **changes}
    write(path, {k: v for k, v in data.items() if v is not None})
