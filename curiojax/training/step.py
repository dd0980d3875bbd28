"""One optimiser update as three jitted programs.

    teacher_pass(weights, batch)              -> targets   teacher's verdict per token, no gradient
    accumulate(params, sums, batch, targets)  -> sums      adds one micro-batch's gradient sums
    update(state, sums)                       -> state     divides once, clips, AdamW, teacher

A step calls the first two once per micro-batch and the third once. `weights` are those of whatever
the objective compares the student with: a teacher that follows it, an earlier student, or the base
model. Where they are run in eight bits, a fourth program follows the update and quantises them anew
if they have moved. Objectives without one have no first program. An entropy bonus for the step's
top tokens has `survey(params, batch) -> entropy` in its place, whose results for all micro-batches
decide who gets it. How many micro-batches a step needs depends on how its records pack; keeping
that count on the host means that nothing is recompiled for it (but for the sort that picks those
top tokens). The teacher comes first because everything it contributes is a constant of the
student's gradient: inside a rematerialised loss its head and its search would run twice.

Every program is compiled ahead of time for one fixed shape, so a change of shape is an error rather
than a silent recompilation, and the memory it needs is known before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from curiojax import models
from curiojax.losses import lm_head
from curiojax.models.weights import gathered
from curiojax.sharding import named_sharding
from curiojax.training import statistics
from curiojax.training.passes import select, survey, teacher_head, teacher_pass
from curiojax.training.recipe import Batch, Recipe, chunks_of, head_of
from curiojax.training.state import TrainState, persistent_state, shardings_of
from curiojax.training.teacher import Follower, QuantisedTeacher, persistent, weights_run
from curiojax.training.update import Scalars, Sums, add_sums, apply_update, empty_sums

PyTree = Any


def summed_loss(
    recipe: Recipe, params: PyTree, batch: Batch, targets: dict[str, jax.Array] | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of the masked per-token losses, and the per-token metrics [B, T].

    Args:
      targets: of `teacher_pass`, with those of `teacher_head`, or `selected` from `select`. Where
        tokens are selected and it is missing, they are selected within this micro-batch.
    """
    model = recipe.model
    targets = dict(targets or {})
    hidden = models.forward(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    head = head_of(params, model)
    mask = batch["loss_mask"]
    if recipe.selection and "selected" not in targets:
        found = lm_head.entropy_pass(head, hidden, mask, **chunks_of(recipe))
        (targets["selected"],) = select(recipe.selection.top_fraction, [found], [mask])
    if "suppressed" in batch:
        targets["suppressed"] = batch["suppressed"]
    teacher = None
    if "teacher_hidden" in targets:
        theirs: jax.Array = targets.pop("teacher_hidden")
        weights: Any = gathered(targets.pop("teacher_head"), ("vocab", "embed"), theirs.dtype)
        teacher = weights, theirs
    loss, tokens = lm_head.chunked_loss(
        recipe.config.objective,
        head,
        hidden,
        batch["labels"],
        mask,
        targets,
        teacher=teacher,
        **chunks_of(recipe),
    )
    return loss, {**targets, **tokens}


def measure_microbatch(
    recipe: Recipe, params: PyTree, batch: Batch, targets: dict[str, jax.Array] | None
) -> Sums:
    """Gradient sums and statistics of one micro-batch."""

    def loss_fn(p):
        return summed_loss(recipe, p, batch, targets)

    (loss, tokens), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    mask = batch["loss_mask"]
    stats = statistics.measure(recipe.config.objective, tokens, mask > 0, recipe.model.vocab_size)
    stats.sums["positions"] = jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32))
    stats.sums["slots"] = jnp.asarray(mask.size, jnp.float32)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    learnt = mask * (1 - batch["suppressed"]) if "suppressed" in batch else mask
    return Sums(grads, loss, jnp.sum(learnt), stats)


