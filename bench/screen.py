"""Tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from .report import Table


def show(table: Table, console: Console) -> None:
    """Print one table."""
    rich = RichTable(title=table.title, title_justify="left", caption=table.note, caption_justify="left")
    for i, name in enumerate(table.header):
        rich.add_column(name, justify="right" if i else "left", no_wrap=i == 0)
    for row in table.rows:
        rich.add_row(*(cell.replace("**", "") for cell in row), style="bold" if row[0].startswith("**") else None)
    console.print(rich)
