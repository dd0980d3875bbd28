"""How the responses to an embedded world's problems are judged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

from curiojax.data.worlds.interface import EmbeddedWorld, Problem
from curiojax.rewards import countdown, modchain
from curiojax.rewards.answers import THINK_CLOSE, THINK_OPEN
from curiojax.rewards.pool import Grade, Item, RewardPool


class Response(NamedTuple):
    """A response's text, the problem it is for, and whether it ended by itself."""

    text: str
    problem: Problem
    finished: bool


class Verdict(Protocol):
    """What is right and wrong about a response.

    Attributes:
      correct: as the reward has it.
      search_correct: the way to the answer is right; what follows is ignored.
      failure: the first thing that is wrong; None for a correct response.
    """

    @property
    def correct(self) -> bool: ...
    @property
    def search_correct(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...


class Judged(NamedTuple):
    """A `Verdict`."""

    correct: bool
    search_correct: bool
    failure: str | None


def judge(world: EmbeddedWorld, responses: Sequence[Response]) -> Sequence[Verdict]:
    """The verdicts on responses, in their order.

    Countdown's verifier does both scores at once. Mod-chain's answers are compared by math-verify,
    in the processes of a reward pool, and its lines are followed here.
    """
    if world.name == "countdown":
        return [
            countdown.verify(text, problem.ground_truth, finished=finished)
            for text, problem, finished in responses
        ]
    return [_judged(*pair) for pair in zip(responses, _grades(world, responses), strict=True)]


def _judged(response: Response, grade: Grade) -> Judged:
    lines = modchain.check_lines(response.text, response.problem.prompt, finished=response.finished)
    if grade.reward:
        return Judged(True, lines.correct, None)
    if lines.failure:
        return Judged(False, False, lines.failure)
    if not response.finished:
        return Judged(False, True, "unfinished")
    return Judged(False, True, "answer" if grade.format_ok else "format")


def _grades(world: EmbeddedWorld, responses: Sequence[Response]) -> list[Grade]:
    """The pool's grades, of few items: what stands before the `</think>` does not matter to it.

    So thousands of responses have some hundred different endings, and each is graded once.
    """
    items = [Item(_ending(r.text), r.problem.ground_truth, r.finished) for r in responses]
    different = list(dict.fromkeys(items))
    grades = dict(zip(different, _pool(world.verifier, world.format).grade(different), strict=True))
    return [grades[item] for item in items]


def _ending(text: str) -> str:
    """What decides about a response with the format rule `strict`."""
    reasoning, end, answer = text.partition(THINK_CLOSE)
    if THINK_OPEN in reasoning:
        return text
    return end + answer


@cache
def _pool(verifier: str, format: str) -> RewardPool:
    """One worker for all evaluations of this process; it ends with the process."""
    return RewardPool(verifier, format, workers=1)
