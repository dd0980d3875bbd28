"""Comparing methods over seeds: means with standard errors, and differences at equal accuracy.

A method that learns less keeps more of the base model, whatever it is. So the question about a
method is not where it ends but what it keeps at the accuracy it reached, against the control's own
path to that accuracy: the checkpoints of plain fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
      mean: of the values there are.
      error: standard error of the mean, from the sample variance; None for a single value.
      count: how many values there were.
    """

    mean: float
    error: float | None
    count: int


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and standard error of the finite ones among `values`; None if there are none."""
    known = np.asarray([v for v in values if v is not None and math.isfinite(v)], np.float64)
    if not known.size:
        return None
    error = float(known.std(ddof=1) / math.sqrt(known.size)) if known.size > 1 else None
    return Estimate(float(known.mean()), error, known.size)


def interpolate(curve: Iterable[tuple[float, float]], at: float) -> float | None:
    """Height at `at` of the straight lines that join the points in the order of their x.

    Points with the same x count as one, at their mean height.

    Returns:
      None where the curve does not reach: nothing is extrapolated.
    """
    heights: dict[float, list[float]] = {}
    for x, y in curve:
        heights.setdefault(float(x), []).append(float(y))
    xs = sorted(heights)
    if not xs or not xs[0] <= at <= xs[-1]:
        return None
    return float(np.interp(at, xs, [np.mean(heights[x]) for x in xs]))


def difference_at_equal(
    control: Iterable[Mapping[str, Any]], scores: Mapping[str, Any], *, equal: str, key: str
) -> float | None:
    """How much more of `key` there is than the control has where it has as much of `equal`.

    Args:
      control: scores of the control's checkpoints, such as those of vanilla SFT.
      scores: of the model that is compared.
      equal: what is held fixed, such as `id_pass1`.
      key: what is compared, such as `hard_pass16`.

    Returns:
      None where the control has no checkpoints on both sides, or a score is missing.
    """
    if equal not in scores or key not in scores:
        return None
    curve = [(point[equal], point[key]) for point in control if equal in point and key in point]
    height = interpolate(curve, scores[equal])
    return None if height is None else float(scores[key]) - height


def final_mean(rows: Sequence[Mapping[str, Any]], key: str, *, share: float = 0.1) -> float | None:
    """Mean of a metric over the last `share` of a run's steps; None where it was never finite.

    Args:
      rows: the objects of `metrics.jsonl`.
    """
    last = rows[-max(1, math.ceil(len(rows) * share)) :] if rows else []
    found = estimate(row.get(key) for row in last)
    return found.mean if found else None


def seconds_per_step(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Median wall time of a step, without the first one, which waits for the data to arrive.

    Compilation is no part of it: a run's programs are compiled ahead of its first step.
    """
    seconds = [row["step_seconds"] for row in rows[1:] if row.get("step_seconds") is not None]
    return float(np.median(seconds)) if seconds else None
