r"""Mod-chain reduction: expressions over the integers modulo 10, rewritten line by line.

An expression is a number from 0 to 9, or two expressions joined by +, - or * and, unless it is the
whole, in brackets. The prompt is `mod10:(3+4)*((2-9)*5)`. A response is a chain of equal
expressions that ends in a number. A line replaces one or more separate sub-expressions of the line
before: two numbers by their result, or `0 * X`, whatever X is, by 0. The expert's full response is
a line per reduction and the answer:

    =7*((2-9)*5)=7*(3*5)=7*5=5</think>\boxed{5}<eos>

All that stands between two numbers is one token, `)*((` for instance, so a line with n operations
has 2 n + 2 tokens, and two numbers with nothing but an operator between them can be reduced. Every
order ends in the same number, so *where* to reduce and *how much* in one line are
free choices (forks), and what two numbers make is a fact.

Orders differ in length, and a response may have 19 tokens. Reducing one place per line, the three
operations of ID problems take 17; the five of HARD ones would take 35, so they need shortcuts and
lines that reduce several places, nearly all of them. Problems with six operations, more than any
training data have, are called LONGER; their limit lets one reduction per line pass.

A fixed 18 % of the expressions is held out from all training data, told by a hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

MODULUS = 10
OPERATORS = "+-*"
MOST_BRACKETS = 3  # of one kind between two numbers
HELD_OUT_SHARE = 0.18

PAD, EOS = "<pad>", "<eos>"
START, EQUALS = f"mod{MODULUS}:", "="
END, BOX, CLOSE = "</think>", "\\boxed{", "}"
OPERATIONS = {"id": 3, "hard": 5, "longer": 6}
TAIL_TOKENS = 5  # the answer and the end of the sequence
RESPONSE_TOKENS = 19  # at most, in training and for ID and HARD problems

Kind = Literal["id", "hard", "longer"]


class Node(NamedTuple):
    """An operation on two expressions."""

    operator: str
    left: Expression
    right: Expression


Expression = int | Node
Path = tuple[int, ...]  # from the whole to a part: 1 is left, 2 is right


class Problem(NamedTuple):
    """An expression to be worked out."""

    expression: Node

    @property
    def prompt(self) -> str:
        """The prompt's text."""
        return f"{START}{render(self.expression)}"

    @property
    def ground_truth(self) -> str:
        """The right answer, an integer from 0 to 9."""
        return str(value(self.expression))

    @property
    def world(self) -> str:
        """The name of this world."""
        return "modchain"

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; brackets at its end are one more."""
        return 2 * count_operations(self.expression) + 2 + self.prompt.endswith(")")


class Move(NamedTuple):
    """A reduction: the part at `path` is replaced; a shortcut leaves something not worked out."""

    path: Path
    replacement: int
    is_shortcut: bool


def combine(operator: str, left: int, right: int) -> int:
    """The result of an operation modulo 10."""
    if operator == "+":
        return (left + right) % MODULUS
    return (left - right if operator == "-" else left * right) % MODULUS


@cache
def value(expression: Expression) -> int:
    """What an expression is, modulo 10."""
    if isinstance(expression, int):
        return expression
    return combine(expression.operator, value(expression.left), value(expression.right))


def count_operations(expression: Expression) -> int:
    """How many operations an expression has."""
    if isinstance(expression, int):
        return 0
    return 1 + count_operations(expression.left) + count_operations(expression.right)


def render(expression: Expression) -> str:
    """The text of an expression; all but the whole is in brackets."""
    if isinstance(expression, int):
        return str(expression)
    return f"{_inner(expression.left)}{expression.operator}{_inner(expression.right)}"


def response_text(lines: Sequence[Expression], *, with_answer: bool = True) -> str:
    """The response without its end-of-sequence token.

    Args:
      lines: the expressions after the prompt's, of which the last one is a number.
      with_answer: whether the answer follows; the base model's data leave it out.
    """
    text = "".join(f"{EQUALS}{render(line)}" for line in lines)
    return f"{text}{END}{BOX}{lines[-1]}{CLOSE}" if with_answer else text


def response_tokens(lines: Sequence[Expression]) -> int:
    """Tokens of a full response, the end of the sequence included."""
    return sum(2 * count_operations(line) + 2 for line in lines) + TAIL_TOKENS


def limit(kind: Kind) -> int:
    """Most tokens of a response; for LONGER what one reduction per line takes."""
    if kind != "longer":
        return RESPONSE_TOKENS
    return sum(2 * left + 2 for left in range(OPERATIONS[kind])) + TAIL_TOKENS


def moves(expression: Expression, path: Path = ()) -> Iterator[Move]:
    """Every reduction of one part, from left to right, inner parts before those around them."""
    if isinstance(expression, int):
        return
    yield from moves(expression.left, (*path, 1))
    operator, left, right = expression
    if isinstance(left, int) and isinstance(right, int):
        yield Move(path, combine(operator, left, right), False)
    elif operator == "*" and 0 in (left, right):
        yield Move(path, 0, True)
    yield from moves(expression.right, (*path, 2))


def apply(expression: Expression, chosen: Sequence[Move]) -> Expression:
    """The expression after reductions in separate parts."""
    for move in chosen:
        expression = _replace(expression, move.path, move.replacement)
    return expression


def are_separate(first: Path, second: Path) -> bool:
    """Whether neither part contains the other."""
    shared = min(len(first), len(second))
    return first[:shared] != second[:shared]


@cache
def shortest_tokens(expression: Expression) -> int:
    """Tokens of the shortest full response."""
    return _shortest_lines(expression) + TAIL_TOKENS


@cache
def _shortest_lines(expression: Expression) -> int:
    if isinstance(expression, int):
        return 0
    after = {apply(expression, chosen) for chosen in _separate_sets(list(moves(expression)))}
    return min(2 * count_operations(line) + 2 + _shortest_lines(line) for line in after)


def _separate_sets(available: list[Move]) -> Iterator[list[Move]]:
    """All sets of at least one reduction in which each is separate from the others."""
    for first, move in enumerate(available):
        yield [move]
        rest = [m for m in available[first + 1 :] if are_separate(m.path, move.path)]
        for others in _separate_sets(rest):
            yield [move, *others]


def is_held_out(expression: Expression) -> bool:
    """Whether no training data of any stage contain an expression, told by a hash of its text."""
    digest = hashlib.sha256(f"curiojax modchain {render(expression)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def draw_expression(rng: np.random.Generator, operations: int) -> Node:
    """A random expression; how its operations are shared between left and right is random too.

    Drawn anew while there are more brackets in one place than there are tokens for.
    """
    while True:
        drawn = _draw(rng, operations)
        if isinstance(drawn, Node) and _most_brackets(drawn) <= MOST_BRACKETS:
            return drawn


def is_kind(expression: Expression, kind: Kind) -> bool:
    """Whether an expression is a problem of a kind."""
    if count_operations(expression) != OPERATIONS[kind]:
        return False
    return kind != "hard" or shortest_tokens(expression) <= limit("hard")


def draw_problem(rng: np.random.Generator, kind: Kind, *, held_out: bool) -> Problem:
    """A random problem of a kind, held out from the training data or not."""
    while True:
        expression = draw_expression(rng, OPERATIONS[kind])
        if is_held_out(expression) == held_out and is_kind(expression, kind):
            return Problem(expression)


def _inner(expression: Expression) -> str:
    return f"({render(expression)})" if isinstance(expression, Node) else str(expression)


def _replace(expression: Expression, path: Path, replacement: Expression) -> Expression:
    if not path:
        return replacement
    assert isinstance(expression, Node)
    operator, left, right = expression
    if path[0] == 1:
        return Node(operator, _replace(left, path[1:], replacement), right)
    return Node(operator, left, _replace(right, path[1:], replacement))


def _draw(rng: np.random.Generator, operations: int) -> Expression:
    if operations == 0:
        return int(rng.integers(MODULUS))
    # Of two draws the more even one, for more places to choose among.
    left = min(rng.integers(operations, size=2).tolist(), key=lambda n: abs(2 * n + 1 - operations))
    operator = OPERATORS[rng.integers(len(OPERATORS))]
    return Node(operator, _draw(rng, left), _draw(rng, operations - 1 - left))


def _most_brackets(expression: Node) -> int:
    return max(map(len, re.findall(r"\(+|\)+", render(expression))), default=0)
