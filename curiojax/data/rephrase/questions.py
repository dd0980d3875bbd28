r"""Where the question is in a row of any schema, and the row with another question in its place.

The question is the one turn of the user. What surrounds it there and is no part of it stays where
it is: an announcement (`Here is the question: `) before it, a request for step-by-step reasoning
and a box after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from curiojax.data.schemas import Row
from curiojax.data.templates import CURIO_QUESTION

NO_QUESTION = "no question"
SEVERAL_TURNS = "several turns of the user"
NOT_TEXT = "a question that is not plain text"

_USER = ("user", "human")
_INSTRUCTION = re.compile(
    r"\s+(?:please |let's )?(?:reason|think) step by step,? and (?:put|output) (?:your|the) final "
    r"answer (?:within|in|after) [^\n]{1,40}$",
    re.IGNORECASE,
)
_CHANGED = {
    "verl": ("prompt",),
    "openr1": ("problem",),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt",),
    "alpaca": ("instruction", "input"),
    "question_answer": ("problem", "question", "prompt"),
}


class Skipped(Exception):
    """The row has no question to rewrite; the argument says why."""


def columns_changed(format: str, columns: list[str]) -> list[str]:
    """Those of `columns` that a new question may change in rows of a format."""
    return [column for column in columns if column in _CHANGED[format]]


def find(format: str, row: Row) -> str:
    """The question of a row.

    Args:
      format: a key of `schemas.FORMATS`.
      row: the row as it was read.

    Raises:
      Skipped: there is none, or more than one turn of the user.
    """
    found: list[str] = []

    def note(question: str) -> str:
        found.append(question)
        return question

    _replace(format, row, note)
    if not found or not found[0]:
        raise Skipped(NO_QUESTION)
    return found[0]


def replace(format: str, row: Row, question: str) -> dict[str, Any]:
    """The columns of a row that change when its question does, with their new values.

    Raises:
      Skipped: as `find`.
    """
    return _replace(format, row, lambda _: question)


def _replace(format: str, row: Row, change: Callable[[str], str]) -> dict[str, Any]:
    if format == "alpaca":
        return _alpaca(row, change)
    if format == "question_answer":
        names = [name for name in _CHANGED[format] if row.get(name) is not None]
    else:
        names = list(_CHANGED[format])
    if not names:
        raise Skipped(NO_QUESTION)
    if format == "openr1":
        return {names[0]: _text(row[names[0]], change)}
    return {names[0]: _prompt(row[names[0]], change)}


def _alpaca(row: Row, change: Callable[[str], str]) -> dict[str, Any]:
    """Instruction and input are one question; a new one goes into the instruction."""
    history = row.get("history")
    if history is not None and len(history):
        raise Skipped(SEVERAL_TURNS)
    parts = [part for part in (row["instruction"], row.get("input")) if part]
    if not all(isinstance(part, str) for part in parts):
        raise Skipped(NOT_TEXT)
    old = "\n".join(parts)
    new = _text(old, change)
    if new == old:
        return {}
    return {"instruction": new} | ({"input": ""} if row.get("input") else {})


def _prompt(value: Any, change: Callable[[str], str]) -> Any:
    """A prompt as text, as a list of turns, or as such a list written as JSON."""
    if isinstance(value, str):
        turns = _decode(value)
        if turns is None:
            return _text(value, change)
        return json.dumps(_turns(turns, change), ensure_ascii=False)
    if value is None:
        raise Skipped(NO_QUESTION)
    turns = list(value) if hasattr(value, "__iter__") and not isinstance(value, Mapping) else None
    if turns is None or not all(isinstance(turn, Mapping) for turn in turns):
        raise Skipped(NOT_TEXT)
    return _turns(turns, change)


def _turns(turns: list[Any], change: Callable[[str], str]) -> list[Any]:
    users = [
        i
        for i, turn in enumerate(turns)
        if str(turn.get("role") or turn.get("from") or "").lower() in _USER
    ]
    if not users:
        raise Skipped(NO_QUESTION)
    if len(users) > 1:
        raise Skipped(SEVERAL_TURNS)
    turn = dict(turns[users[0]])
    name = "content" if turn.get("content") is not None else "value"
    if isinstance(turn.get(name), list):
        if len(turn[name]) != 1 or turn[name][0].get("type") != "text":
            raise Skipped(NOT_TEXT)
        part = turn[name][0]
        turn[name] = [{**part, "text": _text(part.get("text"), change)}]
    else:
        turn[name] = _text(turn.get(name), change)
    return [turn if i == users[0] else other for i, other in enumerate(turns)]


def _text(value: Any, change: Callable[[str], str]) -> str:
    if value is None:
        raise Skipped(NO_QUESTION)
    if not isinstance(value, str):
        raise Skipped(NOT_TEXT)
    before = CURIO_QUESTION if value.startswith(CURIO_QUESTION) else ""
    rest = value[len(before) :]
    instruction = _INSTRUCTION.search(rest.rstrip())
    after = rest[instruction.start() :] if instruction else ""
    question = rest[: len(rest) - len(after)]
    return before + change(question.strip()) + after if question.strip() else value


def _decode(text: str) -> list[Any] | None:
    """The turns that a text column holds as JSON, or None: then it is the question itself."""
    if not text.lstrip().startswith("["):
        return None
    try:
        turns = json.loads(text)
    except ValueError:
        return None
    chat = isinstance(turns, list) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )
    return turns if chat else None
