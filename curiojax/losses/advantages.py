"""From the rewards of a group of responses to one prompt to the advantage of each."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

EPSILON = 1e-6

Overlong = Literal["keep", "zero", "mask"]


def group_advantages(rewards: ArrayLike | jax.Array, normalize_std: bool = True) -> jax.Array:
    """How much better each response is than its group: (r - mean) / (std + 1e-6).

    Args:
      rewards: `[G, n]`, n responses to each of G prompts.
      normalize_std: divide by the unbiased standard deviation of the group (GRPO); without it
        (Dr.GRPO, arXiv 2503.20783) easy and hard prompts keep their smaller advantages.

    Returns:
      float32 `[G, n]`; exactly 0 in groups whose rewards are all equal (or that have one response),
      where the rounding of the mean, divided by almost nothing, would pass for a signal.

    Raises:
      ValueError: rewards of another rank.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [groups, responses], not of shape {rewards.shape}")
    equal = (rewards == rewards[:, :1]).all(axis=1, keepdims=True)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if normalize_std and rewards.shape[1] > 1:
        std = jnp.std(jnp.where(equal, 0, rewards), axis=1, ddof=1, keepdims=True)
        centred = centred / (std + EPSILON)
    return jnp.where(equal, 0, centred)


def groups_with_signal(rewards: ArrayLike, kept: ArrayLike | None = None) -> np.ndarray:
    """Which groups teach something: DAPO's dynamic sampling (arXiv 2503.14476) keeps these.

    Args:
      rewards: `[G, n]`, as given to `group_advantages`.
      kept: bool `[G, n]` of `handle_overlong`, the responses in the loss; None: all.

    Returns:
      bool `[G]`: the rewards differ, and a response with an advantage is in the loss.
    """
    rewards = np.asarray(rewards, np.float32)
    differ = (rewards != rewards[:, :1]).any(axis=1)
    if kept is None:
        return differ
    used = np.asarray(kept, bool) & (np.asarray(group_advantages(rewards, False)) != 0)
    return differ & used.any(axis=1)


def handle_overlong(
    mode: Overlong, rewards: ArrayLike, truncated: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of the responses that were cut at the limit.

    Args:
      mode: `keep` grades them like the others (the paper's code; with a format rule that asks for
        the end of the reasoning most of them get 0 anyway), `zero` gives them reward 0 whatever
        they contain, `mask` leaves them out of the loss (DAPO's overlong filtering). Their reward
        counts in the mean and deviation of their group in every case.
      rewards: `[G, n]`.
      truncated: bool `[G, n]`.

    Returns:
      The rewards to use, float32 `[G, n]`, and which responses are in the loss, bool `[G, n]`.

    Raises:
      ValueError: unknown mode, or shapes that differ.
    """
    rewards, truncated = np.asarray(rewards, np.float32), np.asarray(truncated, bool)
    if rewards.shape != truncated.shape:
        raise ValueError(f"rewards {rewards.shape} and truncated {truncated.shape} must match")
    everyone = np.ones(rewards.shape, bool)
    if mode == "keep":
        return rewards, everyone
    if mode == "zero":
        return np.where(truncated, np.float32(0), rewards), everyone
    if mode == "mask":
        return rewards, ~truncated
    raise ValueError(f"unknown overlong mode {mode!r}; known: keep, zero, mask")
