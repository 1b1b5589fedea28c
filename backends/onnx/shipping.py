"""Writes the tables that planish brings along: ``python -m planish.backends.onnx.shipping [--seconds S] NAME[=ENVIRONMENT]...``

``cpu`` and ``openvino=.ep-venvs/openvino`` are asked, in this environment or in the one given; a provider that nobody could be
asked about where planish is built is written from the documentation (``documented.py``): ``cuda``, ``tensorrt``, ...
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from .documented import CLAIMS, documented
from .probe import SECONDS, probe
from .providers import find_provider
from .table import SHIPPED, Table


def text(table: Table) -> str:
    """A table as its file holds it: a row on a line, times to three digits."""
    data = table.to_data()
    rows = [
        json.dumps({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()})
        for row in data.pop("rows")
    ]
    head = json.dumps(data)[1:-1]
    return "{" + head + ', "rows": [\n' + ",\n".join(rows) + "\n]}\n"


def main() -> None:
    """Write the tables that are asked for."""
    parser = argparse.ArgumentParser(description="Write the tables of execution providers that planish brings along.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for how long a form is timed")
    parser.add_argument("providers", nargs="+", metavar="NAME[=ENVIRONMENT]")
    options = parser.parse_args()
    for given in options.providers:
        name, _, environment = given.partition("=")
        provider = find_provider(name)
        if provider.short in CLAIMS:
            table = documented(provider)
        else:
            table = probe(
                provider, python=Path(environment) if environment else None, seconds=options.seconds,
                progress=lambda what, done, total: print(f"{done + 1}/{total} {what}", file=sys.stderr),
            )  # fmt: skip
        (SHIPPED / f"{provider.short}.json").write_text(text(replace(table, origin="shipped")))


if __name__ == "__main__":
    main()
