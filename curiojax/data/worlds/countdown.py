"""Countdown with one token per action: rules, vocabulary and the enumeration of all problems.

A problem is four numbers from 1 to 9 and a target from 1 to 50. One step takes two numbers out of
the pool, combines them, and puts the result at the pool's end; after three steps one number is
left. Every value stays an integer between 0 and 99 and division must be exact.

The prompt is `7 3 5 2 : 24`. A step is one action token followed by the new pool: `a*c` takes the
first and the third number and multiplies them. The expert's full response reads

    a*c 3 2 35  c-a 2 32  ...  END BOX 24 <eos>

that is 4 + 3 + 2 tokens for the steps, then `END BOX x`, then the end of the sequence: 13 tokens
after a prompt of 6. Problems solvable with + and - alone are called ID; those that need * or / are
called HARD. A fixed 18 % of the multisets is held out from all training data.

The rules follow the Countdown game as used by TinyZero and Stream of Search; writing an action as
one token makes the choice (which operator, which pair) a single wide fork.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

NUM_NUMBERS = 4
LARGEST_NUMBER = 9
LARGEST_TARGET = 50
LARGEST_VALUE = 99
OPERATORS = "+-*/"
POSITIONS = "abcd"
HELD_OUT_SHARE = 0.18

SEPARATOR, END, BOX = ":", "END", "BOX"
PAD, EOS = "<pad>", "<eos>"
PROMPT_TOKENS = NUM_NUMBERS + 2
RESPONSE_TOKENS = 13

Pool = tuple[int, ...]
Kind = Literal["id", "hard"]


class Problem(NamedTuple):
    """Four numbers, in the order in which the prompt shows them, and the target."""

    numbers: Pool
    target: int

    @property
    def prompt(self) -> str:
        """The prompt's text."""
        return f"{' '.join(map(str, self.numbers))} {SEPARATOR} {self.target}"

    @property
    def ground_truth(self) -> str:
        """The prompt's text, from which the verifier reads the numbers and the target."""
        return self.prompt

    @property
    def world(self) -> str:
        """The name of this world."""
        return "countdown"


class Step(NamedTuple):
    """One action, `pool[first] operator pool[second]`, and the pool after it."""

    operator: str
    first: int
    second: int
    pool: Pool

    @property
    def text(self) -> str:
        """The action token followed by the new pool."""
        action = action_token(self.operator, self.first, self.second)
        return f"{action} {' '.join(map(str, self.pool))}"


def action_token(operator: str, first: int, second: int) -> str:
    """The token of an action: `a-c` is the first number minus the third."""
    return f"{POSITIONS[first]}{operator}{POSITIONS[second]}"


def combine(operator: str, left: int, right: int) -> int | None:
    """The result of an operation, or None where the rules forbid it."""
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right
    else:
        if right == 0 or left % right:
            return None
        value = left // right
    return value if 0 <= value <= LARGEST_VALUE else None


def apply_action(pool: Pool, operator: str, first: int, second: int) -> Step | None:
    """The step an action leads to, or None where the rules forbid it."""
    value = combine(operator, pool[first], pool[second])
    if value is None:
        return None
    rest = tuple(number for k, number in enumerate(pool) if k not in (first, second))
    return Step(operator, first, second, (*rest, value))


def response_text(steps: Iterable[Step], *, with_answer: bool = True) -> str:
    """The response without its end-of-sequence token.

    Args:
      steps: the steps of one trajectory.
      with_answer: whether the `END BOX x` tail follows; the base model's data leave it out.
    """
    steps = list(steps)
    text = " ".join(step.text for step in steps)
    return f"{text} {END} {BOX} {steps[-1].pool[0]}" if with_answer else text


def legal_steps(pool: Pool) -> Iterator[Step]:
    """All steps the rules allow from a pool, operators outermost."""
    for operator in OPERATORS:
        for first in range(len(pool)):
            for second in range(len(pool)):
                if first != second and (step := apply_action(pool, operator, first, second)):
                    yield step


