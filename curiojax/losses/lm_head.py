"""The LM head and the loss in chunks of tokens: logits [B, T, V] never exist.

One chunk is a slice of `T` across all rows, so a batch axis that is split over devices stays split.
Its logits live in float32 for the length of one scan step, in which the gradients with respect to
hidden states and head are formed as well (`jax.vjp` of the per-token loss in the chunk's logits,
so any objective works). The backward pass has nothing left to do but to scale them: three products
with the head instead of the four of `jax.checkpoint`, and one evaluation of the loss, not two.

The teacher goes first, in a pass of its own that leaves scalars per token. Inside a rematerialised
chunk its head and its search would run twice. Only an objective that compares whole distributions
forms the teacher's logits here, chunk by chunk beside the student's, from its hidden states.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from curiojax.losses.supervised import per_token_loss, teacher_targets
from curiojax.losses.temperature import entropy, log_softmax_parts

if TYPE_CHECKING:
    from curiojax.objectives import AnyObjective

Metrics = dict[str, jax.Array]
Teacher = tuple[jax.Array, jax.Array]

# Where `per_token_loss` takes what is known about each token beforehand.
_GIVEN = {
    "teacher_log_prob": "teacher_log_probs",
    "old_log_prob": "old_log_probs",
    "selected": "selected",
    "suppressed": "suppressed",
}


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


def _score(function, head, hidden, labels, mask, chunk_tokens, num_shards) -> Metrics:
    """`function(logits [N, V], labels [N])` of all tokens, chunk by chunk, without a gradient."""
    head, hidden = jax.lax.stop_gradient((head.astype(hidden.dtype), hidden))
    split, join, _ = _chunking(hidden.shape, chunk_tokens, num_shards)

    def one_chunk(_, chunk):
        hidden, labels, mask = chunk
        kept = mask.reshape(-1) != 0
        logits = jnp.where(kept[:, None], _logits(_valid(hidden, mask), head), 0)
        scores = function(logits, jnp.where(kept, labels.reshape(-1), 0))
        scores = jax.tree.map(lambda x: jnp.where(kept, x, 0).reshape(mask.shape), scores)
        return None, scores

    _, scores = jax.lax.scan(one_chunk, None, (split(hidden), split(labels), split(mask)))
    return jax.tree.map(join, scores)


def chunked_loss(
    objective: AnyObjective,
    head: jax.Array,
    hidden: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    targets: Metrics | None = None,
    *,
    teacher: Teacher | None = None,
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
        quantile of all tokens) and `suppressed` (for `Oxa`).
      teacher: head `[V, D]` and hidden states `[B, T, D]` of the other model, for objectives with
        `needs_teacher_logits`; D may differ from the student's.
      chunk_tokens: tokens of one chunk on each of the `num_shards` groups of devices. The largest
        buffers are some float32 `[chunk_tokens, V]`.
      num_shards: over how many groups of devices B is split (data x fsdp). Each sums the head's
        gradient over its own tokens in float32, `[num_shards, V, D]` in all, and the partial sums
        meet once, after the last chunk.
      reference: the same by `jax.checkpoint` and automatic differentiation, for tests.

    Returns:
      `sum(mask * loss)`, float32 `[]`, to be divided by a global count by the caller, and the
      metrics of `per_token_loss` as float32 `[B, T]`, which carry no gradient. Gradients flow to
      `head` (in its dtype) and `hidden` only.

    Raises:
      ValueError: B is not a multiple of `num_shards`, or something the objective needs is missing.
    """
    mask = mask.astype(jnp.float32)
    given = {name: x for name, x in (targets or {}).items() if name in _GIVEN}
    if getattr(objective, "selects_tokens", False) and "selected" not in given:
        raise ValueError("entropy: top_fraction below 1 needs targets['selected'] of all tokens")
    if teacher is not None:
        teacher = teacher[0].astype(teacher[1].dtype), teacher[1]
    run = _reference if reference else _fused
    constants = jax.lax.stop_gradient((labels, mask, given, teacher))
    return run(objective, chunk_tokens, num_shards, head, hidden, *constants)


