"""Exact verifier of action-token Countdown responses.

It reads text only and shares no code with the generator of the problems, so that each checks the
other. Numbers are parsed digit by digit and every rule is applied in integer arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

END_OF_SEQUENCE = "<eos>"
LARGEST_VALUE = 99
FAILURES = (
    "malformed",  # a word is not what its place asks for (an action, or a number from 0 to 99)
    "incomplete",  # the response ends before the last step does
    "illegal",  # a position outside the pool or used twice, a result that the rules forbid
    "arithmetic",  # the stated result is not the result
    "pool",  # a number that should stay was changed
    "target",  # three right steps that do not end in the target
    "format",  # what follows the last step is not `END BOX x`
    "box",  # the answer is not the target
    "unfinished",  # no end of sequence: the response was cut off
)

_ACTION = re.compile(r"([a-d])([-+*/])([a-d])")
_NUMBER = re.compile(r"0|[1-9][0-9]?", re.ASCII)


@dataclass(frozen=True)
class Verdict:
    """What is right and wrong about one response.

    Attributes:
      correct: three legal steps that reach the target, then exactly `END BOX x` with x the target,
        then the end of the sequence. This is the strict reward.
      search_correct: the three steps alone are legal and reach the target; what follows is ignored.
      failure: the first thing that is wrong, one of `FAILURES`; None for a correct response.
      operators: the operators of the legal steps so far, such as `+*-`.
    """

    correct: bool
    search_correct: bool
    failure: str | None
    operators: str

    @property
    def reward(self) -> float:
        """1.0 for a correct response, else 0.0."""
        return float(self.correct)


class _Failure(Exception):
    pass


def parse_ground_truth(ground_truth: str) -> tuple[tuple[int, ...], int]:
    """Splits `7 3 5 2 : 24` into the numbers and the target.

    Raises:
      ValueError: if the text does not have that form.
    """
    numbers, separator, target = ground_truth.partition(":")
    words = [*numbers.split(), *target.split()]
    if not separator or len(target.split()) != 1 or len(words) < 3:
        raise ValueError(f"{ground_truth!r} is not of the form '7 3 5 2 : 24'")
    if not all(_NUMBER.fullmatch(word) for word in words):
        raise ValueError(f"{ground_truth!r} holds something other than integers from 0 to 99")
    return tuple(int(word) for word in words[:-1]), int(words[-1])


def verify(response: str, ground_truth: str, *, finished: bool = True) -> Verdict:
    """Grades one response.

    Args:
      response: the response's text; one `<eos>` at its end is allowed and means `finished`.
      ground_truth: the problem, `7 3 5 2 : 24`.
      finished: whether the response ended by itself rather than at the length limit.

    Raises:
      ValueError: if the ground truth (not the response) is malformed.
    """
    numbers, target = parse_ground_truth(ground_truth)
    text = response.strip()
    if text.endswith(END_OF_SEQUENCE):
        text, finished = text[: -len(END_OF_SEQUENCE)], True
    words = text.split()
    operators: list[str] = []
    try:
        tail = _check_search(words, numbers, target, operators)
    except _Failure as failure:
        return Verdict(False, False, str(failure), "".join(operators))
    failure = _check_answer(tail, target, finished)
    return Verdict(failure is None, True, failure, "".join(operators))


def _check_search(
    words: Sequence[str], numbers: tuple[int, ...], target: int, operators: list[str]
) -> Sequence[str]:
    """Follows the steps and returns the words after them; raises `_Failure` at the first fault."""
    pool = list(numbers)
    at = 0
    while len(pool) > 1:
        if at >= len(words):
            raise _Failure("incomplete")
        action = _ACTION.fullmatch(words[at])
        if action is None:
            raise _Failure("malformed")
        first, second = (ord(action[k]) - ord("a") for k in (1, 3))
        value = _result(pool, first, action[2], second)
        stated = words[at + 1 : at + len(pool)]
        if not all(_NUMBER.fullmatch(word) for word in stated):
            raise _Failure("malformed")
        if len(stated) < len(pool) - 1:
            raise _Failure("incomplete")
        rest = [number for k, number in enumerate(pool) if k not in (first, second)]
        if [int(word) for word in stated[:-1]] != rest:
            raise _Failure("pool")
        if int(stated[-1]) != value:
            raise _Failure("arithmetic")
        operators.append(action[2])
        at += len(pool)
        pool = [*rest, value]
    if pool[0] != target:
        raise _Failure("target")
    return words[at:]


def _result(pool: list[int], first: int, operator: str, second: int) -> int:
    if first == second or max(first, second) >= len(pool):
        raise _Failure("illegal")
    left, right = pool[first], pool[second]
    if operator == "/":
        if right == 0 or left % right != 0:
            raise _Failure("illegal")
        value = left // right
    else:
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    if not 0 <= value <= LARGEST_VALUE:
        raise _Failure("illegal")
    return value


def _check_answer(tail: Sequence[str], target: int, finished: bool) -> str | None:
    if len(tail) < 3 and not finished and list(tail) == ["END", "BOX"][: len(tail)]:
        return "unfinished"
    if len(tail) != 3 or tail[0] != "END" or tail[1] != "BOX" or not _NUMBER.fullmatch(tail[2]):
        return "format"
    if int(tail[2]) != target:
        return "box"
    return None if finished else "unfinished"