@cache
def reachable(pool: Pool, operators: str = OPERATORS) -> frozenset[int]:
    """All last values that a pool, given in ascending order, can be reduced to."""
    if len(pool) == 1:
        return frozenset(pool)
    values: set[int] = set()
    for first in range(len(pool)):
        for second in range(len(pool)):
            if first == second:
                continue
            for operator in operators:
                step = apply_action(pool, operator, first, second)
                if step is not None:
                    values |= reachable(tuple(sorted(step.pool)), operators)
    return frozenset(values)


@cache
def multisets() -> tuple[Pool, ...]:
    """All 495 multisets of four numbers from 1 to 9, each in ascending order."""
    return tuple(combinations_with_replacement(range(1, LARGEST_NUMBER + 1), NUM_NUMBERS))


@cache
def held_out_multisets() -> frozenset[Pool]:
    """The 89 multisets that no training data of any stage contain.

    Chosen by a hash of the numbers, so that the split does not depend on a random generator.
    """

    def key(pool: Pool) -> bytes:
        return hashlib.sha256(f"curiojax countdown {pool}".encode()).digest()

    count = round(HELD_OUT_SHARE * len(multisets()))
    return frozenset(sorted(multisets(), key=key)[:count])


@cache
def problems(kind: Kind, *, held_out: bool) -> tuple[Problem, ...]:
    """All problems of one kind, numbers ascending, ordered by numbers and target.

    Args:
      kind: `id` (solvable with + and - alone) or `hard` (needs * or /).
      held_out: whether the problems come from the held-out multisets or from all the others.
    """
    if kind not in ("id", "hard"):
        raise ValueError(f"kind must be 'id' or 'hard', not {kind!r}")
    targets = frozenset(range(1, LARGEST_TARGET + 1))
    found = []
    for numbers in multisets():
        if (numbers in held_out_multisets()) != held_out:
            continue
        easy = reachable(numbers, "+-") & targets
        chosen = easy if kind == "id" else (reachable(numbers) & targets) - easy
        found += [Problem(numbers, target) for target in sorted(chosen)]
    return tuple(found)


def solutions(problem: Problem) -> Iterator[tuple[Step, ...]]:
    """Every trajectory, as the sequence of its actions, that ends in the target."""

    def search(pool: Pool, steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
        if len(pool) == 1:
            yield steps
            return
        for step in legal_steps(pool):
            if problem.target in reachable(tuple(sorted(step.pool))):
                yield from search(step.pool, (*steps, step))

    if problem.target in reachable(tuple(sorted(problem.numbers))):
        yield from search(problem.numbers, ())


def canonical_solution(problem: Problem) -> tuple[Step, ...]:
    """The first solution of a depth-first search that tries + - * / and larger numbers first.

    Raises:
      ValueError: if the problem has no solution.
    """
    return _first_solution(problem, OPERATORS, largest_first=True)


def second_solution(problem: Problem) -> tuple[Step, ...]:
    """Another consistent expert: the search tries / * - + and smaller numbers first.

    Raises:
      ValueError: if the problem has no solution.
    """
    return _first_solution(problem, OPERATORS[::-1], largest_first=False)


def _first_solution(problem: Problem, operators: str, *, largest_first: bool) -> tuple[Step, ...]:
    pool, steps = problem.numbers, []
    if problem.target not in reachable(tuple(sorted(pool))):
        raise ValueError(f"{problem.prompt!r} has no solution")
    # What is reachable is known exactly, so the depth-first search never has to back up.
    while len(pool) > 1:
        step = next(
            step
            for step in _ordered_steps(pool, operators, largest_first)
            if problem.target in reachable(tuple(sorted(step.pool)))
        )
        steps.append(step)
        pool = step.pool
    return tuple(steps)


def _ordered_steps(pool: Pool, operators: str, largest_first: bool) -> Iterator[Step]:
    order = sorted(range(len(pool)), key=lambda k: (-pool[k] if largest_first else pool[k], k))
    for operator in operators:
        for rank, early in enumerate(order):
            for late in order[rank + 1 :]:
                # - and / are only legal with the larger number on the left.
                swap = operator in "-/" and not largest_first
                step = apply_action(pool, operator, *((late, early) if swap else (early, late)))
                if step is not None:
                    yield step
