"""Means over seeds, and differences within a seed with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from curiojax.evaluation.comparison import difference_at_equal
from reproduction.records import Group, Value

FEWEST_SEEDS = 5  # below this nothing is claimed
LEVEL = 0.95


class Difference(NamedTuple):
    """Of a method to a control, seed by seed.

    Attributes:
      mean: over the seeds that have both.
      low, high: Student's t interval of the mean; None for a single seed.
      count: how many seeds.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def difference(values: Sequence[float], level: float = LEVEL) -> Difference | None:
    """Mean and t interval of differences, one for each seed; None without any."""
    known = np.asarray(values, np.float64)
    count = known.size
    if not count:
        return None
    mean = float(known.mean())
    if count == 1:
        return Difference(mean, None, None, 1)
    error = float(known.std(ddof=1)) / count**0.5
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Difference(mean, mean - reach, mean + reach, count)


def paired(method: Mapping[int, float], control: Mapping[int, float]) -> Difference | None:
    """Method minus control, by seed, over the seeds that both have."""
    return difference([value - control[s] for s, value in method.items() if s in control])


def compare(method: Group, control: Group, value: Value) -> Difference | None:
    """The paired difference of a score."""
    return paired(method.values(value), control.values(value))


def at_equal(
    method: Group, control: Group, samples: int, *, search: bool = False
) -> Difference | None:
    """How much more a method solves than the control's own path does at the same ID accuracy.

    Seed by seed, hard pass@`samples` minus that of the control's checkpoints, interpolated to where
    they have the method's ID pass@1; seeds whose accuracy they do not reach are left out.

    Args:
      search: judge both scores by the way to the answer, and not by its format. A control that has
        not learnt the format yet makes any method look good.
    """
    prefix = "search_" if search else ""
    equal, key = f"{prefix}id_pass1", f"{prefix}hard_pass{samples}"
    found = []
    for seed, run in method.by_seed.items():
        if seed in control.by_seed:
            path = control.by_seed[seed].evaluations.values()
            found.append(difference_at_equal(path, run.final, equal=equal, key=key))
    return difference([value for value in found if value is not None])
