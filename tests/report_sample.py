"""A made-up search over a small encoder, as the search writes it: for the tests of explain and report."""

from __future__ import annotations

import math
import random
from typing import Any

TERM = "cosine >= 0.995 each"
PRECISIONS = ("f32", "bf16", "w8a8-dynamic", "w8a8", "w8a16", "w4a16", "w4a16-g32", "w4a8", "w4a8-g32")
#: Seconds against f32, loss against w8a8-dynamic, bits of a weight.
_FIGURES = {
    "f32": (1.0, 0.0, 32), "bf16": (0.52, 0.004, 16), "w8a8-dynamic": (0.30, 1.0, 8), "w8a8": (0.26, 1.9, 8),
    "w8a16": (0.55, 0.12, 8), "w4a16": (0.60, 9.0, 4.25), "w4a16-g32": (0.64, 5.0, 5), "w4a8": (0.36, 11.0, 4.25),
    "w4a8-g32": (0.41, 6.2, 5),
}  # fmt: skip


def units(layers: int, rng: random.Random) -> list[dict[str, Any]]:
    """The units of an encoder of ``layers`` layers with what every precision costs and loses."""
    shapes: list[tuple[str, str, tuple[str, ...], int, float]] = [
        ("embeddings.word", "embedding", ("embeddings.word",), 30522 * 384, 40e-6)
    ]
    for i in range(layers):
        at = f"encoder.layer.{i}"
        qkv = tuple(f"{at}.attention.self.{part}" for part in ("query", "key", "value"))
        shapes += [
            (f"{at}.attention.self.query+key+value", "linear", qkv, 3 * 384 * 384, 500e-6),
            (f"{at}.attention.self", "attention", (f"{at}.attention.self",), 0, 300e-6),
            (f"{at}.attention.output.dense", "linear", (f"{at}.attention.output.dense",), 384 * 384, 180e-6),
            (f"{at}.intermediate.dense", "linear", (f"{at}.intermediate.dense",), 4 * 384 * 384, 700e-6),
            (f"{at}.output.dense", "linear", (f"{at}.output.dense",), 4 * 384 * 384, 680e-6),
        ]
    found = []
    for name, kind, sources, parameters, base in shapes:
        weight = {"output": 6.0, "intermediate": 1.5}.get(name.split(".")[-2], 1.0) if kind == "linear" else 0.5
        unit_loss = 5e-5 * weight * math.exp(rng.gauss(0, 0.5))
        allowed = {"attention": ("f32", "bf16"), "embedding": ("f32", "bf16", "w8a16")}.get(kind, PRECISIONS)
        candidates = []
        for precision in allowed:
            time, loss, bits = _FIGURES[precision]
            seconds = base * time * math.exp(rng.gauss(0, 0.02)) if kind != "embedding" else base
            why = None
            if kind == "embedding" and precision == "bf16":
                seconds, why = base * 1.04, "not faster than float (41.6 us against 40 us)"
            candidates.append(
                {"precision": precision, "seconds": seconds, "bytes": round(parameters * bits / 8),
                 "loss": {TERM: 0.0 if precision == "f32" else unit_loss * loss}, "why_not": why}
            )  # fmt: skip
        if kind == "linear" and "intermediate" in name:
            candidates[-1] |= {"seconds": None, "loss": {}, "why_not": "384 columns are no multiple of the group"}
        chosen = {"attention": "bf16", "embedding": "f32"}.get(kind) or (
            "bf16" if weight > 5 and unit_loss > 3.2e-4 else "w8a8" if weight < 2 else "w8a8-dynamic"
        )
        held = None
        if chosen == "bf16" and kind == "linear":
            held = "w8a8-dynamic would save 0.15 ms but lose 3.4e-4, a third of what the bar leaves"
        found.append(
            {"name": name, "kind": kind, "sources": list(sources), "parameters": parameters, "chosen": chosen,
             "reason": f"{chosen} is the fastest that the bar leaves room for", "held_back": held, "candidates": candidates}
        )  # fmt: skip
    return found


