"""What the samples of a benchmark answered, and how right that was: tables [questions, samples]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from curiojax.errors import ConfigError
from curiojax.evaluation.questions import Benchmark, Sample, Verdict
from curiojax.rewards.answers import MAX_ANSWER_CHARS
from curiojax.rewards.normalise import canonical

NO_ANSWER = -1

# What these extract is not an answer but the first fault; the answer is the whole response.
_ANSWER_IS_RESPONSE = {"countdown"}
_UNSAMPLED = Verdict(False, "prompt_too_long", None)


@dataclass(frozen=True)
class Answers:
    """What one verifier said about all samples.

    Attributes:
      verdicts: [questions][samples].
      correct: bool [questions, samples].
      scored: bool [questions]; False where the ground truth cannot be compared with, so that the
        question is left out of every score.
      given: int64 [questions, samples], the number of the answer, from 0 in every question, and -1
        for none, or none that is known: grading failed. None if the verifier does not say what it
        compared.
      given_correct: bool [questions, samples], whether the answer that the sample gives is right:
        the same for all samples with one answer. Verdicts on the same text can differ when one of
        them ran out of time; the first that was reached by comparing counts.
    """

    verdicts: list[list[Verdict]]
    correct: np.ndarray
    scored: np.ndarray
    given: np.ndarray | None
    given_correct: np.ndarray

    def distinct(self, *, correct_only: bool = False) -> np.ndarray | None:
        """How many different answers each question got, int64 [questions]; None if unknown."""
        if self.given is None:
            return None
        counted = self.given != NO_ANSWER
        if correct_only:
            counted &= self.given_correct
        rows = zip(self.given, counted, strict=True)
        return np.asarray([len(set(row[keep].tolist())) for row, keep in rows], np.int64)


def read_answers(
    benchmark: Benchmark, samples: Sequence[Sequence[Sample]], verifier: str
) -> Answers:
    """Collects what a verifier said; samples of a prompt that is too long are wrong.

    Raises:
      ConfigError: a sample was not graded by this verifier.
    """
    verdicts = [
        [_verdict(sample, verifier, f"{benchmark.name}/{question.id}") for sample in row]
        for question, row in zip(benchmark.questions, samples, strict=True)
    ]
    keys: list[list[str | None]] = [
        [_key(s, v, verifier) for s, v in zip(row, said, strict=True)]
        for row, said in zip(samples, verdicts, strict=True)
    ]
    told = all(
        key is not None or verdict.status != "ok"
        for row, said in zip(keys, verdicts, strict=True)
        for key, verdict in zip(row, said, strict=True)
    )
    return Answers(
        verdicts=verdicts,
        correct=np.asarray([[v.correct for v in row] for row in verdicts], bool),
        scored=np.asarray([all(v.status != "unverifiable" for v in row) for row in verdicts], bool),
        given=np.asarray([_number(row) for row in keys], np.int64) if told else None,
        given_correct=np.asarray(
            [_agreed(row, said) for row, said in zip(keys, verdicts, strict=True)], bool
        ),
    )


@lru_cache(maxsize=65_536)
def answer_key(answer: str | None) -> str | None:
    r"""What answers are told apart by: the text in one spelling (`rewards.normalise.canonical`).

    Only texts are compared, since computer algebra on a model's text belongs in a process that can
    be killed. So `\dfrac{1}{2}` and `\frac12` are one answer, but `\frac{1}{2}`, `1/2` and `0.5`
    are three, though a verifier may accept all of them.

    Returns:
      None for no answer or an empty one. Of a long answer only the beginning counts.
    """
    if answer is None:
        return None
    answer = answer[:MAX_ANSWER_CHARS]
    return canonical(answer) or answer.strip() or None


def _verdict(sample: Sample, verifier: str, where: str) -> Verdict:
    if sample.finish == "prompt_too_long":
        return _UNSAMPLED
    if verifier not in sample.verdicts:
        raise ConfigError(
            f"samples: {where} has a sample without a verdict of {verifier!r}; grade it first"
        )
    return sample.verdicts[verifier]


def _key(sample: Sample, verdict: Verdict, verifier: str) -> str | None:
    if verifier in _ANSWER_IS_RESPONSE:
        return answer_key(sample.text) if verdict.status == "ok" else None
    return answer_key(verdict.extracted)


def _number(keys: Sequence[str | None]) -> list[int]:
    """Numbers the answers of one question in the order in which they appear: 0, 1, 0, -1 (none)."""
    numbers: dict[str, int] = {}
    return [NO_ANSWER if k is None else numbers.setdefault(k, len(numbers)) for k in keys]


def _agreed(keys: Sequence[str | None], verdicts: Sequence[Verdict]) -> list[bool]:
    right: dict[str | None, Verdict] = {None: _UNSAMPLED}
    for key, verdict in zip(keys, verdicts, strict=True):
        if right.setdefault(key, verdict).status != "ok":
            right[key] = verdict
    return [right[key].correct for key in keys]
