"""Data sets as local files: each is found or fetched, checked, and entered in a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.data.hub import FetchError, Source, Unreachable
from curiojax.data.records import load_table
from curiojax.data.store import temporary_folder
from curiojax.errors import ConfigError

MANIFEST = "manifest.json"
SUFFIXES = (".parquet", ".jsonl", ".json")

Entry = dict[str, Any]
Fetch = Callable[[Source, Path], str]
Count = Callable[[Source, Path], int]


@dataclass
class Prepared:
    """A file, and what is known of it.

    Attributes:
      file: relative to the output folder.
      entry: what the manifest says of it: `sha256`, `bytes`, `rows`, `revision` (of the hub, or
        null) and `from`.
      problem: why it cannot be used; None if it can.
    """

    source: Source
    file: str
    entry: Entry
    problem: str | None = None


def prepare(
    output: Path,
    sources: Sequence[Source],
    manifest: Mapping[str, Entry],
    *,
    fetch: Fetch | None,
    count: Count,
    accept: Collection[str] = (),
) -> list[Prepared]:
    """Checks the files that are there and fetches the others.

    A fetched file appears in its place when it is whole and was checked. A file that an earlier
    manifest has with the same hash is not read again.

    Args:
      output: the folder that files are in, by `source.folder`.
      manifest: the entries of an earlier one, by file.
      fetch: writes a data set to a path and returns its revision, as `hub.fetch_from_hub`; None:
        nothing is fetched.
      count: reads a file, checks it and returns its number of rows; raises `ConfigError`.
      accept: names of files that may have another number of rows than expected.
    """
    found = []
    unreachable = None if fetch else "nothing was to be fetched"
    with progress.bar("data sets", len(sources)) as bar:
        for done, source in enumerate(sources):
            bar(done, doing=source.name)
            path = find_file(source.name, output / source.folder)
            if path is not None:
                file = path.relative_to(output).as_posix()
                one = _checked(source, path, file, count, manifest.get(file, {}))
            elif fetch is None or unreachable is not None:
                one = _missing(source, str(unreachable))
            else:
                try:
                    one = _fetched(output, source, fetch, count, accept)
                except FetchError as reason:
                    unreachable = str(reason) if isinstance(reason, Unreachable) else None
                    one = _missing(source, str(reason))
            found.append(_counted(one, accept))
        bar(len(sources), doing=None)
    return found


def find_file(name: str, directory: Path) -> Path | None:
    """`<directory>/<name>` with one of `SUFFIXES`, if there is such a file."""
    paths = [directory / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def _checked(source: Source, path: Path, file: str, count: Count, before: Entry) -> Prepared:
    digest = sha256(path)
    if before.get("sha256") == digest and before.get("rows"):
        return Prepared(source, file, dict(before))
    entry = {"sha256": digest, "bytes": path.stat().st_size, "rows": 0}
    entry |= {"revision": None, "from": "a local file"}
    try:
        entry["rows"] = count(source, path)
    except ConfigError as error:
        return Prepared(source, file, entry, f"cannot be used: {error}")
    return Prepared(source, file, entry)


def _fetched(
    output: Path, source: Source, fetch: Fetch, count: Count, accept: Collection[str]
) -> Prepared:
    with temporary_folder(output) as folder:
        path = folder / f"{source.name}.parquet"
        revision = fetch(source, path)
        one = _counted(_checked(source, path, source.file, count, {}), accept)
        if one.problem is None:
            path.replace(output / source.file)
            one.entry |= {"revision": revision, "from": source.describe()}
        else:
            one.problem = f"was fetched from {source.describe()}, but {one.problem}"
    return one


def _missing(source: Source, reason: str) -> Prepared:
    consent = "; accept its terms on its hub page and run `hf auth login`" if source.gated else ""
    rows = _expected(source)
    problem = f"missing; put the {rows} rows of {source.describe()} there ({reason}{consent})"
    return Prepared(source, source.file, {}, problem)


def _counted(one: Prepared, accept: Collection[str]) -> Prepared:
    """Sets the problem of a file with too few or too many rows."""
    if one.problem is None and one.source.rows is not None and one.source.name not in accept:
        low, high = one.source.rows
        rows = one.entry["rows"]
        if not low <= rows <= high:
            one.problem = (
                f"has {rows:,} rows, {_expected(one.source)} expected; replace it, or add "
                f"--accept {one.source.name}"
            )
    return one


def _expected(source: Source) -> str:
    low, high = source.rows or (0, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def write_without(source: Path, rows: Collection[int], target: Path) -> int:
    """Writes a file's rows without some of them, in one go; returns how many are left."""
    table = load_table(str(source))
    dropped = set(rows)
    kept = table.select([i for i in range(len(table)) if i not in dropped])
    with temporary_folder(target.parent) as folder:
        kept.to_parquet(str(folder / target.name))
        (folder / target.name).replace(target)
    return len(kept)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """What a file that was written here holds; empty if it is not there or was not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes in one go."""
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
