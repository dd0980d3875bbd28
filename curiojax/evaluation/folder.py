"""The folder of an evaluation: what lies where in it, and that it is ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError
from curiojax.folders import holds_anything, write_text

CONFIG = "evaluation.yaml"
RESULTS = "results.json"
REPORT = "report.html"


def check_folder(directory: Path) -> None:
    """Raises a `ConfigError` when the folder holds something that is no evaluation."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"output_dir: {directory} is a file; name a folder")
    if not (directory / CONFIG).is_file() and holds_anything(directory, CONFIG):
        raise ConfigError(
            f"output_dir: {directory} is not empty and holds no evaluation; choose another"
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain JSON values, which must be finite."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def question_path(directory: Path, benchmark: str) -> Path:
    return directory / "questions" / f"{benchmark}.jsonl"


def completion_path(directory: Path, benchmark: str) -> Path:
    return directory / "completions" / f"{benchmark}.jsonl"


def entropy_path(directory: Path, benchmark: str) -> Path:
    return directory / "entropies" / f"{benchmark}.jsonl"
