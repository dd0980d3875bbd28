"""The lines of a mod-chain response, each with one thing wrong."""

import pytest

from curiojax.rewards.modchain import FAILURES, check_lines

PROMPT = "mod10:(3+4)*((2-9)*5)"
ZERO = "mod10:(0*(3+4))-(1+2)"


@pytest.mark.parametrize(
    "response",
    [
        "=7*((2-9)*5)=7*(3*5)=7*5=5",
        "=(3+4)*(3*5)=(3+4)*5=7*5=5</think>anything",
        "=7*(3*5)=7*5=5</think>\\boxed{3}",
    ],
)
def test_right_lines_are_right_whatever_follows(response):
    assert check_lines(response, PROMPT) == (True, None)


def test_a_zero_takes_the_bracket_along():
    assert check_lines("=0-(1+2)=0-3=7", ZERO).correct
    assert check_lines("=0-3=7", ZERO).correct
    assert check_lines("=(0*7)-3=0-3=7", ZERO).correct
    assert check_lines("=7-3=4", ZERO).failure == "arithmetic"


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        ("", "incomplete"),
        ("8", "malformed"),
        ("=5", "illegal"),  # right, and a guess
        ("=7*5=5", "illegal"),  # two nested reductions in one line
        ("=7*(3*5)=7*(3*5)=7*5=5", "illegal"),
        ("=7+(3*5)=7+5=2", "illegal"),
        ("=(3*5)*7=5*7=5", "illegal"),
        ("=7*5*1", "malformed"),
        ("=8*(3*5)=8*5=0", "arithmetic"),
        ("=7*(3*5)=7*6=2", "arithmetic"),
        ("=7*(3*5)=7*5=15", "malformed"),  # not below 10
        ("=7*(3*5)=7*5=05", "malformed"),
        ("=7*(3*5)=7*5=(5)", "malformed"),
        ("=7*(3*5=7*5=5", "malformed"),
        ("=7*(3*5))=7*5=5", "malformed"),
        ("=7*(3*5)=7*5", "incomplete"),
        ("=7*(3*5)=7*5=5=5", "illegal"),
        ("=7*(3*5)=7*5=5=", "malformed"),
        ("=7*(3*5)=7*5=5\\boxed{5}", "malformed"),
        ("=7*(3*5)=7*5=٨", "malformed"),
        ("= " + "(" * 5000 + "5", "malformed"),
    ],
)
def test_the_first_fault_is_named(response, failure):
    assert failure in FAILURES
    assert check_lines(response, PROMPT) == (False, failure)


def test_half_a_line_at_the_limit_does_not_count():
    cut = "=7*(3*5)=7*1"
    assert check_lines(cut, PROMPT, finished=False) == (False, "unfinished")
    assert check_lines("=7*(3*5)=7*", PROMPT, finished=False).failure == "unfinished"
    assert check_lines("=9*(3*5)=7*", PROMPT, finished=False).failure == "arithmetic"
    done = "=7*(3*5)=7*5=5</think>\\boxed{"
    assert check_lines(done, PROMPT, finished=False).correct


@pytest.mark.parametrize("prompt", ["(3+4)*5", "mod10:(3+4", "mod5:7+1", ""])
def test_a_malformed_problem_is_an_error(prompt):
    with pytest.raises(ValueError, match=r"mod10|below"):
        check_lines("=5", prompt)
