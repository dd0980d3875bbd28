"""Batch files of OpenAI's format: all requests in one file, all replies in another, at half price.

https://platform.openai.com/docs/api-reference/batch/request-input
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.replies import parse_completion
from curiojax.data.rephrase.template import Request
from curiojax.errors import ConfigError

# What OpenAI takes in one file; other providers have other limits.
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000


def export_batch(path: Path, request: Request, questions: Sequence[str]) -> int:
    """Writes one request per question; `custom_id` is the key its reply is kept under.

    Returns:
      The size of the file in bytes.

    Raises:
      ConfigError: the file exists or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.exists():
        raise ConfigError(f"--export-batch: {path} exists; name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="ascii") as stream:
            for question in questions:
                line = {
                    "custom_id": request.key(question),
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": request.body(question),
                }
                stream.write(json.dumps(line) + "\n")
        size = temporary.stat().st_size
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"--export-batch: cannot write {path} ({error.strerror})") from None
    return size


@dataclass
class Imported:
    """What a file of replies held.

    Attributes:
      new: replies that were kept.
      known: replies that were there already.
      foreign: lines for questions, models or prompts other than this job's.
      failed: lines without a reply, counted by reason.
    """

    new: int = 0
    known: int = 0
    foreign: int = 0
    failed: Counter[str] = field(default_factory=Counter)


def import_batch(path: Path, request: Request, questions: Sequence[str], cache: Cache) -> Imported:
    """Keeps the replies of a batch's output file.

    Raises:
      ConfigError: the file cannot be read, or a line is not JSON.
    """
    keys = {request.key(question) for question in questions}
    result = Imported()
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError
                except (ValueError, RecursionError):
                    raise ConfigError(
                        f"--import-batch: {path}, line {number} is not a JSON object; give the "
                        "batch's output file, whole"
                    ) from None
                _take(row, keys, cache, result)
    except OSError as error:
        raise ConfigError(f"--import-batch: cannot read {path} ({error.strerror})") from None
    return result


def _take(row: dict[str, Any], keys: set[str], cache: Cache, result: Imported) -> None:
    key = row.get("custom_id")
    if key not in keys:
        result.foreign += 1
        return
    if key in cache:
        result.known += 1
        return
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    error = row.get("error")
    if error or response.get("status_code", 200) != 200:
        code = error.get("code") if isinstance(error, dict) else None
        result.failed[f"error {code or response.get('status_code') or 'of the batch'}"[:60]] += 1
        return
    try:
        reply = parse_completion(response.get("body"))
    except ValueError as problem:
        result.failed[str(problem)[:60]] += 1
        return
    cache.add(key, reply)
    result.new += 1
