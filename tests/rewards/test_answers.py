"""Extraction, normalisation and limits, against slower and simpler ones."""

import math
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curiojax.errors import ConfigError
from curiojax.rewards.answers import answer_section, boxes, extract_answer, final_boxed
from curiojax.rewards.formats import check_format
from curiojax.rewards.limits import _TOKEN, _Bound, too_expensive
from curiojax.rewards.normalise import as_quantity, as_words, canonical, normalise


def random_cases(number):
    return settings(max_examples=number)


PIECES = ["\\boxed{", "\\fbox{", "{", "}", "\\{", "\\}", "\\\\", "\\frac", "x", " ", "5", "$", "\\"]
MARKUP = [
    "</think>",
    "<think>",
    "\\boxed",
    "final answer is ",
    "Answer: ",
    "\n",
    "$7$",
    "3.5",
    "\\[",
]
texts = st.lists(st.sampled_from(PIECES + MARKUP) | st.text(max_size=5), max_size=40).map("".join)


def boxes_by_counting(text):
    """Tries every opening in turn and counts braces up to its end."""
    found = []
    end = at = 0
    while at < len(text):
        opening = next((o for o in ("\\boxed{", "\\fbox{") if text.startswith(o, at)), None)
        if opening is not None:
            depth, k = 1, at + len(opening)
            while k < len(text) and depth:
                if text[k] == "\\" and not any(
                    text.startswith(o, k) for o in ("\\boxed{", "\\fbox{")
                ):
                    k += 1
                elif text[k] in "{}":
                    depth += 1 if text[k] == "{" else -1
                k += 1
            if depth == 0 and k <= len(text) and at >= end:
                found.append((at, k, text[at + len(opening) : k - 1]))
                end = k
            at += len(opening)
        else:
            at += 2 if text[at] == "\\" else 1
    return found


@random_cases(400)
@given(st.lists(st.sampled_from([p for p in PIECES if p != "\\"]), max_size=30).map("".join))
@example("\\boxed{\\boxed{1}")
@example("\\boxed{\\{1,2\\}}")
def test_boxes_are_those_found_by_counting_braces(text):
    if "\\\\\\" in text or "\\\\boxed" in text or "\\\\fbox" in text:
        return  # doubled backslashes before a box are forgiven, see below
    assert [tuple(box) for box in boxes(text)] == boxes_by_counting(text)


@random_cases(300)
@given(
    texts,
    st.recursive(
        st.sampled_from(["x", "5", "\\frac12", "\\}"]),
        lambda inner: inner.map(lambda t: "{" + t + "}"),
        max_leaves=5,
    ),
)
def test_the_last_box_is_found_behind_any_text(prose, content):
    response = f"{prose}</think> So \\boxed{{{content}}}."
    assert extract_answer(response) == content.strip()


@random_cases(300)
@given(texts)
@example("$ $")
def test_no_text_breaks_the_functions_on_texts(text):
    answer = extract_answer(text)
    assert answer is None or answer != ""
    once = normalise(text)
    canonical(text), as_words(once), as_quantity(once), too_expensive(once)
    for rule in ("strict", "released", "none"):
        check_format(rule, text)


@pytest.mark.parametrize(
    "piece",
    ["\\", "\\boxed{", "{", "}", "$", "\\(", "\\[", " ", "final answer is", "answer is ", "<think>",
     "</think>", "9^", "\\boxed{3}, ", "\\boxed ", "final ", "1,000", "Answer: C) ", "\u00bd"],
)  # fmt: skip
def test_time_is_linear_in_the_text(piece):
    text = piece * (200_000 // len(piece))
    start = time.thread_time()  # not what other processes take
    extract_answer(text)
    check_format("strict", "</think>" + text)
    normalise(text[:2_048])
    assert time.thread_time() - start < 5


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1} </think> so \boxed{2}", "2"),
        (r"\boxed{1} </think> nothing", None),
        (r"a</think> \boxed{1} b</think> \boxed{2}", "2"),
        (r"</think> \boxed{1} <think> or \boxed{2}", "1"),
        (r"<think> it is \boxed{1}", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\text{so } \boxed{5}}", r"\text{so } 5"),
        (r"\boxed 5.", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{5", None),
        (r"\boxed{5} then \boxed{\frac{1}{2}", "5"),
        (r"\boxed{}", None),
        (r"\boxed{3} and \boxed{5}", "3,5"),
        (r"$\boxed{3}$, $\boxed{5}$ and $\boxed{5}$", "3,5"),
        (r"\(\boxed{3}\) or \(\boxed{5}\)", "3,5"),
        (r"\boxed{3}. Then \boxed{5}", "5"),
        ("\\boxed{3}\n\n\\boxed{5}", "5"),
        (r"\boxed{3}, no, \boxed{5}", "5"),
        (r"\boxed{5}. The final answer is $7$.", "7"),
        (r"\boxed{5}. The final answer is 7, as said.", "7"),
        (r"\boxed{5}. The final answer is right.", "5"),
        ("The answer is 42. I hope it is correct.", "42"),
        ("**Answer:** $\\frac{1}{2}$", r"\frac{1}{2}"),
        ("The answer is therefore 42 apples", "42"),
        ("The answer is \\frac{x}{2}.", r"\frac{x}{2}"),
        ("The answer is Evelyn.", "Evelyn"),
        ("The answer is as above.", None),
        ("first 7, then $x+1$", "x+1"),
        ("first $x+1$, then 1,234.5", "1,234.5"),
        ("", None),
    ],
)
def test_extraction(response, answer):
    assert extract_answer(response) == answer


