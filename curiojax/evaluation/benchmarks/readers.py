"""Rows of the files that benchmarks are published in, turned into questions."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from curiojax.data import schemas
from curiojax.evaluation.benchmarks.prompts import GPQA_INSTRUCTION, LETTERS, with_options
from curiojax.rewards.answers import last_boxed

Row = Mapping[str, Any]

QUESTIONS = ("problem", "question", "prompt", "Problem", "Question")
ANSWERS = ("answer", "final_answer", "ground_truth", "expected_answer", "Answer", "gold")
# Worked solutions, which end in a box: for files without a column for the answer alone.
SOLUTIONS = ("solution", "Solution")
# Columns that no prompt may show.
TELLING = frozenset(
    {*ANSWERS, *SOLUTIONS, "reward_model", "target", "answerKey", "answer_index"}
    | {"cot_content", "Correct Answer", "Explanation"}
)
IDS = ("id", "ID", "unique_id", "question_id", "Record ID", "uuid", "idx", "problem_idx")
_DETAILS = (
    *("subject", "level", "type", "subfield", "unit", "error", "answer_type", "category", "src"),
    *("year", "url", "High-level domain", "Subdomain"),
)
_WHOLE = re.compile(r"(-?\d+)\.0*")


class BadRow(ValueError):
    """The row is no question; the argument says why."""


class Item(NamedTuple):
    """A row as a question.

    Attributes:
      id: what the source calls it, if it does.
      text: the user's message.
      earlier: turns before it.
    """

    id: str | None
    text: str
    ground_truth: str
    details: dict[str, Any]
    earlier: Sequence[dict[str, str]] = ()


class Layout(NamedTuple):
    """How a kind of file is read.

    Attributes:
      needs: columns; of several in one tuple, one has to be there.
      read: a row as an item; raises `BadRow`.
    """

    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Row], Item]

    def missing(self, columns: Iterable[str]) -> str | None:
        """What `columns` lack, as text; None if nothing."""
        columns = set(columns)
        lacking = [" or ".join(names) for names in self.needs if not columns & {*names}]
        return ", ".join(lacking) or None


def answer_text(value: Any) -> str:
    """An answer as text: lists are joined by commas, and a float that is whole is an integer.

    Raises:
      BadRow: there is none, or none that can be compared with.
    """
    if isinstance(value, list | tuple):
        parts = [answer_text(part) for part in value]
        if not parts:
            raise BadRow("it has no answer")
        return ", ".join(parts)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRow("it has no answer")
        return str(int(value)) if value == int(value) else repr(value)
    text = "" if value is None else str(value).strip()
    if not text:
        raise BadRow("it has no answer")
    return text


def plain_layout(question: str | None = None, answer: str | None = None) -> Layout:
    """Files with a question and its answer in columns; without names the usual ones."""
    questions = (question,) if question else QUESTIONS
    answers = (answer,) if answer else ANSWERS

    def read(row: Row) -> Item:
        return Item(_identity(row), _text(row, questions), _answer(row, answers), _details(row))

    return Layout((questions, answers if answer else (*answers, *SOLUTIONS)), read)


def whole_number(text: str) -> str:
    """`142.0` as `142`."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _olympiadbench(row: Row) -> Item:
    """Some questions go on from a text of their own, without which they cannot be answered."""
    question = _text(row, QUESTIONS)
    context = row.get("context")
    if isinstance(context, str) and context.strip() and context.strip() not in question:
        question = f"{context.strip()}\n\n{question}"
    truth = _answer(row, ("final_answer", *ANSWERS))
    return Item(_identity(row), question, truth, _details(row))


def _gpqa(row: Row) -> Item:
    """The options are put in an order that depends on the question's id and on nothing else."""
    question = _text(row, ("Question",))
    options = [_text(row, (name,)).strip() for name in _GPQA_OPTIONS]
    key = _identity(row) or question
    digests = [hashlib.sha256(f"{i}\n{key}".encode()).digest() for i in range(len(options))]
    order = sorted(range(len(options)), key=lambda i: digests[i])
    prompt = with_options(question.strip(), [options[i] for i in order])
    details = {**_details(row), "option_order": order}
    return Item(_identity(row), f"{GPQA_INSTRUCTION}\n\n{prompt}", LETTERS[order.index(0)], details)


