"""Rows of the file formats people have, turned into one canonical record.

A canonical record is `{id, prompt, response, ground_truth, verifier}`: `prompt` is a list of
`{role, content}` with the roles system, user and assistant, `response` the text to learn. What the
supervised stage needs of it is the response, what the RL stage needs is the ground truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from curiojax.errors import ConfigError

Record = dict[str, Any]
Row = Mapping[str, Any]

Need = Literal["response", "ground_truth"]

NO_RESPONSE = "no response"
NO_GROUND_TRUTH = "no ground truth"
EMPTY_PROMPT = "empty prompt"
UNSUPPORTED = "unsupported message"
NO_CORRECT_GENERATION = "no correct and complete generation"

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}


class Dropped(Exception):
    """The row cannot be learnt from; the argument is the reason that is counted."""


def _verl(row: Row) -> Record:
    """verl's RL files and LUFFY's, which add `target`: the expert's turn, or null."""
    reward = _decode(row.get("reward_model")) or {}
    extra = _decode(row.get("extra_info")) or {}
    return {
        "id": extra.get("index"),
        "prompt": _prompt(row["prompt"]),
        "response": _response(row.get("target")),
        "ground_truth": reward.get("ground_truth"),
        "verifier": extra.get("verifier") or reward.get("verifier"),
    }


def _openr1(row: Row) -> Record:
    """OpenR1-Math-220k: the first generation that Math-Verify accepts and that is complete."""
    generations = row["generations"] or []
    correct = row.get("correctness_math_verify") or []
    complete = row.get("is_reasoning_complete") or []
    judged = zip(generations, correct, complete, strict=False)
    return {
        "id": row.get("uuid"),
        "prompt": _prompt(row["problem"]),
        "response": next((text for text, right, whole in judged if right and whole and text), None),
        "missing": NO_CORRECT_GENERATION,
        "ground_truth": row.get("answer"),
    }


def _chat(messages: Any) -> Record:
    """A conversation: its last turn is the response if the assistant has it."""
    turns = _messages(messages)
    if not turns or turns[-1]["role"] != "assistant":
        return {"prompt": turns, "response": None}
    return {"prompt": turns[:-1], "response": turns[-1]["content"]}


def _openai(row: Row) -> Record:
    return _chat(row["messages"])


def _question_answer(row: Row) -> Record:
    """A question and its short answer, to be graded against; there is nothing to learn from."""
    question = next(row[k] for k in ("problem", "question", "prompt") if row.get(k) is not None)
    return {"prompt": _prompt(question), "response": None}


def _sharegpt(row: Row) -> Record:
    record = _chat(row["conversations"])
    system = row.get("system")
    if system and not any(turn["role"] == "system" for turn in record["prompt"]):
        record["prompt"] = [{"role": "system", "content": system}, *record["prompt"]]
    return record


def _prompt_completion(row: Row) -> Record:
    completion = row["completion"] if "completion" in row else row["response"]
    return {"prompt": _prompt(row["prompt"]), "response": _response(completion)}


def _alpaca(row: Row) -> Record:
    prompt = []
    if row.get("system"):
        prompt.append({"role": "system", "content": row["system"]})
    for pair in row.get("history") or []:
        if len(pair) != 2:
            raise Dropped(UNSUPPORTED)
        prompt.append({"role": "user", "content": pair[0] or ""})
        prompt.append({"role": "assistant", "content": pair[1] or ""})
    parts = [part for part in (row["instruction"], row.get("input")) if part]
    prompt.append({"role": "user", "content": "\n".join(parts)})
    return {"prompt": prompt, "response": row["output"]}


# name -> (columns that must be there, columns one of which must be, other columns that are read,
# reader). The order is the order of detection: OpenR1's rows have `messages` too.
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Callable]] = {
    "verl": (
        ("prompt",),
        ("target", "reward_model"),
        ("reward_model", "extra_info", "target"),
        _verl,
    ),
    "openr1": (
        ("problem", "generations"),
        (),
        ("correctness_math_verify", "is_reasoning_complete", "answer", "uuid"),
        _openr1,
    ),
    "messages": (("messages",), (), (), _openai),
    "sharegpt": (("conversations",), (), ("system",), _sharegpt),
    "prompt_completion": (("prompt",), ("completion", "response"), (), _prompt_completion),
    "alpaca": (("instruction", "output"), (), ("input", "system", "history"), _alpaca),
    "question_answer": ((), ("problem", "question", "prompt"), (), _question_answer),
}
_COMMON = ("id", "uuid", "ground_truth", "answer", "verifier")


