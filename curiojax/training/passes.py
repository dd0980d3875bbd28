"""What a step learns about its tokens before the loss is taken, without a gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from curiojax import models
from curiojax.losses import lm_head
from curiojax.losses.tokens import top_share
from curiojax.training.recipe import Batch, Recipe, chunks_of, head_of

PyTree = Any


def teacher_pass(recipe: Recipe, teacher_params: PyTree, batch: Batch) -> dict[str, jax.Array]:
    """What the objective needs of the second model, given its `weights_run`.

    Float32 [B, T] scalars (see `curiojax.losses.teacher_targets`); or, where its logits are needed,
    which are formed beside the student's, `teacher_hidden` [B, T, D] in the compute dtype.
    """
    # Without a backward pass there is nothing to rematerialise.
    model = replace(recipe.model, remat="none")
    hidden = models.forward(
        teacher_params, model, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    objective: Any = recipe.config.objective
    if objective.needs_teacher_logits:
        return {"teacher_hidden": hidden}
    return lm_head.teacher_pass(
        objective,
        head_of(teacher_params, model),
        hidden,
        batch["labels"],
        batch["loss_mask"],
        **chunks_of(recipe),
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
        head_of(params, model), hidden, batch["loss_mask"], **chunks_of(recipe)
    )


def select(share: float, entropies: list[jax.Array], masks: list[jax.Array]) -> list[jax.Array]:
    """Float32 0 or 1 [B, T] of each micro-batch: is the token in the top share of all of them?"""
    chosen = top_share(jnp.stack(entropies), jnp.stack(masks) > 0, share)
    return list(chosen.astype(jnp.float32))
