"""Verdicts against a table of pairs judged by hand, and against math-verify's own."""

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from curiojax.errors import ConfigError
from curiojax.rewards import gym_tasks
from curiojax.rewards.verifiers import (
    VERIFIERS,
    Verdict,
    check_verifier,
    get_verifier,
    gradable,
    warm_up,
)

TABLE = json.loads((Path(__file__).parents[1] / "golden" / "answers.json").read_text())
# Pairs on which `math` keeps to a verdict other than the table's, and why.
JUDGEMENTS = {
    "minerva tolerance": "41.77 is not 41.8: a tolerance is for data that asks for one (`number`)",
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up("math")


def test_the_table_is_whole():
    assert len(TABLE) == 119
    assert sum(row["correct"] != row["math_verify_0.9.0"] for row in TABLE) == 15
    assert JUDGEMENTS.keys() <= {row["name"] for row in TABLE}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"].replace(" ", "_"))
def test_pairs_judged_by_hand(row):
    expected = row["correct"] if row["name"] not in JUDGEMENTS else row["math_verify_0.9.0"]
    assert VERIFIERS["math"](row["prediction"], row["gold"]).correct is expected
    assert gradable("math", row["gold"])


def test_math_verify_alone_says_what_math_verify_says():
    for row in TABLE:
        verdict = VERIFIERS["math_verify_whole_text"](row["prediction"], row["gold"])
        assert verdict.correct is row["math_verify_0.9.0"], row["name"]


def test_the_released_rule_accepts_whatever_math_verify_does():
    more = []
    for row in TABLE:
        verdict = VERIFIERS["released_whole_text"](row["prediction"], row["gold"])
        assert verdict.correct or not row["math_verify_0.9.0"], row["name"]
        if verdict.correct and not row["math_verify_0.9.0"]:
            more.append(row["name"])
    # The last box, whatever stands around it; `$12个$` is read as an amount of dollars.
    assert set(more) == {
        "multi boxed last right",
        "multi boxed adjacent",
        "boxed then answer-is other",
        "chinese",
    }


def boxed(answer):
    return f"so</think> \\boxed{{{answer}}}"


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("no", "on", False), ("Evelyn", "nylevE", False), (r"\text{yes}", "no", False),
        ("AB", "BA", True), ("3e8", "8e3", False), ("3e8", "300000000", True),
        ("1.6e-19", "2.7e-19", False), ("1.6e-19", r"1.6\times 10^{-19}", True),
        ("0.00000001", "0.00000002", False), ("1/3", "0.333333", True), ("1/3", "0.3333", False),
        ("1234567", "1234567.5", False), ("5", "4.9999999", False), ("12", "1 2", False),
        ("x^2", "x²", True), ("x^2", "x2", False), ("7/2", "3½", True), ("31/2", "3½", False),
        ("D", "d", False), ("x", "X", False), ("x", "x", True), ("(1,2)", "1<x<2", True),
        ("[1,2]", "1<x<2", False), ("2516_8", "2516_{8}", True), ("2516_8", "2516_9", False),
        ("110", "110_2", True), (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^n k", False),
        ("5", r"\int_0^5 1 dx", False), ("C", r"\text{(C)}", True), ("C", "B) C", False),
        ("C", "A, C", False), ("$x_{0} \\cos t$", r"x_0\cos(t)", True), ("10", "10.", True),
        (r"\frac{1}{2}", "foo bar \\frac{1}{2}", False), ("2^{100000}", "4^{50000}", True),
        (r"\boxed{7}", "7", True), ("5", "x" * 10_000, False), ("1,234", "1234", True),
        ("(1,234)", "1234", False), (r"\text{New York}", "new york", True),
        ("9^{9^{9^9}}", "9^{9^{9^9}}", True),
    ],
)  # fmt: skip
def test_more_pairs(gold, answer, correct):
    verdict = VERIFIERS["math"](boxed(answer), gold)
    if gold == "9^{9^{9^9}}":
        assert verdict == Verdict(False, "unverifiable")
    else:
        assert verdict.correct is correct
        assert verdict.status == "ok"


