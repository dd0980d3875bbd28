"""OXA's selection against cases worked out by hand, and against a plain reading of its rounds."""

import math
from fractions import Fraction

import numpy as np
import pytest

from curiojax.data.selection import (
    Bins,
    feasible_total,
    gaussian_counts,
    occurrence,
    select_by_bin,
    select_lowest,
)
from curiojax.errors import ConfigError

ONE_BIN = Bins(1.0, 2.0, 1.0)


def test_bins_hold_their_lower_edge_and_the_last_one_both():
    bins = Bins()
    assert bins.count == 80
    values = [0.999999, 1.0, 1.0499999, 1.05, 1.35, 2.95, 4.95, 5.0, 5.000001, np.nan, np.inf]
    # 1.35 and 2.95 are below their edge in binary: (1.35 - 1) / 0.05 = 6.999...
    assert bins.index(values).tolist() == [-1, 0, 0, 1, 7, 39, 79, 79, -1, -1, -1]
    assert bins.edges[[0, 1, -1]].tolist() == [1.0, 1.05, 5.0]
    assert bins.centers[[0, -1]] == pytest.approx([1.025, 4.975])


@pytest.mark.parametrize("wrong", [(1, 5, 0), (5, 1, 0.05), (1, 1, 0.05), (1, 5, 0.3)])
def test_bins_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="bins"):
        Bins(*wrong)


def test_the_remainders_of_equal_shares_go_to_the_lower_bins():
    flat = gaussian_counts(Bins(0.0, 4.0, 1.0), 10, mu=2.0, sigma=1e9)
    assert flat.tolist() == [3, 3, 2, 2]


def test_the_largest_remainder_wins():
    # Densities at the centres -1, 0, 1 with sigma chosen so that they are 1 : 4 : 1.
    sigma = math.sqrt(1 / (2 * math.log(4)))
    bins = Bins(-1.5, 1.5, 1.0)
    for total in range(40):
        ideal = [Fraction(total * share, 6) for share in (1, 4, 1)]
        want = [int(x) for x in ideal]
        order = sorted(range(3), key=lambda i: (-(ideal[i] - want[i]), i))
        for i in order[: total - sum(want)]:
            want[i] += 1
        assert gaussian_counts(bins, total, 0.0, sigma).tolist() == want


@pytest.mark.parametrize("total", [0, 1, 79, 1000, 50_000, 1_000_003])
@pytest.mark.parametrize("mu", [1.0, 2.5, 3.0, 40.0])
def test_counts_add_up_and_follow_the_density(total, mu):
    bins = Bins()
    counts = gaussian_counts(bins, total, mu, 0.25)
    assert counts.sum() == total and (counts >= 0).all()
    density = np.array([math.exp(-((c - mu) ** 2) / (2 * 0.25**2)) for c in bins.centers])
    if density.sum() > 0:
        assert (np.abs(counts - total * density / density.sum()) < 1).all()
    else:  # a mean far outside underflows in a plain formula
        assert counts[-1] == counts.max()


def test_longest_first_within_a_bin():
    lengths = np.array([5, 9, 7, 9, 1, 8])
    queries = np.arange(6)
    bin_of = np.array([0, 0, 0, -1, 0, 1])
    assert select_by_bin(bin_of, np.array([2, 1]), lengths, queries).tolist() == [1, 2, 5]


def test_queries_take_turns_before_one_gives_a_second_record():
    lengths = np.array([90, 80, 70, 10, 9, 8])
    queries = np.array([0, 0, 0, 3, 3, 5])
    zeros = np.zeros(6, np.int64)
    chosen = {n: select_by_bin(zeros, np.array([n]), lengths, queries).tolist() for n in range(7)}
    assert chosen[1] == [0]
    assert chosen[2] == [0, 3]
    assert chosen[3] == [0, 3, 5]
    assert chosen[4] == [0, 1, 3, 5]  # second round, longest first: 80 before 9
    assert chosen[5] == [0, 1, 3, 4, 5]
    assert chosen[6] == [0, 1, 2, 3, 4, 5]
    assert select_by_bin(zeros, np.array([6]), lengths, queries, max_per_query=1).tolist() == [
        0,
        3,
        5,
    ]


