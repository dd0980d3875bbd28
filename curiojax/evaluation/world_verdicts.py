"""How the responses to an embedded world's problems are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from curiojax.data.worlds.interface import EmbeddedWorld, Problem
from curiojax.rewards import countdown


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


def judge(world: EmbeddedWorld, responses: Sequence[Response]) -> Sequence[Verdict]:
    """The verdicts on responses, in their order."""
    assert world.name == "countdown"
    return [
        countdown.verify(text, problem.ground_truth, finished=finished)
        for text, problem, finished in responses
    ]
