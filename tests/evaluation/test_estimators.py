import itertools
import time
from math import comb

import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.estimators import (
    avg_at_k,
    bootstrap_means,
    bootstrap_standard_error,
    mean_of_benchmarks,
    mean_paired_difference,
    mean_pass_at_k,
    paired_difference,
    pass_at_k,
    ratio_standard_error,
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


@pytest.mark.parametrize("questions", [1, 2, 7, 30, 4099])
def test_resampling_in_blocks_gives_the_means_of_resampling_one_by_one(questions):
    scores = np.random.default_rng(1).random((questions, 2))
    rng = np.random.default_rng(5)
    expected = [scores[rng.integers(questions, size=questions)].mean(axis=0) for _ in range(50)]
    got = bootstrap_means(scores, draws=50, seed=5)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    np.testing.assert_array_equal(bootstrap_means(scores[:, 1], draws=50, seed=5), got[:, 1])


def test_a_large_benchmark_takes_no_time():
    scores = np.random.default_rng(0).random(12_000)
    began = time.thread_time()  # not what other processes take
    error = bootstrap_standard_error(scores)
    assert time.thread_time() - began < 5  # 0.05 s as a rule
    assert error == pytest.approx(scores.std() / np.sqrt(12_000), rel=0.1)


def test_the_error_of_a_ratio_matches_the_delta_method():
    # Var(sum x / sum y) = Var(x - r y) / (n mean(y)^2) for large n.
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 50, size=2000).astype(float)
    sums = counts * rng.gamma(2.0, 0.2, size=2000)
    ratio = sums.sum() / counts.sum()
    expected = np.std(sums - ratio * counts) / np.sqrt(2000) / counts.mean()
    assert ratio_standard_error(sums, counts, draws=4000) == pytest.approx(expected, rel=0.05)
    # A constant ratio is known exactly, however the counts vary.
    assert ratio_standard_error(3 * counts, counts) == pytest.approx(0, abs=1e-12)


def test_the_mean_of_benchmarks_by_hand():
    mean = mean_of_benchmarks([(0.2, 0.03), (0.5, 0.04), (0.8, 0.0)])
    assert mean.value == pytest.approx(0.5)
    assert mean.error == pytest.approx(0.05 / 3)  # sqrt(0.03^2 + 0.04^2) = 0.05
    with pytest.raises(ConfigError, match="scores"):
        mean_of_benchmarks([])


def test_a_paired_difference_matches_its_closed_form():
    rng = np.random.default_rng(0)
    hard = rng.random(400)  # what both models share
    first, second = hard + 0.1 + 0.05 * rng.standard_normal(400), hard
    got = paired_difference(first, second, draws=4000)
    error = np.std(first - second) / np.sqrt(400)
    assert got.value == pytest.approx(np.mean(first - second), rel=1e-12)
    assert got.error == pytest.approx(error, rel=0.05)
    # The normal approximation holds for a mean of 400: 1.96 standard errors on both sides.
    assert got.low == pytest.approx(got.value - 1.96 * error, abs=0.2 * error)
    assert got.high == pytest.approx(got.value + 1.96 * error, abs=0.2 * error)
    # The two scores by themselves are known ten times worse.
    assert got.error < 0.2 * bootstrap_standard_error(first)


def test_the_interval_of_a_constant_difference_is_a_point():
    got = paired_difference([0.5, 1.0, 0.25], [0.25, 0.75, 0.0])
    assert got == pytest.approx((0.25, 0.0, 0.25, 0.25))


def test_swapping_the_models_mirrors_the_difference():
    a, b = np.random.default_rng(4).random((2, 50))
    one, other = paired_difference(a, b, seed=3), paired_difference(b, a, seed=3)
    assert one.value == pytest.approx(-other.value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_benchmarks_are_resampled_by_themselves():
    rng = np.random.default_rng(7)
    pairs = [(rng.random(size), rng.random(size)) for size in (300, 300, 40)]
    got = mean_paired_difference(pairs, draws=4000, seed=2)
    alone = [np.mean(a - b) for a, b in pairs]
    errors = [np.std(a - b) / np.sqrt(len(a)) for a, b in pairs]
    assert got.value == pytest.approx(np.mean(alone))
    # Independent benchmarks, two of them of equal size, whose resamples must not be the same.
    assert got.error == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 3, rel=0.05)
    same = mean_paired_difference([pairs[0], pairs[0]], draws=4000, seed=2)
    assert same.error == pytest.approx(errors[0] / np.sqrt(2), rel=0.05)


def test_models_on_other_questions_are_refused():
    with pytest.raises(ConfigError, match="same questions"):
        paired_difference([0.1, 0.2], [0.1])
    with pytest.raises(ConfigError, match="pairs"):
        mean_paired_difference([])
    with pytest.raises(ConfigError, match="per_question"):
        paired_difference([], [])
