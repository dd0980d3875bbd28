import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curiojax.evaluation.diversity import (
    Ngrams,
    compression_ratio,
    distinct_ngrams,
    ngram_diversity,
    text_diversity,
)


def grams(tokens, n):
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def test_jaccard_by_hand():
    # Bigrams {12, 23, 34} and {12, 23, 35}: 2 shared of 4. With {78} nothing is shared.
    counts = Ngrams([[1, 2, 3, 4], [1, 2, 3, 5], [7, 8]]).count(2)
    assert counts.shared.tolist() == [[3, 2, 0], [2, 3, 0], [0, 0, 1]]
    assert ngram_diversity(counts) == pytest.approx(1 - (2 / 4 + 0 + 0) / 3)
    assert distinct_ngrams(counts) == pytest.approx(5 / 7)


def test_repetition_counts_once_in_sets_and_each_time_in_distinct():
    ngrams = Ngrams([[5, 5, 5, 5], [5, 5]])
    for n, distinct in ((1, 1 / 6), (2, 1 / 4)):
        assert ngram_diversity(ngrams.count(n)) == 0
        assert distinct_ngrams(ngrams.count(n)) == pytest.approx(distinct)


def test_ngrams_do_not_run_into_the_next_response():
    counts = Ngrams([[1, 2], [3, 4], [2, 3]]).count(2)
    assert counts.total == counts.distinct == 3
    assert ngram_diversity(counts) == 1


def test_responses_that_are_too_short():
    ngrams = Ngrams([[1, 2], [], [3]])
    assert ngrams.count(4).total == 0
    assert ngram_diversity(ngrams.count(4)) is None and distinct_ngrams(ngrams.count(4)) is None
    # The pair of the empty response and [3] has no bigram at all; the other two share none.
    assert ngram_diversity(ngrams.count(2)) == 1
    assert ngram_diversity(Ngrams([[1, 2, 3]]).count(1)) is None  # a single response
    assert ngram_diversity(Ngrams([]).count(1)) is None


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 3) | st.just(150_000), max_size=12), min_size=1, max_size=5),
    st.none() | st.integers(0, 13),
)
def test_counts_are_those_of_sets_of_tuples(responses, first):
    ngrams = Ngrams(responses)
    responses = [r[:first] for r in responses]
    for n in (1, 2, 3, 4):
        counts = ngrams.count(n, first)
        sets = [set(grams(r, n)) for r in responses]
        expected = [[len(a & b) for b in sets] for a in sets]
        assert counts.shared.tolist() == expected
        assert counts.total == sum(len(grams(r, n)) for r in responses)
        assert counts.distinct == len(set().union(*sets))
        similar = [
            len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i] if len(a | b)
        ]
        diversity = ngram_diversity(counts)
        assert diversity == (pytest.approx(1 - np.mean(similar)) if similar else None)


def test_compression():
    rng = np.random.default_rng(0)
    noise = ["".join(chr(97 + i) for i in rng.integers(26, size=400)) for _ in range(4)]
    assert compression_ratio(["the same words " * 20] * 4) > 20 > 2 > compression_ratio(noise)
    raw = "\n".join(noise).encode()
    assert compression_ratio(noise) == len(raw) / len(zlib.compress(raw, 6))
    assert compression_ratio(["", ""]) is None
    assert compression_ratio(["half a character \ud83d"]) > 0  # a lone surrogate is no error


def test_means_over_questions_skip_those_without_a_value():
    got = text_diversity([[[1, 2], [1, 3]], [[4], []]], [["a b", "a c"], ["", ""]])
    assert got["ngram"]["1"] == pytest.approx(((1 - 1 / 3) + 1) / 2)
    assert got["ngram"]["2"] == 1  # of the first question alone
    assert got["ngram"]["3"] is None and got["ngram_first_512"] == {"4": None}
    assert got["distinct"] == {"1": pytest.approx((3 / 4 + 1) / 2), "2": 1.0, "3": None}
    assert got["compression_ratio"] == compression_ratio(["a b", "a c"])


def test_only_the_first_tokens():
    start = list(range(512))
    got = text_diversity([[[*start, *range(1000, 1400)], [*start, *range(2000, 2400)]]], [["", ""]])
    assert got["ngram_first_512"] == {"4": 0.0}
    # 509 shared of 909 + 909 - 509
    assert got["ngram"]["4"] == pytest.approx(1 - 509 / 1309)


def test_long_responses_take_milliseconds():
    rng = np.random.default_rng(0)
    questions = [(rng.zipf(1.3, size=(8, 4000)) % 150_000).tolist() for _ in range(20)]
    began = time.thread_time()  # not what other processes take
    text_diversity(questions, [["x" * 16_000] * 8] * 20)
    assert time.thread_time() - began < 10  # 0.3 s as a rule
