"""Reading records from the Hugging Face hub or from parquet, JSONL and JSON files."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curiojax.data import schemas
from curiojax.errors import ConfigError

if TYPE_CHECKING:
    import datasets

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}


class Records(Sequence):
    """The canonical records of a source, read from disk when they are asked for.

    Attributes:
      format: name of the schema.
      columns: columns of the source.
      num_rows: rows of the source, dropped ones included.
      drops: rows that hold nothing to learn, counted by reason.
      rows: for each record, its row in the source.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        format: str | None = None,
        need: schemas.Need = "response",
    ):
        self.columns: list[str] = list(table.column_names)
        self.format = schemas.detect(self.columns, format, need)
        self._need: schemas.Need = need
        self.num_rows = len(table)
        self._table = table.select_columns(schemas.columns_read(self.format, self.columns))
        drops: Counter[str] = Counter()
        self.rows: list[int] = []
        for start in range(0, self.num_rows, 256):
            for index, row in enumerate(self._read(start, start + 256), start):
                try:
                    schemas.canonical(self.format, row, index, need)
                    self.rows.append(index)
                except schemas.Dropped as reason:
                    drops[str(reason)] += 1
        self.drops: dict[str, int] = dict(drops)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.rows[index]
        return schemas.canonical(self.format, self._table[row], row, self._need)

    def _read(self, start: int, stop: int) -> list[dict[str, Any]]:
        columns = self._table[start : min(stop, self.num_rows)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def load_records(
    path: str | os.PathLike,
    *,
    format: str | None = None,
    split: str = "train",
    limit: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    need: schemas.Need = "response",
) -> Records:
    """Reads a source of records and detects its schema from its columns.

    Args:
      path: a hub id (`owner/name`, or `owner/name:config`); a parquet, JSONL or JSON file or a
        pattern such as `data/*.parquet`; or a folder of such files or one written by
        `Dataset.save_to_disk`. A JSON file holds an array of objects, or an object with one field
        that does.
      format: a key of `schemas.FORMATS` instead of detection.
      split: the split of a hub dataset or folder; files are one split.
      limit: look at the first rows only.
      cache_dir: where files are converted to Arrow.
      need: what every record must hold; rows without it are dropped and counted.

    Raises:
      ConfigError: nothing readable there, or no known schema (lists the columns found).
    """
    table = load_table(str(path), split, cache_dir)
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    return Records(table, format, need)


def source_fingerprint(path: str | os.PathLike, split: str = "train") -> str:
    """A hash of the contents of local files, or of what the hub said of a dataset.

    Raises:
      ConfigError: nothing readable there.
    """
    files = local_files(str(path))
    if files is None:
        return f"{split}:{load_table(str(path), split, None)._fingerprint}"
    return _hash(files)


def default_cache_dir() -> Path:
    """`$CURIOJAX_CACHE/data`, or `~/.cache/curiojax/data`."""
    root = os.environ.get("CURIOJAX_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "curiojax") / "data"


def local_files(path: str) -> list[str] | None:
    """The files a path names, or None for a folder or a hub id."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return None
    files = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    suffixes = {Path(file).suffix.lower() for file in files}
    exists = bool(files) and all(os.path.isfile(file) for file in files)
    if exists and len(suffixes) == 1 and suffixes <= set(_BUILDERS):
        return files
    looks_like_a_file = (
        exists
        or glob.has_magic(path)
        or suffixes & {*_BUILDERS, ".csv", ".txt", ".arrow", ".gz", ".zst"}
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
    )
    if not looks_like_a_file:
        return None
    if exists:
        raise ConfigError(
            f"data.path: {path} is not a file this reads; it takes {', '.join(_BUILDERS)}"
        )
    raise ConfigError(f"data.path: no such file or folder: {path}")


def load_table(
    path: str, split: str = "train", cache_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """The rows of a source as they are; arguments as of `load_records`.

    Raises:
      ConfigError: nothing readable there.
    """
    import datasets  # a second to import, and the templates do not need it

    path = os.path.expanduser(path)
    files = local_files(path)
    try:
        if files is not None:
            return _load_files(files, cache_dir)
        if os.path.isdir(path) and any(
            os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json")
        ):
            table = datasets.load_from_disk(path)
            return table[split] if isinstance(table, datasets.DatasetDict) else table
        name, _, config = path.partition(":") if not os.path.isdir(path) else (path, "", "")
        return datasets.load_dataset(name, config or None, split=split)
    except ConfigError:
        raise
    except Exception as error:  # datasets wraps errors of Arrow, pandas, fsspec and the hub
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        remedy = (
            "check the id, data.split and the network (or HF_HUB_OFFLINE)"
            if files is None
            else "every row must hold the same columns with the same types"
        )
        raise ConfigError(f"data.path: cannot read {path}: {reason}; {remedy}") from error


def _load_files(files: list[str], cache_dir: str | os.PathLike | None) -> datasets.Dataset:
    import datasets

    builder = _BUILDERS[Path(files[0]).suffix.lower()]
    arguments: dict[str, Any] = {}
    if builder == "json":
        fields = {_json_field(file) for file in files}
        if len(fields) > 1:
            raise ConfigError(
                "data.path: the JSON files are laid out differently; read one at once"
            )
        arguments = {"field": fields.pop()}
    # Keyed by content: datasets' own cache would go by name and time of change.
    root = Path(cache_dir) if cache_dir else default_cache_dir() / "arrow"
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            builder,
            data_files=files,
            split="train",
            cache_dir=str(root / _hash(files)[:24]),
            **arguments,
        )
    finally:
        if bars:
            datasets.enable_progress_bars()


def _hash(files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(Path(file).suffix.lower().encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _json_field(file: str) -> str | None:
    """The field of a JSON object that holds the records; None for an array or JSON lines."""
    with open(file, encoding="utf-8") as stream:
        first = next((line for line in stream if line.strip()), "")
        if first.lstrip().startswith("["):
            return None
        try:
            whole = json.loads(first)
            more = any(line.strip() for line in stream)
        except ValueError:
            stream.seek(0)
            try:
                whole, more = json.load(stream), False
            except ValueError as error:
                raise ConfigError(f"data.path: {file} is not valid JSON: {error}") from None
    if more or not isinstance(whole, dict):
        return None
    lists = [
        key
        for key, value in whole.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    ]
    # A single record of chat data is such an object too: `messages` is a column, not a container.
    columns = {"messages", "conversations", "prompt", "target", "completion"}
    return lists[0] if len(lists) == 1 and lists[0] not in columns else None
