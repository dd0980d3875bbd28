"""What a finished run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from curiojax import models, progress
from curiojax.config import RunConfig, to_yaml
from curiojax.models import ModelConfig
from curiojax.reports.training import write_training_report
from curiojax.training.metrics import read_metrics
from curiojax.training.setup import say

TOKEN_VIEW = "token_view.json"


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


def describe(
    config: RunConfig,
    directory: Path,
    name: str,
    view: Callable[[], dict[str, Any]] | None = None,
) -> Result:
    """Writes the report. The model is safe by now, so a failure here is a warning.

    Args:
      view: makes the token view, which is kept in `token_view.json`.
    """
    metrics, shown = read_metrics(directory / "metrics.jsonl"), None
    try:
        shown = None if view is None else view()
        if jax.process_index() == 0:
            if shown is not None:
                (directory / TOKEN_VIEW).write_text(json.dumps(shown), encoding="utf-8")
            write_training_report(
                directory / "report.html",
                title=f"{name}: {config.objective.name}",
                runs={name: metrics},
                table=None,
                token_view=shown,
                notes=[],
                config_text=to_yaml(config),
            )
    except Exception as error:
        say(f"warning: the report could not be written ({type(error).__name__}: {error})")
    return Result(directory, metrics, shown)


def finished(directory: Path, *, with_view: bool = True) -> Result | None:
    """The result of a run that has written everything, a token view included, from its files."""
    parts = [directory / "hf" / "config.json", directory / "report.html"]
    if with_view:
        parts.append(directory / TOKEN_VIEW)
    metrics = read_metrics(directory / "metrics.jsonl")
    if not metrics or not all(part.is_file() for part in parts):
        return None
    view = json.loads(parts[-1].read_text(encoding="utf-8")) if with_view else None
    return Result(directory, metrics, view)
