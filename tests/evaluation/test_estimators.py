import itertools
from math import comb

import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.estimators import (
    avg_at_k,
    bootstrap_standard_error,
    mean_pass_at_k,
    pass_at_k,
)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * correct + [False] * (n - correct)
        subsets = [any(chosen) for chosen in itertools.combinations(samples, k)]
        got = pass_at_k(n, correct, k)
        assert got == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_closed_forms():
    n = np.arange(1, 300)
    for c in (0, 1, 5):
        correct = np.minimum(c, n)
        np.testing.assert_allclose(pass_at_k(n, correct, 1), correct / n, rtol=1e-12)
    assert pass_at_k(200, 7, 100) == pytest.approx(1 - comb(193, 100) / comb(200, 100), rel=1e-9)
    assert pass_at_k(16, 1, 16) == 1.0
    assert pass_at_k(16, 0, 16) == 0.0
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5, rel=1e-9)


def test_pass_at_k_is_unbiased():
    # Over all outcomes of n independent samples the mean is 1 - (1 - p)^k.
    n, k, p = 8, 3, 0.3
    chance = np.asarray([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    assert chance @ pass_at_k(n, np.arange(n + 1), k) == pytest.approx(1 - (1 - p) ** k, rel=1e-12)


def test_more_draws_than_samples_are_refused():
    with pytest.raises(ConfigError, match=r"pass@17 .* 16 samples"):
        pass_at_k(16, 4, 17)
    with pytest.raises(ConfigError, match="8 samples"):
        pass_at_k([16, 8], [1, 1], 10)
    with pytest.raises(ConfigError, match="k >= 1"):
        pass_at_k(16, 4, 0)
    with pytest.raises(ConfigError, match="num_correct"):
        pass_at_k(4, 5, 1)


def test_tables_of_samples():
    table = np.asarray([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    assert avg_at_k(table) == pytest.approx(1.25 / 3)
    assert mean_pass_at_k(table, 1) == pytest.approx(avg_at_k(table))
    assert mean_pass_at_k(table, 2) == pytest.approx((0.5 + 1 + 0) / 3)
    assert mean_pass_at_k(table, 4) == pytest.approx(2 / 3)
    for wrong in ([], [[]], [1, 0]):
        with pytest.raises(ConfigError, match="correct"):
            avg_at_k(wrong)


def test_the_bootstrap_error_matches_the_closed_form():
    scores = np.random.default_rng(0).random(200)
    expected = scores.std() / np.sqrt(scores.size)
    got = bootstrap_standard_error(scores, draws=4000, seed=1)
    assert got == pytest.approx(expected, rel=0.05)
    assert got == bootstrap_standard_error(scores, draws=4000, seed=1)
    assert bootstrap_standard_error([0.5] * 10) == 0.0
    with pytest.raises(ConfigError, match="per_question"):
        bootstrap_standard_error([])
