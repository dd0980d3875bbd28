"""Choosing records by perplexity, as OXA does (arXiv 2603.16206): pure functions of numpy arrays.

The promoted set follows a Gaussian over perplexity: the range is cut into bins, each bin wants a
share of the records, and within a bin long responses come first and queries take turns. The
suppressed set is the wrong samples of lowest perplexity.

Where the released code (github.com/takagi97/OXA-Fine-tuning) is followed: bins and their edges,
largest-remainder counts, longest first, rounds over queries, bins visited from low to high under
one limit per query, bins that lack records left short, the lower limit of the suppressed set.
Where not: from its second round on it can take a record that it has taken already, here a record is
taken once; its ties are broken by a generator that runs through all bins, here by a permutation
keyed by the seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curiojax.data.batches import epoch_order
from curiojax.errors import ConfigError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Bins:
    """Equal bins over [low, high], the last one closed on both sides.

    Raises:
      ConfigError: the range is empty or not a whole number of bins.
    """

    low: float = 1.0
    high: float = 5.0
    width: float = 0.05

    def __post_init__(self):
        if not (self.width > 0 and self.high > self.low):
            raise ConfigError(
                f"bins: no bins of width {self.width:g} fit between {self.low:g} and "
                f"{self.high:g}; give a positive width and a range that is not empty"
            )
        if abs((self.high - self.low) / self.width - self.count) > 1e-6:
            raise ConfigError(
                f"bins: {self.low:g} to {self.high:g} is no whole number of bins of width "
                f"{self.width:g}; change the width or the range"
            )

    @property
    def count(self) -> int:
        return round((self.high - self.low) / self.width)

    @property
    def edges(self) -> np.ndarray:
        """Float64 [count + 1]."""
        return np.linspace(self.low, self.high, self.count + 1)

    @property
    def centers(self) -> np.ndarray:
        """Float64 [count]."""
        return self.low + (np.arange(self.count) + 0.5) * self.width

    def index(self, values: np.ndarray) -> np.ndarray:
        """The bin of each value, int64; -1 outside of the range and for what is not finite."""
        values = np.asarray(values, np.float64)
        inside = np.isfinite(values) & (values >= self.low) & (values <= self.high)
        # What rounding put just below an edge belongs above it.
        place = (np.where(inside, values, self.low) - self.low) / self.width + _ROUNDING
        return np.where(inside, np.minimum(place.astype(np.int64), self.count - 1), -1)


def gaussian_counts(bins: Bins, total: int, mu: float, sigma: float) -> np.ndarray:
    """How many of `total` records each bin should hold, int64 [bins.count]; they add up to `total`.

    Shares are the normal density at the bins' centres, normalised over the bins. Whole numbers by
    largest remainder; of equal remainders the lower bin's counts more.

    Raises:
      ConfigError: sigma is not positive, or total is negative.
    """
    if not (sigma > 0 and total >= 0):
        raise ConfigError(f"sigma: {sigma:g} and count: {total} must be positive")
    exponents = -0.5 * ((bins.centers - mu) / sigma) ** 2
    shares = np.exp(exponents - exponents.max())  # a mean far outside must not underflow to 0 / 0
    ideal = total * (shares / shares.sum())
    counts = np.floor(ideal + _ROUNDING).astype(np.int64)
    remainders = np.round(ideal - counts, 9)  # mirrored bins differ by rounding alone
    order = np.lexsort((np.arange(bins.count), -remainders))
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def select_by_bin(
    bin_of: np.ndarray,
    wanted: np.ndarray,
    lengths: np.ndarray,
    queries: np.ndarray,
    *,
    max_per_query: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Fills bins with the longest records, queries taking turns.

    In the first round each query gives its longest record of the bin, in the second the next one,
    and so on; within a round the longest records come first. Bins are filled from low to high, and
    no query gives more than `max_per_query` records to all of them together. A bin without enough
    records stays short.

    Args:
      bin_of: int [N], the bin of each record, negative for none.
      wanted: int [bins], records per bin.
      lengths: int [N].
      queries: int [N], equal for records that answer the same query, in [0, N).
      max_per_query: see above.
      seed: of the order of records of one length.

    Returns:
      The chosen records in ascending order, int64.
    """
    ranks = _ties(len(bin_of), seed)
    given = np.zeros(len(bin_of), np.int64)  # by query, over all bins so far
    chosen = []
    for number, target in enumerate(np.asarray(wanted).tolist()):
        members = np.flatnonzero(bin_of == number)
        members = members[np.lexsort((ranks[members], -lengths[members]))]
        turn = occurrence(queries[members])
        allowed = given[queries[members]] + turn < max_per_query
        members, turn = members[allowed], turn[allowed]
        taken = members[np.argsort(turn, kind="stable")][:target]
        np.add.at(given, queries[taken], 1)
        chosen.append(taken)
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))


def select_lowest(
    perplexity: np.ndarray,
    queries: np.ndarray,
    count: int,
    *,
    min_perplexity: float = 1.2,
    max_per_query: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """The records of lowest perplexity, from each query its lowest ones.

    Args:
      perplexity: float [N]; what is not finite is never chosen.
      queries: int [N], as in `select_by_bin`.
      count: how many, at most.
      min_perplexity: leaves out what is even less surprising, which is mostly endless repetition.
      max_per_query: records of one query, at most.
      seed: of the order of records of one perplexity.

    Returns:
      The chosen records in ascending order, int64.
    """
    members = np.flatnonzero(np.isfinite(perplexity) & (perplexity >= min_perplexity))
    ranks = _ties(len(perplexity), seed)
    members = members[np.lexsort((ranks[members], perplexity[members]))]
    members = members[occurrence(queries[members]) < max_per_query]
    return np.sort(members[:count])


def feasible_total(
    bins: Bins,
    total: int,
    mu: float,
    sigma: float,
    bin_of: np.ndarray,
    queries: np.ndarray,
    max_per_query: int,
) -> int:
    """A total, `total` at most, that leaves no bin short while one more would.

    The limit per query counts within each bin only, so with queries that have records in several
    bins a smaller one may be needed.
    """
    inside = np.flatnonzero(bin_of >= 0)
    pairs = bin_of[inside] * len(queries) + queries[inside]
    usable = inside[occurrence(pairs) < max_per_query]
    available = np.bincount(bin_of[usable], minlength=bins.count)
    low, high = 0, min(total, int(available.sum()))
    while low < high:
        middle = (low + high + 1) // 2
        if (gaussian_counts(bins, middle, mu, sigma) <= available).all():
            low = middle
        else:
            high = middle - 1
    return low


def occurrence(groups: np.ndarray) -> np.ndarray:
    """For each entry, how many equal ones are before it, int64."""
    order = np.argsort(groups, kind="stable")
    ordered = np.asarray(groups)[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
    counts = np.empty(len(ordered), np.int64)
    counts[order] = np.arange(len(ordered)) - first
    return counts


def _ties(count: int, seed: int) -> np.ndarray:
    return np.argsort(epoch_order(count, seed, 0))
