"""The action-token Countdown vocabulary, as an ordinary Hugging Face fast tokenizer.

Every word is one token. As in byte-level vocabularies a token includes the space before it, so the
words that start a text (a prompt's first number, a response's first action) have ids of their own.

All words are "added tokens" of a byte-level BPE tokenizer without merges: transformers 5 rebuilds
the tokenizer of any Qwen2 checkpoint that way and would ignore another kind of model or
pre-tokenizer in `tokenizer.json`, whereas added tokens survive. White space between words, and
words that are not in the vocabulary, produce no tokens.
"""

from __future__ import annotations

import json
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
    """Writes the tokenizer's files into a folder, for `transformers.AutoTokenizer`.

    Text made of known words joined by single spaces survives encoding and decoding unchanged. There
    is no beginning-of-sequence token and encoding adds nothing.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=token_ids(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=t.startswith("<")) for t in vocabulary()]
    )
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": 64,
        "pad_token": PAD,
        "unk_token": None,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _actions(pool_size: int) -> list[str]:
    pairs = [(i, j) for i in range(pool_size) for j in range(pool_size) if i != j]
    return [action_token(operator, i, j) for operator in OPERATORS for i, j in pairs]
