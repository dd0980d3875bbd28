"""The checks one by one, on replies that models give; and the paper's own two examples."""

import time

import pytest

from curiojax.data.rephrase import guards, inventory
from curiojax.data.rephrase.guards import Limits, judge
from curiojax.data.rephrase.replies import Reply
from curiojax.data.rephrase.template import TABLE_8

SHORT = "What is $8^6 + 7^7$ modulo 5? I have no idea, please help me out here, friends."


def reason(question, text, gold=None, finish="stop", **limits):
    return judge(question, Reply(text, finish), gold, Limits(**limits)).reason


def paper_examples():
    parts = TABLE_8.split("Example ")[1:]
    for part in parts:
        _, _, rest = part.partition("Input:\n\n")
        question, _, answer = rest.partition("\n\nOutput:\n\n")
        yield question, answer.partition("\n\nNow, here")[0].strip()


def test_the_papers_own_examples_pass():
    found = list(paper_examples())
    assert len(found) == 2 and found[1][0].startswith("(20 points)")
    for question, answer in found:
        assert reason(question, answer) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is $8^6 + 7^7$ modulo 5?", None),
        (SHORT, None),
        ("", guards.EMPTY),
        ("  \n", guards.EMPTY),
        ("I'm sorry, but I cannot help with that.", guards.REFUSED),
        ("I\u2019m sorry, no.", guards.REFUSED),
        ("There is no math problem in the text.", guards.REFUSED),
        ("The provided text does not contain $8^6 + 7^7$ modulo 5.", guards.REFUSED),
        ("None.", guards.REFUSED),
        (SHORT + SHORT, guards.TOO_LONG),
        ("What is $8^6 + 7^7$ modulo 5?\n\nInput:\n\nNext", guards.ECHO),
        ("What is $8^6 + 7^7$ modulo 5? \\boxed{2}", guards.BOXED),
        ("What is $8^6 + 7^7$ modulo 5?\n\nAnswer: two", guards.ANSWERED),
        ("What is $8^6 + 7^7$ modulo 5? The answer is two.", guards.ANSWERED),
        ("What is $8^6 + 7^7$ modulo 6?", guards.NUMBERS),
        ("What is $8^6 + 7$ modulo 5?", guards.NUMBERS),
        ("What is $8^6 - 7^7$ modulo 5?", guards.FORMULAS),
        ("What is $8^6 \\cdot 7^7$ modulo 5?", guards.FORMULAS),
        ("What is 86 + 77 modulo 5?", guards.NUMBERS),
    ],
)
def test_each_check(text, expected):
    assert reason(SHORT, text) == expected


def test_every_reason_is_tested_above_or_below():
    cases = next(mark for mark in test_each_check.pytestmark if mark.name == "parametrize").args[1]
    assert {expected for _, expected in cases} - {None} == set(guards.REASONS) - {
        guards.CUT_OFF,
        guards.TOO_SHORT,
    }


def test_replies_that_did_not_end():
    good = "What is $8^6 + 7^7$ modulo 5?"
    assert reason(SHORT, good, finish="length") == guards.CUT_OFF
    assert reason(SHORT, "<think>Hm, $8^6 + 7^7$ modulo 5") == guards.CUT_OFF
    assert reason(SHORT, good, finish="content_filter") == guards.REFUSED
    assert reason(SHORT, f"<think>Hm, 3, 4.</think>\n{good}") is None


def test_too_short_is_for_what_has_nothing_to_count():
    question = "Prove that the product of two odd numbers is odd. " + "Hello all! " * 10
    assert reason(question, "Prove it.") == guards.TOO_SHORT
    assert reason(question, "Prove it.", min_length=0.0) is None
    assert reason(question, "Prove that the product of two odd numbers is odd.") is None


@pytest.mark.parametrize("label", ["Output:", "Output: ", "**Output:**\n\n", "output:\n"])
def test_the_prompts_label_is_taken_off(label):
    good = "What is $8^6 + 7^7$ modulo 5?"
    verdict = judge(SHORT, Reply(label + good), None, Limits())
    assert (verdict.text, verdict.reason, verdict.labelled) == (good, None, True)
    assert judge(SHORT, Reply(label), None, Limits()).reason == guards.EMPTY
    assert not judge(SHORT, Reply(good), None, Limits()).labelled


