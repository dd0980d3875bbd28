"""What a finished run leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax import models, progress
from curiojax.config import RunConfig
from curiojax.models import ModelConfig
from curiojax.training.metrics import read_metrics


@dataclass(frozen=True)
class Result:
    """What a finished run leaves behind.

    Attributes:
      directory: the run directory; the model is in `hf`.
      metrics: one dict per optimiser update.
      token_view: one expert response with per-token numbers; None if it could not be made.
    """

    directory: Path
    metrics: list[dict[str, Any]]
    token_view: dict[str, Any] | None


def export(params: Any, model: ModelConfig, config: RunConfig, path: Path) -> None:
    """Writes the weights as a Hugging Face checkpoint, in the source checkpoint's dtype."""
    with progress.status(f"writing {path}"):
        models.save_pretrained(
            params, model, path, tokenizer_from=config.model.path, dtype=model.checkpoint_dtype
        )


def finished(directory: Path) -> Result | None:
    """The result of a run that has written everything, from its files."""
    view = directory / "token_view.json"
    parts = (directory / "hf" / "config.json", directory / "report.html", view)
    metrics = read_metrics(directory / "metrics.jsonl")
    if not metrics or not all(part.is_file() for part in parts):
        return None
    return Result(directory, metrics, json.loads(view.read_text(encoding="utf-8")))
