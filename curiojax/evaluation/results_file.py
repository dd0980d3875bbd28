"""`results.json`: what an evaluation found, read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

NAME = "results.json"
VERSION = 1

_PART_KEYS = ("title", "group", "samples", "questions", "available", "avg", "pass", "maj", "counts")
_PART_KEYS += ("rates", "length", "per_question")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a `results.json`.

    Args:
      path: the file, or the folder it is in.

    Raises:
      ConfigError: there is none, or it is not a result file of this version.
    """
    file = Path(path)
    if file.is_dir():
        file = file / NAME
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"results: {file} cannot be read ({error.strerror}); give a {NAME} or its folder"
        ) from None
    except ValueError:
        raise ConfigError(
            f"results: {file} is not JSON; give a {NAME} that an evaluation wrote"
        ) from None
    if not isinstance(results, dict) or "version" not in results:
        raise ConfigError(f"results: {file} is no result of an evaluation; give its {NAME}")
    if results["version"] != VERSION:
        raise ConfigError(
            f"results: {file} has version {results['version']!r}, and {VERSION} is read here; "
            "evaluate again or use the release that wrote it"
        )
    parts = results.get("benchmarks")
    whole = (
        isinstance(parts, dict)
        and isinstance(results.get("name"), str)
        and all(isinstance(results.get(key), dict) for key in ("settings", "means"))
        and all(isinstance(p, dict) and all(k in p for k in _PART_KEYS) for p in parts.values())
    )
    if not whole:
        raise ConfigError(f"results: {file} is incomplete; evaluate again")
    return results
