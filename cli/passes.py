"""``planish passes``: every pass that is installed, plugins included, with its options."""

from __future__ import annotations

import inspect
from typing import Any

from ..compiler.options import Option, options_of, print_value, type_name
from .options import Debug, Json
from .output import print_json, print_table


def passes(json: Json = False, debug: Debug = False) -> None:
    """List the passes, with their options.

    These are the names that --pass and --pipeline take; passes of plugins are listed with the package they come from.
    """
    from ..compiler.target import find_target
    from ..driver import known_passes

    found = [describe(name, cls) for name, cls in sorted(known_passes(find_target("cpu")).items())]
    if json:
        print_json({"passes": found})
        return
    print_table(
        [
            (
                p["name"],
                ", ".join(
                    f"{o['name']}={o['default']}" if o["default"] is not None else o["name"] for o in p["options"]
                ),
                p["summary"],
                "" if p["from"] == "planish" else p["from"],
            )
            for p in found
        ],
        ("pass", "options", "what it does", "from"),
    )


def describe(name: str, cls: Any) -> dict[str, Any]:
    """A pass class as JSON-able data."""
    home = cls.__module__.partition(".")[0]
    summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    options = [_option(o) for o in options_of(cls)]
    return {"name": name, "version": getattr(cls, "version", 1), "summary": summary, "options": options, "from": home}


def _option(option: Option) -> dict[str, Any]:
    from dataclasses import MISSING

    default = None if option.default is MISSING else print_value(option.default)
    return {"name": option.name, "type": type_name(option.type), "default": default}
