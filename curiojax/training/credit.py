"""What every completion of a round is worth: its advantage, and whether it is learnt at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from curiojax.data.prompts import PromptData
from curiojax.losses import group_advantages, handle_overlong
from curiojax.objectives import Hpt, PolicyObjective, PrefixRft, SftRl, Srft
from curiojax.training.experience import Trajectory
from curiojax.training.recipe import Recipe
from curiojax.training.rounds import Group, Round


def trajectories_of(
    recipe: Recipe, found: Round, prompts: PromptData
) -> Iterator[list[Trajectory]]:
    """What each update of the step learns from, with its advantages."""
    objective: Any = recipe.config.objective
    size = recipe.config.prompts_per_update
    for start in range(0, len(found.groups), size):
        yield credit(objective, found.groups[start : start + size], prompts)


def credit(
    objective: PolicyObjective, groups: Sequence[Group], prompts: PromptData
) -> list[Trajectory]:
    """The trajectories of one update, group by group.

    - A demonstration that takes the place of a completion (`Luffy`, `RlPlus`) is credited like one,
      in the group of all.
    - `SftRl`: completions among themselves; nobody looks at the demonstration's advantage.
    - `Srft`: a completion has 1 if it is right and -1 if not; the demonstration has its advantage
      in the group of all.
    - `Hpt`: completions among themselves, or, where `is_switched`, only the demonstration. The two
      means have the weights of their shares of the prompts, as in a mean over prompts.
    - `PrefixRft`: plain rollouts among themselves; of a guided one the continuation has its reward,
      the prefix its reward less the mean of the plain ones.
    """
    ruled = [_ruled(objective, group) for group in groups]
    if isinstance(objective, PrefixRft):
        return _guided(objective, groups, ruled, prompts)
    everyone = _advantages([rewards for rewards, _ in ruled], objective.normalize_std)
    if not objective.stands_beside:
        return [
            _trajectory(prompts, group, index, advantages[index], learnt[index])
            for group, advantages, (_, learnt) in zip(groups, everyone, ruled, strict=True)
            for index in range(len(group.completions))
        ]
    alone = [rewards[group.own] for group, (rewards, _) in zip(groups, ruled, strict=True)]
    own_weight, their_weight = 1.0, 1.0
    switched = [False] * len(groups)
    match objective:
        case Srft():
            own = [np.where(rewards > 0, 1.0, -1.0) for rewards in alone]
        case Hpt():
            own = _advantages(alone, objective.normalize_std)
            switched = [is_switched(objective, group) for group in groups]
            share = sum(switched) / len(groups)
            own_weight, their_weight = 1.0 - share, objective.sft_coef * share
        case SftRl():
            own = _advantages(alone, objective.normalize_std)
            their_weight = objective.sft_coef
        case _:
            raise ValueError(f"{type(objective).__name__} has no rule for its advantages")
    found = []
    for position, (group, (_, learnt)) in enumerate(zip(groups, ruled, strict=True)):
        if not switched[position]:
            found += [
                _trajectory(prompts, group, index, advantage, learnt[index], own_weight)
                for index, advantage in zip(group.own, own[position], strict=True)
            ]
        if group.has_demonstration and (switched[position] or not isinstance(objective, Hpt)):
            advantage, used = everyone[position][-1], learnt[-1]
            found.append(_trajectory(prompts, group, -1, advantage, used, their_weight))
    return found


def _guided(
    objective: PrefixRft,
    groups: Sequence[Group],
    ruled: Sequence[tuple[np.ndarray, np.ndarray]],
    prompts: PromptData,
) -> list[Trajectory]:
    plain = [rewards[group.own] for group, (rewards, _) in zip(groups, ruled, strict=True)]
    found = []
    for group, own, advantages, (rewards, learnt) in zip(
        groups, plain, _advantages(plain, objective.normalize_std), ruled, strict=True
    ):
        credited = dict(zip(group.own, advantages, strict=True))
        for index, reward in enumerate(rewards):
            made = _trajectory(prompts, group, index, credited.get(index, reward), learnt[index])
            if group.given[index]:
                made = replace(made, given_advantage=float(reward - own.mean()))
            found.append(made)
    return found


def is_switched(objective: Hpt, group: Group) -> bool:
    """Whether the group's demonstration is learnt instead of its completions."""
    rewards, _ = _ruled(objective, group)
    right = int((rewards[group.own] > 0).sum())
    return group.has_demonstration and right <= objective.gate


def _ruled(objective: PolicyObjective, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and who is learnt, [completions] each, by the rule for what was cut."""
    rewards, learnt = handle_overlong(objective.overlong, [group.rewards], [group.truncated])
    return rewards[0], learnt[0]


def _advantages(rewards: Sequence[np.ndarray], normalize_std: bool) -> list[np.ndarray]:
    """`group_advantages` of groups of any sizes."""
    found: list[np.ndarray] = [np.zeros(0)] * len(rewards)
    for size in {len(one) for one in rewards}:
        where = [position for position, one in enumerate(rewards) if len(one) == size]
        values = np.asarray(group_advantages(np.stack([rewards[i] for i in where]), normalize_std))
        for position, row in zip(where, values, strict=True):
            found[position] = row
    return found


def _trajectory(
    prompts: PromptData,
    group: Group,
    index: int,
    advantage: float,
    learnt: bool,
    weight: float = 1.0,
) -> Trajectory:
    completion = group.completions[index]
    return Trajectory(
        prompts.ids[group.prompt],
        completion.tokens,
        completion.log_probs,
        float(advantage),
        bool(learnt),
        group.given[index],
        weight,
    )