def test_the_answer_section_is_bounded():
    assert len(answer_section("x" * 10**6)) < 300_000
    assert extract_answer("x" * 10**6 + "</think> \\boxed{5}") == "5"
    assert final_boxed("\\boxed{1}," * 1_000).count(",") == 0
    assert final_boxed(",".join(f"\\boxed{{{i}}}" for i in range(1_000))).count(",") < 30


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("x²", "x^{2}"), ("x₁", "x_{1}"), ("3½", r"3\frac{1}{2}"), ("√2", r"\sqrt{2}"),
        ("√(x+1)", r"\sqrt{x+1}"), ("∛10", r"\sqrt[3]{10}"), ("\uff11\uff12", "12"), ("12个", "12"),
        ("12\\text{个}", "12"), ("12万", "12万"), ("\u22125", "-5"), ("x ≤ 3", r"x \le 3"),
        ("4.5e33", r"4.5\times 10^{33}"), ("1E-05", r"1\times 10^{-5}"), ("e3", "e3"), ("2e", "2e"),
        ("np.arcsin(10/13)", r"\arcsin(10/13)"), ("np.sqrt(2)*np.pi", r"\sqrt{2}*\pi"),
        ("2**(1/2)", "2^{1/2}"), ("$69$,$84$", "69 , 84"), (r"\(x\)", "x"), (r"\$18.90", "18.90"),
        (r"\varnothing", r"\emptyset"), ("∅", r"\emptyset"), ("5\u200b", "5"), ("**5**", "5"),
        ("5.", "5"), ("-1./3", "-1/3"), (r"1\\[2pt]2", r"1\\[2pt]2"),
    ],
)  # fmt: skip
def test_normalisation(written, normal):
    assert normalise(written) == normal
    assert normalise(normal) == normal


@random_cases(300)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6), st.integers(-30, 30))
def test_numbers_are_read_exactly(digits, places, exponent):
    value = Fraction(digits, 10**places)
    sign = "-" if digits < 0 else ""
    whole, rest = divmod(abs(digits), 10**places)
    plain = f"{sign}{whole}" + (f".{rest:0{places}d}" if places else "")
    grouped = f"{sign}{whole:,}" + (f".{rest:0{places}d}" if places else "")
    for text in (plain, grouped, grouped.replace(",", "{,}"), f"{plain} "):
        assert as_quantity(normalise(text)).value == value
    scaled = value * Fraction(10) ** exponent
    for times in ("e{}", r"\times10^{{{}}}", " \u00d7 10^{}", r" \cdot 10^{{{}}}"):
        assert as_quantity(normalise(plain + times.format(exponent))).value == scaled
    assert as_quantity(rf"{sign}\frac{{{abs(digits)}}}{{7}}").value == Fraction(digits, 7)


@pytest.mark.parametrize("text", ["x", "1 2", "2410^{3}", "1,23", "", "-", ".", "1/0", "3:4", "5%"])
def test_what_is_no_number(text):
    assert as_quantity(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [("Evelyn", "evelyn"), (r"\text{No}", "no"), ("yes", "yes"), (r"\text{New York}", "new york"),
     ("xy", None), ("abc", None), (r"\sin x", None), (r"8 \text{ hours}", None), ("x", None)],
)  # fmt: skip
def test_words(text, words):
    assert as_words(text) == words


