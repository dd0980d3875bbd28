"""Weights that follow the student: teacher, frozen reference and snapshot, as optax-style states.

A follower is a pair of pure functions, `init(params) -> state` and `update(params, state) ->
state`. The paper's teacher, a snapshot every n steps and a frozen reference are the same mechanism
with other numbers; which of them a run keeps follows from its objective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from curiojax.config import RunConfig
from curiojax.objectives import Curio, Kl, Psft, RatioObjective

PyTree = Any


class TeacherState(NamedTuple):
    """Attributes:
    params: the follower's weights, float32.
    count: int32 [], updates seen since `init`; the follower moved when it was last a multiple of
      its period.
    """

    params: PyTree
    count: jax.Array


class Follower(NamedTuple):
    """Attributes:
    init: `params -> TeacherState`.
    update: `(params, TeacherState) -> TeacherState`, after every update of the student.
    every: updates between two moves; None: it never moves.
    """

    init: Callable[[PyTree], TeacherState]
    update: Callable[[PyTree, TeacherState], TeacherState]
    every: int | None

    def lag(self, state: TeacherState) -> jax.Array:
        """Updates since the follower last moved, int32 []."""
        return state.count if self.every is None else state.count % self.every


def ema_teacher(step_size: float = 0.99, every: int | None = 5) -> Follower:
    """teacher <- (1 - step_size) teacher + step_size student, after every `every`-th update.

    Paper, Algorithm 1, line 17, literally and as released. Note the direction: with 0.99 the
    teacher is nearly a copy of the student that lags by up to `every` updates, not a slow average.
    The weights are float32, since a move of a bfloat16 weight by a fraction of a
    learning-rate-sized step would round to nothing.

    Args:
      step_size: weight of the student, in [0, 1]; 1 is a snapshot.
      every: updates between two moves; None: never.

    Raises:
      ValueError: for a step size outside [0, 1] or a period below 1.
    """
    if not 0.0 <= step_size <= 1.0:
        raise ValueError(f"step_size must be in [0, 1], not {step_size}")
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, not {every}")

    def init(params: PyTree) -> TeacherState:
        # A copy, not an alias: the student's buffers are donated to its own update.
        copy = jax.tree.map(lambda p: jnp.array(p, dtype=jnp.float32, copy=True), params)
        return TeacherState(copy, jnp.zeros((), jnp.int32))

    def update(params: PyTree, state: TeacherState) -> TeacherState:
        count = state.count + 1
        if every is None:
            return TeacherState(state.params, count)

        def move(teacher: PyTree) -> PyTree:
            student = jax.tree.map(lambda p: p.astype(jnp.float32), params)
            return optax.incremental_update(student, teacher, step_size)

        moved = jax.lax.cond(count % every == 0, move, lambda teacher: teacher, state.params)
        return TeacherState(moved, count)

    return Follower(init, update, every)


def snapshot(every: int) -> Follower:
    """The student as it was up to `every` updates ago."""
    return ema_teacher(1.0, every)


def frozen_reference() -> Follower:
    """The weights that the run started from."""
    return ema_teacher(every=None)


def follower_of(config: RunConfig) -> Follower | None:
    """What the run's objective compares the student with; None where that is nothing."""
    objective = config.objective
    if not objective.needs_teacher:
        return None
    match objective:
        case Curio():
            return ema_teacher(config.teacher.step_size, config.teacher.every)
        case Kl() | RatioObjective():
            return frozen_reference()
        case Psft():
            return snapshot(objective.updates_per_snapshot)
        case _:
            raise ValueError(f"objective {objective.name!r} needs a teacher, but no rule moves one")


def relative_distance(params: PyTree, teacher: PyTree) -> jax.Array:
    """||student - teacher|| / ||student||, float32 []."""
    difference = jax.tree.map(lambda p, t: p.astype(jnp.float32) - t, params, teacher)
    return optax.tree.norm(difference) / jnp.maximum(optax.tree.norm(params), 1e-30)
