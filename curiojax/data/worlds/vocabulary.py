"""The action-token Countdown vocabulary.

Every word is one token. As in byte-level vocabularies a token includes the space before it, so the
words that start a text (a prompt's first number, a response's first action) have ids of their own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from curiojax.data.worlds.countdown import (
    BOX,
    END,
    EOS,
    LARGEST_NUMBER,
    LARGEST_VALUE,
    NUM_NUMBERS,
    OPERATORS,
    PAD,
    SEPARATOR,
    action_token,
)
from curiojax.data.worlds.tokenizer_files import save_word_tokenizer

# A size that splits evenly over 2, 4, 8, 16, 32 or 64 devices.
VOCABULARY_SIZE = 192


@cache
def vocabulary() -> tuple[str, ...]:
    """All 192 tokens in the order of their ids; the last few are reserved and never used."""
    words = [
        PAD,
        EOS,
        *(str(value) for value in range(1, LARGEST_NUMBER + 1)),
        *(f" {value}" for value in range(LARGEST_VALUE + 1)),
        *(f" {word}" for word in (SEPARATOR, END, BOX)),
        *_actions(NUM_NUMBERS),
        *(f" {action}" for action in _actions(NUM_NUMBERS - 1)),
    ]
    reserved = VOCABULARY_SIZE - len(words)
    return (*words, *(f"<reserved_{k}>" for k in range(reserved)))


@cache
def token_ids() -> dict[str, int]:
    """The id of every token; a token that continues a text starts with a space."""
    return {token: index for index, token in enumerate(vocabulary())}


def save_tokenizer(path: str | Path) -> None:
    """Writes the tokenizer's files into a folder, for `transformers.AutoTokenizer`."""
    save_word_tokenizer(path, vocabulary())


def _actions(pool_size: int) -> list[str]:
    pairs = [(i, j) for i in range(pool_size) for j in range(pool_size) if i != j]
    return [action_token(operator, i, j) for operator in OPERATORS for i, j in pairs]
