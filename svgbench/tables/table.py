"""A table as text: columns, rows, notes; as markdown or CSV. The terminal's rendering is the command line's."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field


@dataclass
class Table:
    """Strings in rows under named columns, with notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def is_numeric(self, column: int) -> bool:
        """Whether a column's cells are numbers (or dashes), which stand to the right."""
        return bool(self.rows) and all(row[column].lstrip("*-")[:1].isdigit() or row[column] == "-" for row in self.rows)

    def markdown(self) -> str:
        """A GitHub table, padded so that it reads in a terminal too."""
        cells = [self.columns, *self.rows]
        cells = [[c.replace("|", "\\|") for c in row] for row in cells]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.columns))]
        line = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 1) + (":" if self.is_numeric(i) else "-") for i, w in enumerate(widths)) + "|"
        text = [f"### {self.title}", "", line[0], rule, *line[1:]]
        if self.notes:
            text += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(text) + "\n"

    def csv(self) -> str:
        """The rows as CSV, without notes."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["table", *self.columns])
        writer.writerows([self.title, *row] for row in self.rows)
        return stream.getvalue()
