"""The vocabulary of the mod-chain world: numbers, and whatever can stand between two of them."""

from __future__ import annotations

import re
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

# A size that splits evenly over 2, 4, 8, 16 or 32 devices.
VOCABULARY_SIZE = 96

_TOKEN = re.compile(
    rf"\)*[-+*=]\(*|{START}\(*|\d|\)+|{re.escape(END)}|{re.escape(BOX)}|{re.escape(CLOSE)}"
)


@cache
def vocabulary() -> tuple[str, ...]:
    """All 96 tokens in the order of their ids; the last few are reserved and never used."""
    brackets = range(MOST_BRACKETS + 1)
    words = [
        *(PAD, EOS, END, BOX, CLOSE),
        *(str(number) for number in range(MODULUS)),
        *(")" * k for k in brackets if k),
        *(START + "(" * k for k in brackets),
        *(
            ")" * i + operator + "(" * k
            for operator in (*OPERATORS, EQUALS)
            for i in brackets
            for k in brackets
        ),
    ]
    reserved = VOCABULARY_SIZE - len(words)
    return (*words, *(f"<reserved_{k}>" for k in range(reserved)))


@cache
def token_ids() -> dict[str, int]:
    """The id of every token."""
    return {token: index for index, token in enumerate(vocabulary())}


def encode(text: str) -> list[int]:
    """The ids of a prompt or a response, as the tokenizer has them: the longest tokens."""
    return [token_ids()[word] for word in _TOKEN.findall(text)]


def decode(tokens: Sequence[int]) -> str:
    """The text of ids."""
    return "".join(vocabulary()[token] for token in tokens)


def save_tokenizer(path: str | Path) -> None:
    """Writes the tokenizer's files into a folder, for `transformers.AutoTokenizer`."""
    save_word_tokenizer(path, vocabulary())
