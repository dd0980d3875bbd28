"""How different the responses to one question are from each other.

All of it depends on the responses' lengths: long texts share n-grams by chance and repeat their
own. Compare models at similar lengths, or on the first tokens of each response.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NGRAM_SIZES = (1, 2, 3, 4)
DISTINCT_SIZES = (1, 2, 3)
FIRST_TOKENS, FIRST_SIZE = 512, 4


@dataclass(frozen=True)
class NgramCounts:
    """The n-grams of one size in the responses to one question.

    Attributes:
      shared: int64 [k, k], how many different n-grams two responses have in common; on the
        diagonal how many each has.
      total: n-grams of all responses, repeated ones included.
      distinct: different ones among them.
    """

    shared: np.ndarray
    total: int
    distinct: int


def ngram_diversity(counts: NgramCounts) -> float | None:
    """1 - mean over pairs of responses of |A n B| / |A u B|, for their sets of n-grams A and B.

    0: all responses consist of the same n-grams; 1: no two share any. The definition is ours: the
    paper plots an "n-gram diversity" as 1 - similarity without saying which similarity.

    Returns:
      None where no pair can be compared: both responses are shorter than n in all of them.
    """
    sizes = np.diagonal(counts.shared)
    union = sizes[:, None] + sizes[None, :] - counts.shared
    np.fill_diagonal(union, 0)
    known = union > 0
    if not known.any():
        return None
    return float(1 - np.mean(counts.shared[known] / union[known]))


def distinct_ngrams(counts: NgramCounts) -> float | None:
    """distinct-n: different n-grams over all n-grams of the responses to one question.

    Li et al., arXiv 1510.03055, counted over the responses to one prompt. None without an n-gram.
    """
    return counts.distinct / counts.total if counts.total else None


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes of the texts, joined by line breaks, over their bytes after zlib (level 6).

    Higher means more repetition, so less diversity (Shaib et al., arXiv 2403.00553). zlib looks
    32 KiB back, so of longer responses only neighbouring parts are compared. None without text.
    """
    # Some tokenizers give half a character at the end of a cut response.
    data = "\n".join(texts).encode("utf-8", errors="replace")
    return len(data) / len(zlib.compress(data, level=6)) if any(texts) else None


class Ngrams:
    """The n-grams of the responses to one question.

    They are numbered: the first n tokens at a place by the number of the first n - 1 and the last.
    So numbers stay small, and no two n-grams are taken for one another, as hashes might be.
    """

    def __init__(self, responses: Sequence[Sequence[int]], largest: int = max(NGRAM_SIZES)):
        """Numbers the n-grams up to n = `largest` of token ids; responses may be empty."""
        lengths = np.asarray([len(tokens) for tokens in responses], np.int64)
        arrays = [np.asarray(tokens, np.int64) for tokens in responses]
        tokens = np.concatenate([np.empty(0, np.int64), *arrays])
        self._responses = len(lengths)
        self._owner = np.repeat(np.arange(len(lengths)), lengths)
        begins = np.cumsum(lengths) - lengths
        self._place = np.arange(len(tokens)) - np.repeat(begins, lengths)  # in its response
        self._length = np.repeat(lengths, lengths)
        alphabet, ids = np.unique(tokens, return_inverse=True)
        self._numbers, self._kinds = [ids], [len(alphabet)]
        for n in range(2, largest + 1):
            longer = self._numbers[-1][:-1] * len(alphabet) + ids[n - 1 :]
            different, numbers = np.unique(longer, return_inverse=True)
            self._numbers.append(numbers)
            self._kinds.append(len(different))

    def count(self, n: int, first: int | None = None) -> NgramCounts:
        """Counts those of n tokens, on the first `first` tokens of each response or on all."""
        numbers = self._numbers[n - 1]
        end = self._length if first is None else np.minimum(self._length, first)
        # Those that run into the next response have a number, too, and are left out.
        inside = (self._place + n <= end)[: len(numbers)]
        present = np.zeros((self._responses, self._kinds[n - 1]), np.float32)
        present[self._owner[: len(numbers)][inside], numbers[inside]] = 1
        return NgramCounts(
            shared=np.rint(present @ present.T).astype(np.int64),
            total=int(inside.sum()),
            distinct=int(present.any(axis=0).sum()),
        )


def text_diversity(
    responses: Sequence[Sequence[Sequence[int]]],
    texts: Sequence[Sequence[str]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The measures of this module, as means over the questions for which they are defined.

    Eight responses of 4,000 tokens take about 20 ms per question, half of it for compression.

    Args:
      responses: for each question the token ids of its responses.
      texts: for each question the texts of its responses.
      progress: called with how many questions are done, and how many there are.

    Returns:
      `ngram`: `ngram_diversity` by n (as text); `ngram_first_512`: the same for n = 4 on the first
      512 tokens of each response; `distinct`: `distinct_ngrams` by n; `compression_ratio`. None
      where no question has a value.
    """
    ngram: dict[int, list[float | None]] = {n: [] for n in NGRAM_SIZES}
    distinct: dict[int, list[float | None]] = {n: [] for n in DISTINCT_SIZES}
    first: list[float | None] = []
    ratios: list[float | None] = []
    for done, (tokens, words) in enumerate(zip(responses, texts, strict=True), start=1):
        ngrams = Ngrams(tokens)
        counts = {n: ngrams.count(n) for n in NGRAM_SIZES}
        for n, values in ngram.items():
            values.append(ngram_diversity(counts[n]))
        for n, values in distinct.items():
            values.append(distinct_ngrams(counts[n]))
        first.append(ngram_diversity(ngrams.count(FIRST_SIZE, FIRST_TOKENS)))
        ratios.append(compression_ratio(words))
        if progress is not None:
            progress(done, len(responses))
    return {
        "ngram": {str(n): _mean(values) for n, values in ngram.items()},
        f"ngram_first_{FIRST_TOKENS}": {str(FIRST_SIZE): _mean(first)},
        "distinct": {str(n): _mean(values) for n, values in distinct.items()},
        "compression_ratio": _mean(ratios),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
