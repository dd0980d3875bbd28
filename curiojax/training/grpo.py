"""The RL stage: sample, grade, update, hand the weights over, again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import jax

from curiojax import models, progress
from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.rollout.base import Rollout, RolloutError
from curiojax.sharding import make_mesh
from curiojax.training import plan
from curiojax.training.ahead import Ahead, rounds_kept
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.credit import trajectories_of
from curiojax.training.engines import start_engine
from curiojax.training.experience import place_update
from curiojax.training.grpo_metrics import (
    Clock,
    guided_metrics,
    mismatch_warning,
    round_metrics,
    update_metrics,
)
from curiojax.training.held_out import HeldOut, prepare
from curiojax.training.metrics import MetricsWriter, check_loggers
from curiojax.training.opening import check_memory, diverged, opened, starting_state
from curiojax.training.policy_step import PolicyStep, compile_policy_step
from curiojax.training.recipe import Recipe
from curiojax.training.result import Result, describe, export, finished
from curiojax.training.round_files import forget_rounds
from curiojax.training.rounds import Collector
from curiojax.training.run_directory import check_claim, identity, require, run_directory
from curiojax.training.setup import (
    build_prompt_data,
    read_benchmarks,
    read_model,
    say,
    start_grader,
)
from curiojax.training.state import TrainState
from curiojax.training.stopping import stop_signal
from curiojax.training.update import Scalars


def run_grpo(config: RunConfig, *, name: str = "training", details: bool = True) -> Result:
    """Trains, or continues, or finds the run finished; writes everything into the run directory.

    Args:
      config: the run, of stage `grpo`.
      name: what the progress bar and the report call it.
      details: print what follows from the config and the memory it needs.

    Raises:
      ConfigError: the input is wrong; raised before anything is compiled or written.
    """
    directory = run_directory(config)
    if jax.process_count() > 1:
        raise ConfigError(
            "stage: grpo runs in one process, which may have many devices; start it once"
        )
    with ExitStack() as stack:
        # ---- look at everything that can be wrong ----------------------------------------
        check_loggers(config.logging)
        models.check_target(directory / "hf")
        benchmarks = read_benchmarks(config)
        grader = stack.enter_context(start_grader(config, benchmarks))
        mesh = make_mesh(**config.mesh.model_dump())
        model, fingerprint = read_model(config)
        plan.check_fit(config, model, mesh)
        tokenizer = load_tokenizer(require(config.model.path, "model.path"))
        prompts = build_prompt_data(config, tokenizer, grader)
        held_out = prepare(config, benchmarks, grader, tokenizer, model)
        ours = identity(config, fingerprint, prompts.fingerprint)
        check_claim(directory, ours)
        steps = config.steps or 0
        if details:
            progress.print_pairs(str(directory), plan.derived_rl(config, model, prompts, mesh))
        for warning in (*config.objective.warnings, *plan.warnings(config, steps)):
            say(f"warning: {warning}")

        checkpoints = stack.enter_context(opened(config, directory, ours))
        if checkpoints.latest() == steps and (result := finished(directory, with_view=False)):
            say(f"{directory}: finished already")
            return result

        # ---- compile ---------------------------------------------------------------------
        recipe = Recipe(config, model, mesh, steps)
        with progress.status(f"{name}: compiling the updates"):
            step = compile_policy_step(recipe)
        check_memory(recipe, step, held_out, show=details)

        # ---- train -----------------------------------------------------------------------
        state = starting_state(recipe, checkpoints)
        engine = start_engine(recipe, state, directory, held_out.call if held_out else None)
        stack.callback(engine.close)
        collector = Collector(config, prompts, engine, grader, tokenizer)
        try:
            state = train(
                recipe,
                step,
                state,
                prompts,
                engine,
                collector,
                held_out,
                checkpoints,
                directory,
                name,
            )
        except RolloutError as error:
            raise ConfigError(
                f"rollout.engine: {error}; the same command continues from the last checkpoint"
            ) from error
        checkpoints.close()

        # ---- hand over -------------------------------------------------------------------
        export(state.params, model, config, directory / "hf")
        return describe(config, directory, name)


def train(
    recipe: Recipe,
    step: PolicyStep,
    state: TrainState,
    prompts: PromptData,
    engine: Rollout,
    collector: Collector,
    held_out: HeldOut | None,
    checkpoints: Checkpoints,
    directory: Path,
    name: str,
) -> TrainState:
    """The loop: one round of completions and the updates made from it per turn.

    With `max_staleness: 1` the next round is sampled beside the updates, from the weights before
    them. It is finished and written down before a checkpoint is, so that a run which is continued
    learns from the same completions.
    """
    config, steps = recipe.config, recipe.total_steps
    start = int(state.step)
    writer = MetricsWriter(directory, config.logging, start, config.model_dump(mode="json"))
    bad_steps, warned = 0, False
    bar = progress.bar(name, total=steps, done=start)
    with (
        jax.set_mesh(recipe.mesh),
        writer,
        bar,
        stop_signal() as stop,
        Ahead(collector, prompts, directory, concurrent=config.rollout.engine == "vllm") as ahead,
    ):
        if held_out is not None and start == 0 and not writer.has(0):
            writer.write({"step": 0, **held_out.evaluate(engine, recipe, state.params)})
        for number in range(start, steps):
            clock = Clock()

            def show(sampled: str, done: int = number) -> None:
                bar.update(done, sampled=sampled)

            found = ahead.take(number, stale=bool(config.max_staleness), progress=show)
            if config.max_staleness and number + 1 < steps:
                ahead.begin(number + 1, version=number)
            with clock("sync"):
                engine.sleep()

            # ---- what the completions are worth ------------------------------------------
            updates = [
                place_update(recipe, trajectories)
                for trajectories in trajectories_of(recipe, found, prompts)
            ]
            # ---- log-probs of the policy that the step starts with --------------------------
            with clock("log_probs"):
                scores = [
                    step.score(state, batches, on_policy=index == 0)
                    for index, batches in enumerate(updates)
                ]
                jax.block_until_ready(scores)
            # ---- learn -------------------------------------------------------------------
            results: list[Scalars] = []
            with clock("update"):
                for index, (batches, known) in enumerate(zip(updates, scores, strict=True)):
                    state, scalars = step(state, batches, known, index + 1 == len(updates))
                    results.append(scalars)
                results = jax.device_get(results)
            # ---- hand the weights over ---------------------------------------------------
            done = number + 1
            if config.max_staleness:
                ahead.wait()
            with clock("sync"):
                synced = engine.sync(state.params, done)

            metrics = {
                "step": done,
                **update_metrics(recipe, results),
                **round_metrics(config, found),
                **guided_metrics(config, found, prompts, number),
                **clock.seconds(found),
                "sync_gigabytes_per_second": synced.gigabytes_per_second,
            }
            if held_out is not None and held_out.is_due(done, steps):
                metrics |= held_out.evaluate(engine, recipe, state.params, show)
            writer.write(metrics)
            if not warned and (warning := mismatch_warning(metrics)):
                warned = True
                say(f"warning: step {done}: {warning}")
            shown = ("reward", "entropy", "response_tokens", "step_seconds")
            bar.update(done, **{key: metrics[key] for key in shown})
            bad_steps = 0 if not metrics["skipped"] else bad_steps + 1
            is_lost = bad_steps >= config.optimizer.skip_limit
            forget_rounds(directory, rounds_kept(config), number)

            stopping = stop.after(done)
            if done % config.checkpoint.every == 0 or done == steps or stopping or is_lost:
                checkpoints.save(state)
            if is_lost:
                checkpoints.wait()
                raise diverged(config, done, directory)
            if stopping:
                break
        checkpoints.wait()
        if int(state.step) < steps:
            raise KeyboardInterrupt
    return state
