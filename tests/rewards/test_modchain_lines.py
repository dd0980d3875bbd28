"""The lines of a mod-chain response, each with one thing wrong."""

import pytest

from curiojax.rewards.modchain import FAILURES, check_lines

PROMPT = "mod23 (3 + 4) * ((2 - 9) * 5)"
ZERO = "mod23 (0 * (3 + 4)) - (1 + 2)"


@pytest.mark.parametrize(
    "response",
    [
        "= 7 * ((2 - 9) * 5) = 7 * (16 * 5) = 7 * 11 = 8",
        "= (3 + 4) * (16 * 5) = (3 + 4) * 11 = 7 * 11 = 8 </think> anything",
        "= 7 * (16 * 5) = 7 * 11 = 8 </think> \\boxed{ 3 }",
    ],
)
def test_right_lines_are_right_whatever_follows(response):
    assert check_lines(response, PROMPT) == (True, None)


def test_a_zero_takes_the_bracket_along():
    assert check_lines("= 0 - (1 + 2) = 0 - 3 = 20", ZERO).correct
    assert check_lines("= 0 - 3 = 20", ZERO).correct
    assert check_lines("= (0 * 7) - 3 = 0 - 3 = 20", ZERO).correct
    assert check_lines("= 7 - 3 = 4", ZERO).failure == "arithmetic"


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        ("", "incomplete"),
        ("8", "malformed"),
        ("= 8", "illegal"),  # right, and a guess
        ("= 7 * 11 = 8", "illegal"),  # two nested reductions in one line
        ("= 7 * (16 * 5) = 7 * (16 * 5) = 7 * 11 = 8", "illegal"),
        ("= 7 + (16 * 5) = 7 + 11 = 18", "illegal"),
        ("= (16 * 5) * 7 = 11 * 7 = 8", "illegal"),
        ("= 7 * 11 * 1", "malformed"),
        ("= 8 * (16 * 5) = 8 * 11 = 19", "arithmetic"),
        ("= 7 * (16 * 5) = 7 * 12 = 15", "arithmetic"),
        ("= 7 * (16 * 5) = 7 * 11 = 31", "malformed"),  # not below 23
        ("= 7 * (16 * 5) = 7 * 11 = 08", "malformed"),
        ("= 7 * (16 * 5) = 7 * 11 = (8)", "malformed"),
        ("= 7 * (16 * 5 = 7 * 11 = 8", "malformed"),
        ("= 7 * (16 * 5)) = 7 * 11 = 8", "malformed"),
        ("= 7 * (16 * 5) = 7 * 11", "incomplete"),
        ("= 7 * (16 * 5) = 7 * 11 = 8 = 8", "illegal"),
        ("= 7 * (16 * 5) = 7 * 11 = 8 = ", "malformed"),
        ("= 7 * (16 * 5) = 7 * 11 = 8 \\boxed{ 8 }", "malformed"),
        ("= 7 * (16 * 5) = 7 * 11 = ٨", "malformed"),
        ("= " + "(" * 5000 + "8", "malformed"),
    ],
)
def test_the_first_fault_is_named(response, failure):
    assert failure in FAILURES
    assert check_lines(response, PROMPT) == (False, failure)


def test_half_a_line_at_the_limit_does_not_count():
    cut = "= 7 * (16 * 5) = 7 * 1"
    assert check_lines(cut, PROMPT, finished=False) == (False, "unfinished")
    assert check_lines("= 7 * (16 * 5) = 7 *", PROMPT, finished=False).failure == "unfinished"
    assert check_lines("= 9 * (16 * 5) = 7 *", PROMPT, finished=False).failure == "arithmetic"
    done = "= 7 * (16 * 5) = 7 * 11 = 8 </think> \\boxed{"
    assert check_lines(done, PROMPT, finished=False).correct


@pytest.mark.parametrize("prompt", ["(3 + 4) * 5", "mod23 (3 + 4", "mod5 7 + 1", ""])
def test_a_malformed_problem_is_an_error(prompt):
    with pytest.raises(ValueError, match=r"mod23|below"):
        check_lines("= 8", prompt)