def detect(columns: Iterable[str], format: str | None = None, need: Need = "response") -> str:
    """The name of the format whose columns these are, or `format` if it fits them.

    Only formats with what is needed are looked at.

    Raises:
      ConfigError: no format fits, or the one asked for does not; lists columns and formats.
    """
    columns = list(columns)
    formats = [name for name in FORMATS if need == "ground_truth" or name != "question_answer"]
    found = f"the columns are {', '.join(columns) or 'none'}"
    if format is not None:
        if format not in formats:
            known = ", ".join(formats)
            raise ConfigError(f"data.format: unknown format {format!r}; choose one of {known}")
        if not _fits(format, columns):
            raise ConfigError(
                f"data.format: {format} needs {_needs(format)}, but {found}; "
                "rename the columns or remove data.format to detect it"
            )
        return format
    for name in formats:
        if _fits(name, columns):
            return name
    if "text" in columns and need == "response":
        raise ConfigError(
            f"data.path: {found}; a `text` column does not say where the prompt ends, and only the "
            "response is learnt; split it into `prompt` and `completion`"
        )
    known = "; ".join(f"{name} ({_needs(name)})" for name in formats)
    raise ConfigError(
        f"data.path: no known format has these columns: {found}; known formats: {known}; "
        "rename the columns, or choose with data.format"
    )


def columns_read(name: str, columns: Iterable[str]) -> list[str]:
    """Those of `columns` that the reader of the format looks at."""
    required, either, optional, _ = FORMATS[name]
    wanted = {*required, *either, *optional, *_COMMON}
    return [column for column in columns if column in wanted]


def canonical(name: str, row: Row, index: int, need: Need = "response") -> Record:
    """The canonical record of a row.

    Args:
      name: a key of `FORMATS`.
      row: the row.
      index: its number, the id of a record without one.
      need: what the record must hold.

    Raises:
      Dropped: with the reason.
    """
    record: Record = FORMATS[name][3](row)
    record["response"] = record["response"] or ""
    if not isinstance(record["response"], str):
        raise Dropped(UNSUPPORTED)
    if need == "response" and not record["response"].strip():
        raise Dropped(record.get("missing", NO_RESPONSE))
    if not any(t["content"].strip() for t in record["prompt"] if t["role"] != "system"):
        raise Dropped(EMPTY_PROMPT)
    identity = next(
        (v for v in (row.get("id"), row.get("uuid"), record.get("id")) if v is not None), index
    )
    truth = record.get("ground_truth")
    if truth is None:
        truth = next((row[k] for k in ("ground_truth", "answer") if row.get(k) is not None), None)
    if need == "ground_truth" and (truth is None or not str(truth).strip()):
        raise Dropped(NO_GROUND_TRUTH)
    return {
        "id": str(identity),
        "prompt": record["prompt"],
        "response": record["response"],
        "ground_truth": truth,
        "verifier": record.get("verifier") or row.get("verifier"),
    }


def _fits(name: str, columns: list[str]) -> bool:
    required, either, _, _ = FORMATS[name]
    return all(c in columns for c in required) and (not either or any(c in columns for c in either))


def _needs(name: str) -> str:
    required, either, _, _ = FORMATS[name]
    parts = [", ".join(required), " or ".join(either)]
    return " and ".join(part for part in parts if part)


def _decode(value: Any) -> Any:
    """JSON written into a string column, or an array of objects from pandas, as plain values."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.tolist() if isinstance(value, np.ndarray) else value


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value
    )


def _prompt(value: Any) -> list[dict[str, str]]:
    """A prompt given as text is one message of the user, even if the text happens to be JSON."""
    decoded = _decode(value)
    if decoded is None or _is_turns(decoded):
        return _messages(decoded)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    raise Dropped(UNSUPPORTED)


def _response(value: Any) -> str:
    """Text, or one turn of the assistant."""
    decoded = _decode(value)
    if decoded is None or _is_turns(decoded):
        turns = _messages(decoded)
        if any(turn["role"] != "assistant" for turn in turns):
            raise Dropped(UNSUPPORTED)
        # LUFFY's files hold a list of one; of several alternatives the first is learnt.
        return turns[0]["content"] if turns else ""
    if isinstance(value, str):
        return value
    raise Dropped(UNSUPPORTED)


def _messages(value: Any) -> list[dict[str, str]]:
    value = _decode(value)
    if value is None:
        return []
    if not _is_turns(value):
        raise Dropped(UNSUPPORTED)
    turns = []
    for turn in value:
        role = _ROLES.get(str(turn.get("role") or turn.get("from") or "").lower())
        content = turn.get("content")
        content = turn.get("value") if content is None else content
        if isinstance(content, list):
            if not all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
                raise Dropped(UNSUPPORTED)
            content = "".join(part.get("text") or "" for part in content)
        if role is None or not isinstance(content, str | None):
            raise Dropped(UNSUPPORTED)
        turns.append({"role": role, "content": content or ""})
    return turns
