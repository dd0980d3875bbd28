"""What a step of the RL stage reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np

from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.losses import effective_sample_share
from curiojax.objectives import Hpt, PrefixRft
from curiojax.training import statistics
from curiojax.training.credit import is_switched
from curiojax.training.prefixes import lowest_ratio
from curiojax.training.recipe import Recipe
from curiojax.training.rounds import Group, Round
from curiojax.training.update import Scalars


class Clock:
    """Wall time of the parts of a step."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - start

    def seconds(self, found: Round) -> dict[str, float]:
        """`<part>_seconds`, those of the round, and `step_seconds` since the clock was made.

        A round that was sampled beside the step before counts with its own time, so the parts may
        add up to more than the step.
        """
        parts = {"generate": found.generate_seconds, "grade": found.grade_seconds, **self._parts}
        whole = time.perf_counter() - self._start
        return {f"{name}_seconds": value for name, value in parts.items()} | {"step_seconds": whole}


def update_metrics(recipe: Recipe, results: Sequence[Scalars]) -> dict[str, Any]:
    """Means over all tokens of the step's updates; `loss` and `grad_norm` are means over updates.

    Args:
      results: of the updates, on the host.
    """
    stats = reduce(statistics.add, (scalars.stats for scalars in results))
    report = statistics.summarize(stats, recipe.config.objective, recipe.model.vocab_size)
    slots, positions = report.pop("slots"), report.pop("positions")
    report.pop("sft_nll")
    tokens = report["tokens"]
    if "given_tokens" in report:
        report["given_share"] = report["given_tokens"] / max(report["given_tokens"] + tokens, 1)
    squares = report.pop("tis_weight_squared")
    report["ess_share"] = effective_sample_share(
        report["tis_weight"] * tokens, squares * tokens, tokens
    )
    return {
        "loss": float(np.mean([s.loss for s in results])),
        **report,
        "learning_rate": float(results[-1].learning_rate),
        "grad_norm": float(np.mean([s.grad_norm for s in results])),
        "skipped": sum(int(not s.finite) for s in results),
        "padding_share": 1.0 - positions / max(slots, 1e-9),
    }


def round_metrics(config: RunConfig, found: Round) -> dict[str, Any]:
    """What the completions of a step were like: the policy's own, then demonstrations."""
    own = [_only(group, group.own) for group in found.groups]
    rewards = [group.rewards for group in own]
    grades = [grade for group in own for grade in group.grades]
    lengths = np.asarray([len(c.tokens) for g in own for c in g.completions])
    truncated = [cut for group in own for cut in group.truncated]
    statuses = Counter(grade.status for grade in grades)
    return {
        "reward": float(np.mean([grade.reward for grade in grades])),
        "accuracy": float(np.mean([grade.correct for grade in grades])),
        "format_rate": float(np.mean([grade.format_ok for grade in grades])),
        "groups_all_0": float(np.mean([max(row) == 0 for row in rewards])),
        "groups_all_1": float(np.mean([min(row) == 1 for row in rewards])),
        "groups_sampled": found.sampled,
        "response_tokens": float(lengths.mean()),
        "response_tokens_max": int(lengths.max()),
        "truncated_share": float(np.mean(truncated)),
        "grade_statuses": dict(sorted(statuses.items())),
        "rollout_version": found.version,
        "generated_tokens_per_second": _drawn(found) / max(found.generate_seconds, 1e-9),
        **_demonstration_metrics(config, found),
    }


def _drawn(found: Round) -> int:
    """Tokens that the engine drew."""
    return sum(
        len(completion.tokens) - given
        for group in found.groups
        for completion, given in zip(group.completions, group.given, strict=True)
    )


def guided_metrics(
    config: RunConfig, found: Round, prompts: PromptData, step: int
) -> dict[str, Any]:
    """What the rollouts were like that continue a demonstration; 0 where there are none.

    `guided_accuracy` stands beside the `accuracy` of plain rollouts; `prefix_ratio` is the mean
    share of the demonstration that was given, `prefix_ratio_low` and `_high` the ends of what may
    be drawn.

    Args:
      step: of the round, from 0.
    """
    objective = config.objective
    if not isinstance(objective, PrefixRft):
        return {}
    rows = []
    for group in found.groups:
        for completion, grade, given in zip(
            group.completions, group.grades, group.given, strict=True
        ):
            if given:
                whole = len(prompts.demonstration(group.prompt) or completion.tokens)
                rows.append((grade.reward, grade.correct, given, given / whole))
    means = np.mean(rows or [(0.0,) * 4], axis=0)
    names = ("guided_reward", "guided_accuracy", "prefix_tokens", "prefix_ratio")
    return {
        "guided_share": len(rows) / len(found.groups),
        **{name: float(value) for name, value in zip(names, means, strict=True)},
        "prefix_ratio_low": lowest_ratio(objective, step, config.steps or 1),
        "prefix_ratio_high": objective.prefix_high,
    }


def _demonstration_metrics(config: RunConfig, found: Round) -> dict[str, Any]:
    objective: Any = config.objective
    if not objective.needs_demonstrations or objective.continues_demonstrations:
        return {}
    shown = [group for group in found.groups if group.has_demonstration]
    grades = [group.grades[-1] for group in shown]
    metrics = {
        "demonstration_share": len(shown) / len(found.groups),
        "demonstration_reward": float(np.mean([g.reward for g in grades] or [0.0])),
        "demonstration_accuracy": float(np.mean([g.correct for g in grades] or [0.0])),
        "demonstration_tokens": float(
            np.mean([len(group.completions[-1].tokens) for group in shown] or [0.0])
        ),
    }
    if isinstance(config.objective, Hpt):
        switched = [is_switched(config.objective, group) for group in found.groups]
        metrics["switched_share"] = float(np.mean(switched))
    return metrics


def _only(group: Group, members: Sequence[int]) -> Group:
    """The group of some of its completions."""
    return Group(
        group.prompt,
        [group.completions[index] for index in members],
        [group.grades[index] for index in members],
        [group.given[index] for index in members],
    )


# Of the two policies' log-probs, in nats. Bfloat16 against float32 gives about 0.03 on average.
LARGE_MISMATCH = 0.1


def mismatch_warning(metrics: dict[str, Any]) -> str | None:
    """Whether the sampler's policy is another one than the trainer's, in one sentence."""
    if not metrics["mismatch_abs"] > LARGE_MISMATCH:
        return None
    return (
        f"the sampler's log-probs are {metrics['mismatch_abs']:.2g} nats away from the trainer's "
        "on average, more than rounding explains; compare tokenizer, rope_theta and dtypes of the "
        "two, or set objective.tis_cap=2.0 with rollout.top_p=1.0"
    )
