"""What an evaluation is made of: benchmarks, their questions, and graded samples of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Group = Literal["math", "general", "own"]
Finish = Literal["stop", "length", "prompt_too_long"]


@dataclass(frozen=True)
class Question:
    """One item of a benchmark.

    Attributes:
      id: unique within the benchmark, the same on every machine and in every format of the file.
      messages: the prompt as `{role, content}` turns, before the template; the last is the user's.
      ground_truth: what the verifier compares with.
      details: what else is worth keeping, plain JSON values: subject, level, the shuffled options.
    """

    id: str
    messages: list[dict[str, str]]
    ground_truth: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A set of questions and how answers to them are graded.

    Attributes:
      name: as in configs and file names, e.g. `aime24`.
      title: as in tables, e.g. `AIME 2024`.
      verifier: a name of `curiojax.rewards.verifiers`.
      strict_verifier: a second one, which is reported in a column of its own: the grader that the
        paper used, where `verifier` accepts more ways of stating an answer. None: there is none.
      samples: completions per question unless the config says otherwise.
      group: which mean over benchmarks it is part of: `math` (in distribution), `general`
        (out of distribution) or `own`.
      questions: all of them, in the order of the source.
      source: where they came from, for the record: a hub id or a path.
      private: its authors ask not to publish questions; reports show their ids only.
    """

    name: str
    title: str
    verifier: str
    questions: list[Question]
    source: str
    strict_verifier: str | None = None
    samples: int = 8
    group: Group = "own"
    private: bool = False


class Verdict(NamedTuple):
    """What a verifier said: as in `curiojax.rewards.items.Grade`, format aside."""

    correct: bool
    status: str
    extracted: str | None


@dataclass(frozen=True)
class Sample:
    """One completion of one question, graded.

    Attributes:
      text: the response as the verifier reads it: without special tokens.
      tokens: its ids, the stop id included.
      finish: `stop`, `length` (cut at the limit), or `prompt_too_long`: prompt and response do not
        fit the model's context, so nothing was sampled; it counts as wrong.
      entropies: nats, one per token, of the distribution at temperature 1 over the whole
        vocabulary; None where unknown.
      verdicts: by verifier name.
    """

    text: str
    tokens: Sequence[int]
    finish: Finish
    entropies: Sequence[float] | None
    verdicts: dict[str, Verdict]