def value_and_text(depth):
    """Random integer expressions as (value, LaTeX), values too large being None."""
    leaf = st.integers(0, 12).map(lambda n: (n, str(n)))
    if depth == 0:
        return leaf
    inner = value_and_text(depth - 1)

    def combine(parts):
        (a, s), (b, t), operator = parts
        if a is None or b is None or max(a, b) > 10**60:
            return None, f"({s}){operator}({t})"
        if operator == "+":
            return a + b, f"({s})+{{{t}}}"
        if operator == "*":
            return a * b, f"({s}) \\cdot \\left({t}\\right)"
        if operator == "!":
            return (math.factorial(a), f"({s})!") if a < 400 else (None, f"({s})!")
        if operator == "b":
            big = a > 2_000
            return None if big else math.comb(a, b), f"\\binom{{{s}}}{{{t}}}"
        if a > 1 and b * math.log10(a) > 5_000:
            return None, f"({s})^{{{t}}}"
        return a**b, f"({s})^{{{t}}}"

    return leaf | st.tuples(inner, inner, st.sampled_from("+*^!b")).map(combine)


@random_cases(300)
@given(value_and_text(3))
def test_the_bound_on_numbers_is_one(expression):
    value, text = expression
    if value is None or value == 0:
        return
    try:
        bound = _Bound(_TOKEN.findall(text)).sequence(None)
    except Exception as error:
        assert type(error).__name__ == "_TooLarge"
        return
    digits = value.bit_length() * math.log10(2)
    assert bound >= digits - 0.31


@pytest.mark.parametrize(
    "answer",
    ["9^{9^{9^9}}", "9^9^9^9", "((9!)!)!", "2^{10^9}", "2^{1000000000}", r"\binom{10^9}{5*10^8}",
     r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}", "e^{e^{e^{10}}}", r"\exp(\exp(\exp(10)))", "7" * 501,
     r"9^\left(9^\left(9^9\right)\right)", r"2^\mathrm{1000000000}", "(" * 30 + "1" + ")" * 30,
     r"\int_0^1 x dx", r"\sum_{k=1}^{10} k", r"\frac12^{10^9}", "x" * 600, "(1+1)^{10^{8}}"],
)  # fmt: skip
def test_expensive_answers_are_refused(answer):
    assert too_expensive(normalise(answer), "5")


@pytest.mark.parametrize(
    "answer",
    ["2^{100000}", "4^{50000}", "2^{2^{10}}", "120!", r"\binom{2n}{n}", r"\binom{9}{5}", "x^{2023}",
     r"\frac{\sqrt{1+\sqrt{2}}}{3}", "(x+1)^{100}", r"e^{-x^2/2}", "10^{1000}", "n!", r"2^{2^{n}}",
     r"\left\{(1,2),\left(\frac{1}{2},3\right)\right\}", r"\frac{10^{2023}-1}{9}", "1" * 400],
)  # fmt: skip
def test_usual_answers_are_not_refused(answer):
    assert too_expensive(normalise(answer), "5") is None


def test_a_sum_is_evaluated_when_the_right_answer_is_one():
    assert too_expensive(r"\sum_{k=1}^{n} k^2", r"\sum_{j=1}^{n} j^2") is None
    assert too_expensive(r"\sum_{k=1}^{10^9} k^2", r"\sum_{j=1}^{n} j^2")


@pytest.mark.parametrize(
    ("response", "finished", "strict", "released"),
    [
        (r"so</think> \boxed{5}", True, True, True),
        (r"<think>so</think> \boxed{5}", True, True, True),
        (r" <think>so</think> \boxed{5}", True, True, True),
        (r"</think>\boxed{5}", True, True, True),
        (r"so</think> \boxed{5}", False, False, True),
        (r"so</think> \boxed{5} </think>", True, False, True),
        (r"so</think> <think> \boxed{5}", True, False, True),
        (r"so <think> so</think> \boxed{5}", True, False, True),
        (r"<think><think>so</think> \boxed{5}", True, False, True),
        (r"\boxed{5}</think> it is 5", True, False, True),
        (r"so</think> \boxed{}", True, False, True),
        (r"so</think> \boxed{ }", True, False, True),
        (r"so</think> \boxed{5", True, False, True),
        (r"so</think> \fbox{5}", True, False, True),
        (r"so</think> \boxed 5", True, False, True),
        (r"so \boxed{5}", True, False, False),
        ("", True, False, False),
        ("</think>" + "x" * 300_000 + r"\boxed{5}", True, False, True),
    ],
)
def test_format_rules(response, finished, strict, released):
    assert check_format("strict", response, finished=finished) is strict
    assert check_format("released", response, finished=finished) is released
    assert check_format("none", response, finished=finished) is True


def test_an_unknown_format_rule_is_refused():
    with pytest.raises(ConfigError, match=r"reward\.format: unknown rule 'loose'"):
        check_format("loose", "text")
