"""What the sampler's host side knows of every row: its task, and what was drawn for it so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from curiojax.rollout.sampling import Draw


class Task(NamedTuple):
    """One completion to be generated."""

    prompt: int
    sample: int
    batch: int  # of prompts that are prefilled together
    place: int  # of the prompt in that batch
    limit: int  # of its tokens


class Finished(NamedTuple):
    """A task with the tokens, log-probs and entropies of its completion."""

    task: Task
    drawn: Draw


class Rows:
    """What the host knows of every row.

    `table` [7, B] is the argument of `slots.advance`: prompt's key, sample index, input token, its
    position, number of tokens drawn, 1 for a row in use, number of tokens that it may have.
    """

    def __init__(self, count: int, max_tokens: int):
        self.table = np.zeros((7, count), np.int32)
        self.widths = np.zeros(count, np.int32)  # entries of the ring that the prompt took
        self.tasks: list[Task | None] = [None] * count
        dtypes = (np.int32, np.float32, np.float32)
        arrays: Any = [np.zeros((count, max_tokens), dtype) for dtype in dtypes]
        self.drawn = Draw(*arrays)

    @property
    def counts(self) -> np.ndarray:
        return self.table[4]

    @property
    def used(self) -> np.ndarray:
        return self.table[5] > 0

    @property
    def left(self) -> np.ndarray:
        """Tokens that each row may still draw."""
        return self.table[6] - self.counts

    def assign(self, row: int, task: Task, key: int, prompt: Sequence[int], width: int) -> None:
        self.table[:, row] = (
            *(key, task.sample, prompt[-1], len(prompt) - 1),
            *(0, 1, task.limit),
        )
        self.widths[row] = width
        self.tasks[row] = task

    def ring_length(self, steps: int) -> int:
        """Entries that the rows in use need for `steps` more tokens."""
        return int(np.max(self.widths + self.counts, where=self.used, initial=0)) + steps

    def select(self, rows: np.ndarray) -> None:
        """Keeps the given rows, in that order."""
        self.table, self.widths = self.table[:, rows], self.widths[rows]
        self.tasks = [self.tasks[row] for row in rows]
        self.drawn = Draw(*(values[rows] for values in self.drawn))

    def absorb(self, drawn: Draw, new: np.ndarray, live: np.ndarray) -> list[Finished]:
        """Appends `new[b]` tokens to every row b, and returns what is finished by them."""
        step, row = np.nonzero(np.arange(drawn.tokens.shape[0])[:, None] < new[None, :])
        column = self.counts[row] + step
        for kept, values in zip(self.drawn, drawn, strict=True):
            kept[row, column] = values[step, row]
        ended = np.nonzero(self.used & ~live)[0]
        self.table[3] += new
        self.table[4] += new
        self.table[5] = live
        moved = np.nonzero(new)[0]
        self.table[2, moved] = self.drawn.tokens[moved, self.counts[moved] - 1]
        finished = []
        for row in ended:
            task, self.tasks[row] = self.tasks[row], None
            assert task is not None
            # Copied, because the row is given away before the host gets to these.
            kept = Draw(*(values[row, : self.counts[row]].copy() for values in self.drawn))
            finished.append(Finished(task, kept))
        return finished
