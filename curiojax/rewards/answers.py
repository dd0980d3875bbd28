r"""Where the answer is in a response.

The answer is what follows the reasoning, that is the last `</think>`; there it is the last balanced
`\boxed{}`. Nothing here parses mathematics: all work is linear in the length of the text, so it may
run on any text, hostile ones included.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

MAX_RESPONSE_CHARS = 262_144
MAX_ANSWER_CHARS = 512

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
# A response without a box is searched in its last lines only, where a conclusion is.
_FALLBACK_CHARS = 2_000
_MAX_JOINED_BOXES = 20

# Up to four backslashes: some responses come with theirs doubled. Bounded, like all repetitions
# here that could otherwise be made to run over the text again and again.
_BRACES = re.compile(r"(\\{1,4}(?:boxed|fbox)\s{0,8}\{)|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s{0,8}(-?[A-Za-z0-9][A-Za-z0-9.,]*)")
_CONNECTIVE = re.compile(
    r"(?:[\s$,;&]|and|or|\\(?:[()\[\],; ]|\\|quad\b|qquad\b|text\s*\{\s*,?\s*(?:and|or)\s*\}))*"
)
_JOINS = re.compile(r"[,;&]|and|or")
_MATH_SPAN = re.compile(
    r"\$\$?([^$]{1,400})\$\$?|\\\(((?:[^\\]|\\[^)]){1,400})\\\)|\\\[((?:[^\\]|\\[^\]]){1,400})\\\]"
)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9.,])[-\u2212]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?%?"
)
_FINAL_ANSWER = re.compile(
    r"\bfinal\s+answer\s*(?:is|:|=)\s*[:*]*\s*(?=\$|\\\(|-?\d)", re.IGNORECASE
)
_ANSWER_IS = re.compile(r"\banswer\b[\s*_]{0,6}(?:is|:|=)[\s:*_]{0,8}", re.IGNORECASE)
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")


class Box(NamedTuple):
    """A balanced box: where it starts and ends in the text, and what is inside."""

    start: int
    end: int
    content: str


def last_match(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The last match of a pattern in a text."""
    last = deque(pattern.finditer(text, start), maxlen=1)
    return last[0] if last else None


def answer_section(response: str) -> str:
    """The part of a response that can hold the answer: what follows the last `</think>`.

    Without a `</think>` it is the whole text. Reasoning that is opened and not closed again is cut
    off, so a response that ends within its `<think>` has no answer.
    """
    _, _, section = response[-MAX_RESPONSE_CHARS:].rpartition(THINK_CLOSE)
    return section.partition(THINK_OPEN)[0]


def boxes(text: str) -> list[Box]:
    r"""The balanced `\boxed{...}` of a text in order, without those inside another one.

    `\fbox{...}` counts as well. Escaped braces (`\{`, `\}`) are not counted.
    """
    found: list[Box] = []
    open_braces: list[tuple[int, int] | None] = []
    for token in _BRACES.finditer(text):
        word = token[0]
        if word == "{":
            open_braces.append(None)
        elif word == "}":
            opening = open_braces.pop() if open_braces else None
            if opening is not None:
                while found and found[-1].start > opening[0]:
                    found.pop()
                found.append(Box(opening[0], token.end(), text[opening[1] : token.start()]))
        elif token[1]:
            open_braces.append((token.start(), token.end()))
    return found


def last_boxed(text: str) -> str | None:
    r"""What the last balanced `\boxed{...}` holds, boxes within it removed; None without one."""
    found = boxes(text)
    if found:
        return unbox(found[-1].content)
    bare = last_match(_BARE_BOX, text)
    return bare[1].rstrip(".,") if bare else None


def unbox(content: str) -> str:
    r"""Removes boxes that are inside a content: `x = \boxed{5}` becomes `x = 5`."""
    for _ in range(4):
        inner = boxes(content)
        if not inner:
            break
        for box in reversed(inner):
            content = content[: box.start] + box.content + content[box.end :]
    return content.strip()


def final_boxed(text: str) -> str | None:
    r"""The boxed answer of a text: its last box, or the last few when they are a list.

    Boxes with only a comma, a semicolon, `and` or `or` between them (`\boxed{3} and \boxed{5}`) are
    one answer, `3,5`; equal ones count once. With anything else between them (`\boxed{3}, no,
    \boxed{5}`) the last one is the answer.
    """
    found = boxes(text)
    if not found:
        return last_boxed(text)
    parts = [unbox(found[-1].content)]
    for before, after in zip(reversed(found[:-1]), reversed(found), strict=False):
        between = text[before.end : after.start]
        if len(parts) == _MAX_JOINED_BOXES or len(between) > 40:
            break
        if not _CONNECTIVE.fullmatch(between) or not _JOINS.search(between):
            break
        parts.append(unbox(before.content))
    unique = list(dict.fromkeys(reversed(parts)))
    return ",".join(unique)


def extract_answer(response: str) -> str | None:
    r"""The final answer of a response, as it is written; None when it gives none.

    In what follows the reasoning (`answer_section`): the boxed answer (`final_boxed`), unless a
    later `final answer is $...$` contradicts it; without a box what follows the last `answer is` or
    `answer:`; without that the last formula or number. Only a box satisfies the format rule
    `strict`, so the other two matter in evaluation without a format rule.
    """
    section = answer_section(response)
    boxed = final_boxed(section)
    if boxed is not None:
        return _contradiction(section) or boxed or None
    if "\\boxed" in section:  # a box that was begun and never closed: the response was cut off
        return None
    return _without_box(section[-_FALLBACK_CHARS:])


def _contradiction(section: str) -> str | None:
    """The answer of a `final answer is` after the last box."""
    found = boxes(section)
    stated = last_match(_FINAL_ANSWER, section, found[-1].end if found else len(section))
    if stated is None:
        return None
    rest = section[stated.end() : stated.end() + 402]
    number = re.match(_NUMBER.pattern + r"(?=[\s.,;)]|$)", rest)
    return _in_math(rest) or (number[0] if number else None)


def _without_box(text: str) -> str | None:
    stated = last_match(_ANSWER_IS, text)
    if stated is not None:
        line = text[stated.end() :].lstrip().partition("\n")[0][:400]
        answer = _in_math(line) or _plain_statement(line)
        if answer:
            return answer
    spans = list(_MATH_SPAN.finditer(text))
    numbers = list(_NUMBER.finditer(text))
    if spans and (not numbers or numbers[-1].start() < spans[-1].end()):
        return _span_content(spans[-1]) or None
    return numbers[-1][0].replace("$", "") if numbers else None


def _plain_statement(line: str) -> str | None:
    """What is stated in `42. I hope it is correct` or `C. shorter days`; None when it is prose."""
    sentence = re.split(r"[.!?;](?=\s|$)", line, maxsplit=1)[0].strip(" \t*_`:")
    if not sentence:
        return None
    words = _WORD.findall(sentence)
    if not words or (len(words) <= 2 and " " not in sentence.strip()):
        return sentence
    numbers = list(_NUMBER.finditer(sentence))
    if numbers:
        return numbers[-1][0].replace("$", "")
    return sentence if re.match(r"\(?[A-J][):]", sentence) else None


def _in_math(line: str) -> str | None:
    """The formula that a line begins with."""
    span = _MATH_SPAN.match(line.lstrip("* "))
    return _span_content(span) if span else None


def _span_content(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()
