"""One update of the policy, as three jitted programs.

    log_probs(params, batch)                   -> scores   what the old policy (or the reference)
                                                            gives each token, no gradient
    accumulate(params, sums, batch, scores)    -> sums     adds one micro-batch's gradient sums
    update(state, sums, last)                  -> state    divides once, clips, AdamW

The old policy is the trainer's own at the start of the step, never the sampler's record of it: the
two differ by numerics, and their ratio would be clipped for no reason. In the first update after a
rollout the old policy is the current one, and the ratio is exactly 1 because it is taken from the
very same numbers. All programs are compiled ahead of time for one shape of micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from curiojax import models
from curiojax.losses import lm_head
from curiojax.losses.sequences import sequence_means
from curiojax.sharding import named_sharding
from curiojax.training import statistics
from curiojax.training.experience import INTEGERS, float_arrays
from curiojax.training.prefixes import top_given
from curiojax.training.recipe import Batch, Recipe, chunks_of, head_of, place
from curiojax.training.state import TrainState, shardings_of
from curiojax.training.update import Scalars, Sums, add_sums, apply_update, empty_sums

PyTree = Any
Scores = dict[str, jax.Array]


def abstract_batch(recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a micro-batch of `curiojax.training.experience`."""
    shape = (recipe.config.rows_per_microbatch, recipe.config.row_length)
    sharding = named_sharding(recipe.mesh, ("batch", "length"))
    objective: Any = recipe.config.objective
    dtypes = dict.fromkeys(INTEGERS, jnp.int32)
    dtypes |= dict.fromkeys(float_arrays(objective), jnp.float32)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }


def log_probs(recipe: Recipe, params: PyTree, batch: Batch) -> Scores:
    """`log_probs` of every label at the rollouts' temperature, float32 [B, T].

    Where the objective selects among the tokens that were given, also `given_entropy`: the entropy
    at these, nats, and -1 everywhere else.
    """
    model = replace(recipe.model, remat="none")
    hidden = models.forward(
        params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    scores = lm_head.log_prob_pass(
        head_of(params, model),
        hidden,
        batch["labels"],
        batch["loss_mask"],
        temperature=recipe.config.rollout.temperature,
        **chunks_of(recipe),
    )
    found = {"log_probs": scores["log_prob"]}
    if recipe.config.objective.selects_given:  # type: ignore[union-attr]
        candidates = (batch["given"] > 0) & (batch["loss_mask"] > 0)
        found["given_entropy"] = jnp.where(candidates, scores["entropy"], -1.0)
    return found


def measure_microbatch(recipe: Recipe, params: PyTree, batch: Batch, scores: Scores) -> Sums:
    """Gradient sums and statistics of one micro-batch.

    Args:
      scores: `old_log_probs`, `on_policy` (1: the old policy is the current one, and the former are
        not looked at) and, where the objective has a reference, `ref_log_probs`, or selects
        among the tokens that were given, `selected`; [B, T] each.
    """
    model, objective = recipe.model, recipe.config.objective
    mask = batch["loss_mask"]
    names = ("advantages", "sampler_log_probs", "given")
    known = {name: batch[name] for name in names if name in batch} | scores
    how: dict[str, Any] = {"temperature": recipe.config.rollout.temperature, **chunks_of(recipe)}

    def loss_fn(p: PyTree) -> tuple[jax.Array, Scores]:
        hidden = models.forward(p, model, batch["tokens"], batch["positions"], batch["segment_ids"])
        head, targets = head_of(p, model), dict(known)
        if objective.needs_sequence_entropy:  # type: ignore[union-attr]
            found = lm_head.log_prob_pass(head, hidden, batch["labels"], mask, **how)
            targets["sequence_entropy"] = sequence_means(
                found["entropy"], mask, batch["segment_ids"]
            )
        return lm_head.chunked_loss(objective, head, hidden, batch["labels"], mask, targets, **how)

    (loss, tokens), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    stats = statistics.measure(objective, tokens, mask > 0, model.vocab_size)
    stats.sums["positions"] = jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32))
    stats.sums["slots"] = jnp.asarray(mask.size, jnp.float32)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    return Sums(grads, loss, jnp.sum(batch["loss_share"]), stats)


