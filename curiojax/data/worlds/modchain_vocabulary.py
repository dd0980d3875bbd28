"""The vocabulary of the mod-chain world: a number and the brackets at it are one word."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from curiojax.data.worlds.modchain import (
    BOX,
    CLOSE,
    END,
    EOS,
    EQUALS,
    MODULUS,
    MOST_BRACKETS,
    OPERATORS,
    PAD,
    START,
)
from curiojax.data.worlds.tokenizer_files import save_word_tokenizer

# A size that splits evenly over 2, 4, 8, 16, 32 or 64 devices.
VOCABULARY_SIZE = 128


@cache
def vocabulary() -> tuple[str, ...]:
    """All 128 tokens in the order of their ids; the last few are reserved and never used.

    A prompt starts with `mod10` and a response with `=`; all other words follow a space.
    """
    brackets = range(1, MOST_BRACKETS + 1)
    words = [
        *(f" {number}" for number in range(MODULUS)),
        *(f" {'(' * k}{number}" for k in brackets for number in range(MODULUS)),
        *(f" {number}{')' * k}" for k in brackets for number in range(MODULUS)),
        *(f" {word}" for word in (*OPERATORS, EQUALS, END, BOX, CLOSE)),
    ]
    words = [PAD, EOS, START, EQUALS, *words]
    reserved = VOCABULARY_SIZE - len(words)
    return (*words, *(f"<reserved_{k}>" for k in range(reserved)))


@cache
def token_ids() -> dict[str, int]:
    """The id of every token; a token that continues a text starts with a space."""
    return {token: index for index, token in enumerate(vocabulary())}


def encode(text: str) -> list[int]:
    """The ids of a prompt or a response, as the tokenizer has them."""
    ids, words = token_ids(), text.split()
    return [ids[words[0]], *(ids[f" {word}"] for word in words[1:])]


def decode(tokens: Sequence[int]) -> str:
    """The text of ids."""
    return "".join(vocabulary()[token] for token in tokens)


def save_tokenizer(path: str | Path) -> None:
    """Writes the tokenizer's files into a folder, for `transformers.AutoTokenizer`."""
    save_word_tokenizer(path, vocabulary())
