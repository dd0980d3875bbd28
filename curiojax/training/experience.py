"""Completions with their advantages, packed into the micro-batches of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curiojax.data.packing import pack
from curiojax.losses import aggregation_weights
from curiojax.objectives import PolicyObjective
from curiojax.training.recipe import Recipe, place

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
      given: how many of its first tokens were given and not drawn by the policy.
      weight: of the mean that it is in; see `loss_weights`.
      given_advantage: that of the tokens that were given; None: `advantage`.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    log_probs: Sequence[float]
    advantage: float
    learnt: bool = True
    given: int = 0
    weight: float = 1.0
    given_advantage: float | None = None

    @property
    def is_demonstration(self) -> bool:
        return 0 < self.given == len(self.tokens)

    @property
    def num_inputs(self) -> int:
        """Tokens it takes in a row; its last token is only ever a label."""
        return len(self.prompt) + len(self.tokens) - 1


def float_arrays(objective: PolicyObjective) -> tuple[str, ...]:
    """The float32 arrays of a micro-batch."""
    return (*FLOATS, "given") if objective.needs_demonstrations else FLOATS


def loss_weights(
    trajectories: Sequence[Trajectory], objective: PolicyObjective, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a token of each trajectory adds to the two sums of the update: factor and share.

    With demonstrations that stand beside the completions the loss has two terms, each a mean over
    its own tokens in the whole update: completions are reduced by `objective.aggregation`,
    demonstrations by the mean over their tokens, as in the supervised stage.

        loss = weight_own own_sum / own_count + weight_demo demo_sum / demo_count

    The update divides once, by own_count, so the second factor holds the quotient of the two
    counts. Without completions it divides by demo_count, and there is no first term.

    Returns:
      Float32, one each per trajectory.
    """
    lengths = np.asarray([len(t.tokens) if t.learnt else 0 for t in trajectories])
    factors, shares = aggregation_weights(lengths, objective.aggregation, max_length=max_length)
    if objective.stands_beside:
        theirs = np.asarray([t.is_demonstration for t in trajectories])
        count = float((shares * lengths)[~theirs].sum(dtype=np.float64))
        theirs_count = float(lengths[theirs].sum())
        alone = count == 0
        scale = 1.0 if alone or not theirs_count else count / theirs_count
        factors = np.where(theirs, (lengths > 0) * scale, factors)
        shares = np.where(theirs, (lengths > 0) * float(alone), shares)
    weights = np.asarray([t.weight for t in trajectories])
    return (factors * weights).astype(np.float32), shares.astype(np.float32)


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
      `loss_mask` holds the factor of a token's loss (see `loss_weights`) and `loss_share` what it
      adds to the sum that the update divides by; `advantages` and `sampler_log_probs` are those of
      the label, and `given`, which only objectives with demonstrations have, is 1 where the label
      was given. Float32, 0 where no label of a response is.
    """
    factors, shares = loss_weights(trajectories, objective, max_length)
    lengths = [t.num_inputs for t in trajectories]
    layout = pack(lengths, row_length) if packing else [[i] for i in range(len(lengths))]
    count = max(-(-len(layout) // rows), 1)
    shape = (count * rows, row_length)
    batch = {name: np.zeros(shape, np.int32) for name in INTEGERS}
    batch |= {name: np.zeros(shape, np.float32) for name in float_arrays(objective)}
    for row, members in enumerate(layout):
        start = 0
        for segment, index in enumerate(members, 1):
            trajectory, stop = trajectories[index], start + lengths[index]
            ids = np.asarray([*trajectory.prompt, *trajectory.tokens], np.int32)
            batch["tokens"][row, start:stop] = ids[:-1]
            batch["labels"][row, start:stop] = ids[1:]
            batch["positions"][row, start:stop] = np.arange(stop - start)
            batch["segment_ids"][row, start:stop] = segment
            first = start + len(trajectory.prompt) - 1
            response = slice(first, stop)
            batch["loss_mask"][row, response] = factors[index]
            batch["loss_share"][row, response] = shares[index]
            batch["advantages"][row, response] = trajectory.advantage
            batch["sampler_log_probs"][row, response] = trajectory.log_probs
            if "given" in batch:
                beginning = slice(first, first + trajectory.given)
                batch["given"][row, beginning] = 1
                if trajectory.given_advantage is not None:
                    batch["advantages"][row, beginning] = trajectory.given_advantage
            start = stop
    return {name: array.reshape(count, rows, row_length) for name, array in batch.items()}


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
