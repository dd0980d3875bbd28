"""All runs of a comparison config, over several seeds, with what they measured brought together.

One seed is one draw of the demonstrations, one order of the batches and one draw of the evaluation
problems and their samples; within a seed all methods share them. The base model is the same for
all. Everything is kept as it comes, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from curiojax import models, progress, quickstart
from curiojax.config import RunConfig, read_yaml, to_yaml
from curiojax.errors import ConfigError
from curiojax.evaluation.results import read_evaluations, write_evaluation
from curiojax.training.checkpoint import restore_params
from curiojax.training.compilation import compilation_cache
from curiojax.training.metrics import read_metrics
from curiojax.training.sft import run_sft

BASE = "base model"
MARKER, INVOCATION = "comparison.yaml", "invocation.json"


@dataclass(frozen=True)
class Measured:
    """One run, as its directory tells.

    Attributes:
      name: of the method.
      seed: None where the run is no part of a comparison.
      objective: as configured, with its name.
      metrics: the lines of `metrics.jsonl`.
      evaluations: scores by step.
      invocation: which start of the program took all the steps; None: unknown, or several did.
    """

    name: str
    seed: int | None
    directory: Path
    objective: dict[str, Any]
    metrics: list[dict[str, Any]] = field(repr=False)
    evaluations: dict[int, dict[str, Any]] = field(repr=False)
    invocation: str | None = None

    @property
    def final(self) -> dict[str, Any]:
        """The scores of the last step; empty unless that has been evaluated."""
        return self.evaluations.get(self.metrics[-1]["step"], {}) if self.metrics else {}


def controls(config: RunConfig) -> list[str]:
    """The runs that are plain fine-tuning."""
    runs = config.compare or {}
    return [n for n, overrides in runs.items() if overrides.get("objective") == {"name": "sft"}]


def run_all(config: RunConfig, directory: Path, seeds: int) -> list[Measured]:
    """Trains and evaluates what is missing; returns the base model and all runs, seed by seed.

    Raises:
      ConfigError: the directory holds something else, or a run of another config.
    """
    claim(config, directory)
    quickstart.keep_freed_memory()
    first = controls(config)
    names = [*first, *(name for name in config.compare or {} if name not in first)]
    plans = []
    for seed in range(config.seed, config.seed + seeds):
        ours = config.model_copy(update={"seed": seed})
        folder = directory / f"seed-{seed}"
        plans += [(ours, folder, name) for name in names]
    found: list[Measured] = []
    this = f"{time.strftime('%Y-%m-%d %H:%M:%S')} ({os.getpid()})"
    with compilation_cache(), progress.bar("comparison", total=len(plans)) as bar:
        for done, (ours, folder, name) in enumerate(plans):
            bar.update(done, run=f"seed {ours.seed}: {name}")
            with progress.silence():
                if name == names[0]:
                    found.append(_base(ours, folder))
                found.append(_measure(ours, folder, name, this, path=name in first))
        bar.update(len(plans), run="done")
    return found


def claim(config: RunConfig, directory: Path) -> None:
    """Makes the directory ours, unless it holds anything that no comparison wrote."""
    if directory.is_file():
        raise ConfigError(f"--output: {directory} is a file; name a folder")
    marker = directory / MARKER
    if directory.is_dir() and not marker.is_file() and any(directory.iterdir()):
        raise ConfigError(
            f"--output: {directory} is not empty and holds no comparison; name another folder"
        )
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text(to_yaml(config), encoding="utf-8")


def measured(directory: Path, *, name: str | None = None, seed: int | None = None) -> Measured:
    """Reads a run directory, of a finished run or an unfinished one.

    Raises:
      ConfigError: it is none.
    """
    if not (directory / "config.yaml").is_file():
        raise ConfigError(f"{directory}: not a run directory; it has no config.yaml")
    objective = read_yaml(directory / "config.yaml").get("objective")
    if not isinstance(objective, Mapping) or "name" not in objective:
        raise ConfigError(f"{directory}: config.yaml names no objective; is this a training run?")
    metrics = read_metrics(directory / "metrics.jsonl")
    try:
        invocation = json.loads((directory / INVOCATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        invocation = None
    return Measured(
        name or directory.name,
        seed,
        directory,
        dict(objective),
        metrics,
        read_evaluations(directory),
        invocation if isinstance(invocation, str) else None,
    )


def _measure(config: RunConfig, folder: Path, name: str, this: str, *, path: bool) -> Measured:
    """One run; with `path` its checkpoints on the way are evaluated too."""
    run = quickstart.member(config, name, folder)
    directory = Path(run.output_dir or "")
    fresh = not read_metrics(directory / "metrics.jsonl")
    result = run_sft(run, name=name, details=False)
    if fresh:
        (directory / INVOCATION).write_text(json.dumps(this), encoding="utf-8")
    last = result.metrics[-1]["step"]
    every = run.checkpoint.keep_every
    steps = range(every, last, every) if path and every else ()
    for step in (*steps, last):
        evaluate_step(config, directory, step, last)
    return measured(directory, name=name, seed=config.seed)


def evaluate_step(config: RunConfig, directory: Path, step: int, last: int) -> None:
    """Evaluates one kept checkpoint of a finished run, unless that is known already."""
    if step == last:
        quickstart.scores_of(config, directory / "hf", directory, step)
        return
    if quickstart.is_current(config, read_evaluations(directory).get(step)):
        return
    # As `load_pretrained` lays them out, so that the sampler is not compiled a second time.
    model = models.read_config(directory / "hf")
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=one),
        models.abstract_params(model, jnp.float32),
    )
    params, _ = restore_params(directory / "checkpoints", like, step)
    scores = quickstart.score(config, model, params, f"{directory.name}, step {step}")
    write_evaluation(directory, step, scores)


def _base(config: RunConfig, folder: Path) -> Measured:
    """The base model as a run of no steps."""
    directory = folder / "base"
    scores = quickstart.scores_of(config, quickstart.embedded(config).base_model, directory, 0)
    return Measured(BASE, config.seed, directory, {}, [{"step": 0}], {0: scores})
