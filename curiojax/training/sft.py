"""The supervised stage, from a checkpoint and a data file to a checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax

from curiojax import models, progress
from curiojax.config import RunConfig
from curiojax.data.pipeline import SupervisedData
from curiojax.data.tokenizer import load_tokenizer
from curiojax.distributed import first_then_others, wait_for_all
from curiojax.errors import Stopped
from curiojax.sharding import make_mesh
from curiojax.training import plan
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.held_out import HeldOut, prepare
from curiojax.training.metrics import MetricsWriter, Watch, check_loggers, read_metrics
from curiojax.training.opening import check_memory, diverged, opened, starting_state
from curiojax.training.recipe import Recipe, place
from curiojax.training.result import Result, describe, export, finished
from curiojax.training.run_directory import check_claim, identity, require, run_directory
from curiojax.training.setup import (
    build_data,
    check_contents,
    read_benchmarks,
    read_model,
    say,
    start_grader,
)
from curiojax.training.state import TrainState, persistent_state
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
    with ExitStack() as stack:
        # ---- look at everything that can be wrong -----------------------------------------
        check_loggers(config.logging)
        models.check_target(directory / "hf")
        benchmarks = read_benchmarks(config)
        grader = stack.enter_context(start_grader(config, benchmarks)) if benchmarks else None
        mesh = make_mesh(**config.mesh.model_dump())
        with first_then_others("reading model and data"):
            model, fingerprint = read_model(config)
            plan.check_fit(config, model, mesh)
            tokenizer = load_tokenizer(require(config.model.path, "model.path"))
            data = build_data(config, tokenizer)
        check_contents(fingerprint, tokenizer, data.fingerprint)
        held_out = prepare(config, benchmarks, grader, tokenizer, model)
        ours = identity(config, fingerprint, data.fingerprint)
        check_claim(directory, ours)
        steps = plan.total_steps(config, data)
        if details:
            progress.print_pairs(str(directory), plan.derived(config, model, data, mesh, steps))
        for warning in (*config.objective.warnings, *plan.warnings(config, steps)):
            say(f"warning: {warning}")

        checkpoints = stack.enter_context(opened(config, directory, ours))
        if checkpoints.latest() == steps and (result := finished(directory)):
            say(f"{directory}: finished already")
            return result

        # ---- compile ------------------------------------------------------------------------
        recipe = Recipe(config, model, mesh, steps)
        with progress.status(f"{name}: compiling the step"):
            step = compile_step(recipe)
        check_memory(recipe, step, held_out, show=details)

        wait_for_all("compiled")  # the first collectives do not wait for long

        # ---- train -----------------------------------------------------------------------------
        state = starting_state(recipe, checkpoints)
        state = train(recipe, step, state, data, held_out, checkpoints, directory, name)
        checkpoints.close()

        # ---- hand over ------------------------------------------------------------------------
        export(state.params, model, config, directory / "hf")
        return describe(config, directory, name, lambda: token_view(recipe, state, data, tokenizer))


def train(
    recipe: Recipe,
    step: Step,
    state: TrainState,
    data: SupervisedData,
    held_out: HeldOut | None,
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
        if held_out is not None and start == 0 and not writer.has(0):
            with progress.status(f"{name}: answering held-out questions"):
                writer.write({"step": 0, **held_out.evaluate(None, recipe, state.params)})
    watch = Watch(recipe, writer, progress.bar(name, total=steps, done=start), skipped)
    with jax.set_mesh(recipe.mesh), watch, stop_signal() as stop:
        for number, arrays in data.iterate(start, steps):
            state, scalars = step(state, list(place(arrays, recipe.mesh)))
            watch.see(number, scalars)
            done = number + 1
            if held_out is not None and held_out.is_due(done, steps):
                answer = partial(held_out.evaluate, None, recipe, state.params, watch.show)
                watch.flush(answer)
            stopping = stop.after(done)
            if done % config.checkpoint.every == 0 or done == steps or stopping or watch.diverged:
                watch.flush()
                checkpoints.save(persistent_state(state))
            if watch.diverged:
                checkpoints.wait()
                raise diverged(config, done, directory)
            if stopping:
                break
        checkpoints.wait()
        if int(state.step) < steps:
            raise Stopped
    return state
