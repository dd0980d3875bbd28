import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curiojax.errors import ConfigError
from curiojax.evaluation.majority import maj_at_k


def by_enumeration(answers, correct, k):
    """Votes in every subset of k samples; ties share the win."""
    right = {}
    for answer, is_right in zip(answers, correct, strict=True):
        right.setdefault(answer, is_right)
    scores = []
    for chosen in itertools.combinations(answers, k):
        votes = Counter(a for a in chosen if a >= 0)
        most = max(votes.values(), default=0)
        winners = [a for a, count in votes.items() if count == most]
        scores.append(np.mean([right[a] for a in winners]) if winners else 0.0)
    return np.mean(scores)


@settings(max_examples=150)
@given(st.data())
def test_maj_at_k_is_the_mean_over_subsets(data):
    n = data.draw(st.integers(1, 8))
    answers = data.draw(st.lists(st.integers(-1, 4), min_size=n, max_size=n))
    correct = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    for k in range(1, n + 1):
        expected = by_enumeration(answers, correct, k)
        assert maj_at_k([answers], [correct], k)[0] == pytest.approx(expected, abs=1e-12)


def test_votes_by_hand():
    # Answer 0 is right: three votes against three for 1, one for 2, one sample without an answer.
    answers, correct = [[0, 1, 0, 1, 2, 0, 1, -1]], [[1, 0, 1, 0, 0, 1, 0, 0]]
    assert maj_at_k(answers, correct, 8)[0] == pytest.approx(1 / 2)
    assert maj_at_k(answers, correct, 1)[0] == pytest.approx(3 / 8)
    # Pairs: 3 of 28 are both right; 3 * 3 tie with 1, 3 tie with 2, 3 vote alone beside the blank.
    assert maj_at_k(answers, correct, 2)[0] == pytest.approx((3 + (9 + 3) / 2 + 3) / 28)


def test_three_way_ties_and_two_right_answers():
    assert maj_at_k([[0, 1, 2]], [[1, 0, 0]], 3)[0] == pytest.approx(1 / 3)
    assert maj_at_k([[0, 1, 2]], [[1, 0, 1]], 3)[0] == pytest.approx(2 / 3)


def test_samples_without_an_answer_do_not_vote():
    assert maj_at_k([[-1, -1, -1]], [[0, 0, 0]], 2)[0] == 0
    assert maj_at_k([[-1, -1, -1, 0]], [[0, 0, 0, 1]], 4)[0] == 1
    assert maj_at_k([[-1, -1, -1, 0]], [[0, 0, 0, 1]], 2)[0] == pytest.approx(1 / 2)


def test_an_answer_is_as_right_as_its_first_sample():
    assert maj_at_k([[3, 3]], [[1, 0]], 1)[0] == 1
    assert maj_at_k([[3, 3]], [[0, 1]], 1)[0] == 0


def test_many_samples_against_drawn_subsets():
    rng = np.random.default_rng(0)
    answers = rng.choice(6, size=40, p=[0.3, 0.28, 0.2, 0.1, 0.1, 0.02])
    correct = answers == 0
    draws = 4000
    seen = 0.0
    for _ in range(draws):
        votes = np.bincount(rng.permutation(answers)[:16], minlength=6)
        winners = np.flatnonzero(votes == votes.max())
        seen += (0 in winners) / len(winners)
    got = maj_at_k([answers], [correct], 16)[0]
    assert got == pytest.approx(seen / draws, abs=4 * np.sqrt(0.25 / draws))


def test_as_many_samples_as_a_float_can_count():
    answers = np.repeat([0, 1], [600, 424])
    got = [maj_at_k([answers], [answers == 0], k)[0] for k in (1, 101, 1024)]
    assert got[0] == pytest.approx(600 / 1024)
    assert 0.96 < got[1] < 1 and got[2] == 1
    with pytest.raises(ConfigError, match="1024"):
        maj_at_k(np.zeros((1, 1025)), np.zeros((1, 1025)), 1)


def test_a_large_benchmark_takes_seconds():
    rng = np.random.default_rng(0)
    answers = rng.integers(-1, 6, size=(12_000, 8))
    correct = answers == rng.integers(0, 6, size=(12_000, 1))
    began = time.thread_time()  # not what other processes take
    for k in (1, 2, 4, 8):
        maj_at_k(answers, correct, k)
    assert time.thread_time() - began < 10  # 0.15 s as a rule


def test_impossible_votes_are_refused():
    with pytest.raises(ConfigError, match=r"maj@3 .* 2 samples"):
        maj_at_k([[0, 1]], [[1, 0]], 3)
    with pytest.raises(ConfigError, match="maj@0"):
        maj_at_k([[0, 1]], [[1, 0]], 0)
    for answers, correct in (([0, 1], [1, 0]), ([[0, 1]], [[1]]), ([], [])):
        with pytest.raises(ConfigError, match="answers"):
            maj_at_k(answers, correct, 1)
