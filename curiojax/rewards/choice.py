r"""Multiple choice: which option a response settles on."""

from __future__ import annotations

import re
from typing import NamedTuple

from curiojax.rewards.answers import answer_section, final_boxed, last_match
from curiojax.rewards.normalise import canonical, normalise, unwrap_text

MAX_OPTION_CHARS = 2_048

_LONE = re.compile(r"\(?([A-J1-9])[).:]?")
_WITH_TEXT = re.compile(r"\(?([A-J1-9])(?:\)|[.:](?=\s))\s*(\S.*)", re.DOTALL)
_PREFIX = re.compile(r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is|:)?\s*", re.I)
# `A) and B)` names two options, which is no choice.
_SECOND = re.compile(r"(?:and|or)\b|[/&,]|\(?[A-J]\)?$|.*\(?\b[A-J]\)", re.DOTALL)
_SEVERAL = re.compile(r"\b[A-J]\b")
_STATED = re.compile(
    r"\b(?i:answer)[\s*_]{0,6}(?:(?i:is)|:|=)[\s:*_$]{0,8}(?i:option\s|choice\s)?"
    r"(?:\\(?:text|mathrm|mathbf)\{)?\(?([A-J1-9])(?![A-Za-z0-9])[)}$*_]{0,6}"
    r"(?=\s*$|\s*\n|[.,;:)](?:\s|$)|\)|\s+(?:because|since|as)\b)",
    re.MULTILINE,
)


class Option(NamedTuple):
    """A right answer: its label and, where the data gives it, what the option says."""

    label: str
    text: str | None


def parse_option(ground_truth: str) -> Option | None:
    """Reads `C`, `(C)` or `C) shorter days`; None when it is no option.

    Labels are the capital letters A to J and, as some data sets have them, the digits 1 to 9.
    """
    if len(ground_truth) > MAX_OPTION_CHARS:
        return None
    plain = unwrap_text(normalise(ground_truth)).strip()
    lone = _LONE.fullmatch(plain)
    if lone is not None:
        return Option(lone[1], None)
    with_text = _WITH_TEXT.fullmatch(plain)
    return Option(with_text[1], with_text[2]) if with_text is not None else None


def label_of(answer: str) -> str | None:
    r"""The label that an answer consists of or begins with: `\text{(C)}`, `C. shorter days`."""
    plain = unwrap_text(normalise(answer[:MAX_OPTION_CHARS])).strip(" *_`")
    plain = _PREFIX.sub("", plain, count=1)
    lone = _LONE.fullmatch(plain)
    if lone is not None:
        return lone[1]
    with_text = _WITH_TEXT.fullmatch(plain)
    if with_text is None or _SECOND.match(with_text[2]):
        return None
    return with_text[1]


def choose(response: str, right: Option) -> tuple[bool, str | None]:
    """Whether a response chooses the right option, and what it chose; never a guess.

    The last box decides: its label, or what it says when the ground truth tells what its option
    says. A box that names no label leaves it to the last `answer: C` or `answer is C`, and one that
    names several is no choice. Labels are capital letters; `d` is not `D`.
    """
    section = answer_section(response)
    boxed = final_boxed(section)
    if boxed:
        label = label_of(boxed)
        if label is not None:
            return label == right.label, boxed
        if (
            right.text is not None
            and canonical(boxed[:MAX_OPTION_CHARS]).lower() == canonical(right.text).lower()
        ):
            return True, boxed
        if _SEVERAL.search(unwrap_text(boxed[:MAX_OPTION_CHARS])):
            return False, boxed
    stated = last_match(_STATED, section)
    if stated is not None:
        return stated[1] == right.label, stated[1]
    return False, boxed or None
