"""The RL stage: sample, grade, update, hand the weights over, again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from curiojax import models, progress
from curiojax.config import RunConfig, to_yaml
from curiojax.data.prompts import PromptData
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.losses import group_advantages, handle_overlong
from curiojax.reports.training import write_training_report
from curiojax.rewards.pool import RewardPool
from curiojax.rollout.base import Rollout, RolloutError
from curiojax.sharding import make_mesh
from curiojax.training import plan
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.engines import start_engine
from curiojax.training.experience import Trajectory, microbatches
from curiojax.training.grpo_metrics import Clock, mismatch_warning, round_metrics, update_metrics
from curiojax.training.memory import memory_budget
from curiojax.training.metrics import MetricsWriter, check_loggers, read_metrics
from curiojax.training.policy_step import PolicyStep, compile_policy_step
from curiojax.training.recipe import Recipe, place
from curiojax.training.result import Result, export
from curiojax.training.rounds import (
    Collector,
    Round,
    forget_rounds,
    read_round,
    round_path,
    write_round,
)
from curiojax.training.run_directory import (
    check_claim,
    claim,
    identity,
    lock,
    require,
    run_directory,
)
from curiojax.training.setup import build_prompt_data, initial_state, read_model, say
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
        reward = config.reward
        grader = stack.enter_context(
            RewardPool(
                reward.verifier,
                reward.format,
                workers=reward.workers,
                timeout_seconds=reward.timeout_seconds,
                memory_limit_mb=reward.memory_limit_mb,
            )
        )
        mesh = make_mesh(**config.mesh.model_dump())
        model, fingerprint = read_model(config)
        plan.check_fit(config, model, mesh)
        tokenizer = load_tokenizer(require(config.model.path, "model.path"))
        prompts = build_prompt_data(config, tokenizer, grader)
        ours = identity(config, fingerprint, prompts.fingerprint)
        check_claim(directory, ours)
        steps = config.steps or 0
        if details:
            progress.print_pairs(str(directory), plan.derived_rl(config, model, prompts, mesh))
        for warning in (*config.objective.warnings, *plan.warnings(config, steps)):
            say(f"warning: {warning}")

        stack.enter_context(lock(directory))
        claim(directory, config, ours)
        checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint, ours)
        if checkpoints.latest() == steps and (result := finished(directory)):
            say(f"{directory}: finished already")
            return result

        # ---- compile ---------------------------------------------------------------------
        recipe = Recipe(config, model, mesh, steps)
        with progress.status(f"{name}: compiling the updates"):
            step = compile_policy_step(recipe)
        budget = memory_budget(recipe, step)
        if details:
            progress.print_pairs("memory per device", budget)

        # ---- resume, or start from the checkpoint given ----------------------------------
        state = checkpoints.restore(recipe.abstract_state(), report=say)
        if state is None:
            state = initial_state(recipe)
        elif int(state.step) < steps:
            say(f"continuing after step {int(state.step)}")

        # ---- train -----------------------------------------------------------------------
        engine = start_engine(recipe, state, directory)
        stack.callback(engine.close)
        collector = Collector(config, prompts, engine, grader, tokenizer)
        try:
            state = train(
                recipe, step, state, prompts, engine, collector, checkpoints, directory, name
            )
        except RolloutError as error:
            raise ConfigError(
                f"rollout.engine: {error}; the same command continues from the last checkpoint"
            ) from error
        checkpoints.close()

        # ---- hand over -------------------------------------------------------------------
        export(state.params, model, config, directory / "hf")
        return describe(recipe, directory, name)


def train(
    recipe: Recipe,
    step: PolicyStep,
    state: TrainState,
    prompts: PromptData,
    engine: Rollout,
    collector: Collector,
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
                **clock.seconds(found),
                "sync_gigabytes_per_second": synced.gigabytes_per_second,
            }
            writer.write(metrics)
            if not warned and (warning := mismatch_warning(metrics)):
                warned = True
                say(f"warning: step {done}: {warning}")
            shown = ("reward", "entropy", "response_tokens", "step_seconds")
            bar.update(done, **{key: metrics[key] for key in shown})
            bad_steps = 0 if not metrics["skipped"] else bad_steps + 1
            diverged = bad_steps >= config.optimizer.skip_limit
            forget_rounds(directory, rounds_kept(config), number)

            stopping = stop.after(done)
            if done % config.checkpoint.every == 0 or done == steps or stopping or diverged:
                checkpoints.save(state)
            if diverged:
                checkpoints.wait()
                raise ConfigError(
                    f"optimizer.learning_rate: {bad_steps} steps in a row had non-finite "
                    f"gradients; the run stopped after step {done}; start a run with a lower "
                    "learning rate in another output_dir"
                )
            if stopping:
                break
        checkpoints.wait()
        if int(state.step) < steps:
            raise KeyboardInterrupt
    return state


def rounds_kept(config: RunConfig) -> int | None:
    """How many rounds stay on disk: stale ones at least until a checkpoint needs them no more."""
    keep = config.rollout.keep_steps
    return max(keep, config.checkpoint.every + 1) if keep and config.max_staleness else keep


class Ahead:
    """Rounds in the order of the steps, at most one of them under way beside the updates.

    Args:
      collector: makes them.
      prompts: what they are made from.
      directory: the run directory; a round is written there before anybody learns from it.
      concurrent: whether a round may be under way while the trainer's devices are busy. The sampler
        that shares these devices would gain nothing, and is run first.
    """

    def __init__(
        self, collector: Collector, prompts: PromptData, directory: Path, *, concurrent: bool
    ):
        self._collector, self._prompts, self._directory = collector, prompts, directory
        self._threads = ThreadPoolExecutor(1, "rollouts") if concurrent else None
        self._begun: tuple[int, Future[Round]] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def begin(self, step: int, version: int) -> None:
        """Starts the round of a step with the weights that the engine holds now."""
        if self._threads is None:
            future: Future[Round] = Future()
            future.set_result(self._make(step, version))
        else:
            future = self._threads.submit(self._make, step, version)
        self._begun = step, future

    def wait(self) -> None:
        """Until the round that is under way is written down."""
        if self._begun is not None:
            self._begun[1].result()

    def take(
        self, step: int, *, stale: bool, progress: Callable[[str], None] | None = None
    ) -> Round:
        """The round of a step: the one begun for it, that of the run before, or a fresh one."""
        if self._begun is not None and self._begun[0] == step:
            found, self._begun = self._begun[1].result(), None
            return found
        if stale and step > 0:
            found = read_round(round_path(self._directory, step))
            if found is not None and found.version == step - 1:
                return found
            say(f"warning: step {step + 1}: its completions are lost; sampled again, less stale")
        return self._make(step, step, progress)

    def _make(
        self, step: int, version: int, progress: Callable[[str], None] | None = None
    ) -> Round:
        found = self._collector.collect(step, version, progress)
        texts = [self._collector.texts(group.completions) for group in found.groups]
        write_round(round_path(self._directory, step), found, self._prompts, texts)
        return found


def trajectories_of(
    recipe: Recipe, found: Round, prompts: PromptData
) -> Iterator[list[Trajectory]]:
    """What each update of the step learns from, with its advantages."""
    objective: Any = recipe.config.objective
    size = recipe.config.prompts_per_update
    for start in range(0, len(found.groups), size):
        groups = found.groups[start : start + size]
        rewards, learnt = handle_overlong(
            objective.overlong, [g.rewards for g in groups], [g.truncated for g in groups]
        )
        advantages = np.asarray(group_advantages(rewards, objective.normalize_std))
        yield [
            Trajectory(
                prompts.ids[group.prompt],
                completion.tokens,
                completion.log_probs,
                float(advantages[i, j]),
                bool(learnt[i, j]),
            )
            for i, group in enumerate(groups)
            for j, completion in enumerate(group.completions)
        ]


def place_update(recipe: Recipe, trajectories: Sequence[Trajectory]) -> list[Any]:
    """The micro-batches of an update on the devices."""
    config = recipe.config
    arrays = microbatches(
        trajectories,
        config.objective,  # type: ignore[arg-type]
        rows=config.rows_per_microbatch,
        row_length=config.row_length,
        max_length=config.rollout.max_response_tokens,
        packing=config.data.packing,
    )
    return list(place(arrays, recipe.mesh))


def describe(recipe: Recipe, directory: Path, name: str) -> Result:
    """The report. The model is safe by now, so a failure here is a warning."""
    metrics = read_metrics(directory / "metrics.jsonl")
    try:
        write_training_report(
            directory / "report.html",
            title=f"{name}: {recipe.config.objective.name}",
            runs={name: metrics},
            table=None,
            token_view=None,
            notes=[],
            config_text=to_yaml(recipe.config),
        )
    except Exception as error:
        say(f"warning: the report could not be written ({type(error).__name__}: {error})")
    return Result(directory, metrics, None)


def finished(directory: Path) -> Result | None:
    """The result of a run that has written everything, from its files."""
    metrics = read_metrics(directory / "metrics.jsonl")
    parts = (directory / "hf" / "config.json", directory / "report.html")
    if not metrics or not all(part.is_file() for part in parts):
        return None
    return Result(directory, metrics, None)