@pytest.mark.parametrize(
    "gold", ["", "  ", "$$", r"\boxed{}", "\\frac{", "x" * 5_000, "9^{9^{9^9}}"]
)
def test_a_right_answer_that_cannot_be_compared_is_never_rewarded(gold):
    assert not gradable("math", gold)
    for response in (boxed(gold), boxed("5"), ""):
        assert VERIFIERS["math"](response, gold) == Verdict(False, "unverifiable")


def test_what_is_extracted_can_be_stored():
    assert VERIFIERS["math"]("", "5") == Verdict(False, "no_answer")
    verdict = VERIFIERS["math"](boxed("\ud800" + "x" * 1_000), "5")
    assert len(verdict.extracted.encode()) <= 300


CHOICES = [
    ("C", boxed("C"), True), ("C", boxed(r"\text{C}"), True), ("C", boxed("(C)"), True),
    ("C", boxed(r"\text{C) shorter days}"), True), ("C", boxed("C. shorter days"), True),
    ("C", boxed(r"\textbf{(C)}\ 12"), True), ("C", boxed(r"\text{Option C}"), True),
    ("C", boxed("c"), False), ("C", boxed("B"), False), ("C", boxed("C or D"), False),
    ("C", boxed("(C) and (D)"), False), ("C", boxed("C, D"), False), ("C", boxed("CD"), False),
    ("C", "think C</think> ANSWER: C", True), ("C", "ANSWER: $C$", True),
    ("C", "Answer: **C**", True),
    ("C", "The answer is (C) because", True), ("C", "The answer is C.", True),
    ("A", "The answer is A small one", False), ("I", "The answer is I think J", False),
    ("C", "Answer: C</think> unclear", False), ("C", "Answer: B\nAnswer: C", True),
    ("C", boxed("5 m/s") + " Answer: C", True), ("C", boxed("D") + " Answer: C", False),
    ("C) blue", boxed("blue"), True), ("C) blue", boxed("Blue"), True),
    ("C) blue", boxed("red"), False), ("C) blue", boxed("C"), True), ("3", boxed("3"), True),
    ("3", boxed("3.5"), False),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "response", "correct"), CHOICES)
def test_choice(gold, response, correct):
    assert VERIFIERS["choice"](response, gold).correct is correct


def test_the_choice_verifier_wants_an_option():
    assert not gradable("choice", "blue")
    assert gradable("choice", "(J)")
    assert VERIFIERS["choice"](boxed("x"), "42").status == "unverifiable"
    assert VERIFIERS["choice"]("no idea", "C").status == "no_answer"


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("41.8", "41.77", True), ("41.8", "41.74", False), ("41.8", r"x \approx 41.8", True),
        ("41.8", r"41.8 \text{ m/s}^2", True), ("42", "41.99", False), ("0.5", "0.46", False),
        ("0.667", r"\frac{2}{3}", True), ("4.50e33", r"4.499\times 10^{33}", True),
        ("4.50e33", r"4.49\times 10^{33}", False), ("1,234", r"\$1234", True), ("5", "5+1", False),
        ("5", "x", False), ("6.02e23", "6.02e23", True),
    ],
)  # fmt: skip
def test_number(gold, answer, correct):
    assert VERIFIERS["number"](boxed(answer), gold).correct is correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [("a  b", "a b", True), ("Paris", "paris", True), ("x", "X", False), ("1/2", "0.5", False),
     (r"\dfrac{1}{2}", r"\frac12", True), ("12", "1 2", False),
     (r"\frac{1}{2}", r"\dfrac12", True), ("é", "e\u0301", True)],
)  # fmt: skip
def test_exact(gold, answer, correct):
    assert VERIFIERS["exact"](boxed(answer), gold).correct is correct


