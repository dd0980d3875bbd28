"""Random valid Countdown trajectories, many at a time: what the tiny base model learns from.

Drawn in numpy over a whole batch at once, a few hundred thousand per second.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from curiojax.data.worlds.countdown import (
    EOS,
    LARGEST_NUMBER,
    LARGEST_TARGET,
    LARGEST_VALUE,
    NUM_NUMBERS,
    OPERATORS,
    PROMPT_TOKENS,
    SEPARATOR,
    action_token,
    held_out_multisets,
    multisets,
)
from curiojax.data.worlds.vocabulary import token_ids

# How often an allowed move is drawn, relative to the others, by its operator: + - * /.
OPERATOR_WEIGHTS = (3, 3, 2, 1)
BASE_RESPONSE_TOKENS = 10


class _Moves(NamedTuple):
    """All moves of a pool of k numbers, operators outermost: [4 k (k - 1)]."""

    operator: np.ndarray
    first: np.ndarray
    second: np.ndarray
    rest: np.ndarray  # [moves, k - 2], the positions that stay
    token: np.ndarray


def random_trajectories(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws random walks over the training multisets; the value a walk ends in is its target.

    Each step draws one allowed move with the odds of `OPERATOR_WEIGHTS`; walks that end outside
    1..50 are drawn anew. The answer's tail is left out (`END` and `BOX` never occur), so whoever
    learns from these sequences can search but has never seen the answer format: after the last
    number the sequence just ends.

    Args:
      rng: source of randomness.
      count: number of sequences.

    Returns:
      int32 [count, 16] token ids: 6 of the prompt, 9 of the three steps, the end of the sequence.
    """
    kept: list[np.ndarray] = []
    missing = count
    while missing > 0:
        batch = _walks(rng, 2 * missing + 64)[:missing]
        kept.append(batch)
        missing -= len(batch)
    return np.concatenate(kept)


def _walks(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` walks, less those whose last value is no possible target."""
    pools = _training_multisets()
    pool = rng.permuted(pools[rng.integers(len(pools), size=count)], axis=1)
    numbers, parts = pool, []
    while pool.shape[1] > 1:
        moves = _moves(pool.shape[1])
        values = _results(moves.operator, pool[:, moves.first], pool[:, moves.second])
        weights = np.asarray(OPERATOR_WEIGHTS)[moves.operator] * (values >= 0)
        total = np.cumsum(weights, axis=1)
        draw = rng.random((count, 1)) * total[:, -1:]
        choice = np.argmax(total > draw, axis=1)
        rows = np.arange(count)
        rest = np.take_along_axis(pool, moves.rest[choice], axis=1)
        pool = np.concatenate([rest, values[rows, choice][:, None]], axis=1)
        parts += [moves.token[choice][:, None], _number_ids()[pool]]
    ids = token_ids()
    target = pool[:, 0]
    prompt = [
        _number_ids(first=True)[numbers[:, :1]],
        _number_ids()[numbers[:, 1:]],
        np.full((count, 1), ids[f" {SEPARATOR}"]),
        _number_ids()[pool],
    ]
    tokens = np.concatenate([*prompt, *parts, np.full((count, 1), ids[EOS])], axis=1)
    assert tokens.shape[1] == PROMPT_TOKENS + BASE_RESPONSE_TOKENS
    return tokens[(target >= 1) & (target <= LARGEST_TARGET)].astype(np.int32)


def _results(operator: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Values [n, m] of operators [m] on left and right [n, m]; -1 where the rules forbid it."""
    divisor = np.where(right == 0, 1, right)
    exact = (right != 0) & (left % divisor == 0)
    quotient = np.where(exact, left // divisor, -1)
    values = np.choose(operator[None, :], [left + right, left - right, left * right, quotient])
    return np.where((values >= 0) & (values <= LARGEST_VALUE), values, -1)


@cache
def _moves(pool_size: int) -> _Moves:
    ids, lead = token_ids(), "" if pool_size == NUM_NUMBERS else " "
    rows = []
    for code, operator in enumerate(OPERATORS):
        for i in range(pool_size):
            for j in range(pool_size):
                if i != j:
                    rest = [k for k in range(pool_size) if k not in (i, j)]
                    rows.append((code, i, j, rest, ids[lead + action_token(operator, i, j)]))
    operator, first, second, rest, token = zip(*rows, strict=True)
    return _Moves(
        np.asarray(operator),
        np.asarray(first),
        np.asarray(second),
        np.asarray(rest, dtype=np.int64).reshape(len(rows), pool_size - 2),
        np.asarray(token),
    )


@cache
def _number_ids(first: bool = False) -> np.ndarray:
    """The id of every number, by value: after a space, or as the first word (from 1 to 9)."""
    if first:
        return np.asarray([-1, *(token_ids()[str(k)] for k in range(1, LARGEST_NUMBER + 1))])
    return np.asarray([token_ids()[f" {value}"] for value in range(LARGEST_VALUE + 1)])


@cache
def _training_multisets() -> np.ndarray:
    return np.asarray([pool for pool in multisets() if pool not in held_out_multisets()])
