"""Completions with their advantages, packed into the micro-batches of an update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curiojax.data.packing import pack
from curiojax.data.prompts import PromptData
from curiojax.losses import aggregation_weights, group_advantages, handle_overlong
from curiojax.objectives import PolicyObjective
from curiojax.training.recipe import Recipe, place
from curiojax.training.rounds import Round

INTEGERS = ("tokens", "labels", "positions", "segment_ids")
FLOATS = ("loss_mask", "loss_share", "advantages", "sampler_log_probs")


@dataclass(frozen=True)
class Trajectory:
    """One prompt with one completion of it.

    Attributes:
      prompt, tokens: token ids.
      log_probs: the sampler's, one for each of `tokens`, nats.
      advantage: see `curiojax.losses.group_advantages`.
      learnt: whether it takes part in the loss.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    log_probs: Sequence[float]
    advantage: float
    learnt: bool = True

    @property
    def num_inputs(self) -> int:
        """Tokens it takes in a row; its last token is only ever a label."""
        return len(self.prompt) + len(self.tokens) - 1


def microbatches(
    trajectories: Sequence[Trajectory],
    objective: PolicyObjective,
    *,
    rows: int,
    row_length: int,
    max_length: int,
    packing: bool = True,
) -> dict[str, np.ndarray]:
    """The micro-batches of one update.

    Args:
      trajectories: all of the update's; a share of the loss is theirs whatever row they are in.
      objective: decides how tokens are weighted.
      rows, row_length: of a micro-batch.
      max_length: longest response allowed, in tokens.
      packing: several trajectories share a row.

    Returns:
      Arrays [M, rows, row_length] as `SupervisedData.batch` makes them, with these differences:
      `loss_mask` holds the factor of a token's loss (see `aggregation_weights`) and `loss_share`
      what it adds to the sum that the update divides by; `advantages` and `sampler_log_probs` are
      those of the label. Float32, 0 where no label of a response is.
    """
    learnt = np.asarray([len(t.tokens) if t.learnt else 0 for t in trajectories])
    factors, shares = aggregation_weights(learnt, objective.aggregation, max_length=max_length)
    lengths = [t.num_inputs for t in trajectories]
    layout = pack(lengths, row_length) if packing else [[i] for i in range(len(lengths))]
    count = max(-(-len(layout) // rows), 1)
    shape = (count * rows, row_length)
    batch = {name: np.zeros(shape, np.int32) for name in INTEGERS}
    batch |= {name: np.zeros(shape, np.float32) for name in FLOATS}
    for row, members in enumerate(layout):
        start = 0
        for segment, index in enumerate(members, 1):
            trajectory, stop = trajectories[index], start + lengths[index]
            ids = np.asarray([*trajectory.prompt, *trajectory.tokens], np.int32)
            batch["tokens"][row, start:stop] = ids[:-1]
            batch["labels"][row, start:stop] = ids[1:]
            batch["positions"][row, start:stop] = np.arange(stop - start)
            batch["segment_ids"][row, start:stop] = segment
            response = slice(start + len(trajectory.prompt) - 1, stop)
            batch["loss_mask"][row, response] = factors[index]
            batch["loss_share"][row, response] = shares[index]
            batch["advantages"][row, response] = trajectory.advantage
            batch["sampler_log_probs"][row, response] = trajectory.log_probs
            start = stop
    return {name: array.reshape(count, rows, row_length) for name, array in batch.items()}


def trajectories_of(
    recipe: Recipe, found: Round, prompts: PromptData
) -> Iterator[list[Trajectory]]:
    """What each update of the step learns from, with its advantages."""
    objective: Any = recipe.config.objective
    size = recipe.config.prompts_per_update
    for start in range(0, len(found.groups), size):
        groups = found.groups[start : start + size]
        rewards, learnt = handle_overlong(
            objective.overlong, [g.rewards for g in groups], [g.truncated for g in groups]
        )
        advantages = np.asarray(group_advantages(rewards, objective.normalize_std))
        yield [
            Trajectory(
                prompts.ids[group.prompt],
                completion.tokens,
                completion.log_probs,
                float(advantages[i, j]),
                bool(learnt[i, j]),
            )
            for i, group in enumerate(groups)
            for j, completion in enumerate(group.completions)
        ]


def place_update(recipe: Recipe, trajectories: Sequence[Trajectory]) -> list[Any]:
    """The micro-batches of an update on the devices."""
    config = recipe.config
    arrays = microbatches(
        trajectories,
        config.objective,  # type: ignore[arg-type]
        rows=config.rows_per_microbatch,
        row_length=config.row_length,
        max_length=config.rollout.max_response_tokens,
        packing=config.data.packing,
    )
    return list(place(arrays, recipe.mesh))
