"""The supervised stage, from a checkpoint and a data file to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from curiojax import models, progress
from curiojax.config import RunConfig, to_yaml
from curiojax.data.pipeline import SupervisedData
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.reports.training import write_training_report
from curiojax.sharding import make_mesh
from curiojax.training import plan
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.memory import memory_budget
from curiojax.training.metrics import MetricsWriter, Watch, check_loggers, read_metrics
from curiojax.training.recipe import Recipe, place
from curiojax.training.result import Result, export, finished
from curiojax.training.run_directory import (
    check_claim,
    claim,
    identity,
    lock,
    require,
    run_directory,
)
from curiojax.training.setup import build_data, initial_state, read_model, say
from curiojax.training.state import TrainState
from curiojax.training.step import Step, compile_step
from curiojax.training.stopping import stop_signal
from curiojax.training.token_view import token_view


def run_sft(config: RunConfig, *, name: str = "training", details: bool = True) -> Result:
    """Trains, or continues, or finds the run finished; writes everything into the run directory.

    Args:
      config: the run.
      name: what the progress bar and the report call it.
      details: print what follows from the config and the memory it needs.

    Raises:
      ConfigError: the input is wrong; raised before anything is compiled or written.
    """
    directory = run_directory(config)
    mesh = make_mesh(**config.mesh.model_dump())

    # ---- look at everything that can be wrong -------------------------------------------------
    check_loggers(config.logging)
    models.check_target(directory / "hf")
    model, fingerprint = read_model(config)
    plan.check_fit(config, model, mesh)
    tokenizer = load_tokenizer(require(config.model.path, "model.path"))
    data = build_data(config, tokenizer)
    ours = identity(config, fingerprint, data.fingerprint)
    check_claim(directory, ours)
    steps = plan.total_steps(config, data)
    if details:
        progress.print_pairs(str(directory), plan.derived(config, model, data, mesh, steps))
    for warning in (*config.objective.warnings, *plan.warnings(config, steps)):
        say(f"warning: {warning}")

    with lock(directory):
        claim(directory, config, ours)
        checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint, ours)
        if checkpoints.latest() == steps and (result := finished(directory)):
            say(f"{directory}: finished already")
            return result

        # ---- compile ------------------------------------------------------------------------
        recipe = Recipe(config, model, mesh, steps)
        with progress.status(f"{name}: compiling the step"):
            step = compile_step(recipe)
        budget = memory_budget(recipe, step)
        if details:
            progress.print_pairs("memory per device", budget)

        # ---- resume, or start from the checkpoint given ---------------------------------------
        state = checkpoints.restore(recipe.abstract_state(), report=say)
        if state is None:
            state = initial_state(recipe)
        elif int(state.step) < steps:
            say(f"continuing after step {int(state.step)}")

        # ---- train -----------------------------------------------------------------------------
        state = train(recipe, step, state, data, checkpoints, directory, name)
        checkpoints.close()

        # ---- hand over ------------------------------------------------------------------------
        export(state.params, model, config, directory / "hf")
        return describe(recipe, state, data, tokenizer, directory, name)


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
    writer, skipped = None, 0
    if jax.process_index() == 0:
        writer = MetricsWriter(directory, config.logging, start, config.model_dump(mode="json"))
        skipped = sum(line.get("skipped", 0) for line in read_metrics(writer.path))
    watch = Watch(recipe, writer, progress.bar(name, total=steps, done=start), skipped)
    with jax.set_mesh(recipe.mesh), watch, stop_signal() as stop:
        for number, arrays in data.iterate(start, steps):
            state, scalars = step(state, list(place(arrays, recipe.mesh)))
            watch.see(number, scalars)
            done = number + 1
            stopping = stop.after(done)
            if done % config.checkpoint.every == 0 or done == steps or stopping or watch.diverged:
                watch.flush()
                checkpoints.save(state)
            if watch.diverged:
                checkpoints.wait()
                raise ConfigError(
                    f"optimizer.learning_rate: {config.optimizer.skip_limit} steps in a row had "
                    f"non-finite gradients; the run stopped after step {done} with a checkpoint in "
                    f"{directory / 'checkpoints'}; inspect the data, or start a run with a lower "
                    "learning rate in another output_dir"
                )
            if stopping:
                break
        checkpoints.wait()
        if int(state.step) < steps:
            raise KeyboardInterrupt
    return state


def describe(
    recipe: Recipe,
    state: TrainState,
    data: SupervisedData,
    tokenizer: Any,
    directory: Path,
    name: str,
) -> Result:
    """Token view and report. The model is safe by now, so a failure here is a warning."""
    metrics, view = read_metrics(directory / "metrics.jsonl"), None
    try:
        view = token_view(recipe, state, data, tokenizer)
        if jax.process_index() == 0:
            (directory / "token_view.json").write_text(json.dumps(view), encoding="utf-8")
            write_training_report(
                directory / "report.html",
                title=f"{name}: {recipe.config.objective.name}",
                runs={name: metrics},
                table=None,
                token_view=view,
                notes=[],
                config_text=to_yaml(recipe.config),
            )
    except Exception as error:
        say(f"warning: the report could not be written ({type(error).__name__}: {error})")
    return Result(directory, metrics, view)
