"""The elements of a config's `benchmarks`: names, sets of them, and benchmarks of one's own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks.catalogue import KNOWN, NAMES, SETS
from curiojax.evaluation.questions import Group
from curiojax.rewards.verifiers import check_verifier
from curiojax.sections import Section

# What describes a benchmark of one's own, and is settled for the known ones.
_OWN_ONLY = ("question", "answer", "group")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Entry(Section):
    """One benchmark of an evaluation. What is null is as the benchmark has it.

    Attributes:
      name: a known one (`NAMES`), or any other for a benchmark of your own, which has a `path`.
      path: a hub id (`owner/name`, or `owner/name:config`), or parquet, JSONL or JSON files,
        instead of the usual source.
      split: of a hub dataset; `train` for your own.
      data_source: only rows with this in the column `data_source`.
      title: in tables; your own has its name.
      question, answer: columns of your own benchmark; null looks for the usual ones.
      prompt: the user's message, with `{question}` (for known benchmarks the message that it
        replaces, options included) and `{COLUMN}`; other braces are text.
      verifier: a name of `curiojax.rewards.verifiers`; `math` for your own.
      samples: completions per question.
      group: which mean your own is part of.
      private: reports show its questions' ids only.
    """

    name: str
    path: str | None = None
    split: str | None = None
    data_source: str | None = None
    title: str | None = None
    question: str | None = None
    answer: str | None = None
    prompt: str | None = None
    verifier: str | None = None
    samples: int | None = Field(default=None, ge=1)
    group: Group | None = None
    private: bool | None = None


def parse_entries(values: Sequence[str | Mapping[str, Any] | Entry]) -> tuple[Entry, ...]:
    """The benchmarks that a config asks for, each once, in its order.

    Args:
      values: names, sets (`paper`, `math`, `general`), or mappings with the fields of `Entry`. A
        mapping replaces what a set brings of the same name.

    Raises:
      ConfigError: an unknown name or key, with the nearest one; a name given twice; a benchmark of
        one's own without a path; a wrong value.
    """
    if isinstance(values, str | Mapping | Entry):
        values = [values]
    found: dict[str, Entry] = {}
    explicit: set[str] = set()
    for index, value in enumerate(values):
        where = f"benchmarks[{index}]"
        names = SETS.get(value) if isinstance(value, str) else None
        if names is not None:
            for name in names:
                found.setdefault(name, Entry(name=name))
            continue
        entry = _entry(value, where)
        if entry.name in explicit:
            raise ConfigError(f"{where}: {entry.name} is there already; name each benchmark once")
        explicit.add(entry.name)
        found[entry.name] = entry
    if not found:
        raise ConfigError(f"benchmarks: empty; name some, e.g. {', '.join(SETS)}")
    return tuple(found.values())


def _entry(value: Any, where: str) -> Entry:
    if isinstance(value, str):
        value = {"name": value}
    elif isinstance(value, Entry):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}: must be a name or a mapping with a name (it is {value!r}), as in "
            "{name: aime24, path: FILE}"
        )
    if "name" not in value:
        raise ConfigError(f"{where}: has no name; give a known one, or your own with a path")
    try:
        entry = Entry.model_validate(dict(value))
    except ValidationError as error:
        raise _explain(error, where) from None
    _check(entry, where)
    return entry


def _check(entry: Entry, where: str) -> None:
    if entry.name in SETS:
        raise ConfigError(f"{where}: {entry.name} names a set of benchmarks; choose another name")
    if entry.name not in KNOWN:
        if entry.path is None:
            raise ConfigError(
                f"{where}: unknown benchmark {entry.name!r}; {_nearest(entry.name)} "
                "(one of your own needs a path)"
            )
        if not _NAME.fullmatch(entry.name):
            raise ConfigError(
                f"{where}: the name {entry.name!r} is to be part of file names; use letters, "
                "digits, '_', '-' and '.'"
            )
    else:
        for key in _OWN_ONLY:
            if getattr(entry, key) is not None:
                raise ConfigError(
                    f"{where}.{key}: {entry.name} has its own; for another, choose another name"
                )
    if entry.verifier is not None:
        try:
            check_verifier(entry.verifier)
        except ConfigError as error:
            text = str(error).removeprefix("reward.verifier: ")
            raise ConfigError(f"{where}.verifier: {text}") from None


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [*NAMES, *SETS], n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known are {', '.join(NAMES)} and the sets {', '.join(SETS)}"


def _explain(error: ValidationError, where: str) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    field = ".".join([where, *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), Entry.model_fields, n=1, cutoff=0)
        return ConfigError(f"{field}: unknown key; did you mean {near[0]}?")
    given = problem.get("input")
    shown = "" if isinstance(given, Mapping) else f" (it is {given!r})"
    return ConfigError(f"{field}: {problem['msg'].removeprefix('Value error, ')}{shown}")
