"""The folder of an evaluation: what lies where in it, and that it is ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CONFIG = "evaluation.yaml"
RESULTS = "results.json"
REPORT = "report.html"


def check_folder(directory: Path) -> None:
    """Raises a `ConfigError` when the folder holds something that is no evaluation."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"output_dir: {directory} is a file; name a folder")
    if not directory.is_dir() or (directory / CONFIG).is_file():
        return
    if {path.name for path in directory.iterdir()} - {"lock"}:
        raise ConfigError(
            f"output_dir: {directory} is not empty and holds no evaluation; choose another"
        )


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps a second evaluation out of the folder for as long as this one lives.

    Raises:
      ConfigError: another process has it, or the folder cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"output_dir: {directory} cannot be written ({error.strerror}); choose another"
        ) from None
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"output_dir: another process is running in {directory}; wait for it, or choose "
                "another"
            ) from None
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a file, which appears in one go."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain JSON values, which must be finite."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def question_path(directory: Path, benchmark: str) -> Path:
    return directory / "questions" / f"{benchmark}.jsonl"


def completion_path(directory: Path, benchmark: str) -> Path:
    return directory / "completions" / f"{benchmark}.jsonl"


def entropy_path(directory: Path, benchmark: str) -> Path:
    return directory / "entropies" / f"{benchmark}.jsonl"
