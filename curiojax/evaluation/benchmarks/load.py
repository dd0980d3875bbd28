"""From an entry of the config to questions that can be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import prompts, readers
from curiojax.evaluation.benchmarks.catalogue import KNOWN, Known
from curiojax.evaluation.benchmarks.entries import Entry
from curiojax.evaluation.benchmarks.sources import Table, read_table
from curiojax.evaluation.questions import Benchmark, Question


def load_benchmark(
    entry: Entry, *, directory: Path | None = None, limit: int | None = None
) -> Benchmark:
    """Reads a benchmark, checks it and builds its prompts.

    Looks at `entry.path`, else at `<directory>/<name>.parquet` (or `.jsonl`, `.json`), else at the
    hub. Local files are in the layout of any hub id of the catalogue, or in verl's, LUFFY's files
    included. Rows that repeat another one entirely are one question; how many there were is in its
    `details["copies"]`. No other row is ever left out: one that cannot be read is an error.

    Args:
      directory: of prepared files.
      limit: take the first questions only.

    Raises:
      ConfigError: nothing to read, columns that are missing, or a row that is no question.
    """
    known = KNOWN.get(entry.name)
    where = f"benchmarks: {entry.name}"
    table = read_table(entry, directory)
    named = entry.question is not None or entry.answer is not None
    verl = not named and readers.LAYOUTS["verl"].missing(table.columns) is None
    layout = _layout(entry, known, verl)
    _check_columns(entry, table, layout, where)
    rows = _select(entry, known, table, where)
    if entry.prompt is not None:
        telling = readers.TELLING | {entry.answer or ""}
        prompts.check_prompt(entry.prompt, table.columns, telling, f"{where}: prompt")
    questions: dict[str, Question] = {}
    for number, row in rows:
        try:
            item = layout.read(row)
            question = _question(entry, known, item, row)
        except readers.BadRow as reason:
            raise ConfigError(
                f"{where}: row {number} of {table.source}: {reason}; correct the file"
            ) from None
        _add(questions, question)
    if not questions:
        raise ConfigError(f"{where}: {table.source} has no rows; name another file")
    return Benchmark(
        name=entry.name,
        title=entry.title or (known.title if known else entry.name),
        verifier=entry.verifier or (known.verifier if known else "math"),
        strict_verifier=known.strict_verifier if known else None,
        questions=list(questions.values())[:limit],
        source=table.source,
        samples=entry.samples or (known.samples if known else 8),
        group=known.group if known else entry.group or "own",
        private=(known is not None and known.private) if entry.private is None else entry.private,
    )


def _layout(entry: Entry, known: Known | None, verl: bool) -> readers.Layout:
    if verl:
        return readers.LAYOUTS["verl"]
    if known is None:
        return readers.plain_layout(entry.question, entry.answer)
    return readers.LAYOUTS[known.reader]


def _check_columns(entry: Entry, table: Table, layout: readers.Layout, where: str) -> None:
    missing = layout.missing(table.columns)
    if missing is None:
        return
    remedy = (
        "name the columns with question and answer"
        if entry.name not in KNOWN
        else "or prompt and reward_model, as verl's files have"
    )
    raise ConfigError(
        f"{where}: {table.source} has the columns {', '.join(table.columns) or 'none'}; needed: "
        f"{missing}; {remedy}"
    )


def _select(
    entry: Entry, known: Known | None, table: Table, where: str
) -> list[tuple[int, dict[str, Any]]]:
    """The rows of this benchmark, numbered, of a file that may hold several benchmarks or years."""
    rows = list(enumerate(table.rows))
    if "data_source" in table.columns:
        present = {str(row["data_source"]) for _, row in rows}
        wanted = present
        if entry.data_source is not None:
            wanted = {entry.data_source}
        elif known is not None and len(present) > 1:
            wanted = {name for name in known.data_sources if name in present}
        if not wanted & present:
            raise ConfigError(
                f"{where}: {table.source} has the values {', '.join(sorted(present))} in "
                "data_source; say which of them it is with data_source"
            )
        rows = [(number, row) for number, row in rows if str(row["data_source"]) in wanted]
    elif entry.data_source is not None:
        raise ConfigError(f"{where}.data_source: {table.source} has no column data_source")
    if known is not None and known.year is not None:
        kept = [(number, row) for number, row in rows if _of_year(row, known.year)]
        if rows and not kept:
            raise ConfigError(f"{where}: {table.source} has no questions of {known.year}")
        return kept
    return rows


def _of_year(row: dict[str, Any], year: str) -> bool:
    """Whether a row is of a year; true if it does not say."""
    if row.get("year") is not None:
        return str(row["year"]).startswith(year)
    url = str(row.get("url") or "")
    return "_AIME_" not in url or f"{year}_AIME_" in url


def _question(
    entry: Entry, known: Known | None, item: readers.Item, row: dict[str, Any]
) -> Question:
    text, truth = item.text, item.ground_truth
    if known is not None and known.whole_numbers:
        truth = readers.whole_number(truth)
    if entry.prompt is not None:
        columns = {k: str(v) for k, v in row.items() if isinstance(v, str | int | float)}
        text = prompts.fill(entry.prompt, {**columns, "question": text})
    # A known benchmark is asked in the same way whatever file it comes in, so what a file has
    # for a system prompt is not part of it: the template brings one.
    earlier = [t for t in item.earlier if known is None or t["role"] != "system"]
    identity = item.id or hashlib.sha256(" ".join(item.text.split()).encode()).hexdigest()[:12]
    messages = [*earlier, {"role": "user", "content": text}]
    return Question(identity, messages, truth, item.details)


def _add(questions: dict[str, Question], question: Question) -> None:
    """Adds a question under an id of its own, or counts it as a copy of the one that is there."""
    for name in _numbered(question.id):
        there = questions.get(name)
        if there is None:
            questions[name] = Question(
                name, question.messages, question.ground_truth, question.details
            )
            return
        if (there.messages, there.ground_truth) == (question.messages, question.ground_truth):
            there.details["copies"] = there.details.get("copies", 1) + 1
            return


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
