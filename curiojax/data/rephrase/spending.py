"""Tokens and money: what a job will need at a guess, what it has spent, and where it must stop.

The guess is one token for every three characters, which is close for English with LaTeX, and for a
reply as many tokens as its question has. What was spent comes from the `usage` of the replies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.replies import Reply
from curiojax.data.rephrase.template import Request
from curiojax.errors import ConfigError

CHARACTERS_PER_TOKEN = 3.0
_MARKUP = 32  # tokens a chat template may add around a message


@dataclass(frozen=True)
class Prices:
    """Currency units per million tokens; None where not given."""

    input: float | None = None
    output: float | None = None

    @property
    def known(self) -> bool:
        return self.input is not None and self.output is not None

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """The price of so many tokens in currency units, or None if not known."""
        if self.input is None or self.output is None:
            return None
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


@dataclass(frozen=True)
class Tokens:
    """Tokens in and out, and how many replies they are of.

    Attributes:
      guessed: replies without `usage`, which were counted by the guess.
    """

    input: int = 0
    output: int = 0
    replies: int = 0
    guessed: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.replies + other.replies,
            self.guessed + other.guessed,
        )


def guess_tokens(text: str) -> int:
    """Tokens of a text, at a guess."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def guess(request: Request, questions: Iterable[str]) -> Tokens:
    """Tokens that asking these questions will take, at a guess."""
    total = Tokens()
    for question in questions:
        prompt = guess_tokens(request.prompt(question)) + 8
        total += Tokens(prompt, guess_tokens(question), 1, 1)
    return total


def spent(request: Request, question: str, reply: Reply) -> Tokens:
    """Tokens that a reply took."""
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        prompt = guess_tokens(request.prompt(question)) + 8
        return Tokens(prompt, guess_tokens(reply.text), 1, 1)
    return Tokens(reply.prompt_tokens, reply.completion_tokens, 1)


def spent_on(request: Request, questions: Iterable[str], cache: Cache) -> Tokens:
    """Tokens that the replies at hand took."""
    total = Tokens()
    for question in questions:
        reply = cache.get(request.key(question))
        if reply is not None:
            total += spent(request, question, reply)
    return total


def check_budget(budget: float | None, request: Request, prices: Prices) -> None:
    """Refuses a budget that cannot be held to.

    Raises:
      ConfigError: no prices, or no limit on a reply.
    """
    if budget is None:
        return
    if not prices.known:
        raise ConfigError("--budget: needs --price-in and --price-out")
    if request.max_reply_tokens is None:
        raise ConfigError("--budget: needs a limit on replies; --extra took max_tokens away")


class Ledger:
    """Holds a job to its budget, whatever is in flight.

    A request is sent only if its highest possible price still fits: a byte of the prompt is at most
    one token, a reply has at most the tokens it is limited to. What comes back is counted by its
    `usage`. A request that was sent and brought nothing back (a timeout) may have been billed, so
    it is counted at its highest price for as long as this run lasts.
    """

    def __init__(self, request: Request, prices: Prices, budget: float | None, tokens: Tokens):
        """`tokens`: what the replies at hand took."""
        self._request, self._prices, self._budget = request, prices, budget
        self.tokens = tokens
        self.lost = 0.0
        self._reserved = 0.0

    @property
    def cost(self) -> float | None:
        """What the replies cost, in currency units; without requests that brought nothing back."""
        return self._prices.cost(self.tokens.input, self.tokens.output)

    def highest(self, question: str) -> float:
        """The highest price of asking a question; 0 if nothing depends on it."""
        if self._budget is None:
            return 0.0
        prompt = len(self._request.prompt(question).encode("utf-8", "replace")) + _MARKUP
        return self._prices.cost(prompt, self._request.max_reply_tokens or 0) or 0.0

    def reserve(self, price: float) -> bool:
        """Sets an amount aside, if it is there."""
        if self._budget is None:
            return True
        if (self.cost or 0.0) + self.lost + self._reserved + price > self._budget:
            return False
        self._reserved += price
        return True

    def settle(self, price: float, question: str, reply: Reply | None, *, lost: bool) -> None:
        """Ends a reservation with what came of it."""
        if self._budget is not None:
            self._reserved -= price
        if reply is not None:
            self.tokens += spent(self._request, question, reply)
        elif lost:
            self.lost += price
