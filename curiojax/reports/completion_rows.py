"""A completion in the report: its verdict in a word, and what the list and the page show of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from curiojax.reports import page

Row = Mapping[str, Any]

# Code, in the order of the filter; what it is called; and its mark.
VERDICTS = (
    ("correct", "Correct", "\u2713"),
    ("wrong", "Wrong", "\u2717"),
    ("no_answer", "No answer", "?"),
    ("truncated", "Truncated", "\u2026"),
    ("timeout", "Grading timed out", "!"),
    ("failed", "Grading failed", "!"),
    ("unverifiable", "Not gradable", "\u2013"),
    ("not_sampled", "Prompt too long", "\u2013"),
)


def verdict(row: Row) -> str:
    """The one word of `VERDICTS` for a completion."""
    status, finish = row.get("status"), row.get("finish")
    if row.get("correct"):
        return "correct"
    if finish == "prompt_too_long":
        return "not_sampled"
    if status in ("timeout", "unverifiable"):
        return str(status)
    if status in ("memory", "crash", "error", "too_long"):
        return "failed"
    if finish == "length":
        return "truncated"
    return "no_answer" if status == "no_answer" else "wrong"


def facts(row: Row) -> list[Any]:
    """[verdict, whether cut at the limit, tokens, mean entropy in nats or None]"""
    numbers = [v for v in _finite(row.get("entropies") or ()) if v is not None]
    mean = page.finite(math.fsum(numbers) / len(numbers), 4) if numbers else None
    return [verdict(row), int(row.get("finish") == "length"), int(row.get("tokens") or 0), mean]


def sample(row: Row) -> dict[str, Any]:
    """What is shown of a completion when it is open."""
    shown = {
        "extracted": visible(row.get("extracted")),
        "status": page.visible(str(row.get("status"))),
        "finish": page.visible(str(row.get("finish"))),
    }
    pieces, entropies = row.get("pieces"), row.get("entropies")
    if pieces is None or entropies is None or len(pieces) != len(entropies):
        return shown | {"text": visible(row.get("text"))}
    if not "".join(pieces).replace("\n", "").isprintable():
        pieces = [page.visible(piece) for piece in pieces]
    # Thousandths of a nat: whole numbers are short.
    thousandths = [None if v is None else round(1000 * v) for v in _finite(entropies)]
    return shown | {"pieces": list(pieces), "entropies": thousandths}


def _finite(values: Iterable[Any]) -> list[float | None]:
    """As `page.finite`, but without rounding, for there are millions of them."""
    numbers = (math.nan if value is None else float(value) for value in values)
    return [number if math.isfinite(number) else None for number in numbers]


def visible(text: Any) -> str | None:
    """`page.visible` of what may be missing."""
    return None if text is None else page.visible(str(text))
