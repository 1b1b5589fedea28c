"""The report of a search: one HTML file that needs nothing else, neither the network nor JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .page import Page, figure, page_of, short, signs, tone

__all__ = ["Page", "page_of", "render_report"]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(tone=tone, short=short, signs=signs, figure=figure)
    return environment


def render_report(report: Mapping[str, Any], manifest: Mapping[str, Any], name: str) -> str:
    """The page of an artifact as HTML.

    Args:
        report: its ``report.json``.
        manifest: its manifest.
        name: what it is called in the title.

    Raises:
        UsageError: it was compiled without a search, or its record cannot be read.
    """
    return _environment().get_template("report.html.j2").render(page=page_of(report, manifest, name))
