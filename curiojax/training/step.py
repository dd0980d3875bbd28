"""One optimiser update as three jitted programs.

    teacher_pass(teacher, batch)              -> targets   teacher's verdict per token, no gradient
    accumulate(params, sums, batch, targets)  -> sums      adds one micro-batch's gradient sums
    update(state, sums)                       -> state     divides once, clips, AdamW, teacher

A step calls the first two once per micro-batch and the third once. `teacher` stands for whatever
the objective compares the student with: a teacher that follows it, an earlier student, or the base
model. Objectives without one have no first program. An entropy bonus for the step's top tokens has
`survey(params, batch) -> entropy` in its place, whose results for all micro-batches decide who gets
it. How many micro-batches a step needs depends on how its records pack; keeping that count on the
host means that nothing is recompiled for it (but for the sort that picks those top tokens). The
teacher comes first because everything it contributes is a constant of the student's gradient:
inside a rematerialised loss its head and its search would run twice.

Every program is compiled ahead of time for one fixed shape, so a change of shape is an error rather
than a silent recompilation, and the memory it needs is known before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from curiojax import models
from curiojax.config import RunConfig
from curiojax.losses import lm_head
from curiojax.losses.tokens import top_share
from curiojax.models import ModelConfig
from curiojax.models.weights import gathered
from curiojax.objectives import Entropy
from curiojax.sharding import named_sharding, num_batch_shards
from curiojax.training import statistics
from curiojax.training.optimizer import learning_rate, make_optimizer
from curiojax.training.state import TrainState, abstract_state, shardings_of
from curiojax.training.teacher import Follower, follower_of, relative_distance

PyTree = Any
Batch = dict[str, jax.Array]

BATCH_DTYPES = {
    "tokens": jnp.int32,
    "labels": jnp.int32,
    "positions": jnp.int32,
    "segment_ids": jnp.int32,
    "loss_mask": jnp.float32,
}


class Sums(NamedTuple):
    """What micro-batches add up to: a step divides `grads` and `loss` by `weight`, once.

    Attributes:
      grads: gradient of the summed loss, float32, shaped and sharded like the parameters.
      loss: summed loss, float32 [].
      weight: summed loss mask of the tokens that are learnt (not of those to unlearn), float32 [].
      stats: see `curiojax.training.statistics`.
    """

    grads: PyTree
    loss: jax.Array
    weight: jax.Array
    stats: statistics.Stats


class Scalars(NamedTuple):
    """A step's results on the device: float32 [] each, beside the statistics."""

    loss: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array
    finite: jax.Array
    teacher_lag: jax.Array
    teacher_distance: jax.Array
    stats: statistics.Stats


@dataclass(frozen=True)
class Recipe:
    """What the three programs are built from.

    Attributes:
      config: the run.
      model: the architecture, with compute dtype and rematerialisation set.
      mesh: the devices.
      total_steps: length of the run, for the learning-rate schedule.
    """

    config: RunConfig
    model: ModelConfig
    mesh: Mesh
    total_steps: int

    @property
    def teacher(self) -> Follower | None:
        """The update rule of the second set of weights, where the objective needs one."""
        return follower_of(self.config)

    @property
    def selection(self) -> Entropy | None:
        """The objective, if it treats the tokens of highest entropy unlike the others."""
        objective = self.config.objective
        return objective if isinstance(objective, Entropy) and objective.selects_tokens else None

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer)

    def abstract_state(self) -> TrainState:
        return abstract_state(self.model, self.optimizer, self.teacher, self.mesh)

    @property
    def batch_dtypes(self) -> dict[str, Any]:
        """The arrays of a micro-batch."""
        if not self.config.objective.needs_suppressed:
            return BATCH_DTYPES
        return {**BATCH_DTYPES, "suppressed": jnp.float32}

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.config.rows_per_microbatch, self.config.row_length)
        sharding = named_sharding(self.mesh, ("batch", "length"))
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, dtype in self.batch_dtypes.items()
        }


def head_of(params: PyTree, model: ModelConfig) -> jax.Array:
    """The LM head [V, D] in the compute dtype, cast and then gathered over fsdp, once per pass."""
    head = models.head_weight(params, model)
    return gathered(head, ("vocab", "embed"), jnp.dtype(model.compute_dtype or head.dtype))


