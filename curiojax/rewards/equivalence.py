r"""Whether two mathematical answers are equal.

What can be decided exactly without computer algebra is (texts, words, numbers, numbers in a base);
the rest is math-verify's. It is imported at the first call: it brings sympy along, which has no
place in a training process. Its own time limit is an alarm signal and works on a main thread only;
it is off, because calls belong in processes that can be killed from outside. Nothing
here turns a sympy object into a text: for `5^{(5^{(5^{(5^5)})})}` that never ends.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from fractions import Fraction
from typing import Any

from curiojax.rewards.answers import unbox
from curiojax.rewards.limits import too_expensive
from curiojax.rewards.normalise import (
    Quantity,
    as_quantity,
    as_words,
    canonical,
    normalise,
    unwrap_text,
)

# A gold is data of the user's, but data can be bad.
MAX_GOLD_CHARS = 2_048
# 0.333333 is a third, written with six digits.
DECIMAL_TOLERANCE = Fraction(1, 10**6)

_IN_BASE = re.compile(r"([0-9A-Za-z.]+)_\{?(\d{1,2})\}?")
_LETTER = re.compile(r"[A-Za-z]")


def prepare_gold(ground_truth: str) -> str:
    r"""The normalised right answer: without dollar signs, and without `\boxed{}` around it."""
    return normalise(unbox(ground_truth[:MAX_GOLD_CHARS]))


@functools.lru_cache(maxsize=4096)
def is_verifiable(ground_truth: str) -> bool:
    """Whether answers can be compared with this right answer.

    Words, numbers and whatever math-verify can parse are verifiable; an empty text, one over the
    limits of `too_expensive`, and what is no mathematics are not.
    """
    gold = prepare_gold(ground_truth)
    if not canonical(gold) or len(ground_truth) > MAX_GOLD_CHARS:
        return False
    if as_words(gold) or as_quantity(gold) or _IN_BASE.fullmatch(canonical(gold)):
        return True
    return too_expensive(gold, gold) is None and bool(_parse(gold))


def equivalent(gold: str, answer: str) -> bool:
    r"""Whether an answer equals the right one; both normalised.

    Rules that differ from math-verify's own, each because it is wrong there:

    - words are compared as words, without regard to case (there `no` equals `on`);
    - single letters are compared with regard to case (there `D` equals `d`);
    - numbers are compared exactly, and decimals with fractions to 1e-6 of their value (there two
      numbers below 1e-7 are equal, and `3e8` is 24 times Euler's number);
    - a right answer in a base (`2516_8`) asks for the base;
    - `1<x<2` and `(1,2)` are the same;
    - an answer that is too expensive to evaluate, or that leaves an integral, limit, sum or product
      standing which the right answer does not have, is right only if it is the same text.
    """
    gold_text, answer_text = canonical(gold), canonical(answer)
    if not answer_text:
        return False
    if gold_text == answer_text:
        return True
    words = as_words(gold)
    if words is not None:
        return words == " ".join(unwrap_text(answer).lower().split()).strip(" .")
    if _LETTER.fullmatch(gold_text) and _LETTER.fullmatch(answer_text):
        return False
    base = _IN_BASE.fullmatch(gold_text)
    if base is not None and base[1][0].isdigit():
        stated = _IN_BASE.fullmatch(answer_text)
        return stated is not None and base.groups() == stated.groups()
    first, second = as_quantity(gold), as_quantity(answer)
    if first is not None and second is not None:
        return _same_number(first, second)
    if too_expensive(gold, gold) or too_expensive(answer, gold):
        return False
    math_verify = load_math_verify()
    parsed_gold, parsed_answer = _parse(gold), _parse(answer)
    if not parsed_gold or not parsed_answer:
        return False
    return bool(
        math_verify.verify(
            parsed_gold, parsed_answer, allow_set_relation_comp=True, timeout_seconds=None
        )
    )


def _same_number(first: Quantity, second: Quantity) -> bool:
    if first.value == second.value:
        return True
    if first.last_place is None and second.last_place is None:
        return False
    if 1 in (first.value.denominator, second.value.denominator):
        return False
    return abs(first.value - second.value) <= DECIMAL_TOLERANCE * abs(first.value)


@functools.cache
def load_math_verify() -> Any:
    """Imports math-verify, a third of a second the first time, and silences its logging."""
    import math_verify

    # It logs what it failed to parse; a sympy object may be among the arguments.
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return math_verify


@functools.cache
def _extraction() -> list[list[Any]]:
    math_verify = load_math_verify()
    usual = math_verify.LatexExtractionConfig(boxed_match_priority=0)
    # It takes `t` and `m` for units and removes them, which leaves nothing of `\cos t`.
    units_kept = dataclasses.replace(
        usual,
        normalization_config=dataclasses.replace(usual.normalization_config, units=False),
    )
    return [[usual], [units_kept]]


def _parse(text: str) -> list[Any]:
    """Parses one formula as a whole; an empty list if it is none."""
    for extraction in _extraction():
        # `first_match`: else a fraction within a text that does not parse is taken for the answer.
        parsed = load_math_verify().parse(
            f"\\boxed{{{text}}}",
            extraction,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        if parsed:
            return parsed
    return []
