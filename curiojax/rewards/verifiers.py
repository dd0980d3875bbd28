r"""Verifiers: plain functions from a response and a right answer to a verdict, by name.

`VERIFIERS` holds those of the package; `get_verifier` also takes `module:function` for one's own
and `reasoning_gym:<task>`. They read text written by a model: call them in a process that can be
killed, with a limit on its memory. Importing this module imports no computer algebra; the first
call of a verifier that needs it does (see `warm_up`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, NamedTuple

from curiojax.errors import ConfigError
from curiojax.rewards import countdown as countdown_rules
from curiojax.rewards.answers import MAX_ANSWER_CHARS, extract_answer, unbox
from curiojax.rewards.choice import choose, label_of, parse_option
from curiojax.rewards.normalise import Quantity, as_quantity, as_words, canonical, normalise

MAX_EXTRACTED_CHARS = 256
# A measured value is right to the digits that the right answer gives, if it gives three.
MIN_SIGNIFICANT = 3
_OPTION_LETTERS = set("ABCDEFGHIJ")


class Verdict(NamedTuple):
    """What a verifier says about a response.

    Attributes:
      correct: whether its answer is right.
      status: `ok`: the answer was compared; `no_answer`: there is none; `unverifiable`: nothing can
        be compared with this ground truth, so the item is to be left out and counted; `error`: the
        comparison failed. Only `ok` comes with `correct`.
      extracted: the answer as the response gives it, cut to `MAX_EXTRACTED_CHARS`.
    """

    correct: bool
    status: Literal["ok", "no_answer", "unverifiable", "error"] = "ok"
    extracted: str | None = None


Verifier = Callable[[str, str], Verdict]


def math(response: str, ground_truth: str) -> Verdict:
    r"""Mathematical equality (`equivalence.equivalent`) of the final answer (`extract_answer`).

    A ground truth that is a capital letter from A to J is an option or a symbol: an answer that
    names an option (`\text{C) shorter days}`) is compared as in `choice`.
    """
    from curiojax.rewards.equivalence import equivalent, is_verifiable, prepare_gold

    try:
        if not is_verifiable(ground_truth):
            return Verdict(False, "unverifiable")
        answer = extract_answer(response)
        if answer is None:
            return Verdict(False, "no_answer")
        gold = prepare_gold(ground_truth)
        letter = canonical(gold).strip("()")
        if letter in _OPTION_LETTERS and (label := label_of(answer)) is not None:
            return _compared(label == letter, answer)
        if not _short(answer):
            return _compared(False, answer)
        return _compared(equivalent(gold, normalise(answer)), answer)
    except MemoryError:  # a MemoryError is the worker's business, any other the answer's
        raise
    except Exception:
        return Verdict(False, "error")


def choice(response: str, ground_truth: str) -> Verdict:
    """Multiple choice: the label of the last box, else of the last `answer: C` (`choice.choose`).

    The ground truth is a label from A to J or 1 to 9, alone or with the option's text, `C) blue`.
    """
    option = parse_option(ground_truth)
    if option is None:
        return Verdict(False, "unverifiable")
    correct, chosen = choose(response, option)
    return _compared(correct, chosen) if chosen is not None else Verdict(False, "no_answer")


def exact(response: str, ground_truth: str) -> Verdict:
    """Equality of the texts after normalisation; of words also without regard to case."""
    gold = normalise(unbox(ground_truth))
    if not canonical(gold):
        return Verdict(False, "unverifiable")
    answer = extract_answer(response)
    if answer is None:
        return Verdict(False, "no_answer")
    if not _short(answer, len(ground_truth)):
        return _compared(False, answer)
    written = normalise(answer)
    words = as_words(gold)
    same = canonical(gold) == canonical(written) or (
        words is not None and words == as_words(rf"\text{{{written}}}")
    )
    return _compared(same, answer)


def number(response: str, ground_truth: str) -> Verdict:
    r"""Equality of numbers to the digits that the right answer gives; for physical quantities.

    A right answer written as a decimal or with a power of ten, of at least three significant
    digits, accepts what rounds to it: `41.77` for `41.8`, `0.66667` for `0.667`. Otherwise the
    values must be equal. A leading `x =` and a unit after the number are ignored.
    """
    gold = _quantity(unbox(ground_truth))
    if gold is None:
        return Verdict(False, "unverifiable")
    answer = extract_answer(response)
    if answer is None:
        return Verdict(False, "no_answer")
    value = _quantity(answer) if _short(answer) else None
    if value is None:
        return _compared(False, answer)
    tolerance = Fraction(0)
    if gold.last_place is not None and gold.significant >= MIN_SIGNIFICANT:
        tolerance = gold.last_place / 2
    return _compared(abs(value.value - gold.value) <= tolerance, answer)


def countdown(response: str, ground_truth: str) -> Verdict:
    """The action-token Countdown of the quickstart; `extracted` is the first thing that is wrong.

    It checks the format as well, so it goes with the format rule `none`.
    """
    try:
        verdict = countdown_rules.verify(response, ground_truth)
    except ValueError:
        return Verdict(False, "unverifiable")
    return Verdict(verdict.correct, "ok", verdict.failure)


def released(response: str, ground_truth: str) -> Verdict:
    """The released code's rule in training: both graders; math-verify after `</think>`."""
    return _released(response, ground_truth, whole_text=False, boxed_rule=True)


