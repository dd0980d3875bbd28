"""Weights that follow the student: teacher, frozen reference and snapshot, as optax-style states.

A follower is a pair of pure functions, `init(params) -> state` and `update(params, state) ->
state`. The paper's teacher, a snapshot every n steps and a frozen reference are the same mechanism
with other numbers; which of them a run keeps follows from its objective.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from curiojax import models
from curiojax.config import RunConfig
from curiojax.models import ModelConfig
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


class QuantisedTeacher(NamedTuple):
    """A `TeacherState` whose pass is run in eight bits.

    Attributes:
    params, count: as in `TeacherState`; what a checkpoint holds.
    quantised: what follows from `params`, kept because it changes as rarely as they do (see
      `curiojax.models.quantise_params`).
    """

    params: PyTree
    count: jax.Array
    quantised: PyTree


AnyTeacher = TeacherState | QuantisedTeacher


class Follower(NamedTuple):
    """Attributes:
    init: `params -> TeacherState`.
    update: `(params, TeacherState) -> TeacherState`, after every update of the student.
    every: updates between two moves; None: it never moves.
    quantise: `params -> quantised`, where its pass is run in eight bits.
    """

    init: Callable[[PyTree], TeacherState]
    update: Callable[[PyTree, TeacherState], TeacherState]
    every: int | None
    quantise: Callable[[PyTree], PyTree] | None = None

    def lag(self, state: AnyTeacher) -> jax.Array:
        """Updates since the follower last moved, int32 []."""
        return state.count if self.every is None else state.count % self.every

    def complete(self, state: TeacherState) -> AnyTeacher:
        """The state with all that a pass needs; quantises at once."""
        if self.quantise is None:
            return state
        return QuantisedTeacher(*state, self.quantise(state.params))

    def requantise(self, state: TeacherState, quantised: PyTree) -> PyTree:
        """What `complete` would give after an `update`, made anew only if the follower moved."""
        assert self.quantise is not None

        def keep(_: PyTree) -> PyTree:
            return quantised

        return jax.lax.cond(self.lag(state) == 0, self.quantise, keep, state.params)


def persistent(state: AnyTeacher) -> TeacherState:
    """The part of a follower's state that nothing else gives."""
    return TeacherState(state.params, state.count)


def weights_run(state: AnyTeacher) -> PyTree:
    """The weights that the follower's pass is run with."""
    if isinstance(state, QuantisedTeacher):
        return models.with_quantised(state.params, state.quantised)
    return state.params


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


def follower_of(config: RunConfig, model: ModelConfig) -> Follower | None:
    """What the run's objective compares the student with; None where that is nothing."""
    objective, precision = config.objective, config.teacher.precision
    if not objective.needs_teacher:
        return None
    match objective:
        case Curio():
            teacher = ema_teacher(config.teacher.step_size, config.teacher.every)
            if precision == "same":
                return teacher
            quantise = partial(models.quantise_params, config=model, precision=precision)
            return teacher._replace(quantise=quantise)
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