@dataclass(frozen=True)
class PolicyStep:
    """The compiled programs of a recipe.

    Attributes:
      recipe: what they were compiled from.
      log_probs: `(params, batch) -> {name: [B, T]}`.
      accumulate, update, zeros: as in `curiojax.training.step.Step`.
    """

    recipe: Recipe
    log_probs: Callable
    accumulate: Callable
    update: Callable
    zeros: Callable

    def score(
        self, state: TrainState, batches: Sequence[Batch], *, on_policy: bool
    ) -> list[Scores]:
        """What every micro-batch of an update needs to know before it, at the start of the step.

        Args:
          on_policy: the update is the step's first, so that the old policy need not be asked for
            log-probs. For entropies it is asked all the same.
        """
        found, entropies = [], []
        objective: Any = self.recipe.config.objective
        for batch in batches:
            flag = jnp.full_like(batch["loss_mask"], float(on_policy))
            asked = {}
            if objective.selects_given or not on_policy:
                asked = self.log_probs(state.params, batch)
            old = jnp.zeros_like(flag) if on_policy else asked["log_probs"]
            scores = {"old_log_probs": old, "on_policy": flag}
            if self.recipe.teacher is not None:
                ours = self.log_probs(state.teacher.params, batch)
                scores["ref_log_probs"] = ours["log_probs"]
            found.append(scores)
            entropies.append(asked.get("given_entropy"))
        if objective.selects_given:
            # The devices are done with all micro-batches by then, and wait for so little.
            chosen = top_given(jax.device_get(entropies), objective.entropy_share)
            placed = place({"selected": chosen}, self.recipe.mesh)
            found = [scores | more for scores, more in zip(found, placed, strict=True)]
        return found

    def __call__(
        self, state: TrainState, batches: Sequence[Batch], scores: Sequence[Scores], last: bool
    ) -> tuple[TrainState, Scalars]:
        """One update; `last` says whether it ends the step."""
        sums = self.zeros()
        for batch, known in zip(batches, scores, strict=True):
            sums = self.accumulate(state.params, sums, batch, known)
        return self.update(state, sums, jnp.int32(last))

    @property
    def programs(self) -> dict[str, Any]:
        """The compiled programs of an update, by name."""
        return {
            "log_probs": self.log_probs,
            "accumulate": self.accumulate,
            "update": self.update,
        }

    def memory(self) -> dict[str, Any]:
        """XLA's memory analysis of each program, by name."""
        return {name: program.memory_analysis() for name, program in self.programs.items()}


def compile_policy_step(recipe: Recipe) -> PolicyStep:
    """Lowers and compiles the programs for the recipe's mesh and shapes."""
    state, batch = recipe.abstract_state(), abstract_batch(recipe)
    replicated = named_sharding(recipe.mesh, ())
    by_row = named_sharding(recipe.mesh, ("batch", "length"))
    selects = recipe.config.objective.selects_given  # type: ignore[union-attr]
    names = ["old_log_probs", "on_policy"] + ["ref_log_probs"] * (recipe.teacher is not None)
    scores = dict.fromkeys([*names, *["selected"] * selects], batch["loss_mask"])
    # Whole on every device, so that every process of a cluster can read all of it.
    asked = {"log_probs": by_row} | ({"given_entropy": replicated} if selects else {})

    def measure(params, batch, scores):
        return measure_microbatch(recipe, params, batch, scores)

    def update(state, sums, last):
        new, scalars = apply_update(recipe, state, sums)
        return new._replace(step=state.step + last), scalars

    with jax.set_mesh(recipe.mesh):
        run_log_probs = jax.jit(lambda p, b: log_probs(recipe, p, b), out_shardings=asked)
        shapes = jax.eval_shape(measure, state.params, batch, scores)
        rest = jax.tree.map(lambda s: replicated, shapes._replace(grads=None))
        shardings = rest._replace(grads=shardings_of(state.params))
        sums = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        zeros = jax.jit(lambda: empty_sums(shapes), out_shardings=shardings)
        accumulate = jax.jit(
            lambda params, sums, batch, scores: add_sums(sums, measure(params, batch, scores)),
            donate_argnums=1,
            out_shardings=shardings,
        )
        run_update = jax.jit(
            update, donate_argnums=0, out_shardings=(shardings_of(state), replicated)
        )
        last = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
        return PolicyStep(
            recipe,
            run_log_probs.lower(state.params, batch).compile(),
            accumulate.lower(state.params, sums, batch, scores).compile(),
            run_update.lower(state, sums, last).compile(),
            zeros.lower().compile(),
        )
