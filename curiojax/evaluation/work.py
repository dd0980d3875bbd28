"""What is evaluated: the model, and the questions with what is known of their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curiojax import models
from curiojax.data.templates import check_template
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import Entry, load_benchmark
from curiojax.evaluation.generation import Answer, encode_questions
from curiojax.evaluation.questions import Benchmark, Verdict
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.models import ModelConfig
from curiojax.rewards.verifiers import check_verifier


class Subject(NamedTuple):
    """The model under evaluation."""

    path: str
    config: ModelConfig
    fingerprint: str
    tokenizer: Any
    stop_ids: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What the model's numbers depend on, as plain JSON values."""
        return {
            "model": self.fingerprint,
            "compute_dtype": self.config.compute_dtype,
            "rope_theta": self.config.rope_theta,
            "max_position_embeddings": self.config.max_position_embeddings,
        }

    def decode(self, tokens: list[list[int]]) -> list[str]:
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


@dataclasses.dataclass
class Work:
    """One benchmark on its way.

    Attributes:
      benchmark: with the questions that are evaluated.
      available: questions that it has without the limit.
      samples: completions per question.
      identity: what its completions depend on.
      prompts: token ids by question id.
      answers, entropies, verdicts: what is known so far; entropies by (question, sample), verdicts
        by verifier first.
    """

    benchmark: Benchmark
    available: int
    samples: int
    identity: dict[str, Any]
    prompts: dict[str, list[int]]
    answers: dict[str, list[Answer]] = dataclasses.field(default_factory=dict)
    entropies: dict[tuple[str, int], Sequence[float]] | None = None
    verdicts: dict[str, dict[tuple[str, int], Verdict]] = dataclasses.field(default_factory=dict)

    @property
    def verifiers(self) -> list[str]:
        names = (self.benchmark.verifier, self.benchmark.strict_verifier)
        return list(dict.fromkeys(name for name in names if name is not None))


def read_subject(config: EvaluationConfig) -> Subject:
    """Architecture, fingerprint and tokenizer of the model, without its weights."""
    path = config.model.path
    if path is None:
        raise ConfigError("model: missing; give it in the config file or as model=DIR")
    model, fingerprint = models.inspect_pretrained(path, overrides=config.model_overrides)
    tokenizer = load_tokenizer(path)
    check_template(config.template, tokenizer)
    stop_ids = tuple(dict.fromkeys([tokenizer.eos_token_id, *config.stop_token_ids]))
    return Subject(path, model, fingerprint, tokenizer, stop_ids)


def prepare(config: EvaluationConfig, subject: Subject, entry: Entry) -> Work:
    """Loads a benchmark and renders its prompts."""
    directory = Path(config.benchmarks_dir).expanduser() if config.benchmarks_dir else None
    whole = load_benchmark(entry, directory=directory)
    benchmark = dataclasses.replace(whole, questions=whole.questions[: config.limit])
    if config.verifier is not None:
        benchmark = dataclasses.replace(benchmark, verifier=config.verifier, strict_verifier=None)
    identity = {
        "benchmark": benchmark.name,
        **subject.identity,
        "engine": config.engine,
        "template": config.template,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_response_tokens": config.max_response_tokens,
        "stop_ids": list(subject.stop_ids),
        "seed": config.seed,
    }
    work = Work(
        benchmark,
        available=len(whole.questions),
        samples=config.samples or benchmark.samples,
        identity=identity,
        prompts=encode_questions(benchmark, config.template, subject.tokenizer),
    )
    for name in work.verifiers:
        try:
            check_verifier(name)
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix("reward.")) from None
    return work