def test_the_limit_per_query_holds_over_all_bins_and_low_bins_come_first():
    queries = np.zeros(6, np.int64)
    bin_of = np.array([2, 2, 1, 1, 0, 0])
    lengths = np.array([9, 9, 9, 8, 9, 9])
    chosen = select_by_bin(bin_of, np.array([2, 2, 2]), lengths, queries, max_per_query=3)
    assert chosen.tolist() == [2, 4, 5]


def rounds(bin_of, wanted, lengths, queries, limit, order):
    """The rounds as OXA describes them, one record after the other; `order` breaks ties."""
    total, chosen = {}, set()
    for number, target in enumerate(wanted):
        members = [i for i in order if bin_of[i] == number]
        members.sort(key=lambda i: -lengths[i])
        here = {}
        taken = []
        for cap in range(1, limit + 1):
            for i in members:
                q = queries[i]
                if len(taken) == target or i in taken:
                    continue
                if here.get(q, 0) >= cap or total.get(q, 0) >= limit:
                    continue
                taken.append(i)
                here[q], total[q] = here.get(q, 0) + 1, total.get(q, 0) + 1
        chosen |= set(taken)
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_as_record_by_record(seed):
    rng = np.random.default_rng(seed)
    n = 60
    bin_of, queries = rng.integers(-1, 4, n), rng.integers(0, 12, n)
    lengths = rng.permutation(n)  # no ties
    wanted, limit = rng.integers(0, 18, 4), int(rng.integers(1, 5))
    got = select_by_bin(bin_of, wanted, lengths, queries, max_per_query=limit, seed=seed)
    assert got.tolist() == rounds(bin_of, wanted, lengths, queries, limit, range(n))


def test_ties_are_drawn_once_for_a_seed():
    same = np.full(100, 7)
    wanted = np.array([10])

    def draw(seed):
        queries = np.arange(100)
        return select_by_bin(np.zeros(100, int), wanted, same, queries, seed=seed).tolist()

    assert draw(3) == draw(3)
    assert len({tuple(draw(seed)) for seed in range(5)}) == 5
    assert draw(0) != list(range(10))  # files are often sorted by something


def test_more_than_there_is_leaves_bins_short():
    chosen = select_by_bin(
        np.array([0, 0, 1, -1]), np.array([5, 5, 5]), np.array([1, 2, 3, 4]), np.arange(4)
    )
    assert chosen.tolist() == [0, 1, 2]


def test_lowest_perplexity_one_per_query():
    perplexity = np.array([1.5, 1.3, 1.1, 1.4, np.nan, np.inf, 1.35, 9.0])
    queries = np.array([0, 0, 2, 3, 4, 5, 3, 7])
    assert select_lowest(perplexity, queries, 2).tolist() == [1, 6]
    assert select_lowest(perplexity, queries, 99).tolist() == [1, 6, 7]
    assert select_lowest(perplexity, queries, 3, max_per_query=2).tolist() == [1, 3, 6]
    assert select_lowest(perplexity, queries, 1, min_perplexity=1.0).tolist() == [2]
    assert select_lowest(perplexity, queries, 9, min_perplexity=10).tolist() == []


def test_nothing_chosen_from_nothing():
    none = np.zeros(0, np.int64)
    assert select_by_bin(none, np.array([3]), none, none).tolist() == []
    assert select_lowest(np.zeros(0), none, 3).tolist() == []
    assert occurrence(none).tolist() == []


def test_the_feasible_total_fills_every_bin_and_one_more_does_not():
    rng = np.random.default_rng(0)
    bins = Bins()
    perplexity = rng.normal(3.0, 0.5, 3000)
    bin_of, queries = bins.index(perplexity), np.arange(3000)
    most = feasible_total(bins, 3000, 3.0, 0.25, bin_of, queries, 1)
    available = np.bincount(bin_of[bin_of >= 0], minlength=80)
    assert 0 < most < 3000
    assert (gaussian_counts(bins, most, 3.0, 0.25) <= available).all()
    assert (gaussian_counts(bins, most + 1, 3.0, 0.25) > available).any()
    assert feasible_total(bins, most - 1, 3.0, 0.25, bin_of, queries, 1) == most - 1
    one_query = feasible_total(ONE_BIN, 9, 1.5, 1.0, np.zeros(9, int), np.zeros(9, int), 4)
    assert one_query == 4