def teacher_pass(recipe: Recipe, teacher_params: PyTree, batch: Batch) -> dict[str, jax.Array]:
    """What the objective needs of the second model.

    Float32 [B, T] scalars (see `curiojax.losses.teacher_targets`); or, where its logits are needed,
    which are formed beside the student's, `teacher_hidden` [B, T, D] in the compute dtype.
    """
    # Without a backward pass there is nothing to rematerialise.
    model = replace(recipe.model, remat="none")
    hidden = models.forward(
        teacher_params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    if recipe.config.objective.needs_teacher_logits:
        return {"teacher_hidden": hidden}
    return lm_head.teacher_pass(
        recipe.config.objective,
        head_of(teacher_params, model),
        hidden,
        batch["labels"],
        batch["loss_mask"],
        **_chunks(recipe),
    )


def teacher_head(recipe: Recipe, teacher_params: PyTree) -> dict[str, jax.Array]:
    """What `summed_loss` needs of the second model's weights, as stored."""
    if not recipe.config.objective.needs_teacher_logits:
        return {}
    return {"teacher_head": models.head_weight(teacher_params, recipe.model)}


def survey(recipe: Recipe, params: PyTree, batch: Batch) -> jax.Array:
    """The student's entropy at every token, float32 [B, T]."""
    model = replace(recipe.model, remat="none")
    hidden = models.forward(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    return lm_head.entropy_pass(
        head_of(params, model), hidden, batch["loss_mask"], **_chunks(recipe)
    )


def select(share: float, entropies: list[jax.Array], masks: list[jax.Array]) -> list[jax.Array]:
    """Float32 0 or 1 [B, T] of each micro-batch: is the token in the top share of all of them?"""
    chosen = top_share(jnp.stack(entropies), jnp.stack(masks) > 0, share)
    return list(chosen.astype(jnp.float32))


def _chunks(recipe: Recipe) -> dict[str, Any]:
    return {
        "chunk_tokens": recipe.config.loss.chunk_tokens,
        "num_shards": num_batch_shards(recipe.mesh),
    }


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
        found = lm_head.entropy_pass(head, hidden, mask, **_chunks(recipe))
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
        **_chunks(recipe),
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


def add_sums(a: Sums, b: Sums) -> Sums:
    grads, loss, weight = jax.tree.map(jnp.add, a[:3], b[:3])
    return Sums(grads, loss, weight, statistics.add(a.stats, b.stats))


def empty_sums(like: Sums) -> Sums:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return zeros._replace(stats=statistics.empty(like.stats))


def apply_update(recipe: Recipe, state: TrainState, sums: Sums) -> tuple[TrainState, Scalars]:
    """Divides once, clips, takes the AdamW step and lets the teacher follow.

    A non-finite gradient leaves weights and optimiser as they were; the step still counts, for the
    learning rate and for the teacher.
    """
    weight = jnp.maximum(sums.weight, 1e-8)
    grads = jax.tree.map(lambda g: g / weight, sums.grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(grad_norm)
    rate = learning_rate(recipe.config.optimizer, recipe.total_steps, state.step)

    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    teacher = state.teacher
    lag, distance = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    if recipe.teacher is not None:
        teacher = recipe.teacher.update(params, teacher)
        lag = recipe.teacher.lag(teacher).astype(jnp.float32)
        distance = relative_distance(params, teacher.params)

    state = TrainState(state.step + 1, params, opt_state, teacher, state.rng)
    loss = sums.loss / weight
    scalars = Scalars(loss, grad_norm, rate, finite.astype(jnp.float32), lag, distance, sums.stats)
    return state, scalars


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
    """

    recipe: Recipe
    teacher_pass: Callable | None
    survey: Callable | None
    select: Callable
    accumulate: Callable
    update: Callable
    zeros: Callable

    def __call__(self, state: TrainState, batches: list[Batch]) -> tuple[TrainState, Scalars]:
        return self.update(state, self.gradient_sums(state, batches))

    def gradient_sums(self, state: TrainState, batches: list[Batch]) -> Sums:
        """The sums of all micro-batches of a step."""
        sums = self.zeros()
        selected = None
        if self.survey is not None:
            entropies = [self.survey(state.params, batch) for batch in batches]
            selected = self.select(entropies, [batch["loss_mask"] for batch in batches])
        for index, batch in enumerate(batches):
            targets = None
            if self.teacher_pass is not None:
                targets = self.teacher_pass(state.teacher.params, batch)
                targets |= teacher_head(self.recipe, state.teacher.params)
            elif selected is not None:
                targets = {"selected": selected[index]}
            sums = self.accumulate(state.params, sums, batch, targets)
        return sums

    def memory(self) -> dict[str, Any]:
        """XLA's memory analysis of each program, by name."""
        programs = {
            "teacher_pass": self.teacher_pass,
            "survey": self.survey,
            "accumulate": self.accumulate,
            "update": self.update,
        }
        return {n: p.memory_analysis() for n, p in programs.items() if p is not None}


def compile_step(recipe: Recipe) -> Step:
    """Lowers and compiles the three programs for the recipe's mesh and shapes."""
    state, batch = recipe.abstract_state(), recipe.abstract_batch()
    replicated = named_sharding(recipe.mesh, ())
    by_row = named_sharding(recipe.mesh, ("batch", "length"))

    chosen = recipe.selection

    with jax.set_mesh(recipe.mesh):
        targets = run_teacher = run_survey = None
        if recipe.teacher is not None:
            lowered = jax.jit(lambda p, b: teacher_pass(recipe, p, b), out_shardings=by_row).lower(
                state.teacher.params, batch
            )
            run_teacher = lowered.compile()
            targets = _with_sharding(lowered.out_info, by_row)
            targets |= teacher_head(recipe, state.teacher.params)
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
        update = (
            jax.jit(
                lambda state, sums: apply_update(recipe, state, sums),
                donate_argnums=0,
                out_shardings=(shardings_of(state), replicated),
            )
            .lower(state, sums)
            .compile()
        )
    return Step(recipe, run_teacher, run_survey, run_select, accumulate, update, zeros)


def _with_sharding(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), tree)
