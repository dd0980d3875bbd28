"""The supervised stage, from a checkpoint and a data file to a checkpoint."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from curiojax import models, progress
from curiojax.config import RunConfig, to_yaml
from curiojax.data.pipeline import SupervisedData, build_dataset
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.losses import largest_safe_alpha
from curiojax.models import ModelConfig
from curiojax.objectives import Curio, Objective
from curiojax.reports.training import write_training_report
from curiojax.sharding import make_mesh, named_sharding
from curiojax.training import plan, statistics
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.metrics import MetricsWriter, read_metrics
from curiojax.training.run_directory import claim, identity, require, run_directory
from curiojax.training.state import TrainState, create_state, shardings_of
from curiojax.training.step import Batch, Recipe, Scalars, Step, compile_step
from curiojax.training.token_view import token_view


@dataclass(frozen=True)
class Result:
    """What a finished run leaves behind.

    Attributes:
      directory: the run directory.
      params: the trained weights, float32, on the mesh.
      model: their architecture.
      metrics: one dict per optimiser update.
      token_view: one expert response with per-token numbers, for the report.
    """

    directory: Path
    params: Any
    model: ModelConfig
    metrics: list[dict[str, Any]]
    token_view: dict[str, Any]


def run_sft(config: RunConfig, *, name: str = "training", details: bool = True) -> Result:
    """Trains, or continues, or finds the run finished; writes everything into the run directory.

    Args:
      config: the run.
      name: what the progress bar and the report call it.
      details: print what follows from the config and the memory it needs.

    Raises:
      ConfigError: the input is wrong; raised before anything is compiled or overwritten.
    """
    directory = run_directory(config)
    for warning in config.objective.warnings:
        _say(f"warning: {warning}")
    mesh = make_mesh(**config.mesh.model_dump())

    # ---- data and model ---------------------------------------------------------------------
    tokenizer = load_tokenizer(require(config.model.path, "model.path"))
    model = model_config(config)
    plan.check_fit(config, model, mesh)
    data = build_data(config, tokenizer)
    steps = plan.total_steps(config, data)
    claim(directory, config, identity(config, model, data))
    if details:
        progress.print_pairs(str(directory), plan.derived(config, model, data, mesh, steps))

    # ---- compile ----------------------------------------------------------------------------
    recipe = Recipe(config, model, mesh, steps)
    with progress.status(f"{name}: compiling the step"):
        step = compile_step(recipe)
    budget = plan.memory_budget(recipe, step)
    if details:
        progress.print_pairs("memory per device", budget)

    # ---- state: resume, or start from the checkpoint given ------------------------------------
    checkpoints = Checkpoints(
        directory / "checkpoints", config.checkpoint, identity(config, model, data)
    )
    state = checkpoints.restore(recipe.abstract_state(), report=_say)
    if state is None:
        state = initial_state(recipe)
    elif int(state.step) < steps:
        _say(f"continuing after step {int(state.step)}")

    # ---- train --------------------------------------------------------------------------------
    state = train(recipe, step, state, data, checkpoints, directory, name)
    checkpoints.wait()
    checkpoints.close()

    # ---- hand over ------------------------------------------------------------------------------
    metrics = read_metrics(directory / "metrics.jsonl")
    view = token_view(recipe, state, data, tokenizer)
    if jax.process_index() == 0:
        (directory / "token_view.json").write_text(json.dumps(view), encoding="utf-8")
        write_training_report(
            directory / "report.html",
            title=f"{name}: {config.objective.name}",
            runs={name: metrics},
            table=None,
            token_view=view,
            notes=[],
            config_text=to_yaml(config),
        )
    export(state.params, model, config, directory / "hf")
    return Result(directory, state.params, model, metrics, view)


def train(
    recipe: Recipe,
    step: Step,
    state: TrainState,
    data: SupervisedData,
    checkpoints: Checkpoints,
    directory: Path,
    name: str,
) -> TrainState:
    """The loop: one optimiser update per turn; metrics are read one turn late, nothing waits."""
    config, steps = recipe.config, recipe.total_steps
    start = int(state.step)
    writer = _writer(directory, config, start)
    watch = _Watch(recipe, writer, progress.bar(name, total=steps, done=start))
    with jax.set_mesh(recipe.mesh), watch, _stop_signal() as stop:
        for number, arrays in data.iterate(start, steps):
            state, scalars = step(state, list(place(arrays, recipe.mesh)))
            watch.see(number, scalars)
            done = number + 1
            if done % config.checkpoint.every == 0 or done == steps or stop or watch.diverged:
                watch.flush()
                checkpoints.save(state)
            if watch.diverged:
                checkpoints.wait()
                raise ConfigError(
                    f"optimizer.learning_rate: {config.optimizer.skip_limit} steps in a row had "
                    f"non-finite gradients; the run stopped after step {done} with a checkpoint in "
                    f"{directory / 'checkpoints'}; lower the learning rate or inspect the data"
                )
            if stop:
                checkpoints.wait()
                raise KeyboardInterrupt
    return state


def place(arrays: dict[str, np.ndarray], mesh: Mesh) -> Iterator[Batch]:
    """The micro-batches of a step, laid out over the mesh.

    Args:
      arrays: [M, R, T] each, the same on every process; each takes what its devices need.
      mesh: the devices.
    """
    sharding = named_sharding(mesh, ("batch", "length"))
    count = len(next(iter(arrays.values())))
    for index in range(count):
        yield {
            name: jax.make_array_from_callback(
                array.shape[1:], sharding, lambda part, rows=array[index]: rows[part]
            )
            for name, array in arrays.items()
        }


class _Watch:
    """Turns a step's device scalars into metrics, one step late, and keeps the bar moving."""

    def __init__(self, recipe: Recipe, writer: MetricsWriter | None, bar: Any):
        self._recipe, self._writer, self._bar = recipe, writer, bar
        self._pending: tuple[int, Scalars] | None = None
        self._bad_steps = 0
        self._warned = False
        self._clock = time.perf_counter()

    def __enter__(self) -> _Watch:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()
        self._bar.__exit__(*exception)
        if self._writer:
            self._writer.close()

    @property
    def diverged(self) -> bool:
        return self._bad_steps >= self._recipe.config.optimizer.skip_limit

    def see(self, number: int, scalars: Scalars) -> None:
        self.flush()
        self._pending = (number, scalars)

    def flush(self) -> None:
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
            _say(f"warning: step {number + 1}: {warning}")
        if self._writer:
            self._writer.write(metrics)
        self._bar.update(
            number + 1,
            loss=metrics["loss"],
            entropy=metrics["entropy"],
            tokens_per_second=metrics["tokens_per_second"],
        )


