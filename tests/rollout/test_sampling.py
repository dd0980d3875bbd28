"""Cuts against sorting in numpy, draws against exact probabilities."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.rollout import Sampling
from curiojax.rollout.sampling import cut, draw
from curiojax.rollout.schedule import compiled

cut = jax.jit(cut, static_argnums=3)
draw = jax.jit(draw, static_argnums=4)


def softmax(scores):
    probs = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return probs / probs.sum(-1, keepdims=True)


def kept_by_sorting(row, top_p, top_k):
    """The kept ids of one row of logits, and how close top-p came to another answer."""
    probs = softmax(row)
    order = np.argsort(-probs, kind="stable")
    if top_k:
        order = order[:top_k]
    share = np.cumsum(probs[order]) / probs[order].sum()
    count = int(np.searchsorted(share, top_p)) + 1 if top_p < 1 else len(order)
    return set(order[:count].tolist()), np.abs(share - top_p).min() if top_p < 1 else 1.0


def score_rows(vocabulary):
    random = np.random.default_rng(vocabulary)
    rows = [random.normal(size=vocabulary) * scale for scale in (0.01, 0.3, 1, 2, 4, 8, 30)]
    rows.append(-3 * np.log(1 + random.permutation(vocabulary)))  # a power law
    rows.append(np.where(random.random(vocabulary) < 0.5, rows[2], -np.inf))
    rows.append(random.normal(size=vocabulary) + 25 * (np.arange(vocabulary) == 3))  # certain
    return np.asarray(rows, np.float32)


@pytest.mark.parametrize("vocabulary", [7, 300, 50_001])
@pytest.mark.parametrize(
    ("top_p", "top_k"), [(0.95, 0), (0.5, 0), (0.01, 0), (0.999, 0), (1.0, 5), (1.0, 1), (0.7, 20)]
)
def test_cuts_are_exact(vocabulary, top_p, top_k):
    scores = score_rows(vocabulary)
    _, cuts = compiled(Sampling(1, top_p=top_p, top_k=top_k))
    got = np.asarray(cut(scores, np.float32(top_p), np.int32(top_k), cuts))
    decided = 0
    for row, after in zip(scores, got, strict=True):
        kept, margin = kept_by_sorting(row, top_p, top_k)
        kept = {i for i in kept if np.isfinite(row[i])}
        mine = set(np.nonzero(np.isfinite(after))[0].tolist())
        np.testing.assert_array_equal(after[list(mine)], row[list(mine)])
        # In float32 a sum of many terms may fall on the other side of a limit that it just reaches.
        if margin > 1e-6:
            assert mine == kept
            decided += 1
        else:
            assert len(mine ^ kept) < 0.01 * vocabulary
    assert decided >= 5


def test_ties_stay_together():
    scores = np.log(np.asarray([[0.4, 0.2, 0.2, 0.1, 0.1], [0.2] * 5], np.float32))
    for top_p, top_k, kept in ((0.5, 0, [3, 5]), (1.0, 2, [3, 5]), (0.3, 0, [1, 5])):
        _, cuts = compiled(Sampling(1, top_p=top_p, top_k=top_k))
        got = cut(scores, np.float32(top_p), np.int32(top_k), cuts)
        assert np.isfinite(got).sum(-1).tolist() == kept


@functools.cache
def keys(count):
    return jax.random.split(jax.random.key(0), count)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.8},
        {"top_k": 6},
        {"temperature": 1.5, "top_p": 0.9, "top_k": 12},
        {"min_tokens": 1, "stop_ids": (0, 1)},
        {"top_p": 0.8, "min_tokens": 1, "stop_ids": (0, 1)},
    ],
    ids=str,
)
def test_frequencies(settings):
    """Chi-square of 200,000 draws against the exact probabilities."""
    count, vocabulary = 200_000, 24
    row = np.random.default_rng(2).normal(size=vocabulary).astype(np.float32) * 1.5
    row[:2] = row.max() + 0.1  # so that forbidding them matters
    sampling = Sampling(1, **settings)
    knobs, cuts = compiled(sampling)
    scores = jnp.broadcast_to(row, (count, vocabulary))
    drawn = draw(scores, keys(count), jnp.zeros((count,), jnp.int32), knobs, cuts)

    tempered = row / sampling.temperature
    allowed = tempered.copy()
    if sampling.min_tokens:
        allowed[[0, 1]] = -np.inf
    kept, _ = kept_by_sorting(allowed, sampling.top_p, sampling.top_k)
    probs = softmax(allowed) * np.isin(np.arange(vocabulary), list(kept))
    probs /= probs.sum()
    counts = np.bincount(np.asarray(drawn.tokens), minlength=vocabulary)
    assert counts[probs == 0].sum() == 0
    expected = count * probs[probs > 0]
    square = ((counts[probs > 0] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    # Mean `freedom`, variance twice that; four and a half standard deviations.
    assert square < freedom + 4.5 * np.sqrt(2 * freedom)
    assert freedom >= 2

    log_probs = np.log(softmax(tempered))[np.asarray(drawn.tokens)]
    np.testing.assert_allclose(drawn.log_probs, log_probs, atol=1e-5)
    at_one = softmax(row)
    np.testing.assert_allclose(drawn.entropies, -(at_one * np.log(at_one)).sum(), atol=1e-5)


def test_draws_of_two_steps_and_two_keys_are_independent():
    count, vocabulary = 100_000, 4
    knobs, cuts = compiled(Sampling(1))
    scores = jnp.zeros((count, vocabulary))
    steps = jnp.zeros((count,), jnp.int32)
    first = np.asarray(draw(scores, keys(count), steps, knobs, cuts).tokens)
    second = np.asarray(draw(scores, keys(count), steps + 1, knobs, cuts).tokens)
    for a, b in ((first, second), (first[1:], first[:-1])):
        table = np.bincount(a * vocabulary + b, minlength=vocabulary**2)
        expected = len(a) / vocabulary**2
        assert ((table - expected) ** 2 / expected).sum() < 15 + 4.5 * np.sqrt(30)


def test_no_sort_of_the_vocabulary():
    knobs, cuts = compiled(Sampling(1, top_p=0.9, top_k=50))
    rows = jax.ShapeDtypeStruct((2, 1000), jnp.float32)
    steps = jax.ShapeDtypeStruct((2,), jnp.int32)
    text = draw.lower(rows, keys(2), steps, knobs, cuts).as_text()
    assert "stablehlo.while" in text and "stablehlo.sort" not in text and ".top_k" not in text
