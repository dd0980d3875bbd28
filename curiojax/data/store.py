"""Token ids on disk, memory-mapped: written once per (data, tokenizer, template, limits)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curiojax.data.encoding import Chunk
from curiojax.errors import ConfigError


@dataclass(frozen=True)
class Store:
    """Token ids of all records.

    Attributes:
      tokens: int32, memory-mapped: prompt then response of each record, one after the other.
      offsets: int64 [N + 1], where each record starts.
      prompt_lengths: int64 [N].
      rows: int64 [N], the record of the source each came from.
      meta: drop counts, warnings' counts, source format, `fingerprint` of the contents.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    prompt_lengths: np.ndarray
    rows: np.ndarray
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of prompt and response together, int64 [N]."""
        return np.diff(self.offsets)

    def record(self, index: int) -> np.ndarray:
        """The ids of a record, int32."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def read_store(path: Path) -> Store | None:
    """The store in a folder, or None if there is none or it is not whole."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            name: np.load(path / f"{name}.npy", allow_pickle=False)
            for name in ("offsets", "prompt_lengths", "rows")
        }
        tokens = np.load(path / "tokens.npy", mmap_mode="r", allow_pickle=False)
        store = Store(tokens, arrays["offsets"], arrays["prompt_lengths"], arrays["rows"], meta)
        whole = len(store.offsets) == len(store) + 1 and store.offsets[-1] == len(tokens)
        return store if whole and "fingerprint" in meta else None
    except (OSError, ValueError, KeyError):
        return None


def write_store(path: Path, chunks: Iterator[Chunk], describe: Callable[[], dict]) -> Store:
    """Writes a store that appears under its name only when it is whole.

    Two processes may write the same store at once: both hold the same bytes, one of them stays.

    Args:
      path: the folder to be.
      chunks: the records, in order.
      describe: what else `meta` holds, asked for after the last chunk.

    Raises:
      ConfigError: the cache cannot be written.
    """
    with temporary_folder(path.parent) as temporary:
        try:
            fingerprint = _write_arrays(temporary, chunks)
            meta = {**describe(), "fingerprint": fingerprint}
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"data.cache_dir: writing the tokenised data to {path.parent} failed "
                f"({error.strerror}); free some space or set data.cache_dir"
            ) from None
        if path.exists() and read_store(path) is None:
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # the other process was first
            temporary.rename(path)
    store = read_store(path)
    if store is None:
        raise ConfigError(f"data.cache_dir: {path} cannot be read back; remove it and try again")
    return store


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, which is made if need be; removed at the end if still there.

    Raises:
      ConfigError: the cache cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir: cannot write to {parent} ({error.strerror}); set data.cache_dir or "
            "the environment variable CURIOJAX_CACHE to a folder that can be written"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_arrays(folder: Path, chunks: Iterator[Chunk]) -> str:
    lengths, prompt_lengths, rows, total = [], [], [], 0
    digest = hashlib.sha256()
    with open(folder / "tokens.npy", "wb") as stream:
        _write_header(stream, 0)
        for chunk in chunks:
            data = np.ascontiguousarray(chunk.tokens, np.int32).tobytes()
            digest.update(data)
            stream.write(data)
            total += len(chunk.tokens)
            lengths.append(chunk.lengths)
            prompt_lengths.append(chunk.prompt_lengths)
            rows.append(chunk.rows)
        stream.seek(0)
        _write_header(stream, total)
    none = np.zeros(0, np.int64)
    prompts = np.concatenate([none, *prompt_lengths])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([none, *lengths]))])
    for name, array in {
        "offsets": offsets,
        "prompt_lengths": prompts,
        "rows": np.concatenate([none, *rows]),
    }.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    digest.update(offsets.tobytes() + prompts.tobytes())
    return digest.hexdigest()


def _write_header(stream: Any, length: int) -> None:
    # numpy leaves room in a header for its first axis to grow, so that it can be written twice.
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<i4", "fortran_order": False, "shape": (length,)}
    )
