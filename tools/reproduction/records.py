"""What a finished run leaves, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reproduction.plan import Run

DONE = "done.json"
EXTRAS = "extras.json"


def is_done(run: Run, output: Path) -> bool:
    """Whether the run was finished with these settings."""
    record = read(output / run.directory / DONE)
    return record is not None and record.get("settings") == json.loads(json.dumps(run.settings))


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
