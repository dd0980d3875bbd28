"""AdamW with global-norm clipping, and the learning-rate schedule of the released code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from curiojax.config import Optimizer


def learning_rate(config: Optimizer, steps: int, step: jax.Array) -> jax.Array:
    """Learning rate of update number `step` (from 0), float32 [].

    Linear from `min_lr_ratio` to 1 over `warmup_steps`, then cosine to `min_lr_ratio`, reached at
    `steps * lr_horizon_multiplier` and kept from there. The paper's "cosine" is this schedule; the
    released code stretches it fourfold. With `schedule: constant` it stays at 1 after the warm-up.
    """
    s = step.astype(jnp.float32)
    floor, warmup = config.min_lr_ratio, config.warmup_steps
    horizon = max(steps * config.lr_horizon_multiplier, warmup + 1.0)
    rising = floor + (1.0 - floor) * s / max(warmup, 1)
    if config.schedule == "constant":
        return config.learning_rate * jnp.where(s < warmup, rising, 1.0)
    progress = jnp.clip((s - warmup) / (horizon - warmup), 0.0, 1.0)
    falling = floor + (1.0 - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return config.learning_rate * jnp.where(s < warmup, rising, falling)


def make_optimizer(config: Optimizer) -> optax.GradientTransformation:
    """AdamW without its learning rate, which the step multiplies in (`-learning_rate * update`).

    Keeping the rate outside makes it a function of the run's step, so that a skipped update does
    not shift the schedule. Weight decay acts on all parameters, as released.
    """
    b1, b2 = config.betas
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )

    def update(updates, state, params=None):
        # optax mixes Python floats and integer counts, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)
