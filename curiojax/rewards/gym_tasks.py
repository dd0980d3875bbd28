"""The tasks of the package reasoning-gym as verifiers."""

from __future__ import annotations

import builtins
import importlib
import json
import re
import types
import unicodedata
from typing import Any

from curiojax.errors import ConfigError
from curiojax.rewards.answers import MAX_ANSWER_CHARS, answer_section, extract_answer

_HARMLESS = {"abs", "all", "any", "divmod", "format", "len", "max", "min", "pow", "round", "sorted"}
_BUILTINS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, types.BuiltinFunctionType) and name not in {*_HARMLESS, "sum"}
}
_CALL = re.compile(r"[\w)\]]\s*\(")
_METHOD = re.compile(r"[\w)\]]\s*\.\s*[A-Za-z_]\w*\s*\(")
_TAGGED = re.compile(r"<answer>\s?((?:(?!<answer>).)*?)\s?</answer>", re.DOTALL)


class ReasoningGym:
    """The verifier `reasoning_gym:<task>`: an answer is correct when the task scores it 1.

    The ground truth is the entry that the task generated, as JSON: `question`, `answer` and
    `metadata`. For a task that compares with one right answer, that answer alone will do. The
    answer is what stands in the last `<answer>` tags after the reasoning, else what
    `answers.extract_answer` finds.

    Several tasks hand the answer to a parser that evaluates it as Python. So an answer with
    anything in it that reaches beyond arithmetic (a call with a quoted text, a method, a builtin
    function, a double underscore) is refused. That is a filter, not a sandbox: where model output
    must not run with the rights of the workers, give them none.

    Raises:
      ConfigError: for an unknown task.
    """

    def __init__(self, task: str):
        reasoning_gym = importlib.import_module("reasoning_gym")
        try:
            self._score = reasoning_gym.get_score_answer_fn(task)
        except ValueError as error:
            raise ConfigError(
                f"reward.verifier: reasoning_gym has no task {task!r}; "
                "its gallery lists them, such as reasoning_gym:countdown"
            ) from error
        self.task = task

    def __call__(self, response: str, ground_truth: str) -> Any:
        from curiojax.rewards.verifiers import Verdict, shown

        entry = _entry(ground_truth)
        if entry is None:
            return Verdict(False, "unverifiable")
        tagged = _TAGGED.findall(answer_section(response))
        answer = tagged[-1].strip() if tagged else extract_answer(response)
        if not answer:
            return Verdict(False, "no_answer")
        extracted = shown(answer)
        if len(answer) > 8 * MAX_ANSWER_CHARS or is_program(answer):
            return Verdict(False, "error", extracted)
        try:
            return Verdict(self._score(answer, entry) >= 1, "ok", extracted)
        except MemoryError:
            raise
        except Exception:
            return Verdict(False, "error", extracted)

    def gradable(self, ground_truth: str) -> bool:
        """Whether the ground truth is an entry whose own answer, where it has one, scores 1."""
        entry = _entry(ground_truth)
        if entry is None:
            return False
        if entry["answer"] is None:
            return bool(entry["metadata"])
        try:
            return self._score(entry["answer"], entry) >= 1
        except Exception:
            return False


def is_program(answer: str) -> bool:
    """Whether an answer could do more than arithmetic if it were evaluated as Python."""
    answer = unicodedata.normalize("NFKC", answer)  # as Python does with names
    if "__" in answer:
        return True
    if not _CALL.search(answer):
        return False
    names = set(re.findall(r"[A-Za-z_]\w*", answer))
    return bool(names & _BUILTINS or _METHOD.search(answer) or re.search("[\"']", answer))


def _entry(ground_truth: str) -> dict[str, Any] | None:
    if not ground_truth.strip():
        return None
    try:
        entry = json.loads(ground_truth)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "answer" not in entry:
        entry = {"answer": ground_truth}
    entry = {"question": "", "metadata": {}, **entry}
    return entry if entry["answer"] is None or isinstance(entry["answer"], str) else None
