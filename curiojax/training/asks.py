"""What a round asks the engine for: prompts as they are, and prompts with a response begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.rollout.base import Completion, Sampling
from curiojax.training.prefixes import beginning


class Ask(NamedTuple):
    """A prompt of a call of `Rollout.generate`.

    Attributes:
      position: of the prompt in the round.
      given: what the completion begins with, in tokens.
      count: completions.
    """

    position: int
    given: list[int]
    count: int


def asks_of(
    config: RunConfig, prompts: PromptData, indices: Sequence[int] | np.ndarray, step: int
) -> list[Ask]:
    """Every prompt of a round as it is, in order, and after these the begun ones.

    A demonstration that takes the place of a completion, whole or as the beginning of one, leaves
    one plain completion less to be drawn.
    """
    objective: Any = config.objective
    plain, begun = [], []
    for position, index in enumerate(indices):
        shown = prompts.demonstration(int(index)) if objective.needs_demonstrations else None
        fewer = shown is not None and not objective.stands_beside
        if shown is not None and objective.continues_demonstrations:
            given = beginning(objective, config.seed, step, config.steps or 1, int(index), shown)
            fewer = bool(given)
            begun += [Ask(position, given, 1)] * fewer
        plain.append(Ask(position, [], config.rollouts_per_prompt - fewer))
    return plain + begun


def keywords_of(asks: Sequence[Ask], sampling: Sampling) -> dict[str, Any]:
    """Of `Rollout.generate`; none where every prompt is asked for the same."""
    if all(not ask.given and ask.count == sampling.n for ask in asks):
        return {}
    num_prompts = sum(not ask.given for ask in asks)
    return {
        # A prompt draws the same whether or not others are begun for it.
        "keys": [ask.position + (num_prompts if ask.given else 0) for ask in asks],
        "counts": [ask.count for ask in asks],
        "limits": [sampling.max_tokens - len(ask.given) for ask in asks],
    }


def continued(given: Sequence[int], completion: Completion) -> Completion:
    """A completion with what it was begun with; its limit bounds both together."""
    if not given:
        return completion
    log_probs = completion.log_probs and [0.0] * len(given) + completion.log_probs
    tokens = [*given, *completion.tokens]
    return completion._replace(tokens=tokens, log_probs=log_probs, entropies=None)
