"""How much of a demonstration a prefix-guided rollout is given, and which of it is learnt.

Prefix-RFT (arXiv 2507.01679): one rollout of a group continues the beginning of the prompt's
demonstration. The share that it is given is drawn anew for every prompt and step, between a lower
end that falls along a cosine and an upper end that stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from curiojax.objectives import PrefixRft

# Sets the draws apart from all others that are seeded by (seed, step, something).
_STREAM = 0x5052_4658


def lowest_ratio(objective: PrefixRft, step: int, steps: int) -> float:
    """Lower end of the prefix's share of the demonstration: a half cosine over the run.

        low(t) = end + (start - end) (1 + cos(pi t)) / 2,   t = step / (steps - 1)

    Args:
      step: from 0.
      steps: of the run; one step alone has the start's value.
    """
    done = min(step / (steps - 1), 1.0) if steps > 1 else 0.0
    start, end = objective.prefix_low_start, objective.prefix_low_end
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def prefix_ratio(objective: PrefixRft, seed: int, step: int, steps: int, prompt: int) -> float:
    """The share drawn for a prompt in a step: low + (high - low) x, x ~ Beta(a, b).

    A function of (seed, step, prompt), so that a run which is continued draws the same.
    """
    low = lowest_ratio(objective, step, steps)
    key = np.random.SeedSequence([seed, step, prompt, _STREAM])
    drawn = np.random.Generator(np.random.Philox(key)).beta(objective.beta_a, objective.beta_b)
    return low + (objective.prefix_high - low) * float(drawn)


def prefix_length(ratio: float, tokens: int) -> int:
    """Tokens given of a demonstration of so many: at least one, and all but one at most.

    Of a demonstration of a single token nothing can be given: 0.
    """
    return min(max(int(ratio * tokens), 1), tokens - 1)


def beginning(
    objective: PrefixRft, seed: int, step: int, steps: int, prompt: int, shown: Sequence[int]
) -> list[int]:
    """The part of a prompt's demonstration `shown` that a rollout of a step is given."""
    ratio = prefix_ratio(objective, seed, step, steps, prompt)
    return list(shown[: prefix_length(ratio, len(shown))])


def top_given(entropies: Sequence[np.ndarray], share: float) -> np.ndarray:
    """Which of the given tokens of an update are at or above the (1 - share) quantile of them all.

    The quantile is interpolated linearly, as in `curiojax.losses.tokens.top_share`. It is found on
    the host, where one more or less of these tokens compiles nothing; they are few.

    Args:
      entropies: float32 [B, T] of every micro-batch, nats; below -0.5 where no token was given.
      share: in (0, 1].

    Returns:
      Float32 0 or 1 [M, B, T].
    """
    values = np.stack(entropies)
    candidates = values > -0.5
    if not candidates.any():
        return np.zeros(values.shape, np.float32)
    threshold = np.quantile(values[candidates].astype(np.float64), 1 - share)
    return (candidates & (values.astype(np.float64) >= threshold)).astype(np.float32)
