"""Advantages, the groups that are kept, over-long responses, and the ways to take a mean."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import (
    aggregate,
    aggregation_weights,
    group_advantages,
    groups_with_signal,
    handle_overlong,
)

MODES = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm")
MAX_LENGTH = 20


def test_the_worked_example():
    """Two of eight right: mean 1/4, unbiased standard deviation 0.46291."""
    got = group_advantages(np.array([[1, 0, 0, 1, 0, 0, 0, 0]]))
    np.testing.assert_allclose(got[0, 0], 1.620182, rtol=1e-6)
    np.testing.assert_allclose(got[0, 1], -0.540061, rtol=2e-6)
    dr = group_advantages(np.array([[1, 0, 0, 1, 0, 0, 0, 0]]), normalize_std=False)
    np.testing.assert_array_equal(dr[0], [0.75, -0.25, -0.25, 0.75] + [-0.25] * 4)


def test_against_statistics_of_numpy():
    rewards = np.random.default_rng(0).normal(size=(50, 6)) * 10
    got = jax.jit(group_advantages)(rewards)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        got, centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6), rtol=1e-4, atol=1e-5
    )


# A mean of eight times 0.1 is not 0.1 in float32, and a deviation of 1e-9 is no reason to act.
@pytest.mark.parametrize("reward", [0, 1, 0.1, 1 / 3, 1e6 + 0.1, -0.7])
@pytest.mark.parametrize("responses", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("normalize_std", [True, False])
def test_equal_rewards_give_exactly_zero(reward, responses, normalize_std):
    rewards = np.full((2, responses), reward)
    got = jax.jit(group_advantages, static_argnums=1)(rewards, normalize_std)
    np.testing.assert_array_equal(got, np.zeros((2, responses), np.float32))
    assert not groups_with_signal(rewards).any()


def test_rewards_have_to_come_in_groups():
    with pytest.raises(ValueError, match=r"\[groups, responses\]"):
        group_advantages(np.zeros(8))


def test_dynamic_sampling_keeps_the_groups_that_differ():
    rewards = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0], [0.5, 0.5, 0.50001], [1, 0, 0]])
    np.testing.assert_array_equal(groups_with_signal(rewards), [False, False, True, True, True])
    kept = np.ones((5, 3), bool)
    kept[2] = False
    kept[4, 1:] = False
    np.testing.assert_array_equal(
        groups_with_signal(rewards, kept), [False, False, False, True, True]
    )
    # What is kept is what has a gradient.
    np.testing.assert_array_equal(
        groups_with_signal(rewards), np.asarray(group_advantages(rewards)).any(axis=1)
    )


def test_overlong_responses():
    rewards = np.array([[1.0, 0.0, 1.0, 1.0]])
    truncated = np.array([[False, False, True, False]])
    for mode, want, kept in [
        ("keep", rewards, [[True] * 4]),
        ("zero", [[1, 0, 0, 1]], [[True] * 4]),
        ("mask", rewards, [[True, True, False, True]]),
    ]:
        got = handle_overlong(mode, rewards, truncated)
        np.testing.assert_array_equal(got[0], want)
        np.testing.assert_array_equal(got[1], kept)
    np.testing.assert_array_equal(rewards, [[1.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="known: keep, zero, mask"):
        handle_overlong("drop", rewards, truncated)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must match"):
        handle_overlong("zero", rewards, truncated[:, :2])


@pytest.fixture(scope="module")
def batch():
    """13 sequences of 0 to 9 losses, the first without any."""
    rng = np.random.default_rng(3)
    lengths = np.array([0, 9, *rng.integers(1, 10, size=11)])
    losses = (0.5 + rng.normal(size=(13, 9))).astype(np.float32)
    return losses, (np.arange(9) < lengths[:, None]).astype(np.float32), lengths


def by_hand(losses, lengths, mode) -> float:
    rows = [row[:n].astype(np.float64) for row, n in zip(losses, lengths, strict=True) if n]
    if mode == "token_mean":
        return float(np.concatenate(rows).mean())
    if mode == "seq_mean_token_mean":
        return float(np.mean([row.mean() for row in rows]))
    value = float(np.mean([row.sum() for row in rows]))
    return value / MAX_LENGTH if mode.endswith("norm") else value


@pytest.mark.parametrize("mode", MODES)
def test_quotient_of_the_sums(batch, mode):
    losses, mask, lengths = batch
    spoilt = np.where(mask > 0, losses, np.nan)

    def mean(losses):
        total, weight = aggregate(losses, jnp.asarray(mask), mode, max_length=MAX_LENGTH)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(mean))(jnp.asarray(spoilt))
    assert float(value) == pytest.approx(by_hand(losses, lengths, mode), rel=1e-5)
    # The gradient is what the weights say, and nothing in padding.
    factor, share = aggregation_weights(lengths[:, None] * (mask > 0), mode, max_length=MAX_LENGTH)
    np.testing.assert_allclose(gradient, factor / share.sum(), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_of_any_size_add_up(batch, mode):
    losses, mask, lengths = batch
    want = by_hand(losses, lengths, mode)
    for size in (1, 4, 13):
        sums = np.zeros(2)
        for start in range(0, 13, size):
            part = slice(start, start + size)
            found = aggregate(
                jnp.asarray(losses[part]), jnp.asarray(mask[part]), mode, max_length=MAX_LENGTH
            )
            sums += [float(x) for x in found]
        assert sums[0] / sums[1] == pytest.approx(want, rel=1e-5)
    # More padding, on either side, changes nothing.
    wide, wide_mask = (jnp.asarray(np.pad(x, ((2, 1), (3, 5)))) for x in (losses, mask))
    total, weight = aggregate(wide, wide_mask, mode, max_length=MAX_LENGTH)
    assert float(total / weight) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("as_jax", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_packed_into_rows_the_weights_give_the_same(batch, mode, as_jax):
    """Sequences end to end in rows of 12 tokens, cut at row ends, in micro-batches of two rows."""
    losses, mask, lengths = batch
    flat, of_token = losses[mask > 0], np.repeat(lengths, lengths)
    rest = -len(flat) % 24
    flat = np.pad(flat, (0, rest)).reshape(-1, 2, 12)
    of_token = np.pad(of_token, (0, rest)).reshape(-1, 2, 12)
    sums = np.zeros(2)
    for loss, length in zip(flat, of_token, strict=True):
        given: Any = jnp.asarray(length) if as_jax else length
        factor, share = aggregation_weights(given, mode, max_length=MAX_LENGTH)
        assert isinstance(factor, jax.Array) == as_jax
        assert factor.dtype == share.dtype == np.float32
        assert factor.shape == share.shape == length.shape
        sums += [float((np.asarray(factor) * loss).sum()), float(share.sum())]
    total, weight = aggregate(
        jnp.asarray(losses), jnp.asarray(mask), mode, max_length=MAX_LENGTH
    )  # fmt: skip
    np.testing.assert_allclose(sums, [float(total), float(weight)], rtol=2e-5, atol=1e-6)


def test_nothing_is_no_reason_for_nan():
    for mode in MODES:
        sums = aggregate(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3)), mode, max_length=5)
        assert [float(x) for x in sums] == [0, 0]


def test_the_modes_weigh_long_responses_differently():
    """One token of loss 1 and three of loss 2."""
    losses = jnp.asarray([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    mask = jnp.asarray([[1, 0, 0], [1, 1, 1]])
    got = {}
    for mode in MODES:
        total, weight = aggregate(losses, mask, mode, max_length=10)
        got[mode] = float(total / weight)
    assert got == pytest.approx(dict(zip(MODES, [7 / 4, 1.5, 3.5, 0.35], strict=True)))


def test_bad_arguments():
    ones = jnp.ones((1, 2))
    for function in (lambda **k: aggregate(ones, ones, **k),
                     lambda **k: aggregation_weights(np.ones(2, int), **k)):  # fmt: skip
        with pytest.raises(ValueError, match="needs max_length"):
            function(mode="seq_mean_token_sum_norm")
        with pytest.raises(ValueError, match="unknown aggregation 'mean'"):
            function(mode="mean")


def test_dr_grpo_is_plain_differences_over_a_constant():
    """No length and no difficulty in the weights: every token counts (r - mean) / (N L)."""
    rewards = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    advantages = np.asarray(group_advantages(rewards, normalize_std=False)).reshape(-1, 1)
    lengths = np.array([3, 1, 4, 4, 2, 5, 1, 2])
    mask = (np.arange(5) < lengths[:, None]).astype(np.float32)
    losses = jnp.asarray(-advantages * mask)
    total, weight = aggregate(
        losses, jnp.asarray(mask), "seq_mean_token_sum_norm", max_length=MAX_LENGTH
    )
    centred = (rewards - rewards.mean(axis=1, keepdims=True)).reshape(-1)
    assert float(total / weight) == pytest.approx(-(centred * lengths).sum() / (8 * MAX_LENGTH))
