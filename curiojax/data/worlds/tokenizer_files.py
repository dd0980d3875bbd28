"""A vocabulary of whole words, longest first, as an ordinary Hugging Face fast tokenizer.

All words are "added tokens" of a byte-level BPE tokenizer without merges: transformers 5 rebuilds
the tokenizer of any Qwen2 checkpoint that way and would ignore another kind of model or
pre-tokenizer in `tokenizer.json`, whereas added tokens survive. White space between words, and
words that are not in the vocabulary, produce no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

EOS, PAD = "<eos>", "<pad>"


def save_word_tokenizer(path: str | Path, vocabulary: Sequence[str]) -> None:
    """Writes the tokenizer's files into a folder, for `transformers.AutoTokenizer`.

    Text made of tokens of the vocabulary survives encoding and decoding unchanged. There
    is no beginning-of-sequence token and encoding adds nothing.

    Args:
      path: the folder.
      vocabulary: all tokens in the order of their ids, `<pad>` and `<eos>` among them. These two
        and `<reserved_...>` are special: decoding can leave them out.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(t, normalized=False, special=t in (PAD, EOS) or t.startswith("<reserved"))
            for t in vocabulary
        ]
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
