"""What an endpoint answered, as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One completion.

    Attributes:
      text: the message's content; "" if there was none.
      finish: the endpoint's `finish_reason`, "refusal" if the message holds one, "" if not given.
      prompt_tokens, completion_tokens: from `usage`; None if the endpoint did not say.
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def parse_completion(body: Any) -> Reply:
    """A reply from the JSON of a chat completion.

    Raises:
      ValueError: a field is missing or of another type; the message says which.
    """
    choice = _field(_field(body, "choices", list, "the reply"), 0, Mapping, "choices")
    message = _field(choice, "message", Mapping, "choices[0]")
    text, finish = message.get("content"), str(choice.get("finish_reason") or "")
    if text is None and (message.get("refusal") or "content" in message):
        text, finish = "", "refusal" if message.get("refusal") else finish
    if not isinstance(text, str):
        raise ValueError("choices[0].message without content")
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    # A lone surrogate, which JSON can spell, can be written to no file.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return Reply(
        text, finish[:40], _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    )


def _field(value: Any, name: str | int, kind: type, where: str) -> Any:
    try:
        found = value[name]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, kind):
        raise ValueError(f"{where} without {name if isinstance(name, str) else 'entries'}")
    return found


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if valid else None