def released_whole_text(response: str, ground_truth: str) -> Verdict:
    """The released code's rule in evaluation: both graders, on the reasoning as well."""
    return _released(response, ground_truth, whole_text=True, boxed_rule=True)


def math_verify(response: str, ground_truth: str) -> Verdict:
    """Math-verify as it is, with its own extraction, on the text after `</think>`."""
    return _released(response, ground_truth, whole_text=False, boxed_rule=False)


def math_verify_whole_text(response: str, ground_truth: str) -> Verdict:
    """Math-verify as it is, with its own extraction, on the whole response."""
    return _released(response, ground_truth, whole_text=True, boxed_rule=False)


VERIFIERS: dict[str, Verifier] = {
    "math": math,
    "choice": choice,
    "exact": exact,
    "number": number,
    "countdown": countdown,
    "released": released,
    "released_whole_text": released_whole_text,
    "math_verify": math_verify,
    "math_verify_whole_text": math_verify_whole_text,
}
_WITH_MATH_VERIFY = {"math"} | {name for name in VERIFIERS if name[:4] in {"rele", "math"}}


def check_verifier(name: str) -> None:
    """Checks a verifier's name and that its packages are there, without importing them.

    For the process that must not import computer algebra; a user's module is looked up, and only
    its parent packages are imported.

    Raises:
      ConfigError: with what to do.
    """
    head, separator, tail = name.partition(":")
    if name in VERIFIERS:
        if name in _WITH_MATH_VERIFY:
            _require("math_verify", name, "pip install math-verify")
    elif head == "reasoning_gym" and separator:
        _require("reasoning_gym", name, "pip install reasoning-gym")
    elif separator and head and tail.isidentifier():
        try:
            found = head in sys.modules or importlib.util.find_spec(head) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise ConfigError(
                f"reward.verifier: there is no module {head!r} for {name!r}; "
                "install it or put its folder on PYTHONPATH"
            )
    else:
        near = difflib.get_close_matches(name, VERIFIERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(VERIFIERS)},"
        hint = hint if near else f"{hint} module:function or reasoning_gym:<task>"
        raise ConfigError(f"reward.verifier: unknown verifier {name!r}; {hint}")


