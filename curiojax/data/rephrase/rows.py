"""The rows of a source with their questions, and the file with new ones in their place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curiojax.data import records, schemas
from curiojax.data.rephrase import questions
from curiojax.errors import ConfigError

if TYPE_CHECKING:
    import datasets

ADDED = ("question_original", "rephrase_status", "rephrase_model", "rephrase_template")
SUFFIXES = (".parquet", ".jsonl")
_JSON_LINES = (".jsonl", ".ndjson")
_GROUP = 512


@dataclass(frozen=True)
class Source:
    """A data set as it was read.

    Attributes:
      path: what was read.
      table: all its rows, with all their columns.
      format: name of the schema.
      questions: of each row, or None.
      skipped: for rows without a question, why.
      golds: the ground truth of each row as text, or None.
    """

    path: str
    table: datasets.Dataset
    format: str
    questions: list[str | None]
    skipped: dict[int, str]
    golds: list[str | None]

    def __len__(self) -> int:
        return len(self.questions)

    def different(self) -> list[str]:
        """Its questions without repetitions, in the order of the rows."""
        return list(dict.fromkeys(q for q in self.questions if q is not None))


@dataclass(frozen=True)
class Result:
    """What a row gets.

    Attributes:
      status: `rephrased`, `unchanged`, or why the question stays as it was.
      question: the new question, or None if it stays.
      asked: whether a model's reply was looked at.
    """

    status: str
    question: str | None = None
    asked: bool = True


def read_source(
    path: str,
    *,
    format: str | None = None,
    split: str = "train",
    limit: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Reads whatever training and evaluation read.

    Args:
      path, format, split, limit, cache_dir: as of `load_records`.
      progress: called with (rows done, rows in all).

    Raises:
      ConfigError: nothing readable there, no known schema, or columns of this tool.
    """
    table = records.load_table(path, split, cache_dir)
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    columns = list(table.column_names)
    taken = [name for name in ADDED if name in columns]
    if taken:
        raise ConfigError(
            f"data.path: {path} has a column {taken[0]!r} already, it has been through this; give "
            "the original"
        )
    format = schemas.detect(columns, format, "ground_truth")
    source = Source(path, table, format, [], {}, [])
    narrow = table.select_columns(schemas.columns_read(format, columns))
    for start in range(0, len(table), _GROUP):
        for row in _as_rows(narrow[start : start + _GROUP]):
            question, gold = None, None
            try:
                question = questions.find(format, row)
                gold = schemas.canonical(format, row, 0, "ground_truth")["ground_truth"]
            except questions.Skipped as reason:
                source.skipped[len(source.questions)] = str(reason)
            except schemas.Dropped:
                pass  # no ground truth: there is none to give away
            source.questions.append(question)
            source.golds.append(None if gold is None else str(gold))
        if progress is not None:
            progress(min(start + _GROUP, len(table)), len(table))
    return source


def check_suffix(path: Path) -> None:
    """Refuses an output that is neither parquet nor JSONL.

    Raises:
      ConfigError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output: {path} must end in {' or '.join(SUFFIXES)}")


def write_rows(
    path: Path,
    source: Source,
    results: Sequence[Result],
    *,
    model: str,
    template: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes all rows in their order, each with its columns and those of `ADDED`; in one go.

    Only the column with the question is rebuilt, in its own type. JSONL from JSONL keeps each line
    as it was but for that.

    Args:
      path: `.parquet` or `.jsonl`; replaced if it exists.
      source: what was read.
      results: one per row.
      model, template: what replies came from.
      progress: called with (rows done, rows in all).

    Raises:
      ConfigError: the file cannot be written, or the source changed since it was read.
    """
    check_suffix(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write = _write_parquet if path.suffix == ".parquet" else _write_jsonl
        write(temporary, source, list(_added(source, results, model, template)), results, progress)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {path} ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _added(
    source: Source, results: Sequence[Result], model: str, template: str
) -> Iterator[dict[str, str | None]]:
    for question, result in zip(source.questions, results, strict=True):
        asked = (model, template) if result.asked else (None, None)
        yield dict(zip(ADDED, (question, result.status, *asked), strict=True))


def _changed(source: Source, row: schemas.Row, result: Result) -> dict[str, Any]:
    if result.question is None:
        return {}
    return questions.replace(source.format, row, result.question)


def _write_parquet(path: Path, source: Source, added, results, progress) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = source.table.with_format("arrow")
    names = questions.columns_changed(source.format, list(source.table.column_names))
    # Without the metadata: it lists the columns, and would leave out the new ones.
    schema = source.table.features.arrow_schema.remove_metadata()
    text = [pa.field(name, pa.string()) for name in ADDED]
    with pq.ParquetWriter(path, pa.schema([*schema, *text])) as writer:
        for start in range(0, len(source), _GROUP):
            read: Any = table[start : start + _GROUP]
            group: pa.Table = read.cast(schema)
            part = range(start, start + len(group))
            rows = group.select(_read(source)).to_pylist()
            for row, index in zip(rows, part, strict=True):
                row |= _changed(source, row, results[index])
            for name in names:
                column = pa.array([row[name] for row in rows], schema.field(name).type)
                group = group.set_column(schema.get_field_index(name), schema.field(name), column)
            for field in text:
                values = pa.array([added[index][field.name] for index in part], pa.string())
                group = group.append_column(field, values)
            writer.write_table(group)
            if progress is not None:
                progress(part.stop, len(source))


def _read(source: Source) -> list[str]:
    return schemas.columns_read(source.format, list(source.table.column_names))


def _write_jsonl(path: Path, source: Source, added, results, progress) -> None:
    with path.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        for index, row in enumerate(_rows(source)):
            if (
                source.questions[index] is not None
                and _find(source, row) != (source.questions[index])
            ):
                raise ConfigError(f"data.path: {source.path} changed while it was read; try again")
            row = row | _changed(source, row, results[index]) | added[index]
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            if progress is not None and (index + 1) % _GROUP == 0:
                progress(index + 1, len(source))


def _find(source: Source, row: dict[str, Any]) -> str | None:
    try:
        return questions.find(source.format, row)
    except (questions.Skipped, KeyError):
        return None


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    """The rows as they are in JSONL files, or from the table for other sources."""
    files = records.local_files(source.path)
    if files and all(Path(file).suffix.lower() in _JSON_LINES for file in files):
        yield from _lines(files, len(source))
        return
    for start in range(0, len(source), _GROUP):
        yield from _as_rows(source.table[start : start + _GROUP])


def _lines(files: Sequence[str], count: int) -> Iterator[dict[str, Any]]:
    left = count
    for file in files:
        with open(file, encoding="utf-8") as stream:
            for line in stream:
                if not left:
                    return
                if line.strip():
                    left -= 1
                    yield json.loads(line)


def _as_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
