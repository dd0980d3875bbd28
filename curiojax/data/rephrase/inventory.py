r"""The numbers and the formulas of a text as multisets, to see what a rewriting lost or added.

Numbers that are labels and no part of a problem, such as (20 points), (1), Example 7 at the start
or (2004, Shanghai), are not counted. Spellings that mean the same (\dfrac, \leq, a comma between
thousands) count as one, and commands that only move or shape things do not count.
"""

# ruff: noqa: RUF001  (mathematical characters that look like ASCII ones)

from __future__ import annotations

import re
from collections import Counter

# All repetitions are bounded: a text of a model must not be able to make a search slow.
_LABELS = re.compile(
    r"""
    [(\[]\s{0,4}(?:this\ (?:question|problem)\ is\ worth\ )?\d{1,3}\s{0,4}
        (?:points?|pts\.?|marks?)\s{0,4}[)\]]                         # (20 points)
    | (?<![\w}$\\^])\(\d{1,2}\)(?=\s)                                 # (1) Find ...
    | \A\s{0,8}(?:problem|example|exercise|question|task|ex)\b\.?\s{0,4}\#?\d{1,4}(?:\.\d{1,3})?
    | \A\s{0,8}\d{1,4}(?:\.\d{1,3}){0,2}\s{0,4}[.):]\s                # 12. Let ...
    | [(\[](?=[^()\[\]\n]{0,120}[A-Za-z]{3})[\w\ ,.'’:-]{0,60}
        \b(?:19|20)\d\d\b[\w\ ,.'’:-]{0,60}[)\]]                      # (2004, Shanghai)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_COMMAND = re.compile(r"\\([A-Za-z]+|[{}|])")
# A minus sign stands before something mathematical; other hyphens are spelling.
_OPERATOR = re.compile(r"[+=<>^]|-(?=\s?(?:[\d({]|(?!I\b|a\s+[a-z]{2})[A-Za-z]\b(?!-)))")

_SHAPE = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr middle displaystyle textstyle scriptstyle "
    "quad qquad text textbf textit textrm emph mathrm mathbf boldsymbol rm bf it limits nolimits "
    "hspace vspace hfill begin end item hline medskip bigskip smallskip noindent label tag "
    "newline par mbox hbox boxed".split()
)
_SAME = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "dbinom": "binom",
    "leq": "le",
    "leqslant": "le",
    "geq": "ge",
    "geqslant": "ge",
    "neq": "ne",
    "rightarrow": "to",
    "longrightarrow": "to",
    "ldots": "dots",
    "cdots": "dots",
    "dotsb": "dots",
    "dotsc": "dots",
    "varnothing": "emptyset",
    "lt": "<",
    "gt": ">",
    "lbrace": "{",
    "rbrace": "}",
    "degree": "circ",
    "overline": "bar",
}
_CHARACTERS = {
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": r"\div ",
    "√": r"\sqrt ",
    "π": r"\pi ",
    "°": r"^\circ ",
    "∞": r"\infty ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "−": "-",
    "²": "^2",
    "³": "^3",
}
_TRANSLATED = {ord(character): spelling for character, spelling in _CHARACTERS.items()}


def numbers(text: str) -> Counter[str]:
    """The numbers of a text with how often each is there."""
    text = _THOUSANDS.sub("", _LABELS.sub(" ", text.translate(_TRANSLATED)))
    return Counter(_NUMBER.findall(text))


def formulas(text: str) -> Counter[str]:
    r"""LaTeX commands (with their backslash) and the operators + - = < > ^ of a text."""
    text = text.translate(_TRANSLATED)
    found: Counter[str] = Counter()
    for command in _COMMAND.findall(text):
        name = _SAME.get(command, str(command))
        if name in "<>":
            found[name] += 1
        elif name not in _SHAPE:
            found["\\" + name] += 1
    # A bracket in place of each command, so that a minus before one is seen.
    found.update(_OPERATOR.findall(_COMMAND.sub("(", text.replace("\\\\", " "))))
    return found
