"""Where the rows of a benchmark come from: a path that was named, a prepared file, or the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from curiojax.data.prepared import find_file
from curiojax.data.records import load_table
from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks.catalogue import KNOWN
from curiojax.evaluation.benchmarks.entries import Entry

# Their values are files of their own, which nothing here reads (and which need further packages).
_MEDIA = {"Image", "Audio", "Video", "Pdf"}


class Table(NamedTuple):
    """Rows as they are, and where they came from, as it is written into results."""

    source: str
    columns: list[str]
    rows: list[dict[str, Any]]


def read_table(entry: Entry, directory: Path | None) -> Table:
    """The rows of a benchmark.

    Raises:
      ConfigError: in one line, with where the file is to be put or how to get at it.
    """
    where = f"benchmarks: {entry.name}"
    known = KNOWN.get(entry.name)
    prepared = None if entry.path or not directory else find_file(entry.name, directory)
    if entry.path is not None or prepared is not None:
        path = os.path.expanduser(entry.path or str(prepared))
        try:
            return _read(path, entry.split or "train")
        except ConfigError as error:
            text = str(error).removeprefix("data.path: ").replace("data.split", "its split")
            raise ConfigError(f"{where}: {text}") from error
    assert known is not None  # `parse_entries` asks for a path otherwise
    try:
        return _read(known.hub_path, entry.split or known.split)
    except ConfigError as error:
        reason = str(error).removeprefix(f"data.path: cannot read {known.hub_path}: ")
        reason = reason.partition("; check the id")[0]
        place = (
            f"put its rows into {directory / f'{entry.name}.parquet'}"
            if directory is not None
            else f"name a file with {{name: {entry.name}, path: FILE}}"
        )
        consent = (
            f"accept the terms on the hub page of {known.hub} and log in with `hf auth login`, or "
            if known.gated
            else "check the network (or HF_HUB_OFFLINE), or "
        )
        raise ConfigError(
            f"{where}: cannot fetch {known.hub_path} ({reason}); {consent}{place}"
        ) from error


def _read(path: str, split: str) -> Table:
    table = load_table(path, split)
    features = table.features
    plain = [name for name in features if type(features[name]).__name__ not in _MEDIA]
    return Table(path, plain, table.select_columns(plain).to_list())