def step_metrics(recipe: Recipe, number: int, scalars: Scalars, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl. `step` counts from 1: the number of updates done."""
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


# ---- starting points -------------------------------------------------------------------------


def model_config(config: RunConfig) -> ModelConfig:
    """The architecture of `model.path` with the run's overrides."""
    overrides = _model_overrides(config)
    return models.read_config(require(config.model.path, "model.path"), overrides=overrides)


def initial_state(recipe: Recipe) -> TrainState:
    """The state before the first step, its weights read from `model.path`."""
    config = recipe.config
    with progress.status("reading the weights"):
        _, params = models.load_pretrained(
            require(config.model.path, "model.path"),
            dtype=np.float32,
            mesh=recipe.mesh,
            overrides=_model_overrides(config),
        )
    create = jax.jit(
        lambda p: create_state(p, recipe.optimizer, recipe.teacher, config.seed),
        out_shardings=shardings_of(recipe.abstract_state()),
    )
    with jax.set_mesh(recipe.mesh):
        return create(params)


def build_data(config: RunConfig, tokenizer: Any) -> SupervisedData:
    require(config.data.path, "data.path")
    if config.objective.needs_suppressed and config.data.suppressed_path is None:
        raise ConfigError(
            f"data.suppressed_path: missing; objective {config.objective.name} unlearns wrong "
            "samples, so give a data file of them (or set objective.ul_weight=0)"
        )
    data = build_dataset(
        config.data,
        tokenizer,
        seed=config.seed,
        sequences_per_step=config.sequences_per_step,
        rows_per_microbatch=config.rows_per_microbatch,
        normalizer=config.loss.normalizer,
        cache_dir=config.data.cache_dir,
    )
    if data.drops:
        progress.print_pairs("records dropped", data.drops)
    if data.suppressed is not None and data.suppressed.drops:
        progress.print_pairs("suppressed records dropped", data.suppressed.drops)
    for warning in data.warnings:
        _say(f"warning: {warning}")
    return data


def _model_overrides(config: RunConfig) -> dict[str, Any]:
    section = config.model
    overrides = {
        "compute_dtype": section.compute_dtype,
        "remat": section.remat,
        "attention": section.attention,
        "rope_theta": section.rope_theta,
        "max_position_embeddings": section.max_position_embeddings,
    }
    return {key: value for key, value in overrides.items() if value is not None}


def export(params: Any, model: ModelConfig, config: RunConfig, path: Path) -> None:
    """Writes the weights as a Hugging Face checkpoint, in the source checkpoint's dtype."""
    with progress.status(f"writing {path}"):
        models.save_pretrained(
            params, model, path, tokenizer_from=config.model.path, dtype=model.checkpoint_dtype
        )


def _writer(directory: Path, config: RunConfig, start: int) -> MetricsWriter | None:
    if jax.process_index() != 0:
        return None
    return MetricsWriter(directory, config.logging, start, config.model_dump(mode="json"))


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the step in flight is saved; twice ends at once."""
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        _say("stopping after this step, with a checkpoint; once more to stop at once")

    try:
        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not on the main thread: the caller decides about signals
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _say(message: str) -> None:
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)
