import pytest

from curiojax.rewards.countdown import FAILURES, parse_ground_truth, verify

TRUTH = "7 3 5 2 : 24"
# 7 + 2 = 9, 3 * 5 = 15, 15 + 9 = 24
GOOD = "a+d 3 5 9 a*b 9 15 b+a 24 END BOX 24"


def test_a_correct_response():
    verdict = verify(GOOD, TRUTH)
    assert verdict.correct
    assert verdict.search_correct
    assert verdict.failure is None
    assert verdict.reward == 1.0
    assert verdict.operators == "+*+"
    assert verify(f"  {GOOD} <eos>", TRUTH, finished=False).correct
    assert verify(f"{GOOD}<eos>", TRUTH, finished=False).correct


@pytest.mark.parametrize(
    ("response", "failure", "operators"),
    [
        ("", "incomplete", ""),
        ("hello", "malformed", ""),
        ("a^d 3 5 9", "malformed", ""),
        ("a+d 3 5 nine", "malformed", ""),
        ("a+d 3 5 09 a*b 9 15 b+a 24 END BOX 24", "malformed", ""),
        ("a+d 3 5 ९ a*b 9 15 b+a 24 END BOX 24", "malformed", ""),
        ("a+d 3 5", "incomplete", ""),
        ("a+d 3 5 9 a*b", "incomplete", "+"),
        ("a+d 3 5 9 END BOX 24", "malformed", "+"),
        ("a+a 3 5 14", "illegal", ""),  # the same number twice
        ("a+e 3 5 9", "malformed", ""),
        ("a+d 3 5 9 a*d 9 15", "illegal", "+"),  # the pool has only three numbers by now
        ("d-a 3 5 5", "illegal", ""),  # negative
        ("a/d 3 5 3", "illegal", ""),  # inexact
        ("a+d 3 5 8 a*b 8 15 b+a 23 END BOX 23", "arithmetic", ""),
        ("a+d 3 6 9", "pool", ""),
        ("a+d 5 3 9", "pool", ""),  # the order is part of the pool
        ("a+d 3 5 9 a*b 9 15 b-a 6 END BOX 6", "target", "+*-"),
        ("a+d 3 5 9 a*b 9 15 b-a 6 END BOX 24", "target", "+*-"),
    ],
)
def test_search_failures(response, failure, operators):
    verdict = verify(response, TRUTH)
    assert not verdict.correct
    assert not verdict.search_correct
    assert verdict.failure == failure
    assert verdict.operators == operators
    assert failure in FAILURES


@pytest.mark.parametrize(
    ("tail", "finished", "failure"),
    [
        ("", True, "format"),
        (" 24", True, "format"),
        (" END", True, "format"),
        (" BOX 24", True, "format"),
        (" BOX END 24", True, "format"),
        (" END BOX 24 24", True, "format"),
        (" END BOX 24 END BOX 24", True, "format"),
        (" END BOX x", True, "format"),
        (" END BOX 23", True, "box"),
        (" END BOX 024", True, "format"),
        (" END BOX 24", False, "unfinished"),
        (" END BOX", False, "unfinished"),
        (" BOX", False, "format"),
    ],
)
def test_format_failures_leave_the_search_correct(tail, finished, failure):
    verdict = verify(GOOD.partition(" END")[0] + tail, TRUTH, finished=finished)
    assert not verdict.correct
    assert verdict.reward == 0.0
    assert verdict.search_correct
    assert verdict.failure == failure
    assert failure in FAILURES


def test_division_by_zero_and_overflow_are_illegal():
    assert verify("b/a 0 3 0", "0 0 3 3 : 3").failure == "illegal"
    assert verify("a*b 9 9 81 a*b 81 81 a*b 99", "9 9 9 9 : 9").failure == "illegal"
    # Zero itself is a legal value.
    assert verify("a-b 5 2 0 a*c 2 0 a+b 2 END BOX 2", "3 3 5 2 : 2").correct


def test_the_ground_truth_is_parsed_strictly():
    assert parse_ground_truth(TRUTH) == ((7, 3, 5, 2), 24)
    for wrong in ("7 3 5 2 24", "7 3 : x", ": 24", "7 3 5 2 : 24 1", "__import__ : 1"):
        with pytest.raises(ValueError, match=r"form|integers"):
            parse_ground_truth(wrong)


def test_long_hostile_text_is_fast_and_wrong():
    for text in ("9" * 300_000, "a+b " * 100_000, "(" * 300_000, "\x00", "END BOX 24"):
        assert not verify(text, TRUTH).correct