def search(layers: int = 6) -> dict[str, Any]:
    """``report["search"]`` of an encoder with ``layers`` layers."""
    rng = random.Random(0)
    made = units(layers, rng)
    fixed = 0.4e-3

    def figures(assignment: dict[str, str]) -> tuple[float, int, float]:
        seconds, size, loss = fixed, 4_000_000, 0.0
        for unit in made:
            kind = {c["precision"]: c for c in unit["candidates"]}
            c = kind.get(assignment.get(unit["name"], "f32"), kind["f32"])
            c = kind["f32"] if c["seconds"] is None else c
            seconds, size, loss = seconds + c["seconds"], size + c["bytes"], loss + c["loss"].get(TERM, 0.0)
        return seconds, size, 1 - loss

    trials: list[dict[str, Any]] = []

    def add(label: str, stage: str, assignment: dict[str, str]) -> None:
        seconds, size, quality = figures(assignment)
        trials.append(
            {"id": len(trials), "label": label, "stage": stage, "assignment": assignment,
             "seconds": seconds * math.exp(rng.gauss(0, 0.01)), "predicted": seconds, "bytes": size,
             "quality": {TERM: quality}, "met": quality >= 0.995, "at": 4.0 + 2.5 * len(trials)}
        )  # fmt: skip

    for precision in PRECISIONS:
        able = [u["name"] for u in made if precision in [c["precision"] for c in u["candidates"]]]
        add(precision, "uniform", dict.fromkeys(able, precision))
    chosen = {u["name"]: u["chosen"] for u in made}
    for share in (0.3, 0.5, 0.8, 0.9):
        some = {name: p if rng.random() < share else "bf16" for name, p in chosen.items()}
        add(f"solve at {share:g} of the loss", "solve" if share < 0.9 else "refine", some)
    add("chosen", "final", chosen)
    best = trials[-1]
    base = trials[0]
    return {
        "version": 1,
        "asked": {"budget": TERM, "objective": "latency", "effort": "standard", "seed": 0, "pins": []},
        "scored": {"metrics": ["cosine"], "score": "mean of the tokens that the mask keeps", "against": "the float model"},
        "data": {
            "calibration": {"samples": 64, "slices": {"questions": 32, "statements": 32}, "sha256": "ab" * 32},
            "development": {"samples": 300, "slices": {"questions": 150, "statements": 150}, "sha256": "cd" * 32},
            "final": {"samples": 400, "slices": {"questions": 200, "statements": 200}, "sha256": "ef" * 32},
        },
        "workload": {"dims": [{"batch": 1, "seq": 128}], "weights": [1.0], "threads": 1},
        "confidence": {"confidence": 0.95, "coverage": 0.99},
        "machine": {"cpu": "AMD EPYC 9654", "target": "cpu:avx512-bf16"},
        "units": made, "trials": trials, "chosen": best["id"],
        "float": {"seconds": base["seconds"], "bytes": base["bytes"]},
        "proof": [
            {"term": TERM, "holds": True, "value": 0.99561, "samples": 400, "misses": 0, "proven": 0.9925,
             "confidence": 0.95, "by_slice": {"questions": 0.99561, "statements": 0.99603},
             "sentence": "cosine >= 0.995 holds for at least 99 % of inputs like these, at 95 % confidence: "
             "0 of 400 unseen samples missed it, and the worst reached 0.99561"}
        ],
        "worst": [
            {"sample": f"{name}[{i}]", "slice": name, "scores": {TERM: 0.9956 + 0.0002 * rank}}
            for rank, (name, i) in enumerate([("questions", 112), ("questions", 40), ("statements", 7), ("statements", 71)])
        ],
        "never_slower": ["embeddings.word stays f32: bf16 takes 41.6 us, f32 40 us"],
        "sensitivity": {"method": "measured", "seconds": 31.0, "pairs": []},
        "phases": {"capture": 6.1, "sensitivity": 31.0, "cost": 14.2, "solve": 0.4, "build and measure": 48.0, "prove": 9.0},
        "complete": True,
    }  # fmt: skip


def kernels(data: dict[str, Any]) -> list[dict[str, Any]]:
    """``report["kernels"]`` that fits :func:`search`: one launch per unit and a norm after every other one."""
    rng = random.Random(1)
    found = []
    for unit in data["units"]:
        c = next(c for c in unit["candidates"] if c["precision"] == unit["chosen"])
        label = {"attention": "attention", "embedding": "embedding+add+layer_norm"}.get(
            unit["kind"], "qlinear+quantize"
        )
        share = rng.uniform(0.35, 0.9)
        found.append(
            {"label": label, "sources": unit["sources"], "precision": unit["chosen"], "seconds": c["seconds"],
             "bytes": c["bytes"], "flops": 2 * 128 * unit["parameters"], "limit_seconds": share * c["seconds"]}
        )  # fmt: skip
    return found


def report(layers: int = 6) -> dict[str, Any]:
    """A whole ``report.json``."""
    data = search(layers)
    launches = len(data["units"]) + layers
    return {
        "search": data,
        "kernels": kernels(data),
        "launches": {"ops": 41 * layers + 9, "launches": launches, "fused": launches - 8, "apart": 1, "copies": 0},
        "graph": {
            "captured": {"linear": 6 * layers, "matmul": 2 * layers, "softmax": layers, "layer_norm": 2 * layers + 1,
                         "add": 3 * layers, "reshape": 8 * layers, "transpose": 4 * layers, "gelu": layers, "mul": layers},
            "lowered": {"linear": 4 * layers, "attention": layers, "row": layers + 2},
        },
        "notes": [], "unfused": [],
    }  # fmt: skip


def manifest(layers: int = 6) -> dict[str, Any]:
    """What the report reads of an artifact's manifest."""
    launches = [
        {"label": k["label"], "kernel": "LinearSpec", "precision": k["precision"], "sources": k["sources"]}
        for k in kernels(search(layers))
    ]
    return {"name": "SmallEncoder", "units": [{"launches": launches}]}
