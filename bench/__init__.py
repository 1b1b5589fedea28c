"""Benchmarks: planish beside the fastest peers, on real weights and real text, quality next to every speed.

``python -m planish.bench`` (what ``make bench`` calls) compiles the artifacts, measures everything in the peers' own
environment (``bench/peers/setup.py`` makes it) and writes ``bench/RESULTS.md`` and ``bench/results.json`` anew.

    __main__      the one command: options, the steps in order, the report
    machine       CPU, versions, pinning: what a figure means nothing without
    data          the text that is timed, calibrated with and judged on
    contender     what takes part: a name, a precision, how it is prepared and opened
    peers_*       OpenVINO, ONNX Runtime, PyTorch; ours is planish itself
    prepare       a contender's files, made once and kept in bench/.cache
    compare       one interleaved run: speed and quality, and two threads against one
    probe         load time and memory, one fresh process for each
    overhead      what a call costs when the model does next to nothing
    artifacts     runs in the project's own environment: compiles what is measured
    report        tables, floors, RESULTS.md
"""