def test_countdown_names_what_is_wrong():
    gold = "8 4 2 : 10"
    right = "a+b 2 12 b-a 10 END BOX 10 <eos>"
    assert VERIFIERS["countdown"](right, gold) == Verdict(True, "ok", None)
    assert VERIFIERS["countdown"](right.replace("12", "13"), gold).extracted == "arithmetic"
    assert VERIFIERS["countdown"](right, "8 4").status == "unverifiable"
    assert gradable("countdown", gold) and not gradable("countdown", "8 4 2")


def test_released_grades_in_training_and_in_evaluation():
    hidden = r"it is \boxed{5}.</think> See above."
    assert VERIFIERS["released"](hidden, "5").correct  # by the rule on the last box
    assert not VERIFIERS["math_verify"](hidden, "5").correct
    assert VERIFIERS["math_verify_whole_text"](hidden, "5").correct
    assert not VERIFIERS["math"](hidden, "5").correct
    two = r"so</think> First \boxed{3}, no wait, \boxed{5}."
    assert not VERIFIERS["math_verify"](two, "5").correct
    assert VERIFIERS["released"](two, "5").correct
    assert VERIFIERS["released"](boxed("5"), "").status == "unverifiable"


HOSTILE = """
import json, sys, time
from curiojax.rewards.verifiers import VERIFIERS, warm_up
warm_up("math")
box = "</think> \\\\boxed{%s}"
inputs = [box % a for a in ["9^{9^{9^9}}", "9^9^9^9", "9**9**9**9", "2^{10^9}", "((9!)!)!",
    "\\\\binom{10^9}{5*10^8}", "\\\\sum_{k=1}^{10^9} k", "\\\\prod_{k=1}^{10^9} k",
    "\\\\int_0^1 \\\\frac{\\\\sin x^5}{1+x^7} dx", "\\\\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}",
    "\\\\frac{1}{1+" * 30 + "1" + "}" * 30, "\\\\frac{1}{1+" * 1000 + "1" + "}" * 1000,
    "(" * 5000 + ")" * 5000, "7" * 10**6, "\\\\text{" * 200 + "}" * 200, "5\\0", "\\ud800",
    " " * 10**5]]
inputs += ["{" * 10**5, "\\\\boxed{" * 10**5, "\\\\(" * 75000, "\\\\[" * 75000, "\\\\" * 150000,
    "the answer is 9^9^9^9", "1e999999", box % "1e999999", box % "10^{99999999}",
    box % ("0." + "0" * 999 + "1")]
slow = []
for name in ("math", "choice", "exact", "number"):
    for text in inputs:
        start = time.process_time()  # not what other processes take
        verdict = VERIFIERS[name](text, "C" if name == "choice" else "7")
        assert not verdict.correct, (name, text[:40])
        if time.process_time() - start > 3:
            slow.append((name, text[:40]))
print(json.dumps(slow))
"""