def _arc(row: Row) -> Item:
    """Labels are letters or, in some questions, digits: both become letters."""
    choices = row["choices"]
    if isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        choices = {key: [choice.get(key) for choice in choices] for key in ("text", "label")}
    if not isinstance(choices, Mapping) or not {"text", "label"} <= {*choices}:
        raise BadRow("its choices are no lists `text` and `label`")
    options = [str(text) for text in choices["text"]]
    labels = [str(label).strip() for label in choices["label"]]
    key = str(row["answerKey"]).strip()
    if len(options) != len(labels) or not 2 <= len(options) <= len(LETTERS):
        raise BadRow(f"it has {len(options)} options and {len(labels)} labels")
    if key not in labels:
        raise BadRow(f"its answer {key!r} is none of its labels {', '.join(labels)}")
    # The trailing newline is LUFFY's.
    prompt = with_options(_text(row, ("question",)), options) + "\n"
    return Item(_identity(row), prompt, LETTERS[labels.index(key)], _details(row))


def _mmlu_pro(row: Row) -> Item:
    options = [str(text) for text in row["options"] or ()]
    letter = str(row["answer"]).strip()
    if not 2 <= len(options) <= len(LETTERS) or letter not in LETTERS[: len(options)] or not letter:
        raise BadRow(f"it has {len(options)} options, and the answer {letter!r}")
    if row.get("answer_index") not in (None, LETTERS.index(letter)):
        raise BadRow(f"its answer {letter} and its answer_index {row['answer_index']} differ")
    prompt = with_options(_text(row, ("question",)), options) + "\n"
    return Item(_identity(row), prompt, letter, _details(row))


def _verl(row: Row) -> Item:
    """verl's files, such as LUFFY's: the prompt is there as it is to be sent.

    Their `extra_info.index` is counted within a file, so it is no id.
    """
    try:
        record = schemas.canonical("verl", row, 0, "ground_truth")
    except schemas.Dropped as reason:
        raise BadRow(f"it has {reason}") from None
    turns = record["prompt"]
    if turns[-1]["role"] != "user":
        raise BadRow("its prompt does not end with the user's turn")
    identity = _identity(row)
    truth = answer_text(record["ground_truth"])
    return Item(identity, turns[-1]["content"], truth, _details(row), turns[:-1])


_GPQA_OPTIONS = (
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
)
LAYOUTS: dict[str, Layout] = {
    "math": plain_layout(),
    "olympiadbench": Layout((QUESTIONS, ("final_answer", *ANSWERS)), _olympiadbench),
    "gpqa": Layout((("Question",), *((name,) for name in _GPQA_OPTIONS)), _gpqa),
    "arc": Layout((("question",), ("choices",), ("answerKey",)), _arc),
    "mmlu_pro": Layout((("question",), ("options",), ("answer",)), _mmlu_pro),
    "verl": Layout((("prompt",), ("reward_model",)), _verl),
}


def _text(row: Row, names: Sequence[str]) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if value is not None and not isinstance(value, str):
            raise BadRow(f"its {name} is no text")
    raise BadRow("it has no question" if len(names) > 1 else f"its {names[0]} is empty")


def _answer(row: Row, names: Sequence[str]) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if value is None:
        solution = next((row[name] for name in SOLUTIONS if isinstance(row.get(name), str)), "")
        # Some solutions are the answer and nothing else.
        value = last_boxed(solution)
        if value is None and solution:
            raise BadRow("it has no answer, and its solution no box")
    return answer_text(value)


def _identity(row: Row) -> str | None:
    value = next((row[name] for name in IDS if row.get(name) is not None), None)
    return None if value is None or not str(value).strip() else str(value)


def _details(row: Row) -> dict[str, Any]:
    found = {name: row.get(name) for name in _DETAILS}
    return {name: v for name, v in found.items() if isinstance(v, str | int | float) and v != ""}