def get_verifier(name: str) -> Verifier:
    """The verifier of a name.

    Args:
      name: one of `VERIFIERS`; `module:function`, a function of response and ground truth that
        returns a `Verdict`, a bool or a number (1 is correct), whose optional attribute `gradable`
        tells which ground truths it can use; or `reasoning_gym:<task>`.

    Raises:
      ConfigError: for an unknown name, or when what it needs is missing.
    """
    check_verifier(name)
    if name in VERIFIERS:
        return VERIFIERS[name]
    head, _, tail = name.partition(":")
    if head == "reasoning_gym":
        from curiojax.rewards.gym_tasks import ReasoningGym

        return ReasoningGym(tail)
    try:
        function = getattr(importlib.import_module(head), tail, None)
    except Exception as error:
        raise ConfigError(
            f"reward.verifier: importing {head!r} failed: {type(error).__name__}: {error}; "
            "a verifier's module has to be importable by the worker processes"
        ) from error
    if not callable(function):
        raise ConfigError(f"reward.verifier: {head!r} has no function {tail!r}; check its name")
    return _UserVerifier(name, function)


def gradable(name: str, ground_truth: str) -> bool:
    """Whether a verifier can use a ground truth; what it cannot use is to be left out and counted.

    As costly as a comparison, so it is for the same processes. The verifiers report the same
    themselves, as `unverifiable`.
    """
    if not isinstance(ground_truth, str) or not ground_truth.strip():
        return False
    if name in VERIFIERS:
        return VERIFIERS[name]("", ground_truth).status != "unverifiable"
    verifier = get_verifier(name)
    return bool(getattr(verifier, "gradable", lambda _: True)(ground_truth))


def warm_up(name: str) -> None:
    """Imports what a verifier needs and compiles its expressions: for a worker's first moments."""
    verifier = get_verifier(name)
    if name in _WITH_MATH_VERIFY:
        verifier(r"</think>\boxed{\frac{x}{2}}", "0.5x")


class _UserVerifier:
    """A user's function, with what it returns made a `Verdict`; its exceptions are not caught."""

    def __init__(self, name: str, function: Callable[[str, str], object]):
        self.name = name
        self.function = function
        self.gradable = getattr(function, "gradable", lambda _: True)

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        if not self.gradable(ground_truth):
            return Verdict(False, "unverifiable")
        result = self.function(response, ground_truth)
        if isinstance(result, Verdict):
            return result
        if isinstance(result, (bool, int, float)):
            return Verdict(bool(result == 1))
        raise ConfigError(
            f"reward.verifier: {self.name} returned {type(result).__name__}; "
            "it has to return a Verdict, a bool or a number"
        )


def _require(module: str, name: str, remedy: str) -> None:
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"reward.verifier: {name!r} needs the package {module.replace('_', '-')}; {remedy}"
        )


def _released(response: str, ground_truth: str, *, whole_text: bool, boxed_rule: bool) -> Verdict:
    from curiojax.rewards.released import grade_released, is_parsed

    try:
        if not ground_truth.strip() or not is_parsed(ground_truth):
            return Verdict(False, "unverifiable")
        correct, extracted = grade_released(
            response, ground_truth, whole_text=whole_text, boxed_rule=boxed_rule
        )
    except MemoryError:
        raise
    except Exception:
        return Verdict(False, "error")
    return _compared(correct, extracted) if extracted else Verdict(False, "no_answer")


def _compared(correct: bool, answer: str | None) -> Verdict:
    return Verdict(correct, "ok", shown(answer) if answer is not None else None)


def shown(answer: str) -> str:
    """An answer that can be stored anywhere: short, and encodable in UTF-8."""
    return answer[:MAX_EXTRACTED_CHARS].encode("utf-8", "backslashreplace").decode()


def _short(answer: str, length: int = 0) -> bool:
    """Whether an answer is short enough to be normalised."""
    return len(answer) <= max(4 * MAX_ANSWER_CHARS, 2 * length)


def _quantity(text: str) -> Quantity | None:
    text = re.split(r"=|\\approx|\\simeq|≈", normalise(text))[-1].strip()
    found = as_quantity(text)
    if found is not None:
        return found
    leading = re.match(
        r"[-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)"
        r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{[+-]?\d+\}|[+-]?\d+))?",
        text,
    )
    if leading is None:
        return None
    # What follows may be a unit, also with exponents (m^2), but no further arithmetic.
    unit = re.sub(r"\^\{?-?\d\}?", "", text[leading.end() :])
    return None if re.search(r"\d|[-+*/]\s*\(", unit) else as_quantity(leading[0].rstrip(","))
