"""Where a run's metrics go: metrics.jsonl always, TensorBoard and W&B from the same dict."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from curiojax.config import Logging
from curiojax.errors import ConfigError
from curiojax.losses import largest_safe_alpha
from curiojax.objectives import Curio, Objective
from curiojax.training import statistics
from curiojax.training.recipe import Recipe
from curiojax.training.setup import say
from curiojax.training.update import Scalars


class MetricsWriter:
    """Writes one JSON object per line to `metrics.jsonl`; one line per optimiser update.

    A line of step 0 holds what was measured before the first.

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
        self.path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= start_step]
        self._steps = {line["step"] for line in kept}
        temporary = self.path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(_to_line(line) for line in kept), encoding="utf-8")
        temporary.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._tensorboard = self._wandb = None
        if logging.tensorboard:
            self._tensorboard = _import(
                "tensorboardX", "logging.tensorboard", "tensorboard"
            ).SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)
        if logging.wandb:
            wandb = _import("wandb", "logging.wandb", "wandb")
            identifier = directory / "wandb_id"  # the same on resume, to continue the same curves
            if not identifier.is_file():
                identifier.write_text(secrets.token_hex(4))
            self._wandb = wandb.init(
                project=logging.wandb,
                name=directory.name,
                id=identifier.read_text(),
                resume="allow",
                config=config,
            )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def has(self, step: int) -> bool:
        """Whether the run had written a line of this step when it was continued."""
        return step in self._steps

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


def check_loggers(logging: Logging) -> None:
    """Raises a `ConfigError` when a logger is switched on but not installed."""
    if logging.tensorboard:
        _import("tensorboardX", "logging.tensorboard", "tensorboard")
    if logging.wandb:
        _import("wandb", "logging.wandb", "wandb")


def _import(module: str, field: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise ConfigError(
            f"{field}: {module} is not installed; pip install 'curiojax[{extra}]' or switch it off"
        ) from None


class Watch:
    """Turns a step's device scalars into metrics, one step late, and keeps the bar moving."""

    def __init__(self, recipe: Recipe, writer: MetricsWriter | None, bar: Any, skipped: int = 0):
        self._recipe, self._writer, self._bar = recipe, writer, bar
        self._pending: tuple[int, Scalars] | None = None
        self._bad_steps = 0  # in a row
        self._skipped = skipped  # in the whole run
        self._warned = False
        self._done = 0
        self._clock = time.perf_counter()

    def __enter__(self) -> Watch:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._bar.__exit__(kind, *rest)
            if self._writer:
                self._writer.close()

    @property
    def diverged(self) -> bool:
        """Whether the last `optimizer.skip_limit` steps all had non-finite gradients."""
        return self._bad_steps >= self._recipe.config.optimizer.skip_limit

    def see(self, number: int, scalars: Scalars) -> None:
        """Takes the results of a step, whose computation may still be under way."""
        self.flush()
        self._pending = (number, scalars)
        self._done = number

    def show(self, text: str) -> None:
        """Says on the bar how far an evaluation is."""
        self._bar.update(self._done, evaluated=text)

    def flush(self, also: Callable[[], dict[str, Any]] | None = None) -> None:
        """Waits for the last step seen and writes its metrics.

        Args:
          also: measures more of them; its time is none of a step's.
        """
        if self._pending is None:
            return
        number, scalars = self._pending
        self._pending = None
        scalars = jax.device_get(scalars)
        now = time.perf_counter()
        metrics = step_metrics(self._recipe, number, scalars, now - self._clock)
        self._clock = now
        self._bad_steps = 0 if scalars.finite else self._bad_steps + 1
        if not self._warned and (warning := alpha_warning(self._recipe.config.objective, metrics)):
            self._warned = True
            say(f"warning: step {number + 1}: {warning}")
        self._skipped += metrics["skipped"]
        metrics["skipped_total"] = self._skipped
        if also is not None:
            metrics |= also()
            self._clock = time.perf_counter()
        if self._writer:
            self._writer.write(metrics)
        shown = {key: metrics[key] for key in ("loss", "entropy", "tokens_per_second")}
        if self._skipped:
            shown["skipped"] = self._skipped
        self._bar.update(number + 1, **shown)


def step_metrics(recipe: Recipe, number: int, scalars: Scalars, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl. `step` counts from 1: the number of updates done.

    Args:
      seconds: wall time since the step before, the copying part of a save included.
    """
    objective = recipe.config.objective
    report = statistics.summarize(scalars.stats, objective, recipe.model.vocab_size)
    slots, positions = float(scalars.stats.sums["slots"]), float(scalars.stats.sums["positions"])
    for key in ("slots", "positions"):
        report.pop(key)
    metrics = {
        "step": number + 1,
        "loss": float(scalars.loss),
        **report,
        "learning_rate": float(scalars.learning_rate),
        "grad_norm": float(scalars.grad_norm),
        "skipped": int(not scalars.finite),
        "padding_share": 1.0 - positions / max(slots, 1.0),
        "tokens_per_second": positions / max(seconds, 1e-9),
        "step_seconds": seconds,
    }
    if recipe.teacher is not None:
        metrics["teacher_lag"] = int(scalars.teacher_lag)
        metrics["teacher_distance"] = float(scalars.teacher_distance)
    return metrics


def alpha_warning(objective: Objective, metrics: dict[str, Any]) -> str | None:
    """Whether alpha is too large for the forks that the step's metrics show, in one sentence.

    The width of a fork is taken as exp(entropy) of the teacher's 20 % most uncertain tokens, its
    temperature as the 90th percentile.
    """
    if not isinstance(objective, Curio) or objective.divergence != "expert_k2":
        return None
    if objective.alpha == 0 or "teacher_entropy_top20" not in metrics:
        return None
    tau, width = metrics["tau_p90"], math.exp(metrics["teacher_entropy_top20"])
    bound = largest_safe_alpha(tau, width)
    if not objective.alpha > bound:  # also where no token says anything
        return None
    return (
        f"objective.alpha: {objective.alpha:g} is above {bound:.2g}, beyond which tokens at forks "
        f"about {width:.0f} alternatives wide are pushed down in mid range at tau {tau:.2f}; watch "
        "weight_negative, or lower objective.alpha or the temperature"
    )