def test_hostile_answers_are_refused_at_once():
    run = subprocess.run(
        [sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr[-2_000:]
    assert json.loads(run.stdout) == []


def test_importing_and_checking_brings_no_computer_algebra():
    code = (
        "import sys; from curiojax.rewards import verifiers, formats, answers;"
        "verifiers.check_verifier('math'); verifiers.get_verifier('math');"
        "verifiers.VERIFIERS['exact']('\\\\boxed{5}', '5');"
        "sys.exit(any(m in sys.modules for m in ('sympy', 'math_verify', 'jax', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def own_module(monkeypatch):
    module = types.ModuleType("own_rewards")
    module.length = lambda response, gold: len(response) == int(gold)
    module.length.gradable = str.isdigit
    module.score = lambda response, gold: 0.5 if response else 1.0
    module.verdict = lambda response, gold: Verdict(True, "ok", "x")
    module.wrong = lambda response, gold: "yes"
    monkeypatch.setitem(sys.modules, "own_rewards", module)


@pytest.mark.usefixtures("own_module")
def test_a_users_function():
    length = get_verifier("own_rewards:length")
    assert length("abc", "3").correct and not length("abc", "4").correct
    assert length("abc", "x").status == "unverifiable"
    assert gradable("own_rewards:length", "3") and not gradable("own_rewards:length", "x")
    assert not get_verifier("own_rewards:score")("abc", "3").correct
    assert get_verifier("own_rewards:score")("", "3").correct
    assert get_verifier("own_rewards:verdict")("", "3").extracted == "x"
    with pytest.raises(ConfigError, match="returned str"):
        get_verifier("own_rewards:wrong")("", "3")
    with pytest.raises(ConfigError, match="has no function 'none'"):
        get_verifier("own_rewards:none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maths", "unknown verifier 'maths'; did you mean 'math'?"),
        ("zzz", "it is one of math, choice, exact, number"),
        ("no_such_module:f", "there is no module 'no_such_module'"),
        ("no.such:f", "there is no module 'no.such'"),
        ("module:", "unknown verifier"),
    ],
)
def test_an_unknown_verifier_is_one_line(name, message):
    for function in (check_verifier, get_verifier):
        with pytest.raises(ConfigError) as error:
            function(name)
        assert str(error.value).startswith("reward.verifier: ")
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is not None, reason="it is there")
def test_reasoning_gym_says_what_to_install():
    with pytest.raises(ConfigError, match=r"needs the package reasoning-gym; pip install"):
        get_verifier("reasoning_gym:countdown")


@pytest.fixture
def gym(monkeypatch):
    """A package with one task: any expression with the value that the metadata tell."""

    def score(answer, entry):
        assert set("0123456789+- ") >= set(answer)
        return 1.0 if sum(map(int, answer.split("+"))) == entry["metadata"]["target"] else 0.05

    def find(task):
        if task != "sums":
            raise ValueError(task)
        return score

    module = types.ModuleType("reasoning_gym")
    module.get_score_answer_fn = find
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)


@pytest.mark.usefixtures("gym")
def test_reasoning_gym_tasks():
    entry = json.dumps({"question": "?", "answer": "1+2", "metadata": {"target": 3}})
    verifier = get_verifier("reasoning_gym:sums")
    assert verifier("<answer>9</answer></think> <answer>2+1</answer>", entry).correct
    assert verifier(boxed("3"), entry) == Verdict(True, "ok", "3")
    assert verifier(boxed("4"), entry) == Verdict(False, "ok", "4")
    assert verifier(boxed("x"), entry).status == "error"
    assert verifier("", entry).status == "no_answer"
    assert verifier(boxed("3"), "").status == "unverifiable"
    assert gradable("reasoning_gym:sums", entry)
    assert not gradable("reasoning_gym:sums", entry.replace("1+2", "1+1"))
    with pytest.raises(ConfigError, match="has no task 'other'"):
        get_verifier("reasoning_gym:other")


@pytest.mark.parametrize(
    "answer",
    ["open('f', 'w')", "(open)('f')", "\uff4f\uff50\uff45\uff4e('f')", "sin('1')", 'S("1")',
     "__import__('os')", "x.__class__", "sin((123).to_bytes(4).decode())", "getattr(x, y)"],
)  # fmt: skip
def test_programs_are_not_handed_to_reasoning_gym(answer):
    assert gym_tasks.is_program(answer)


@pytest.mark.parametrize(
    "answer", ["(1 + 2)*3", "sqrt(2)", "it's 5", "A -> B", "f(x) = 2*x", "max(1, 2)"]
)
def test_answers_are(answer):
    assert not gym_tasks.is_program(answer)


def test_the_real_reasoning_gym():
    package = pytest.importorskip("reasoning_gym")
    entry = package.create_dataset("countdown", size=1, seed=0)[0]
    verifier = get_verifier("reasoning_gym:countdown")
    truth = json.dumps(entry)
    assert verifier(boxed(entry["answer"]), truth).correct
    assert not verifier(boxed("1+1"), truth).correct
    assert gradable("reasoning_gym:countdown", truth)
