"""An ONNX model in int8 by NNCF: ``python -m planish.bench.ort_nncf MODEL CALIBRATION.npz TARGET KIND``.

It runs in the peers' environment.

``CALIBRATION.npz`` holds ``NUMBER/INPUT``; KIND is ``transformer`` or ``cnn``.
"""

from __future__ import annotations

import sys

import numpy as np


def main(model: str, calibration: str, target: str, kind: str) -> None:
    """Quantise as NNCF's documentation advises."""
    import nncf
    import onnx

    stored = np.load(calibration)
    samples: dict[str, dict[str, np.ndarray]] = {}
    for key in stored.files:
        number, _, name = key.partition("/")
        samples.setdefault(number, {})[name] = stored[key]
    given = (
        {"model_type": nncf.ModelType.TRANSFORMER}
        if kind == "transformer"
        else {"preset": nncf.QuantizationPreset.MIXED}
    )
    quantised = nncf.quantize(onnx.load(model), nncf.Dataset(list(samples.values())), subset_size=len(samples), **given)
    onnx.save(quantised, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
