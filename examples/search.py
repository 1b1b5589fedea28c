"""Search by meaning with a compiled MiniLM: ``python examples/search.py minilm.planish "what is a coroutine?"``.

Needs numpy and the tokenizer only; importing PyTorch is forbidden here, to show that nothing needs it.
"""

from __future__ import annotations

import sys
import time
from textwrap import shorten

import numpy as np
import numpy.typing as npt
from sentences import sentences, tokenised

import planish

QUESTIONS = (
    "How are arguments passed to a function?",
    "When is an object deleted from memory?",
    "How does inheritance decide which method is called?",
)


def embed(model: object, texts: list[str]) -> npt.NDArray[np.float32]:
    """Sentence embeddings of length one, one row for each text: the mean over the tokens that are no padding."""
    assert callable(model)
    rows = []
    for start in range(0, len(texts), 16):
        inputs = tokenised(texts[start : start + 16])
        hidden = model(**inputs).last_hidden_state
        weights = inputs["attention_mask"][..., None].astype(np.float32)
        rows.append((hidden * weights).sum(1) / weights.sum(1))
    embeddings = np.concatenate(rows)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def main() -> None:
    """Embed 600 sentences of the Python language reference, then look questions up among them."""
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/search.py minilm.planish [QUESTION ...]")
    sys.modules["torch"] = None  # type: ignore[assignment]  # from here on, importing it raises
    texts = sorted(sentences(600), key=len)  # batches of similar length hold little padding
    with planish.load(sys.argv[1]) as model:
        start = time.perf_counter()
        known = embed(model, texts)
        took = time.perf_counter() - start
        print(f"{len(texts)} sentences embedded in {took:.2f} s ({len(texts) / took:.0f} a second), without PyTorch\n")
        for question in sys.argv[2:] or QUESTIONS:
            scores = known @ embed(model, [question])[0]
            print(question)
            for i in np.argsort(-scores)[:3]:
                print(f"  {scores[i]:.2f}  {shorten(texts[i], 110, placeholder=' ...')}")


if __name__ == "__main__":
    main()