def _chunking(shape: tuple[int, ...], chunk_tokens: int, num_shards: int):
    """How `[B, T, ...]` becomes chunks `[n, num_shards, tokens, ...]` (padded with 0), and back."""
    batch, length = shape[:2]
    if batch % num_shards:
        raise ValueError(f"batch of {batch} rows is not a multiple of num_shards={num_shards}")
    rows = batch // num_shards
    num_chunks = max(1, -(-length * rows // chunk_tokens))
    width = -(-length // min(num_chunks, length))
    num_chunks = -(-length // width)

    def split(x: jax.Array) -> jax.Array:
        padding = [(0, 0), (0, num_chunks * width - length)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(num_shards, rows, num_chunks, width, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0).reshape(num_chunks, num_shards, rows * width, *x.shape[4:])

    def join(x: jax.Array) -> jax.Array:
        x = x.reshape(num_chunks, num_shards, rows, width, *x.shape[3:])
        x = jnp.moveaxis(x, 0, 2).reshape(batch, num_chunks * width, *x.shape[4:])
        return x[:, :length]

    return split, join, num_chunks


def _valid(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Hidden states with 0 where the mask is 0: a NaN there would reach the head's gradient."""
    return jnp.where(mask[..., None] != 0, hidden, jnp.zeros_like(hidden))


def _logits(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Float32 `[S * N, V]` from hidden `[S, N, D]`."""
    logits = jnp.einsum("snd,vd->snv", hidden, head, preferred_element_type=jnp.float32)
    return logits.reshape(-1, head.shape[0])


def _teacher_logits(teacher_head, teacher_hidden, mask) -> jax.Array | None:
    if teacher_head is None:
        return None
    return _logits(_valid(teacher_hidden, mask), teacher_head)


def _chunk_loss(objective, logits, labels, mask, targets: Metrics, teacher_logits):
    """Weighted loss of one chunk and its metrics `[S, N]`, from logits `[S * N, V]`."""
    loss, metrics = per_token_loss(
        objective,
        logits,
        labels.reshape(-1),
        teacher_logits=teacher_logits,
        mask=mask.reshape(-1),
        **{_GIVEN[name]: x.reshape(-1) for name, x in targets.items()},
    )
    metrics = {name: x.reshape(mask.shape) for name, x in metrics.items()}
    # Per shard first: one sum over devices after the scan instead of one per chunk.
    return (mask * loss.reshape(mask.shape)).sum(axis=-1), metrics


def _reference(objective, chunk_tokens, num_shards, head, hidden, labels, mask, targets, teacher):
    split, join, _ = _chunking(hidden.shape, chunk_tokens, num_shards)
    weights = head.astype(hidden.dtype)
    teacher_head, teacher_hidden = teacher or (None, None)

    @jax.checkpoint
    def one_chunk(total, chunk):
        hidden, labels, mask, targets, teacher_hidden = chunk
        logits = _logits(_valid(hidden, mask), weights)
        others = _teacher_logits(teacher_head, teacher_hidden, mask)
        losses, metrics = _chunk_loss(objective, logits, labels, mask, targets, others)
        return total + losses, metrics

    start = jnp.zeros((num_shards,), jnp.float32)
    chunks = jax.tree.map(split, (hidden, labels, mask, targets, teacher_hidden))
    losses, metrics = jax.lax.scan(one_chunk, start, chunks)
    return losses.sum(), jax.tree.map(join, jax.lax.stop_gradient(metrics))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fused(objective, chunk_tokens, num_shards, head, hidden, *constants):
    # Without differentiation no gradient is formed.
    return _reference(objective, chunk_tokens, num_shards, head, hidden, *constants)


def _fused_forward(
    objective, chunk_tokens, num_shards, head, hidden, labels, mask, targets, teacher
):
    split, join, _ = _chunking(hidden.shape, chunk_tokens, num_shards)
    weights = head.astype(hidden.dtype)
    teacher_head, teacher_hidden = teacher or (None, None)

    def one_chunk(carry, chunk):
        total, head_grads = carry
        hidden, labels, mask, targets, teacher_hidden = chunk
        hidden = _valid(hidden, mask)
        others = _teacher_logits(teacher_head, teacher_hidden, mask)

        def loss_of(logits):
            return _chunk_loss(objective, logits, labels, mask, targets, others)

        losses, pullback, metrics = jax.vjp(loss_of, _logits(hidden, weights), has_aux=True)
        (grads,) = pullback(jnp.ones_like(losses))
        grads = grads.reshape(*mask.shape, -1).astype(hidden.dtype)
        hidden_grads = jnp.einsum(
            "snv,vd->snd", grads, weights, preferred_element_type=jnp.float32
        ).astype(hidden.dtype)
        head_grads += jnp.einsum("snv,snd->svd", grads, hidden, preferred_element_type=jnp.float32)
        return (total + losses, head_grads), (hidden_grads, metrics)

    start = (
        jnp.zeros((num_shards,), jnp.float32),
        jnp.zeros((num_shards, *head.shape), jnp.float32),
    )
    chunks = jax.tree.map(split, (hidden, labels, mask, targets, teacher_hidden))
    (losses, head_grads), (hidden_grads, metrics) = jax.lax.scan(one_chunk, start, chunks)
    # Kept in float32 until the backward pass has scaled them; a zero-sized array carries the dtype.
    residual = head_grads.sum(axis=0), join(hidden_grads), jnp.zeros((0,), head.dtype)
    return (losses.sum(), jax.tree.map(join, metrics)), residual


def _fused_backward(objective, chunk_tokens, num_shards, residual, cotangents):
    head_grads, hidden_grads, witness = residual
    scale, _ = cotangents
    head_grads = (scale * head_grads).astype(witness.dtype)
    hidden_grads = (scale * hidden_grads.astype(jnp.float32)).astype(hidden_grads.dtype)
    return head_grads, hidden_grads, None, None, None, None


_fused.defvjp(_fused_forward, _fused_backward)
