"""Checks the lines of a mod-chain response, which the reward takes no notice of.

The reward compares the boxed answer, so a guess earns it in one case out of ten. Here every line
has to follow from the one before. Text is all that is read, and no code is shared with the
generator of the problems, so that each checks the other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

FAILURES = (
    "malformed",  # a line is no expression
    "illegal",  # a line changes what no reduction does, or nothing
    "arithmetic",  # two numbers, or a product with 0, are replaced by something else than they make
    "incomplete",  # the lines end before a number is left
    "format",  # right lines, but the reward's format rule is broken
    "answer",  # the box holds another number
    "unfinished",  # no end of the sequence: the response was cut off
)
END = "</think>"

_PROMPT = re.compile(r"mod(\d{1,3}):(.+)", re.ASCII)
_LINE = re.compile(r"[0-9+*()\-]*", re.ASCII)
_TOKEN = re.compile(r"\d+|[-+*()]", re.ASCII)
_MAX_NESTING = 64

Tree = int | tuple[str, "Tree", "Tree"]


class Derivation(NamedTuple):
    """What is right and wrong about the lines of a response.

    Attributes:
      correct: every line follows from the one before, and the last one is a number.
      failure: the first thing that is wrong, one of `FAILURES`; None where `correct`.
    """

    correct: bool
    failure: str | None


class _Failure(Exception):
    pass


def check_lines(response: str, prompt: str, *, finished: bool = True) -> Derivation:
    """Follows the lines of a response up to its `</think>`, or to its end where it has none.

    Args:
      response: the response's text.
      prompt: the problem, `mod10:(3+4)*5`.
      finished: whether the response ended by itself rather than at the length limit. If not, what
        may be half a line at the end does not count.

    Raises:
      ValueError: if the prompt (not the response) is malformed.
    """
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"{prompt!r} is not of the form 'mod10:(3+4)*5'")
    modulus = int(match[1])
    try:
        line = _parse(match[2], modulus)
    except _Failure:
        raise ValueError(f"{prompt!r} holds no expression of numbers below {modulus}") from None
    head, end, _ = response.partition(END)
    start, *lines = head.split("=")
    cut = not finished and not end
    try:
        if start.strip() or not lines:
            raise _Failure("malformed" if start.strip() else "incomplete")
        for text in lines[:-1] if cut else lines:
            after = _parse(text, modulus)
            if after == line:
                raise _Failure("illegal")
            _compare(line, after, modulus)
            line = after
        if not isinstance(line, int):
            raise _Failure("incomplete")
    except _Failure as failure:
        reason = str(failure)
        return Derivation(False, "unfinished" if cut and reason == "incomplete" else reason)
    return Derivation(True, None)


def _compare(before: Tree, after: Tree, modulus: int) -> None:
    """Raises unless `after` is `before` with any number of separate reductions."""
    if before == after:
        return
    if isinstance(before, int):
        raise _Failure("illegal")
    operator, left, right = before
    if not isinstance(after, int):
        if after[0] != operator:
            raise _Failure("illegal")
        _compare(left, after[1], modulus)
        _compare(right, after[2], modulus)
        return
    if isinstance(left, int) and isinstance(right, int):
        result = {"+": left + right, "-": left - right, "*": left * right}[operator] % modulus
    elif operator == "*" and (left == 0 or right == 0):
        result = 0
    else:
        raise _Failure("illegal")
    if after != result:
        raise _Failure("arithmetic")


def _parse(text: str, modulus: int) -> Tree:
    """Reads a number, or two operands joined by an operator; an operand may be in brackets."""
    if not _LINE.fullmatch(text):
        raise _Failure("malformed")
    tokens = _TOKEN.findall(text)[::-1]
    tree = _expression(tokens, modulus, 0)
    if tokens:
        raise _Failure("malformed")
    return tree


def _expression(tokens: list[str], modulus: int, depth: int) -> Tree:
    left = _operand(tokens, modulus, depth)
    if not tokens or tokens[-1] not in "+-*":
        if depth:  # brackets around a single operand
            raise _Failure("malformed")
        return left
    operator = tokens.pop()
    return operator, left, _operand(tokens, modulus, depth)


def _operand(tokens: list[str], modulus: int, depth: int) -> Tree:
    token = tokens.pop() if tokens else ""
    if token.isdigit() and len(token) <= 3 and int(token) < modulus and str(int(token)) == token:
        return int(token)
    if token != "(" or depth == _MAX_NESTING:
        raise _Failure("malformed")
    tree = _expression(tokens, modulus, depth + 1)
    if not tokens or tokens.pop() != ")":
        raise _Failure("malformed")
    return tree
