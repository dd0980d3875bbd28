"""A table as plain data, for `progress.print_table` and `reports.page.table` alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table as plain data.

    Attributes:
      title: what it is.
      columns: their names, one per cell of every row.
      rows: cells are texts, numbers, or None for what is not known.
      caption: how to read it.
      detail: a row for each benchmark, to look something up in; reports put it further down.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str
    detail: bool = False


def percent(score: Mapping[str, Any] | None) -> str | None:
    """A score and its standard error in percent, `29.4 ± 2.9`; None where there is none."""
    if score is None or score["value"] is None:
        return None
    return f"{100 * score['value']:.1f} \u00b1 {100 * score['se']:.1f}"
