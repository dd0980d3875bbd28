"""Synthetic inputs, the same in every process; needs numpy only."""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]


def packed_rows(
    vocab_size: int, microbatches: int, rows: int, length: int, *, single: bool, seed: int = 0
) -> Arrays:
    """Rows of random tokens in ragged records, each a prompt and a response.

    Args:
      single: one record of full length per row, as without packing.

    Returns:
      `tokens`, `labels`, `positions`, `segment_ids` int32 and `loss_mask` float32, all
      [microbatches, rows, length]. Records are between a 16th and a half of a row, an eighth of
      each is prompt; the rest of a row that no record fits into is padding.
    """
    rng = np.random.default_rng([seed, length])
    names = ("tokens", "labels", "positions", "segment_ids")
    arrays: Arrays = {name: np.zeros((microbatches * rows, length), np.int32) for name in names}
    arrays["loss_mask"] = np.zeros((microbatches * rows, length), np.float32)
    shortest = max(length // 16, 4)
    for row in range(microbatches * rows):
        begin, segment = 0, 0
        while begin + shortest <= length:
            size = length if single else int(rng.integers(shortest, length // 2))
            size = min(size, length - begin)
            segment, end = segment + 1, begin + size
            ids = rng.integers(0, vocab_size, size + 1)
            arrays["tokens"][row, begin:end] = ids[:-1]
            arrays["labels"][row, begin:end] = ids[1:]
            arrays["positions"][row, begin:end] = np.arange(size)
            arrays["segment_ids"][row, begin:end] = segment
            # The label of a prompt's last token is the first of the response.
            arrays["loss_mask"][row, begin + max(size // 8, 1) - 1 : end] = 1.0
            begin = end
    return {k: v.reshape(microbatches, rows, length) for k, v in arrays.items()}


def counts(arrays: Arrays) -> dict[str, int]:
    """`tokens` in records, `trained` ones, and `pairs` of a query and a key that it sees."""
    valid = arrays["segment_ids"] > 0
    seen = (arrays["positions"].astype(np.int64) + 1)[valid]
    return {
        "tokens": int(valid.sum()),
        "trained": int(arrays["loss_mask"].sum()),
        "pairs": int(seen.sum()),
    }


def teacher_logits(tokens: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """Float32 [tokens, vocab_size]: from certain to hesitant, with a few likely tokens in each."""
    rng = np.random.default_rng([seed, vocab_size])
    logits = rng.standard_normal((tokens, vocab_size), np.float32)
    likely = rng.integers(0, vocab_size, (tokens, 8))
    height = rng.uniform(4, 18, (tokens, 1)) + rng.uniform(-2, 2, (tokens, 8))
    np.put_along_axis(logits, likely, height.astype(np.float32), axis=-1)
    return logits
