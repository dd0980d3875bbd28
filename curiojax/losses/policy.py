"""Policy losses per token: the clipped ratio of PPO with a group's advantages, and its company.

Up to three policies have given each token a log-probability: the one being trained (lp), the one at
the start of the update (lp_old, recomputed by the trainer), and the sampler's copy of that one,
apart by numerics or by a step of staleness. With r = exp(lp - lp_old), the advantage A and the
loss l of a token:

    l = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))    PPO (arXiv 1707.06347)
    l = min(l, -A dual_clip) where A < 0                      dual clip (arXiv 1912.09729)
    l = l * min(exp(lp_old - lp_sampler), tis_cap)            truncated importance sampling
    l = l + kl_coef * KL - entropy_coef * H

The ratio and the importance weight are two corrections for two gaps: the first is clipped and
differentiated, the second is a constant. Log-ratios are clamped to +-20 before `exp`, as in verl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from curiojax.losses.demonstrations import GIVEN_LOSSES
from curiojax.losses.divergences import estimate, mismatch
from curiojax.losses.own_tokens import POLICY_LOSSES, PolicyTokens
from curiojax.losses.tokens import Metrics, label_log_probs

if TYPE_CHECKING:
    from curiojax.objectives import Policy


def policy_loss(
    objective: Policy,
    log_probs: jax.Array,
    old_log_probs: jax.Array | None,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    sampler_log_probs: jax.Array | None = None,
    ref_log_probs: jax.Array | None = None,
    entropy: jax.Array | None = None,
    given: jax.Array | None = None,
    sequence_entropy: jax.Array | None = None,
    selected: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """The loss of every token, not reduced; see `aggregate`.

    Args:
      objective: a policy objective of `curiojax.objectives`; static under `jax.jit`.
      log_probs: `[B, T]` (or any shape) of the sampled tokens under the policy being trained, at
        the temperature of the rollouts. The gradient flows through these, and the entropy.
      old_log_probs: the same at the start of the update, or None for the first update after it: the
        policy's own, without gradient, so that the ratio is exactly 1.
      advantages: `[B, 1]` or `[B, T]`, see `group_advantages`.
      mask: `[B, T]`, 0 leaves a token out: loss, gradient and metrics are 0 there, whatever the
        other arrays hold (also NaN). Other values select, they do not scale.
      sampler_log_probs: `[B, T]` as recorded by the sampler, under its softmax over the whole
        vocabulary, before any top-p or top-k cut; needed with `tis_cap`.
      ref_log_probs: `[B, T]` under the reference; needed with `kl_coef` above 0.
      entropy: `[B, T]` in nats of the policy being trained; needed with `entropy_coef` above 0.
      given: `[B, T]`, not 0 where the token was given and not drawn by the policy, as those of a
        demonstration are; their loss is that of `curiojax.losses.demonstrations`, without
        importance weight and penalty. Only for objectives that learn from such; None: none is.
      sequence_entropy: `[B, T]`, mean entropy (nats) of the tokens of each token's sequence; needed
        by `Srft`. A constant.
      selected: `[B, T]`, of the tokens that were given, not 0 where they are learnt; the others
        have neither loss nor entropy bonus. Needed by objectives with `selects_given`.

    Returns:
      The loss, float32 `[B, T]`, and float32 `[B, T]` metrics without gradient: `policy_loss`
      (without penalty and bonus), `ratio`, the flags `clipped_high`, `clipped_low` and
      `dual_clipped` (1 where the bound is in force, so that the ratio has no gradient), `old_kl`
      (log-probability before minus now); with `ref_log_probs` the estimates `kl_k1` and `kl_k3` of
      KL(policy || reference) and, if it is in the loss, `kl`; with `sampler_log_probs` the
      estimates `mismatch_k1` and `mismatch_k3` of KL(sampler || old), `mismatch_abs`
      (|lp_old - lp_sampler|), `tis_weight` (neither truncated nor in the loss where the objective
      has no `tis_cap`), `tis_weight_squared` (see `effective_sample_share`) and `tis_capped`; with
      `given` itself, `given_loss` and `given_prob`; and of `Srft` `sft_weight`, `positive_weight`
      and the flags `positive` and `negative`. `given_loss`, `given_prob` and `sft_weight` mean
      something at given tokens only, the others only at the policy's own.

    Raises:
      ValueError: unknown objective, something that it needs is missing, or shapes that do not fit.
    """
    if objective.name not in POLICY_LOSSES:
        known = ", ".join(POLICY_LOSSES)
        raise ValueError(f"objective {objective.name!r} has no policy loss; known: {known}")
    kl_coef = getattr(objective, "kl_coef", 0.0)
    entropy_coef = getattr(objective, "entropy_coef", 0.0)
    tis_cap = getattr(objective, "tis_cap", None)
    _need(objective, tis_cap is not None, "tis_cap", sampler_log_probs, "sampler_log_probs")
    _need(objective, kl_coef > 0, "kl_coef above 0", ref_log_probs, "ref_log_probs")
    _need(objective, entropy_coef > 0, "entropy_coef above 0", entropy, "entropy")
    weighs = objective.needs_sequence_entropy
    _need(objective, weighs, "its weight", sequence_entropy, "sequence_entropy")
    chooses = objective.selects_given and given is not None
    _need(objective, chooses, "entropy_share below 1", selected, "selected")
    valid = mask.astype(bool)

    # Before and after: a NaN that is only thrown away afterwards still reaches the gradient.
    def keep(x: jax.Array, name: str) -> jax.Array:
        if x.shape != valid.shape:
            raise ValueError(f"{name} must be of shape {valid.shape}, like mask, not {x.shape}")
        return jnp.where(valid, x.astype(jnp.float32), 0)

    def constant(x: jax.Array, name: str) -> jax.Array:
        return jax.lax.stop_gradient(keep(x, name))

    log_probs = keep(log_probs, "log_probs")
    if advantages.ndim == valid.ndim and advantages.shape[-1] == 1:
        advantages = jnp.broadcast_to(advantages, valid.shape)
    advantages = constant(advantages, "advantages")
    if old_log_probs is None:
        old = jax.lax.stop_gradient(log_probs)
    else:
        old = constant(old_log_probs, "old_log_probs")
    gap = log_probs - old
    tokens = PolicyTokens(log_probs, old, gap, advantages)
    if sequence_entropy is not None:
        tokens = tokens._replace(sequence_entropy=constant(sequence_entropy, "sequence_entropy"))
    if selected is not None:
        tokens = tokens._replace(selected=constant(selected, "selected"))
    loss, metrics = POLICY_LOSSES[objective.name](objective, tokens)
    metrics["old_kl"] = -gap
    if sampler_log_probs is not None:
        found = mismatch(old, constant(sampler_log_probs, "sampler_log_probs"), tis_cap)
        metrics |= found
        if tis_cap is not None:
            loss = found["tis_weight"] * loss
    metrics["policy_loss"] = loss
    if ref_log_probs is not None:
        gap = log_probs - constant(ref_log_probs, "ref_log_probs")
        metrics |= {f"kl_{k}": estimate(k, gap) for k in ("k1", "k3")}
        if kl_coef > 0:
            metrics["kl"] = estimate(getattr(objective, "kl_estimator", "k3"), gap)
            loss = loss + kl_coef * metrics["kl"]
    bonus = keep(entropy, "entropy") if entropy is not None and entropy_coef > 0 else None
    if given is not None:
        theirs = constant(given, "given") != 0
        given_loss, more = GIVEN_LOSSES[objective.name](objective, tokens)
        loss = jnp.where(theirs, given_loss, loss)
        metrics |= {"given": theirs.astype(jnp.float32), "given_loss": given_loss, **more}
        metrics["given_prob"] = jnp.exp(log_probs)
        if bonus is not None and tokens.selected is not None:
            bonus = jnp.where(theirs & (tokens.selected == 0), 0, bonus)
    if bonus is not None:
        loss = loss - entropy_coef * bonus
    metrics = jax.lax.stop_gradient(metrics)
    return jnp.where(valid, loss, 0), {k: jnp.where(valid, x, 0) for k, x in metrics.items()}


def _need(objective: Policy, needed: bool, option: str, given, name: str) -> None:
    if needed and given is None:
        raise ValueError(f"{objective.name}: {option} needs {name}")


def policy_token_loss(
    objective: Policy,
    logits: jax.Array,
    labels: jax.Array,
    *,
    mask: jax.Array,
    advantages: jax.Array,
    temperature: float = 1.0,
    old_log_probs: jax.Array | None = None,
    on_policy: jax.Array | None = None,
    sampler_log_probs: jax.Array | None = None,
    ref_log_probs: jax.Array | None = None,
    given: jax.Array | None = None,
    sequence_entropy: jax.Array | None = None,
    selected: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """`policy_loss` of tokens `[N]` from the policy's logits `[N, V]` before the temperature.

    Args:
      labels: int `[N]`, the sampled tokens.
      temperature: of the rollouts; divides the logits, for the entropy as well.
      on_policy: bool or 0 and 1 `[N]`: tokens whose old policy is the one being trained, so that
        `old_log_probs` is not looked at and the ratio is exactly 1. The same program then serves
        the first update after a rollout and the later ones.

    Returns:
      As `policy_loss`, `[N]`, with the metrics `log_prob` and `entropy` (nats) beside its own.
    """
    valid = mask.astype(bool)
    logits = jnp.where(valid[:, None], logits.astype(jnp.float32), 0)
    scores = score(logits, jnp.where(valid, labels, 0), temperature)
    if on_policy is not None and old_log_probs is not None:
        own = jax.lax.stop_gradient(scores["log_prob"])
        old_log_probs = jnp.where(on_policy.astype(bool), own, old_log_probs)
    loss, metrics = policy_loss(
        objective,
        scores["log_prob"],
        old_log_probs,
        advantages,
        mask,
        sampler_log_probs=sampler_log_probs,
        ref_log_probs=ref_log_probs,
        entropy=scores["entropy"],
        given=given,
        sequence_entropy=sequence_entropy,
        selected=selected,
    )
    kept = {k: jnp.where(valid, jax.lax.stop_gradient(x), 0) for k, x in scores.items()}
    return loss, {**kept, **metrics}


def score(logits: jax.Array, labels: jax.Array, temperature: float) -> Metrics:
    """`log_prob` of the labels and `entropy`, `[N]`, of softmax(logits / temperature)."""
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    log_prob, entropy = label_log_probs(logits / temperature, labels)
    return {"log_prob": log_prob, "entropy": entropy}
