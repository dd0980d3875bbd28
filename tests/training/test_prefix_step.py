"""Whole updates of Prefix-RFT against the loss and its slope written out in float64."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.losses import policy_loss
from curiojax.objectives import PrefixRft
from curiojax.training import statistics
from curiojax.training.policy_step import compile_policy_step
from tests.training import tiny
from tests.training.test_policy_step import (
    LIMIT,
    MODEL,
    TEMPERATURE,
    batches_of,
    old,
    recipe,
    trajectories,
)

COEF, SHARE = 0.1, 0.4
FIELDS = {"clip_low": 0.05, "clip_high": 0.1, "dual_clip": 1.3}
OBJECTIVE = (
    f"objective={{name: prefix_rft, clip_low: 0.05, clip_high: 0.1, dual_clip: 1.3, "
    f"entropy_coef: {COEF}, entropy_share: {SHARE}}}"
)
PLAIN = (
    f"objective={{name: grpo, clip_low: 0.05, clip_high: 0.1, dual_clip: 1.3, "
    f"normalize_std: false, entropy_coef: {COEF}, aggregation: seq_mean_token_sum_norm}}"
)


def guided():
    """Every second one of them is begun for the policy; advantages of both signs at both parts."""
    random = np.random.default_rng(4)
    made = []
    for index, t in enumerate(trajectories(24)):
        if index % 2 and len(t.tokens) > 1:
            given = int(random.integers(1, len(t.tokens)))
            worth = float(random.choice([-0.6, 0.4, 1.0]))
            t = replace(t, given=given, given_advantage=worth)
        made.append(t)
    return made


def ours(which, step, *, on_policy, found=None, packing=True):
    """Gradient sums of an update, and what `score` selected."""
    state, batches = tiny.start(which), batches_of(which, found or guided(), packing)
    with jax.set_mesh(which.mesh):
        scores = step.score(old(state), batches, on_policy=on_policy)
        sums = step.zeros()
        for batch, known in zip(batches, scores, strict=True):
            sums = step.accumulate(state.params, sums, batch, known)
    return jax.device_get(sums)


@jax.jit
def logits_of(params, tokens, segments):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.forward(params, MODEL, tokens, positions, segments)
    return models.logits(params, MODEL, hidden)


def softmax(z):
    z = z.astype(np.float64) / TEMPERATURE
    z = z - z.max(-1, keepdims=True)
    log_probs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return np.exp(log_probs), log_probs


def slope(ratio, advantage):
    """d loss / d log-prob and the loss of a token, case by case."""
    if advantage > 0 and ratio > 1 + FIELDS["clip_high"]:
        return 0.0, -advantage * (1 + FIELDS["clip_high"])
    if advantage < 0 and ratio > FIELDS["dual_clip"]:
        return 0.0, -advantage * FIELDS["dual_clip"]
    if advantage < 0 and ratio < 1 - FIELDS["clip_low"]:
        return 0.0, -advantage * (1 - FIELDS["clip_low"])
    return -advantage * ratio, -advantage * ratio


def written_out(state, *, on_policy):
    """Value and gradient of the update, token by token; share selected; number of clips."""
    found = [t for t in guided() if t.learnt]
    shape = len(found), max(t.num_inputs for t in found)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, t in enumerate(found):
        tokens[row, : t.num_inputs] = [*t.prompt, *t.tokens][:-1]
        segments[row, : t.num_inputs] = 1
    now, pullback = jax.vjp(lambda p: logits_of(p, tokens, segments), state.params)
    then = logits_of(old(state).params, tokens, segments)

    def labels_only(logits):
        rows = zip(np.asarray(logits), found, strict=True)
        return [softmax(z[len(t.prompt) - 1 : t.num_inputs]) for z, t in rows]

    certain = [-(p * lp).sum(-1) for p, lp in labels_only(then)]
    prefix = np.concatenate([h[: t.given] for t, h in zip(found, certain, strict=True)])
    threshold = np.quantile(prefix, 1 - SHARE)
    assert np.abs(prefix - threshold).min() > 1e-4  # rounding decides nothing
    of_all = np.quantile(np.concatenate(certain), 1 - SHARE)
    assert ((prefix >= threshold) != (prefix >= of_all)).any()

    value, kept, clipped, d_logits = 0.0, 0, 0, np.zeros(now.shape)
    rows = zip(found, labels_only(now), labels_only(then), certain, strict=True)
    for row, (t, (p, lp), (_, lp_then), entropies) in enumerate(rows):
        for i, token in enumerate(t.tokens):
            if i < t.given and entropies[i] < threshold:
                continue
            kept += i < t.given
            advantage = t.given_advantage if i < t.given else t.advantage
            ratio = 1.0 if on_policy else np.exp(lp[i, token] - lp_then[i, token])
            d_lp, loss = slope(ratio, advantage)
            clipped += d_lp == 0 and advantage != 0
            entropy = -(p[i] * lp[i]).sum()
            one_hot = np.eye(tiny.VOCAB)[token]
            d_logits[row, len(t.prompt) - 1 + i] = d_lp * (one_hot - p[i]) + COEF * p[i] * (
                lp[i] + entropy
            )
            value += (loss - COEF * entropy) / LIMIT / len(found)
    d_logits /= TEMPERATURE * LIMIT * len(found)
    (grads,) = pullback(jnp.asarray(d_logits, jnp.float32))
    return value, grads, kept / len(prefix), clipped


@pytest.fixture(scope="module")
def whole():
    one = recipe(OBJECTIVE, rows=16)
    return one, compile_policy_step(one)


@pytest.mark.parametrize("on_policy", [False, True])
def test_an_update_is_the_loss_written_out(whole, on_policy):
    which, step = whole
    value, grads, kept, clipped = written_out(tiny.start(which), on_policy=on_policy)
    assert (clipped == 0) if on_policy else (clipped > 10)
    sums = ours(which, step, on_policy=on_policy)
    assert sums.loss / sums.weight == pytest.approx(value, abs=1e-7)
    assert (
        tiny.largest_difference(grads, jax.tree.map(lambda g: g / sums.weight, sums.grads)) < 1e-5
    )
    report = statistics.summarize(sums.stats, which.config.objective, tiny.VOCAB)
    assert report["given_kept"] == pytest.approx(kept) and abs(kept - SHARE) < 0.05
    used = [t for t in guided() if t.learnt and t.given]
    tokens = sum(t.given for t in used)
    assert report["given_tokens"] == tokens
    worth = sum(t.given * t.given_advantage for t in used) / tokens
    assert report["given_advantage"] == pytest.approx(worth, rel=1e-5)
    # The sampler's log-probs of what it was given say nothing, and are in no measure of it.
    own = sum(len(t.tokens) - t.given for t in guided() if t.learnt)
    assert report["tokens"] == own


def test_layout_changes_nothing(whole):
    which, step = whole
    want = ours(which, step, on_policy=False)
    split = recipe(OBJECTIVE, rows=4, mesh=(2, 2, 2))
    others = (
        ours(which, step, on_policy=False, packing=False),
        ours(split, compile_policy_step(split), on_policy=False),
    )
    for other in others:
        assert other.weight == pytest.approx(float(want.weight), rel=1e-6)
        assert tiny.largest_difference(want.grads, other.grads) < 1e-5
        assert float(other.stats.sums["given_kept"]) == float(want.stats.sums["given_kept"])


def test_without_prefixes_it_is_grpo_bit_for_bit(whole):
    which, step = whole
    plain = recipe(PLAIN, rows=16)
    theirs = compile_policy_step(plain)
    found = trajectories(24)
    for on_policy in (False, True):
        a = ours(which, step, on_policy=on_policy, found=found)
        b = ours(plain, theirs, on_policy=on_policy, found=found)
        assert float(a.weight) == float(b.weight)
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-6)  # summed in another order
        jax.tree.map(np.testing.assert_array_equal, a.grads, b.grads)


def test_an_unselected_prefix_token_moves_nothing():
    """Neither by its advantage nor by the bonus, whatever it holds; a selected one does."""
    objective = PrefixRft(entropy_coef=0.5)
    given, selected = jnp.asarray([[1.0, 1.0, 0.0]]), jnp.asarray([[0.0, 1.0, 0.0]])

    def total(log_probs, entropy):
        loss, metrics = policy_loss(
            objective,
            log_probs,
            log_probs * 0 - 1.0,
            jnp.asarray([[1.0, 1.0, -1.0]]),
            jnp.ones((1, 3)),
            entropy=entropy,
            given=given,
            selected=selected,
        )
        return loss.sum(), (loss, metrics)

    at = jnp.full((1, 3), -1.1), jnp.full((1, 3), 2.0)
    by_log_prob, by_entropy = jax.grad(total, (0, 1), has_aux=True)(*at)[0]
    ratio = np.exp(-0.1)
    np.testing.assert_allclose(by_log_prob, [[0, -ratio, ratio]], rtol=1e-6)
    np.testing.assert_allclose(by_entropy, [[0, -0.5, -0.5]])
    _, (loss, metrics) = total(*at)
    np.testing.assert_allclose(loss, [[0, -ratio - 1, ratio - 1]], rtol=1e-6)
    np.testing.assert_array_equal(metrics["given_kept"], selected)
    with pytest.raises(ValueError, match="entropy_share below 1 needs selected"):
        policy_loss(objective, at[0], None, at[0], given, given=given, entropy=at[1])
    everywhere = PrefixRft(entropy_share=1.0)
    loss, _ = policy_loss(everywhere, at[0], None, given, given, given=given, entropy=at[1])
    assert (np.asarray(loss) < 0).tolist() == [[True, True, False]]
