"""OXA's two choices (arXiv 2603.16206) on scored records, with what a reader must know of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from curiojax.data.pipeline import SupervisedData
from curiojax.data.selection import (
    Bins,
    feasible_total,
    gaussian_counts,
    select_by_bin,
    select_lowest,
)
from curiojax.errors import ConfigError
from curiojax.evaluation.scores import ScoreFile
from curiojax.reports.selection import SelectedSet


@dataclass(frozen=True)
class Promote:
    """How correct records are chosen; the numbers are the release's for 7B models.

    Attributes:
      count: records in all.
      mu, sigma: mean and standard deviation of the perplexities to be had.
      bins: of perplexity.
      max_per_query: records that answer one query, at most.
      seed: of the order of equals.
    """

    count: int = 50_000
    mu: float = 3.0
    sigma: float = 0.25
    bins: Bins = field(default_factory=Bins)
    max_per_query: int = 10
    seed: int = 0

    @property
    def wanted(self) -> np.ndarray:
        """Records per bin, int64."""
        return gaussian_counts(self.bins, self.count, self.mu, self.sigma)


@dataclass(frozen=True)
class Suppress:
    """How wrong samples are chosen: the lowest perplexities from `min_perplexity` on."""

    count: int = 50_000
    min_perplexity: float = 1.2
    max_per_query: int = 1
    seed: int = 0


def choose_promoted(rule: Promote, data: SupervisedData, scores: ScoreFile) -> SelectedSet:
    """Chooses records whose perplexities follow the Gaussian.

    Raises:
      ConfigError: none has a perplexity where the Gaussian is.
    """
    queries, repeated = data.queries()
    perplexity = np.where(repeated, np.nan, scores.perplexity())
    bin_of, wanted = rule.bins.index(perplexity), rule.wanted
    chosen = select_by_bin(
        bin_of,
        wanted,
        data.response_lengths,
        queries,
        max_per_query=rule.max_per_query,
        seed=rule.seed,
    )
    finite = perplexity[np.isfinite(perplexity)]
    median = f"{np.median(finite):.3g}" if len(finite) else "unknown"
    if not len(chosen):
        raise ConfigError(
            f"--mu: no record has a perplexity near {rule.mu:g} (their median is {median}); choose "
            "another --mu (with --max-perplexity beyond it), or another --context"
        )
    notes = _oddities(scores, repeated)
    if len(chosen) < rule.count:
        taken = np.bincount(bin_of[chosen], minlength=rule.bins.count)
        gaps = wanted - taken
        worst, edges = int(gaps.argmax()), rule.bins.edges
        most = feasible_total(
            rule.bins, rule.count, rule.mu, rule.sigma, bin_of, queries, rule.max_per_query
        )
        notes.append(
            f"{len(chosen):,} of {rule.count:,} records: {int((gaps > 0).sum())} of "
            f"{rule.bins.count} bins are short, most of all {edges[worst]:.2f} to "
            f"{edges[worst + 1]:.2f} with {taken[worst]:,} of {wanted[worst]:,}, and stay so. A "
            f"--count of about {most:,}, another --mu (the candidates' median is {median}) or more "
            "data would fill them."
        )
    return SelectedSet(
        "Promoted",
        perplexity,
        data.response_lengths,
        queries,
        chosen,
        rule.count,
        rule.bins.edges,
        wanted,
        notes,
    )


def choose_suppressed(rule: Suppress, data: SupervisedData, scores: ScoreFile) -> SelectedSet:
    """Chooses the wrong samples that the model is most confident of.

    Raises:
      ConfigError: all of them are below the least perplexity.
    """
    queries, repeated = data.queries()
    perplexity = np.where(repeated, np.nan, scores.perplexity())
    chosen = select_lowest(
        perplexity,
        queries,
        rule.count,
        min_perplexity=rule.min_perplexity,
        max_per_query=rule.max_per_query,
        seed=rule.seed,
    )
    below = int((perplexity < rule.min_perplexity).sum())
    if not len(chosen):
        raise ConfigError(
            f"--suppressed-min-perplexity: none of {len(perplexity)} wrong samples has a "
            f"perplexity of at least {rule.min_perplexity:g}; lower it"
        )
    notes = _oddities(scores, repeated)
    if len(chosen) < rule.count:
        notes.append(
            f"{len(chosen):,} of {rule.count:,} samples: there are no more, with at most "
            f"{rule.max_per_query} of a query and a perplexity of at least "
            f"{rule.min_perplexity:g} ({below:,} are below it)."
        )
    finite = perplexity[np.isfinite(perplexity)]
    # A few samples of huge perplexity must not squeeze all others into the first bins.
    top = max(float(np.quantile(finite, 0.99)), float(perplexity[chosen].max()), 1.1)
    return SelectedSet(
        "Suppressed",
        perplexity,
        data.response_lengths,
        queries,
        chosen,
        rule.count,
        np.linspace(1.0, top, 81),
        None,
        notes,
    )


def _oddities(scores: ScoreFile, repeated: np.ndarray) -> list[str]:
    notes = []
    empty = int((~np.isfinite(scores.perplexity())).sum())
    if empty:
        notes.append(f"{empty:,} records have no finite perplexity and were left out.")
    if repeated.any():
        notes.append(f"{int(repeated.sum()):,} repeated records were left out.")
    return notes