def test_the_box_may_be_the_questions_own():
    question = "Fill in: $1 + 2 = \\boxed{\\text{?}}$. Thanks!"
    assert reason(question, "Fill in: $1 + 2 = \\boxed{\\text{?}}$.", gold="3") is None
    verdict = judge(question, Reply(question + "\\boxed{ 3 }"), "3", Limits())
    assert (verdict.reason, verdict.detail) == (guards.BOXED, "with the gold answer in it")


def test_tolerances_are_shares_rounded_down():
    ten = "Add 11, 12, 13, 14, 15, 16, 17, 18, 19 and 20."
    assert reason(ten, ten.replace("11, ", "")) is None
    assert reason(ten, ten.replace("11, 12, ", "")) == guards.NUMBERS
    assert reason(ten, ten.replace("11, 12, ", ""), max_lost=0.2) is None
    nine = ten.replace("11, ", "")
    assert reason(nine, nine.replace("12, ", "")) == guards.NUMBERS
    # A change is a loss and an addition.
    assert reason(ten, ten.replace("11", "21")) == guards.NUMBERS
    assert reason(ten, ten.replace("11", "21"), max_added=0.1) is None


def test_the_detail_names_what_changed():
    verdict = judge("Find $\\frac{1}{2} + 3$.", Reply("Find $\\sqrt{1} + 4$."), None, Limits())
    assert verdict.detail == "lost 2, 3; new 4"
    verdict = judge("Find $\\frac{1}{2} + 3$.", Reply("Find $\\binom{1}{2} - 3$."), None, Limits())
    assert verdict.detail == "lost +, \\frac; new -, \\binom"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(20 points) Add 3 and 4. (1) Find it", ["3", "4"]),
        ("[8 marks] f(1) = 2", ["1", "2"]),
        ("Example 7 Let $x = 5$", ["5"]),
        ("12. (2004, Shanghai) Let x be 1,234.5 or 3.14", ["1234.5", "3.14"]),
        ("Find the last digit of (2015 + 1)", ["1", "2015"]),
        ("2.5 is 5/2; 1{,}000 too", ["1000", "2", "2.5", "5"]),
        ("$x_{10}^{2}$, 3rd and x²", ["10", "2", "2", "3"]),
    ],
)
def test_labels_are_no_numbers_of_a_problem(text, expected):
    assert sorted(inventory.numbers(text).elements()) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{a}{b} \leq \left( x \right)", r"\frac{a}{b} \le (x)"),
        (r"$a \geqslant b$, $x\ne y$", r"a \ge b and x \neq y"),
        ("a ≤ b", r"$a \leq b$"),
        (r"\[ \text{area} = x \quad \]", "area = x"),
        ("non-zero x-axis, T-shirt - a nice one", "nonzero"),
        (r"x -\pi", r"x - \pi"),
    ],
)
def test_spellings_that_mean_the_same(one, other):
    assert inventory.formulas(one) == inventory.formulas(other)


def test_signs_count():
    assert inventory.formulas("x - y = -3")["-"] == 2
    assert inventory.formulas(r"-\frac{1}{2} < x")["-"] == 1
    assert inventory.formulas("a−b")["-"] == 1  # noqa: RUF001


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 20_000,
        "(20" * 20_000,
        "(abc 2004 " * 10_000,
        "\\" * 20_000,
        "1," * 20_000,
        " " * 40_000 + "x",
        "There is no " + "a " * 20_000,
        "*" * 20_000 + "answer",
        "-\n" * 20_000,
        "Output:" * 5_000,
    ],
)
def test_hostile_texts_are_judged_in_no_time(hostile):
    began = time.thread_time()  # not what other processes take
    judge(hostile + "?", Reply(hostile), hostile, Limits())
    assert time.thread_time() - began < 2
