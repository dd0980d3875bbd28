"""Expert demonstrations for the Countdown world, and prompts to evaluate on.

All demonstrations solve ID problems (those that + and - suffice for) of the training multisets;
HARD problems and held-out multisets never occur in them. The recipes:

- `canon`: the canonical solution of every problem; a deterministic expert.
- `two`: with probability q the solution of a second, equally consistent expert; two strategies.
- `mix`: with probability q any solution, drawn uniformly; otherwise the canonical one.
- `noise`: with probability q a legal random walk that misses the target; otherwise canonical.

A smaller `count` of `canon` is the few-demonstrations regime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from curiojax.data.worlds import BASE_MODEL, countdown
from curiojax.data.worlds.countdown import Kind, Problem, Step
from curiojax.data.worlds.interface import EmbeddedWorld, EvaluationKind, check_recipe
from curiojax.data.worlds.records import write_parquet as write_parquet
from curiojax.errors import ConfigError

Expert = Literal["canon", "two", "mix", "noise"]


class Demonstration(NamedTuple):
    """One expert response: the problem, its steps and which strategy wrote them."""

    problem: Problem
    steps: tuple[Step, ...]
    strategy: str  # canonical | second | any | noise

    @property
    def response(self) -> str:
        """The text of the response, with the answer and without the end of the sequence."""
        return countdown.response_text(self.steps)


def demonstrations(
    expert: Expert = "two", *, q: float = 0.2, count: int = 4000, seed: int = 0
) -> list[Demonstration]:
    """Draws the demonstrations of one expert; a pure function of its arguments.

    Problems are visited in passes, each pass in a new order, so all are used about equally often.
    Each demonstration shows the numbers in a random order.

    Args:
      expert: `canon`, `two`, `mix` or `noise`.
      q: chance of the expert's other behaviour; `canon` ignores it.
      count: number of demonstrations.
      seed: of the draw.

    Raises:
      ConfigError: for an unknown expert or a q outside [0, 1].
    """
    check_recipe(expert, q, get_args(Expert))
    rng = np.random.default_rng([seed, 1])
    return [
        _demonstrate(problem, expert, q, rng)
        for problem in _draw(countdown.problems("id", held_out=False), count, rng)
    ]


def evaluation_problems(kind: Kind, count: int | None = None, *, seed: int = 0) -> list[Problem]:
    """Problems of the held-out multisets, in random order, each at most once.

    Args:
      kind: `id` or `hard`.
      count: how many; None gives all of them.
      seed: of the order of the problems and of the numbers within them.

    Raises:
      ConfigError: if there are fewer problems than asked for.
    """
    available = countdown.problems(kind, held_out=True)
    count = len(available) if count is None else count
    if count > len(available):
        raise ConfigError(
            f"count: only {len(available)} held-out {kind} problems exist, not {count}; "
            "ask for fewer"
        )
    return _draw(available, count, np.random.default_rng([seed, 2]))


def training_problems(kind: Kind, count: int, *, seed: int = 0) -> list[Problem]:
    """Problems of the training multisets in random order; repeats come once all were used."""
    return _draw(countdown.problems(kind, held_out=False), count, np.random.default_rng([seed, 3]))


def _draw(available: Sequence[Problem], count: int, rng: np.random.Generator) -> list[Problem]:
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(available)).tolist()
    return [_shuffled(available[k], rng) for k in order[:count]]


def _shuffled(problem: Problem, rng: np.random.Generator) -> Problem:
    return Problem(tuple(rng.permutation(problem.numbers).tolist()), problem.target)


def _demonstrate(
    problem: Problem, expert: Expert, q: float, rng: np.random.Generator
) -> Demonstration:
    if expert == "canon" or rng.random() >= q:
        return Demonstration(problem, countdown.canonical_solution(problem), "canonical")
    if expert == "two":
        return Demonstration(problem, countdown.second_solution(problem), "second")
    if expert == "mix":
        every = list(countdown.solutions(problem))
        return Demonstration(problem, every[rng.integers(len(every))], "any")
    return Demonstration(problem, _missing_walk(problem, rng), "noise")


def _missing_walk(problem: Problem, rng: np.random.Generator) -> tuple[Step, ...]:
    """A random legal trajectory whose last value is not the target."""
    while True:
        pool: countdown.Pool = problem.numbers
        steps: list[Step] = []
        while len(pool) > 1:
            moves = list(countdown.legal_steps(pool))
            steps.append(moves[rng.integers(len(moves))])
            pool = steps[-1].pool
        if steps[-1].pool[0] != problem.target:
            return tuple(steps)


COUNTDOWN = EmbeddedWorld(
    name="countdown",
    title="Countdown",
    base_model=BASE_MODEL,
    prompt_tokens=countdown.PROMPT_TOKENS,
    response_tokens=countdown.RESPONSE_TOKENS,
    verifier="countdown",
    format="none",  # the verifier asks for it
    kinds=(
        EvaluationKind("id", "ID", "solvable with + and -", countdown.RESPONSE_TOKENS),
        EvaluationKind("hard", "hard", "in need of * or /", countdown.RESPONSE_TOKENS),
    ),
    demonstrations=demonstrations,
    training_problems=training_problems,
    evaluation_problems=evaluation_problems,
)
