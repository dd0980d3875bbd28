"""The LM head and the loss in chunks of tokens: logits [B, T, V] never exist.

One chunk is a slice of `T` across all rows, so a batch axis that is split over devices stays split.
Its logits live in float32 for the length of one scan step, in which the gradients with respect to
hidden states and head are formed as well (`jax.vjp` of the per-token loss in the chunk's logits,
so any objective works, supervised or policy). The backward pass has nothing left to do but to scale
them: three products with the head instead of the four of `jax.checkpoint`, and one evaluation of
the loss, not two.

The teacher goes first, in a pass of its own that leaves scalars per token. Inside a rematerialised
chunk its head and its search would run twice. Only an objective that compares whole distributions
forms the teacher's logits here, chunk by chunk beside the student's, from its hidden states.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from curiojax.losses.chunks import chunking, head_logits, valid_hidden
from curiojax.losses.own_tokens import POLICY_LOSSES
from curiojax.losses.policy import policy_token_loss, score
from curiojax.losses.supervised import per_token_loss, teacher_targets
from curiojax.losses.temperature import entropy, log_softmax_parts

if TYPE_CHECKING:
    from curiojax.objectives import AnyObjective, Policy

Metrics = dict[str, jax.Array]
Teacher = tuple[jax.Array, jax.Array]

# Where `per_token_loss` takes what is known about each token beforehand.
_GIVEN = {
    "teacher_log_prob": "teacher_log_probs",
    "old_log_prob": "old_log_probs",
    "selected": "selected",
    "suppressed": "suppressed",
}
_GIVEN_POLICY = {
    *("advantages", "old_log_probs", "on_policy", "sampler_log_probs", "ref_log_probs"),
    *("given", "sequence_entropy", "selected"),
}


class _How(NamedTuple):
    """What is static about a loss in chunks."""

    objective: Any
    temperature: float
    chunk_tokens: int
    num_shards: int

    @property
    def is_policy(self) -> bool:
        return self.objective.name in POLICY_LOSSES


def teacher_pass(
    objective: AnyObjective,
    head: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    chunk_tokens: int = 1024,
    num_shards: int = 1,
) -> Metrics:
    """`teacher_targets` of every token, from the teacher's hidden states.

    Args:
      objective: an objective with a teacher, a base model or a snapshot.
      head: that model's output projection `[V, D]`.
      hidden: its final hidden states `[B, T, D]`; their dtype is that of the product.
      labels, mask: `[B, T]`; targets are 0 where the mask is 0.
      chunk_tokens, num_shards: as in `chunked_loss`.

    Returns:
      float32 `[B, T]` arrays named as in `teacher_targets`. No gradient.
    """

    def targets_of(logits, labels):
        return teacher_targets(objective, logits, labels)

    return _score(targets_of, head, hidden, labels, mask, chunk_tokens, num_shards)


def entropy_pass(
    head: jax.Array,
    hidden: jax.Array,
    mask: jax.Array,
    *,
    chunk_tokens: int = 1024,
    num_shards: int = 1,
) -> jax.Array:
    """Entropy of every token, in nats, float32 `[B, T]`; 0 where the mask is 0. No gradient.

    For objectives that choose tokens by their entropy before the loss is taken. Arguments as in
    `teacher_pass`.
    """

    def entropy_of(logits, labels):
        return {"entropy": entropy(*log_softmax_parts(logits))}

    labels = jnp.zeros(mask.shape, jnp.int32)
    scores = _score(entropy_of, head, hidden, labels, mask, chunk_tokens, num_shards)
    return scores["entropy"]


def log_prob_pass(
    head: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
    num_shards: int = 1,
) -> Metrics:
    """Log-probability of every label, and entropy: the old or reference policy of a policy loss.

    Args:
      temperature: of the rollouts; divides the logits.
      head, hidden, labels, mask, chunk_tokens, num_shards: as in `teacher_pass`.

    Returns:
      `log_prob` and `entropy` (nats), float32 `[B, T]`, 0 where the mask is 0. No gradient.

    Raises:
      ValueError: the temperature is not positive.
    """

    def scores_of(logits, labels):
        return score(logits, labels, temperature)

    return _score(scores_of, head, hidden, labels, mask, chunk_tokens, num_shards)


def _score(function, head, hidden, labels, mask, chunk_tokens, num_shards) -> Metrics:
    """`function(logits [N, V], labels [N])` of all tokens, chunk by chunk, without a gradient."""
    head, hidden = jax.lax.stop_gradient((head.astype(hidden.dtype), hidden))
    split, join, _ = chunking(hidden.shape, chunk_tokens, num_shards)

    def one_chunk(_, chunk):
        hidden, labels, mask = chunk
        kept = mask.reshape(-1) != 0
        logits = jnp.where(kept[:, None], head_logits(valid_hidden(hidden, mask), head), 0)
        scores = function(logits, jnp.where(kept, labels.reshape(-1), 0))
        scores = jax.tree.map(lambda x: jnp.where(kept, x, 0).reshape(mask.shape), scores)
        return None, scores

    _, scores = jax.lax.scan(one_chunk, None, (split(hidden), split(labels), split(mask)))
    return jax.tree.map(join, scores)


def chunked_loss(
    objective: AnyObjective | Policy,
    head: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    targets: Metrics | None = None,
    *,
    teacher: Teacher | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
    num_shards: int = 1,
    reference: bool = False,
) -> tuple[jax.Array, Metrics]:
    """Sum of the per-token losses, without ever holding `[B, T, V]`.

    Args:
      objective: a model of `curiojax.objectives`.
      head: output projection `[V, D]`. Split over `fsdp`, it should be gathered before the call, or
        XLA may gather it once per chunk; split over `tensor` in V, it stays so.
      hidden: final hidden states `[B, T, D]`. The products run in their dtype and accumulate in
        float32; everything between the products is float32.
      labels: int `[B, T]`.
      mask: float `[B, T]`, the weight of each token in the sum; 0 leaves it out (see
        `per_token_loss`), and its hidden state gets a zero gradient.
      targets: what is known about each token beforehand, `[B, T]`: what `teacher_pass` returned,
        `selected` (needed by `Entropy` with `top_fraction` below 1, since a chunk cannot know the
        quantile of all tokens) and `suppressed` (for `Oxa`). A policy objective takes `advantages`
        (also `[B, 1]`) and what else `policy_token_loss` is given: `old_log_probs` (left out, the
        ratio is exactly 1, as it is in the first update after a rollout), `on_policy` (the same,
        token by token), `sampler_log_probs`, `ref_log_probs`, `given`, `sequence_entropy`,
        `selected`.
      teacher: head `[V, D]` and hidden states `[B, T, D]` of the other model, for objectives with
        `needs_teacher_logits`; D may differ from the student's.
      temperature: of the rollouts, for policy objectives; divides the logits.
      chunk_tokens: tokens of one chunk on each of the `num_shards` groups of devices. The largest
        buffers are some float32 `[chunk_tokens, V]`.
      num_shards: over how many groups of devices B is split (data x fsdp). Each sums the head's
        gradient over its own tokens in float32, `[num_shards, V, D]` in all, and the partial sums
        meet once, after the last chunk.
      reference: the same by `jax.checkpoint` and automatic differentiation, for tests.

    Returns:
      `sum(mask * loss)`, float32 `[]`, to be divided by a global count by the caller, and the
      metrics of `per_token_loss` (or `policy_token_loss`) as float32 `[B, T]`, which carry no
      gradient. Gradients flow to `head` (in its dtype) and `hidden` only.

    Raises:
      ValueError: B is not a multiple of `num_shards`, something the objective needs is missing, or
        a temperature that it has no use for.
    """
    how = _How(objective, temperature, chunk_tokens, num_shards)
    mask = mask.astype(jnp.float32)
    names = _GIVEN_POLICY if how.is_policy else _GIVEN
    given = {name: x for name, x in (targets or {}).items() if name in names}
    if how.is_policy and "advantages" not in given:
        raise ValueError(f"{objective.name}: needs targets['advantages'] of all tokens")
    if how.is_policy:
        given["advantages"] = jnp.broadcast_to(given["advantages"], mask.shape)
    if not how.is_policy and temperature != 1:
        raise ValueError(f"{objective.name}: a temperature is for policy objectives only")
    if getattr(objective, "selects_tokens", False) and "selected" not in given:
        raise ValueError("entropy: top_fraction below 1 needs targets['selected'] of all tokens")
    if teacher is not None:
        teacher = teacher[0].astype(teacher[1].dtype), teacher[1]
    run = _reference if reference else _fused
    constants = jax.lax.stop_gradient((labels, mask, given, teacher))
    return run(how, head, hidden, *constants)


def _teacher_logits(teacher_head, teacher_hidden, mask) -> jax.Array | None:
    if teacher_head is None:
        return None
    return head_logits(valid_hidden(teacher_hidden, mask), teacher_head)


def _chunk_loss(how: _How, logits, labels, mask, targets: Metrics, teacher_logits):
    """Weighted loss of one chunk and its metrics `[S, N]`, from logits `[S * N, V]`."""
    given = {name: x.reshape(-1) for name, x in targets.items()}
    if how.is_policy:
        loss, metrics = policy_token_loss(
            how.objective,
            logits,
            labels.reshape(-1),
            mask=mask.reshape(-1),
            temperature=how.temperature,
            **given,
        )
    else:
        loss, metrics = per_token_loss(
            how.objective,
            logits,
            labels.reshape(-1),
            teacher_logits=teacher_logits,
            mask=mask.reshape(-1),
            **{_GIVEN[name]: x for name, x in given.items()},
        )
    metrics = {name: x.reshape(mask.shape) for name, x in metrics.items()}
    # Per shard first: one sum over devices after the scan instead of one per chunk.
    return (mask * loss.reshape(mask.shape)).sum(axis=-1), metrics


def _reference(how: _How, head, hidden, labels, mask, targets, teacher):
    split, join, _ = chunking(hidden.shape, how.chunk_tokens, how.num_shards)
    weights = head.astype(hidden.dtype)
    teacher_head, teacher_hidden = teacher or (None, None)

    @jax.checkpoint
    def one_chunk(total, chunk):
        hidden, labels, mask, targets, teacher_hidden = chunk
        logits = head_logits(valid_hidden(hidden, mask), weights)
        others = _teacher_logits(teacher_head, teacher_hidden, mask)
        losses, metrics = _chunk_loss(how, logits, labels, mask, targets, others)
        return total + losses, metrics

    start = jnp.zeros((how.num_shards,), jnp.float32)
    chunks = jax.tree.map(split, (hidden, labels, mask, targets, teacher_hidden))
    losses, metrics = jax.lax.scan(one_chunk, start, chunks)
    return losses.sum(), jax.tree.map(join, jax.lax.stop_gradient(metrics))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(how: _How, head, hidden, *constants):
    # Without differentiation no gradient is formed.
    return _reference(how, head, hidden, *constants)


def _fused_forward(how: _How, head, hidden, labels, mask, targets, teacher):
    split, join, _ = chunking(hidden.shape, how.chunk_tokens, how.num_shards)
    weights = head.astype(hidden.dtype)
    teacher_head, teacher_hidden = teacher or (None, None)

    def one_chunk(carry, chunk):
        total, head_grads = carry
        hidden, labels, mask, targets, teacher_hidden = chunk
        hidden = valid_hidden(hidden, mask)
        others = _teacher_logits(teacher_head, teacher_hidden, mask)

        def loss_of(logits):
            return _chunk_loss(how, logits, labels, mask, targets, others)

        losses, pullback, metrics = jax.vjp(loss_of, head_logits(hidden, weights), has_aux=True)
        (grads,) = pullback(jnp.ones_like(losses))
        grads = grads.reshape(*mask.shape, -1).astype(hidden.dtype)
        hidden_grads = jnp.einsum(
            "snv,vd->snd", grads, weights, preferred_element_type=jnp.float32
        ).astype(hidden.dtype)
        head_grads += jnp.einsum("snv,snd->svd", grads, hidden, preferred_element_type=jnp.float32)
        return (total + losses, head_grads), (hidden_grads, metrics)

    start = (
        jnp.zeros((how.num_shards,), jnp.float32),
        jnp.zeros((how.num_shards, *head.shape), jnp.float32),
    )
    chunks = jax.tree.map(split, (hidden, labels, mask, targets, teacher_hidden))
    (losses, head_grads), (hidden_grads, metrics) = jax.lax.scan(one_chunk, start, chunks)
    # Kept in float32 until the backward pass has scaled them; a zero-sized array carries the dtype.
    residual = head_grads.sum(axis=0), join(hidden_grads), jnp.zeros((0,), head.dtype)
    return (losses.sum(), jax.tree.map(join, metrics)), residual


def _fused_backward(how: _How, residual, cotangents):
    head_grads, hidden_grads, witness = residual
    scale, _ = cotangents
    head_grads = (scale * head_grads).astype(witness.dtype)
    hidden_grads = (scale * hidden_grads.astype(jnp.float32)).astype(hidden_grads.dtype)
    return head_grads, hidden_grads, None, None, None, None


_fused.defvjp(_fused_forward, _fused_backward)
