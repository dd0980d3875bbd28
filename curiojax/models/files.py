"""Finding, opening and replacing the files of a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open

from curiojax.errors import ConfigError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
COPIED_FILES = (*TOKENIZER_FILES, "generation_config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def find_checkpoint(path: str | Path, *, weights: bool = True) -> Path:
    """The local directory of a checkpoint, downloaded first when `path` is a hub id.

    Args:
      weights: also download the safetensors, not just the configuration and the tokenizer.

    Raises:
      ConfigError: when there is no such directory, and the hub does not give it.
    """
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ConfigError(
            f"model.path: {path} is a file; name the directory that holds config.json"
        )
    if not _HUB_ID.fullmatch(str(path)):
        raise ConfigError(f"model.path: no directory {path}; check the spelling")
    # Imported late: it is slow to import and unused for local checkpoints.
    from huggingface_hub import snapshot_download

    patterns = ["*.json", *(name for name in TOKENIZER_FILES if not name.endswith(".json"))]
    if weights:
        patterns.append("*.safetensors")
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # whatever fails in the network stack, the remedy is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"model.path: {path} is no local directory and could not be fetched from the hub "
            f"({type(error).__name__}: {reason}); check the id, the network and, for a gated "
            "model, `hf auth login`, or give a local directory"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises a `ConfigError` when it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; name a Hugging Face checkpoint directory") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object; download it again")
    return content


class WeightFiles(contextlib.ExitStack):
    """The tensors of a directory by name, over one safetensors file or several with an index."""

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory
        if (directory / INDEX_FILE).exists():
            files = sorted(set(read_json(directory / INDEX_FILE).get("weight_map", {}).values()))
        elif (directory / WEIGHTS_FILE).exists():
            files = [WEIGHTS_FILE]
        else:
            raise ConfigError(f"{directory}: {_no_weights(directory)}")
        self._where: dict[str, Any] = {}
        for file in files:
            handle = self._open(directory / file)
            self._where |= dict.fromkeys(handle.keys(), handle)

    def _open(self, path: Path) -> Any:
        if not path.exists():
            raise ConfigError(f"{path}: named in {INDEX_FILE} but missing; download it again")
        try:
            return self.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: unreadable ({error}); download it again") from None

    def names(self) -> list[str]:
        return list(self._where)

    def slice(self, name: str) -> Any:
        """A view that reads from the file what it is indexed with."""
        return self._where[name].get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        stored = str(self.slice(name).get_dtype())
        return _DTYPES.get(stored, stored)

    def equal(self, a: str, b: str, rows: int = 8192) -> bool:
        """Whether two matrices are the same, bit for bit."""
        if self.shape(a) != self.shape(b) or self.dtype(a) != self.dtype(b):
            return False
        left, right = self.slice(a), self.slice(b)
        total = self.shape(a)[0]
        spans = [slice(i, min(i + rows, total)) for i in range(0, total, rows)]
        return all(left[span].tobytes() == right[span].tobytes() for span in spans)


def _no_weights(directory: Path) -> str:
    if any(directory.glob("*.bin")) or any(directory.glob("*.pth")):
        return (
            "only pickled weights (.bin), which are never opened; convert them to safetensors, "
            "e.g. with transformers' save_pretrained"
        )
    return (
        f"no {WEIGHTS_FILE} and no {INDEX_FILE}; only safetensors are read, convert other weights "
        "with transformers' save_pretrained"
    )


def copy_tokenizer(source: str | Path, folder: Path) -> None:
    """Copies tokenizer files and `generation_config.json` from a directory or a hub id."""
    origin = find_checkpoint(source, weights=False)
    present = [name for name in COPIED_FILES if (origin / name).is_file()]
    if not set(present) & set(TOKENIZER_FILES):
        raise ConfigError(f"{source}: holds no tokenizer files; name a checkpoint that has them")
    for name in present:
        shutil.copyfile(origin / name, folder / name)


def make_readable(path: Path) -> None:
    """Gives a file the permissions that the umask allows; safetensors creates it for us alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place when the block succeeds.

    With several processes only the first has files to move; the others wait for it.

    Raises:
      ConfigError: when `path` is there already and is not an earlier export.
    """
    check_target(path)
    path = path.absolute()
    folder = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    first = jax.process_index() == 0
    try:
        if first:
            for left in path.parent.glob(f".{path.name}.*.partial"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            folder.mkdir(parents=True)
        yield folder
        if first:
            if path.exists():
                path.rename(old)
            folder.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"saved {path}")
    finally:
        if first:
            shutil.rmtree(folder, ignore_errors=True)


def check_target(path: Path) -> None:
    """Raises a `ConfigError` unless `path` is free, or holds an earlier export and nothing else."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{path}: is a file; give the name of a directory to write")
    content = sorted(entry.name for entry in path.iterdir())
    weights = [name for name in content if name.endswith(".safetensors")]
    ours = {"config.json", INDEX_FILE, *COPIED_FILES, *weights}
    if content and not (
        weights and set(content) <= ours and all(_made_here(path / w) for w in weights)
    ):
        raise ConfigError(
            f"{path}: is not empty and not an export of ours, so it is left alone; "
            "name another directory or empty it"
        )


def _made_here(file: Path) -> bool:
    try:
        with safe_open(file, framework="numpy") as handle:
            return (handle.metadata() or {}).get("producer") == "curiojax"
    except (SafetensorError, OSError):
        return False