@dataclass(frozen=True)
class Step:
    """The compiled programs of a recipe; calling it performs one optimiser update.

    Attributes:
      recipe: what they were compiled from.
      teacher_pass: None where the objective needs no second model.
      survey: None unless the objective selects tokens among those of the whole step.
      select: `(entropies, masks) -> selected`, lists with one [B, T] for each micro-batch. The only
        program that is compiled anew for another number of micro-batches; it is a sort.
      zeros: makes the empty sums.
      requantise: `(TeacherState, quantised) -> quantised`; None where the teacher's pass is not run
        in eight bits.
    """

    recipe: Recipe
    teacher_pass: Callable | None
    survey: Callable | None
    select: Callable
    accumulate: Callable
    update: Callable
    zeros: Callable
    requantise: Callable | None = None

    def __call__(self, state: TrainState, batches: list[Batch]) -> tuple[TrainState, Scalars]:
        new, scalars = self.update(persistent_state(state), self.gradient_sums(state, batches))
        if self.requantise is not None:
            # A program of its own, so that what it makes of given weights is always the same.
            quantised = self.requantise(new.teacher, state.teacher.quantised)
            new = new._replace(
                teacher=QuantisedTeacher(new.teacher.params, new.teacher.count, quantised)
            )
        return new, scalars

    def gradient_sums(self, state: TrainState, batches: list[Batch]) -> Sums:
        """The sums of all micro-batches of a step."""
        sums = self.zeros()
        selected = None
        if self.survey is not None:
            entropies = [self.survey(state.params, batch) for batch in batches]
            selected = self.select(entropies, [batch["loss_mask"] for batch in batches])
        weights = None if self.teacher_pass is None else weights_run(state.teacher)
        for index, batch in enumerate(batches):
            targets = None
            if self.teacher_pass is not None:
                targets = self.teacher_pass(weights, batch)
                targets |= teacher_head(self.recipe, state.teacher.params)
            elif selected is not None:
                targets = {"selected": selected[index]}
            sums = self.accumulate(state.params, sums, batch, targets)
        return sums

    @property
    def programs(self) -> dict[str, Any]:
        """The compiled programs of a step, by name."""
        programs = {
            "teacher_pass": self.teacher_pass,
            "survey": self.survey,
            "accumulate": self.accumulate,
            "update": self.update,
            "requantise": self.requantise,
        }
        return {name: program for name, program in programs.items() if program is not None}

    def memory(self) -> dict[str, Any]:
        """XLA's memory analysis of each program, by name."""
        return {name: program.memory_analysis() for name, program in self.programs.items()}


def compile_step(recipe: Recipe) -> Step:
    """Lowers and compiles the three programs for the recipe's mesh and shapes."""
    state, batch = recipe.abstract_state(), recipe.abstract_batch()
    replicated = named_sharding(recipe.mesh, ())
    by_row = named_sharding(recipe.mesh, ("batch", "length"))

    chosen = recipe.selection

    with jax.set_mesh(recipe.mesh):
        targets = run_teacher = run_survey = requantise = None
        if recipe.teacher is not None:
            lowered = jax.jit(lambda p, b: teacher_pass(recipe, p, b), out_shardings=by_row).lower(
                weights_run(state.teacher), batch
            )
            run_teacher = lowered.compile()
            targets = _with_sharding(lowered.out_info, by_row)
            targets |= teacher_head(recipe, state.teacher.params)
            if isinstance(state.teacher, QuantisedTeacher):
                requantise = _compile_requantise(recipe.teacher, state.teacher)
        elif chosen is not None and chosen.scope == "batch":
            lowered = jax.jit(lambda p, b: survey(recipe, p, b), out_shardings=by_row).lower(
                state.params, batch
            )
            run_survey = lowered.compile()
            targets = {"selected": _with_sharding(lowered.out_info, by_row)}
        share = chosen.top_fraction if chosen else 1.0
        run_select = jax.jit(lambda e, m: select(share, e, m), out_shardings=by_row)

        def measure(params, batch, targets):
            return measure_microbatch(recipe, params, batch, targets)

        shapes = jax.eval_shape(measure, state.params, batch, targets)
        rest = jax.tree.map(lambda s: replicated, shapes._replace(grads=None))
        sum_shardings = rest._replace(grads=shardings_of(state.params))
        sums = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            sum_shardings,
        )
        zeros = jax.jit(lambda: empty_sums(shapes), out_shardings=sum_shardings).lower().compile()
        accumulate = (
            jax.jit(
                lambda params, sums, batch, targets: add_sums(
                    sums, measure(params, batch, targets)
                ),
                donate_argnums=1,
                out_shardings=sum_shardings,
            )
            .lower(state.params, sums, batch, targets)
            .compile()
        )
        kept = persistent_state(state)
        update = (
            jax.jit(
                lambda state, sums: apply_update(recipe, state, sums),
                donate_argnums=0,
                out_shardings=(shardings_of(kept), replicated),
            )
            .lower(kept, sums)
            .compile()
        )
    return Step(recipe, run_teacher, run_survey, run_select, accumulate, update, zeros, requantise)


def _compile_requantise(follower: Follower, teacher: QuantisedTeacher) -> Callable:
    shardings = shardings_of(teacher.quantised)
    run = jax.jit(follower.requantise, donate_argnums=1, out_shardings=shardings)
    return run.lower(persistent(teacher), teacher.quantised).compile()


def _with_sharding(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), tree)
