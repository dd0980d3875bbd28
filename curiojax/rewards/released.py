r"""The grader of the paper's released code, as it behaves.

A response is right when either of two graders says so: math-verify, with its own extraction, on the
text after the last `</think>` (training) or on the whole response (evaluation), or a second rule on
the last `\boxed{}` of the whole response, reasoning included. The paper itself mentions math-verify
only. The second rule is written anew from what it does: the box's content and the right answer
are the same text apart from case, spaces and layout commands, or math-verify finds them equal. It
knows fewer spellings than the original, which can tell in answers that math-verify does not parse.

Known to be wrong here and right in the verifier `math`: a box that stands in the reasoning only is
accepted, boxes that stand close together are read as one set, `no` equals `on`, `D` equals `d`.
"""

from __future__ import annotations

import re

from curiojax.rewards.answers import MAX_RESPONSE_CHARS, THINK_CLOSE, last_boxed
from curiojax.rewards.equivalence import MAX_GOLD_CHARS, load_math_verify
from curiojax.rewards.limits import too_expensive
from curiojax.rewards.normalise import normalise, unwrap_text

_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_LAYOUT = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! $%]|\^\{?\\circ\}?|[\s$%~]")


def grade_released(
    response: str, ground_truth: str, *, whole_text: bool = False, boxed_rule: bool = True
) -> tuple[bool, str | None]:
    r"""Whether a response is right, and the answer that math-verify read in it.

    Without time limits of its own; it is for processes that can be killed.

    Args:
      response: the response's text; of one over the size limit, its end.
      ground_truth: the right answer, without delimiters.
      whole_text: whether math-verify sees the reasoning as well (evaluation).
      boxed_rule: whether the second rule may accept as well.
    """
    response = response[-MAX_RESPONSE_CHARS:]
    solution = response if whole_text else response.rpartition(THINK_CLOSE)[2]
    math_verify = load_math_verify()
    gold = math_verify.parse(f"${ground_truth}$", parsing_timeout=None)
    boxed = last_boxed(response)
    # Its answer would only be waited for, and then count as wrong.
    expensive = boxed is not None and too_expensive(normalise(boxed), boxed)
    read = [] if expensive else math_verify.parse(solution, parsing_timeout=None)
    correct = bool(read and gold) and math_verify.verify(gold, read, timeout_seconds=None)
    # The first element is a sympy object, which must not be turned into a text; the last is one.
    extracted = read[-1] if read and isinstance(read[-1], str) else None
    if boxed_rule and boxed and not correct:
        correct = _plain(boxed) == _plain(ground_truth) != ""
        if not correct and not expensive:
            answer = math_verify.parse(f"${boxed}$", parsing_timeout=None)
            correct = bool(answer and gold) and math_verify.verify(
                gold, answer, timeout_seconds=None
            )
        extracted = extracted or boxed
    return bool(correct), extracted


def _plain(text: str) -> str:
    text = _LAYOUT.sub("", unwrap_text(_FRACTION.sub(r"\\frac", text[:MAX_GOLD_CHARS])))
    return text.lower().rstrip(".")


def is_parsed(ground_truth: str) -> bool:
    """Whether math-verify makes anything of a right answer."""
    return bool(load_math_verify().parse(f"${ground_truth}$", parsing_timeout=None))
