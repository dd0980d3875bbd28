"""What the base model of each world is trained on, and with which vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curiojax.data.worlds import (
    modchain_trajectories,
    modchain_vocabulary,
    trajectories,
    vocabulary,
)
from curiojax.data.worlds.countdown import PROMPT_TOKENS
from curiojax.data.worlds.tokenizer_files import EOS


@dataclass(frozen=True)
class BaseData:
    """Sequences without end.

    Attributes:
      draw: takes a source of randomness and a number of sequences; returns token ids [n, T] int32,
        and [n, T] bool: what is response.
      shortest_prompt: no token before this one is response.
      vocabulary: all tokens in the order of their ids.
      save_tokenizer: writes the tokenizer's files into a folder.
    """

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    shortest_prompt: int
    vocabulary: tuple[str, ...]
    save_tokenizer: Callable[[str | Path], None]

    @property
    def eos_id(self) -> int:
        """The id of the end of a sequence."""
        return self.vocabulary.index(EOS)


def base_data(world: str) -> BaseData:
    """The data of a world's base model."""
    if world == "countdown":
        return BaseData(
            _countdown, PROMPT_TOKENS, vocabulary.vocabulary(), vocabulary.save_tokenizer
        )
    return BaseData(
        modchain_trajectories.random_sequences,
        modchain_trajectories.SHORTEST_PROMPT,
        modchain_vocabulary.vocabulary(),
        modchain_vocabulary.save_tokenizer,
    )


def _countdown(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = trajectories.random_trajectories(rng, count)
    return tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= PROMPT_TOKENS, tokens.shape)
