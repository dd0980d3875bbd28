r"""Whether a reply may stand in for a question.

A model that was asked to clean a question may answer it, cut it short or change it. A changed
question under the old answer is worse than a noisy one, so in doubt the original stays.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from curiojax.data.rephrase import inventory
from curiojax.data.rephrase.replies import Reply

EMPTY = "empty"
CUT_OFF = "cut off"
REFUSED = "refused"
ECHO = "goes on with the examples"
TOO_LONG = "too long"
TOO_SHORT = "too short"
BOXED = "a new \\boxed"
ANSWERED = "states an answer"
NUMBERS = "numbers differ"
FORMULAS = "formulas differ"
REASONS = (
    EMPTY,
    CUT_OFF,
    REFUSED,
    ECHO,
    TOO_LONG,
    TOO_SHORT,
    BOXED,
    ANSWERED,
    NUMBERS,
    FORMULAS,
)

_LABEL = re.compile(r"\A[*_#\s]{0,8}output[*_]{0,3}\s?:[*_]{0,3}\s*", re.IGNORECASE)
_ECHOED = re.compile(r"^[*_#]{0,4}(?:input|output|example \d{1,2})[*_]{0,3}:", re.I | re.M)
_REFUSAL = re.compile(
    r"\A\W{0,4}(?:i'?m (?:sorry|unable|afraid)|i am (?:sorry|unable|afraid)|sorry\b|"
    r"unfortunately\b|i (?:cannot|can'?t|could not|couldn'?t|do not|don'?t) |as an ai\b|"
    r"(?:no|there is no|there's no) (?:\w+ ){0,3}(?:problem|question)\b|"
    r"the (?:provided |given |input )?(?:text|post|input) (?:does not|doesn'?t|contains no)|"
    r"please (?:provide|share)\b|(?:none|n/a)\W{0,2}\Z)",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_ANSWER = re.compile(
    r"^[\s*_#]{0,8}(?:final answer|answer|solution|explanation)[*_]{0,3}\s?[:=]|"
    r"\bthe (?:final |correct )?answer (?:is|would be)\b",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Limits:
    """How far a rewriting may go from its question.

    Attributes:
      max_length, min_length: characters of the reply over those of the question.
      max_lost: share of the question's numbers, and of its formulas, that may be missing; rounded
        down, so that short questions may lose none.
      max_added: share that may be new. A change loses one and adds one, so 0 stops every change.
    """

    max_length: float = 1.5
    min_length: float = 0.2
    max_lost: float = 0.1
    max_added: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a reply.

    Attributes:
      text: the new question, or the rejected text.
      reason: None if it is accepted, else one of `REASONS`.
      detail: what was found, for the reader of the report.
      labelled: whether the reply began with `Output:`, which was taken off.
    """

    text: str
    reason: str | None = None
    detail: str = ""
    labelled: bool = False


def judge(question: str, reply: Reply, gold: str | None, limits: Limits) -> Verdict:
    """Checks a reply against the question it is to replace.

    A leading `Output:` is the prompt's own label, repeated: it is taken off and the rest is checked
    like any other reply. So is reasoning up to `</think>`.

    Args:
      question: what was asked about.
      reply: the completion.
      gold: the ground truth, if known; only words the detail.
      limits: what is still accepted.
    """
    text = reply.text.rpartition("</think>")[2].strip()
    label = _LABEL.match(text)
    text = text[label.end() :] if label else text
    reason, detail = _check(question, text, reply.finish, gold, limits)
    return Verdict(text, reason, detail, label is not None)


def _check(
    question: str, text: str, finish: str, gold: str | None, limits: Limits
) -> tuple[str | None, str]:
    if finish in ("refusal", "content_filter"):
        return REFUSED, f"finish_reason {finish}"
    if finish == "length":
        return CUT_OFF, "finish_reason length"
    if not text:
        return EMPTY, ""
    if text.startswith("<think>"):
        return CUT_OFF, "reasoning without an end"
    if _refuses(text) and not _refuses(question):
        return REFUSED, ""
    ratio = len(text) / len(question)
    if ratio > limits.max_length:
        return TOO_LONG, f"{ratio:.2f} times the question"
    if _more(_ECHOED, text, question):
        return ECHO, ""
    if _more(_BOX, text, question):
        inside = gold is not None and re.search(r"\{\s*" + re.escape(gold.strip()) + r"\s*\}", text)
        return BOXED, "with the gold answer in it" if inside else ""
    if _more(_ANSWER, text, question):
        return ANSWERED, ""
    for name, count in ((NUMBERS, inventory.numbers), (FORMULAS, inventory.formulas)):
        detail = _difference(count(question), count(text), limits)
        if detail:
            return name, detail
    if ratio < limits.min_length:
        return TOO_SHORT, f"{ratio:.2f} times the question"
    return None, ""


def _refuses(text: str) -> bool:
    return _REFUSAL.match(text[:200].replace("\u2019", "'")) is not None


def _more(pattern: re.Pattern[str], text: str, question: str) -> bool:
    return len(pattern.findall(text)) > len(pattern.findall(question))


def _difference(old: Counter[str], new: Counter[str], limits: Limits) -> str:
    """What is lost or new beyond the limits, in words; "" if nothing."""
    lost, added = old - new, new - old
    total = old.total()
    # The share is a decimal fraction: 0.1 of 30 must be 3, not 2.
    if lost.total() <= int(limits.max_lost * total + 1e-9) and added.total() <= int(
        limits.max_added * total + 1e-9
    ):
        return ""
    parts = [
        f"{verb} {', '.join(sorted(items.elements())[:12])}"
        for verb, items in (("lost", lost), ("new", added))
        if items
    ]
    return "; ".join(parts)
