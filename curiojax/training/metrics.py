"""Where a run's metrics go: metrics.jsonl always, TensorBoard and W&B from the same dict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from curiojax.config import Logging
from curiojax.errors import ConfigError


class MetricsWriter:
    """Writes one JSON object per line to `metrics.jsonl`; one line per optimiser update.

    Args:
      directory: the run directory.
      logging: which other loggers are on.
      start_step: the run continues after this step: lines of later steps, from a run that was
        killed before its next checkpoint, are dropped, since these steps are taken again.
      config: the resolved config, for loggers that keep it.

    Raises:
      ConfigError: a logger is switched on but not installed.
    """

    def __init__(self, directory: Path, logging: Logging, start_step: int, config: dict[str, Any]):
        self._path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= start_step]
        temporary = self._path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(_to_line(line) for line in kept), encoding="utf-8")
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = self._wandb = None
        if logging.tensorboard:
            self._tensorboard = _import(
                "tensorboardX", "logging.tensorboard", "tensorboard"
            ).SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)
        if logging.wandb:
            wandb = _import("wandb", "logging.wandb", "wandb")
            # The same id on resume continues the same curve.
            self._wandb = wandb.init(
                project=logging.wandb, id=directory.name, resume="allow", config=config
            )

    def write(self, metrics: dict[str, Any]) -> None:
        self._file.write(_to_line(metrics))
        self._file.flush()
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "step"}
        if self._tensorboard is not None:
            for key, value in scalars.items():
                self._tensorboard.add_scalar(key, value, metrics["step"])
        if self._wandb is not None:
            self._wandb.log(scalars, step=metrics["step"])

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that name a step; a torn last line is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _to_line(metrics: dict[str, Any]) -> str:
    # JSON has no NaN; a missing number reads back as null everywhere.
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()
    }
    return json.dumps(clean) + "\n"


def _import(module: str, field: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise ConfigError(
            f"{field}: {module} is not installed; pip install 'curiojax[{extra}]' or switch it off"
        ) from None
