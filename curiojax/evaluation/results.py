"""`evaluation.json`: what was measured about the checkpoints of a run, in the run's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "evaluation.json"


def read_evaluations(directory: Path) -> dict[int, dict[str, Any]]:
    """The scores of a run's checkpoints by step; empty where there are none, or none readable."""
    path = directory / NAME
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        return {int(step): dict(scores) for step, scores in sorted(steps.items(), key=_number)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_evaluation(directory: Path, step: int, scores: dict[str, Any]) -> None:
    """Adds the scores of one checkpoint, or replaces them; the file changes in one go."""
    steps = {**read_evaluations(directory), step: scores}
    temporary = directory / f"{NAME}.tmp"
    temporary.write_text(json.dumps({"steps": steps}, indent=1), encoding="utf-8")
    temporary.replace(directory / NAME)


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])
