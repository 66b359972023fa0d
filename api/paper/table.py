"""A table of texts, for Markdown and for the terminal."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

NOT_MEASURED = "-"


@dataclass(frozen=True)
class Table:
    """Rows of texts below a heading, with notes.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells for {len(self.columns)} columns: {row}")

    def markdown(self) -> str:
        """Return the table as Markdown; its notes become a list below it."""
        lines = [f"## {self.title}", "", _line(self.columns), _line("---" for _ in self.columns)]
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", *(f"* {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def for_terminal(self) -> RichTable:
        """Return the table for a rich console, without its notes."""
        table = RichTable(box=box.SIMPLE_HEAD, title=Text(self.title), title_justify="left")
        for column in self.columns:
            table.add_column(Text(column))
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
