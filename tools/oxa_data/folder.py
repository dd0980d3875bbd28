"""The folder of a selection: whose it is, and what a killed run left in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

SETTINGS, RESULT = "settings.json", "selection.json"
WRITTEN = ("promoted.parquet", "suppressed.parquet", "report.html", RESULT)


def check_output(folder: Path) -> None:
    """Refuses a folder that holds something else, before any work."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output: {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not _ours(folder):
        raise ConfigError(
            f"--output: {folder} is not empty and holds no such selection; name a new folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output: {folder} cannot be made ({error.strerror}); name another folder"
        ) from None


def clear(folder: Path, work: Path) -> None:
    """Removes what a killed run left behind; nobody else is at work while the lock is held."""
    for path in folder.glob(".tmp-*"):
        if path != work:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Makes the folder this selection's; returns whether it is finished.

    A selection of other settings that wrote nothing but scores gives way: they have a header of
    their own.

    Raises:
      ConfigError: it belongs to another selection.
    """
    path = folder / SETTINGS
    if any((folder / name).exists() for name in WRITTEN):
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for key in settings:
            if theirs.get(key) != settings[key]:
                raise ConfigError(
                    f"--output: {folder} holds a selection with {key} = {theirs.get(key)}, this "
                    f"one has {settings[key]}; name a new folder (and --scores to reuse scores)"
                )
        return (folder / RESULT).is_file()
    write_json(path, settings)
    return False


def keep(work: Path, folder: Path) -> None:
    """Copies the sorted completions to where the record numbers of the scores can be looked up."""
    for path in work.glob("*.jsonl"):
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{path.name}.tmp"
        shutil.copyfile(path, temporary)
        temporary.replace(folder / path.name)


def _ours(folder: Path) -> bool:
    """A claimed folder, or one whose first run was killed before it could claim it."""
    names = (path.name for path in folder.iterdir())
    ours = (folder / SETTINGS).is_file()
    return ours or all(name == "lock" or name.startswith(".tmp-") for name in names)


def write_json(path: Path, content: Any) -> None:
    """Writes the file in one go."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
