"""The tables: what was measured beside what the paper prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curiojax.evaluation.comparison import Estimate, estimate
from reproduction.paper import PaperTable
from reproduction.records import Group, Value, score
from reproduction.statistics import Difference

Cell = Estimate | Difference | float | str | None


@dataclass(frozen=True)
class Column:
    """How the cells of a column are written.

    Attributes:
      title: its heading.
      scale: what cells are multiplied by: 100 for shares.
      decimals: after the point.
      key: of the score that it shows, if it is one.
      signed: plain numbers are differences, and have a sign.
    """

    title: str
    scale: float = 100.0
    decimals: int = 1
    key: str | None = None
    signed: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a row for each method.

    Attributes:
      heading: above it.
      columns: the first one is the method.
      rows: cells; shares are fractions, those of the paper percent already.
      caption: below it.
    """

    heading: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str

    def texts(self) -> list[list[str]]:
        return [
            [text(cell, column) for cell, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]

    def markdown(self, *, folded: bool = False) -> str:
        """With its heading and caption; folded, only the heading shows until it is clicked."""
        titles = [column.title for column in self.columns]
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in self.texts()]
        body = "\n".join([*lines, "", self.caption, ""])
        if folded:
            return f"<details><summary>{self.heading}</summary>\n\n{body}\n</details>\n"
        return f"### {self.heading}\n\n{body}"

    def json(self) -> dict[str, Any]:
        """Plain values; means and differences with all that belongs to them."""
        columns = [column.title for column in self.columns]
        rows = [dict(zip(columns, map(_plain, row), strict=True)) for row in self.rows]
        return {"heading": self.heading, "caption": self.caption, "rows": rows}


def text(cell: Cell, column: Column) -> str:
    """A cell as text: `48.5 ± 0.8`, `+2.5 [+0.3, +4.7]`, `-`."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int | float):
        return format(cell, f"{'+' if column.signed else ''}.{column.decimals}f")

    def number(value: float, sign: str = "") -> str:
        return format(value * column.scale, f"{sign}.{column.decimals}f")

    if isinstance(cell, Estimate):
        error = "" if cell.error is None else f" ± {number(cell.error)}"
        return number(cell.mean) + error
    if cell.low is None or cell.high is None:
        return number(cell.mean, "+")
    return f"{number(cell.mean, '+')} [{number(cell.low, '+')}, {number(cell.high, '+')}]"


def mean(group: Group | None, value: Value | str) -> Estimate | None:
    """Over the seeds; a string names a score of the last checkpoint."""
    if group is None:
        return None
    return estimate(group.values(score(value) if isinstance(value, str) else value).values())


def _plain(cell: Cell) -> Any:
    return cell._asdict() if isinstance(cell, Estimate | Difference) else cell


def to_json(
    tables: Sequence[Table], raw: Sequence[Mapping[str, Any]], printed: Sequence[PaperTable]
) -> str:
    """The tables, the rows of raw numbers that they were made from, and the paper's own tables."""
    found = {
        "tables": [table.json() for table in tables],
        "raw": list(raw),
        "paper": [
            {
                "title": table.title,
                "rows": {
                    name: {"method": label, **dict(zip(table.columns, values, strict=True))}
                    for name, (label, values) in table.rows.items()
                },
            }
            for table in printed
        ],
    }
    return json.dumps(found, indent=1) + "\n"
