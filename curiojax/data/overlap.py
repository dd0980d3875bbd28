"""Questions of benchmarks that a training set contains, by n-grams of words.

The usual check: a training question and a benchmark question that share a run of 13 words are
taken for the same (Brown et al., arXiv 2005.14165, appendix C). A run that many training questions
have is a turn of phrase ("where m and n are relatively prime positive integers, find m + n") and
shows nothing, so it is left out, as in EleutherAI's evaluation harness.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

NGRAM = 13
COMMON = 10

# What LaTeX can say in several ways without a difference to the reader.
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|text|textbf|mathrm|mbox)(?![A-Za-z])|\\[,;:! ]")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_WORD = re.compile(r"[^\W_]+")


class Overlap(NamedTuple):
    """A training question that contains a benchmark's, or a run of its words.

    Attributes:
      row: number of the training question.
      benchmark, question: the benchmark's name and its question's id.
      ngram: the first run they share; the whole question where they are equal.
    """

    row: int
    benchmark: str
    question: str
    ngram: str


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case, without punctuation and LaTeX's layout."""
    text = unicodedata.normalize("NFKC", text)
    text = _LAYOUT.sub(" ", _FRACTION.sub(r"\\frac", text))
    return _WORD.findall(text.lower())


class OverlapIndex:
    """The questions to look for.

    A question of fewer words than an n-gram is found only where it is the whole training question.
    """

    def __init__(self, ngram: int = NGRAM, common: int = COMMON):
        """Args: words of a run; and how many training questions may have it before it is left out.

        Equal questions count however many there are.
        """
        self.ngram, self.common = ngram, common
        # Keyed by 64-bit hashes: millions of runs of some 80 characters would fill the memory.
        self._runs: dict[int, set[tuple[str, str]]] = {}
        self._whole: dict[int, set[tuple[str, str]]] = {}

    def add(self, benchmark: str, question: str, text: str) -> None:
        """Adds a benchmark's question under its id."""
        found = words(text)
        if not found:
            return
        key = (benchmark, question)
        self._whole.setdefault(hash(" ".join(found)), set()).add(key)
        for run in self._of(found):
            self._runs.setdefault(hash(run), set()).add(key)

    def search(self, texts: Iterable[str]) -> list[Overlap]:
        """What the training questions contain, by row; each pair of questions once."""
        equal: dict[tuple[int, str, str], str] = {}
        shared: dict[int, dict[int, str]] = {}  # run -> rows that have it, and how it reads
        for row, text in enumerate(texts):
            found = words(text)
            whole = " ".join(found)
            for key in self._whole.get(hash(whole), ()):
                equal[row, *key] = whole
            for run in self._of(found):
                if (code := hash(run)) in self._runs:
                    shared.setdefault(code, {}).setdefault(row, run)
        pairs: dict[tuple[int, str, str], str] = {}
        for code, rows in shared.items():
            if len(rows) > self.common:
                continue
            for row, run in rows.items():
                for key in self._runs[code]:
                    pairs.setdefault((row, *key), run)
        return [Overlap(*pair, ngram) for pair, ngram in sorted((pairs | equal).items())]

    def _of(self, found: list[str]) -> Iterator[str]:
        for start in range(len(found) - self.ngram + 1):
            yield " ".join(found[start : start + self.ngram])
