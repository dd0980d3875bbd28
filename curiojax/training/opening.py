"""How a run begins, whatever its stage: its directory, its memory, and the state it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.config import RunConfig
from curiojax.distributed import check_shared
from curiojax.errors import ConfigError
from curiojax.training.checkpoint import Checkpoints
from curiojax.training.held_out import HeldOut
from curiojax.training.memory import memory_budget
from curiojax.training.policy_step import PolicyStep
from curiojax.training.recipe import Recipe
from curiojax.training.run_directory import claim, lock
from curiojax.training.setup import initial_state, say
from curiojax.training.state import TrainState, completed_state, persistent_state
from curiojax.training.step import Step


@contextmanager
def opened(config: RunConfig, directory: Path, ours: dict[str, Any]) -> Iterator[Checkpoints]:
    """The checkpoints of the run directory, which nobody else writes to meanwhile.

    Args:
      ours: the run's `identity`, after `check_claim`.

    Raises:
      ConfigError: another process has it, or it cannot be written to.
    """
    with lock(directory):
        claim(directory, config, ours)
        check_shared(directory)
        yield Checkpoints(directory / "checkpoints", config.checkpoint, ours)


def check_memory(
    recipe: Recipe, step: Step | PolicyStep, held_out: HeldOut | None, *, show: bool
) -> None:
    """Prints the memory that the run needs, if `show`.

    Raises:
      ConfigError: there is less.
    """
    budget = memory_budget(recipe, step, held_out.call if held_out else None)
    if show:
        progress.print_pairs("memory per device", budget)


def starting_state(recipe: Recipe, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest checkpoint; where there is none, the one before the first step."""
    like = recipe.abstract_state()
    state = checkpoints.restore(persistent_state(like), report=say)
    if state is None:
        return initial_state(recipe)
    state = completed_state(state, like, recipe.teacher)
    if int(state.step) < recipe.total_steps:
        say(f"continuing after step {int(state.step)}")
    return state


def diverged(config: RunConfig, done: int, directory: Path) -> ConfigError:
    """What ends a run whose gradients are not finite any more."""
    return ConfigError(
        f"optimizer.learning_rate: {config.optimizer.skip_limit} steps in a row had non-finite "
        f"gradients; the run stopped after step {done} with a checkpoint in "
        f"{directory / 'checkpoints'}; inspect the data, or start a run with a lower learning rate "
        "in another output_dir"
    )
