"""One evaluation: questions to completions, entropies, grades, `results.json` and a report.

Every part writes its own files and starts from what is there, so that the same command continues an
evaluation that was killed, and ends with the same `results.json`.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curiojax import models, progress
from curiojax.data.templates import check_template
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.evaluation import expert, folder
from curiojax.evaluation.benchmarks import load_benchmark, parse_entries
from curiojax.evaluation.engines import Weights, start_engine
from curiojax.evaluation.entropy import EntropyFile, measure
from curiojax.evaluation.field_names import own_field_names
from curiojax.evaluation.generation import (
    Answer,
    CompletionFile,
    check_room,
    encode_questions,
    fits,
    generate,
    missing,
)
from curiojax.evaluation.grading import GradeFile
from curiojax.evaluation.perplexity import Tokens
from curiojax.evaluation.plain_values import plain
from curiojax.evaluation.questions import Benchmark, Sample, Verdict
from curiojax.evaluation.results_table import results_tables
from curiojax.evaluation.rows import completion_rows, write_questions
from curiojax.evaluation.settings import EvaluationConfig, to_yaml
from curiojax.evaluation.summary import means, overall_entropy, summarise
from curiojax.models import ModelConfig
from curiojax.reports.evaluation import write_evaluation_report
from curiojax.rewards.pool import RewardPool
from curiojax.rewards.verifiers import check_verifier
from curiojax.rollout.base import RolloutError, Sampling

VERSION = 1


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
    entropies: dict[tuple[str, int], list[float]] | None = None
    verdicts: dict[str, dict[tuple[str, int], Verdict]] = dataclasses.field(default_factory=dict)

    @property
    def verifiers(self) -> list[str]:
        names = (self.benchmark.verifier, self.benchmark.strict_verifier)
        return list(dict.fromkeys(name for name in names if name is not None))


class Subject(NamedTuple):
    """The model under evaluation."""

    path: str
    config: ModelConfig
    fingerprint: str
    tokenizer: Any
    stop_ids: tuple[int, ...]

    def decode(self, tokens: list[list[int]]) -> list[str]:
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def run_evaluation(config: EvaluationConfig) -> dict[str, Any]:
    """Evaluates, writes everything into the output folder, and returns the results.

    Raises:
      ConfigError: the input is wrong; raised before anything is sampled or written.
    """
    with own_field_names():
        return _run(config)


def _run(config: EvaluationConfig) -> dict[str, Any]:
    directory = output_folder(config)
    folder.check_folder(directory)
    subject = read_subject(config)
    work = [prepare(config, subject, entry) for entry in parse_entries(config.benchmarks)]
    with folder.lock(directory):
        if not (directory / folder.CONFIG).is_file():
            folder.write_text(directory / folder.CONFIG, to_yaml(config))
        with Weights(config, subject.path, subject.config) as weights:
            sample(config, subject, work, directory, weights)
            if config.entropy:
                measure_entropies(config, subject, work, directory, weights)
            demonstrations = expert.measure_expert(
                config, subject.config, subject.tokenizer, subject.fingerprint, directory, weights
            )
        grade(config, work, directory)
        results = summary(config, subject, work, demonstrations)
        folder.write_json(directory / folder.RESULTS, results)
        report(config, results, directory)
    return results


def output_folder(config: EvaluationConfig) -> Path:
    """The folder of the config, or `evaluations/<model>`."""
    return Path(config.output_dir or f"evaluations/{config.label}").expanduser()


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


def prepare(config: EvaluationConfig, subject: Subject, entry: Any) -> Work:
    """Loads a benchmark and renders its prompts."""
    directory = Path(config.benchmarks_dir).expanduser() if config.benchmarks_dir else None
    whole = load_benchmark(entry, directory=directory)
    benchmark = dataclasses.replace(whole, questions=whole.questions[: config.limit])
    if config.verifier is not None:
        benchmark = dataclasses.replace(benchmark, verifier=config.verifier, strict_verifier=None)
    for name in filter(None, (benchmark.verifier, benchmark.strict_verifier)):
        check_verifier(name)
    model = subject.config
    identity = {
        "benchmark": benchmark.name,
        "model": subject.fingerprint,
        "compute_dtype": model.compute_dtype,
        "rope_theta": model.rope_theta,
        "max_position_embeddings": model.max_position_embeddings,
        "engine": config.engine,
        "template": config.template,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_response_tokens": config.max_response_tokens,
        "stop_ids": list(subject.stop_ids),
        "seed": config.seed,
    }
    prompts = encode_questions(benchmark, config.template, subject.tokenizer)
    check_room(benchmark, prompts, config.max_response_tokens, model.max_position_embeddings)
    return Work(
        benchmark,
        available=len(whole.questions),
        samples=config.samples or benchmark.samples,
        identity=identity,
        prompts=prompts,
    )


def sample(
    config: EvaluationConfig,
    subject: Subject,
    work: list[Work],
    directory: Path,
    weights: Weights,
) -> None:
    """Samples whatever completions are missing; starts an engine only if there are any."""
    context = subject.config.max_position_embeddings
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                CompletionFile(
                    folder.completion_path(directory, item.benchmark.name),
                    item.identity,
                    item.prompts,
                    item.samples,
                )
            )
            for item in work
        ]
        # Not before it is known that the folder holds nothing of other settings.
        folder.write_text(directory / folder.CONFIG, to_yaml(config))
        for item in work:
            write_questions(directory, item.benchmark)
        lengths = [
            len(item.prompts[question])
            for item, file in zip(work, files, strict=True)
            for question in missing(item.benchmark, file)
            if fits(item.prompts[question], config.max_response_tokens, context)
        ]
        engine = None
        if lengths:
            longest = max(lengths) + config.max_response_tokens
            engine = start_engine(config, subject.path, subject.config, weights, longest, directory)
            stack.callback(engine.close)
        for item, file in zip(work, files, strict=True):
            sampling = Sampling(
                max_tokens=config.max_response_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                stop_ids=subject.stop_ids,
                n=item.samples,
            )
            with progress.LazyBar(f"{item.benchmark.title}: sampling") as bar:
                try:
                    generate(
                        item.benchmark,
                        file,
                        engine,
                        sampling,
                        seed=config.seed,
                        context=context,
                        decode=subject.decode,
                        progress=bar,
                    )
                except RolloutError as error:
                    raise ConfigError(
                        f"engine: {error}; the same command continues from what was sampled"
                    ) from error
            item.answers = file.answers


def measure_entropies(
    config: EvaluationConfig,
    subject: Subject,
    work: list[Work],
    directory: Path,
    weights: Weights,
) -> None:
    """Entropy of every generated token, by one pass of the JAX model over the completions."""
    for item in work:
        texts = {
            f"{question}/{number}": Tokens(
                np.asarray([*item.prompts[question], *answer.tokens], np.int32),
                len(item.prompts[question]),
            )
            for question, answers in item.answers.items()
            for number, answer in enumerate(answers)
        }
        path = folder.entropy_path(directory, item.benchmark.name)
        with EntropyFile(path, item.identity, texts) as file:
            if not file.known.all():
                params, mesh = weights.load()
                with progress.LazyBar(f"{item.benchmark.title}: entropies") as bar:
                    measure(
                        params,
                        subject.config,
                        file,
                        mesh,
                        batch_tokens=config.batch_tokens,
                        progress=bar,
                    )
            item.entropies = {
                (question, number): file.entropies[f"{question}/{number}"]
                for question, answers in item.answers.items()
                for number in range(len(answers))
            }


def grade(config: EvaluationConfig, work: list[Work], directory: Path) -> None:
    """Grades whatever is not graded; starts workers only if there is anything."""
    with ExitStack() as stack:
        files = [
            (
                item,
                verifier,
                stack.enter_context(
                    GradeFile(directory, item.benchmark, verifier, item.answers, item.identity)
                ),
            )
            for item in work
            for verifier in item.verifiers
        ]
        wanted = list(dict.fromkeys(verifier for _, verifier, file in files if file.missing))
        if wanted:
            pool = stack.enter_context(
                RewardPool(
                    wanted[0],
                    "none",
                    workers=config.grading_workers,
                    timeout_seconds=config.grading_timeout_seconds,
                    memory_limit_mb=config.grading_memory_limit_mb,
                    preload=wanted[1:],
                )
            )
        for item, verifier, file in files:
            if file.missing:
                strict = " (strict)" if verifier != item.benchmark.verifier else ""
                with progress.LazyBar(f"{item.benchmark.title}: grading{strict}") as bar:
                    file.grade(pool, bar)
            item.verdicts[verifier] = file.verdicts


def samples_of(item: Work) -> list[list[Sample]]:
    """The graded completions of a benchmark, by question and sample."""
    return [
        [
            Sample(
                answer.text,
                answer.tokens,
                answer.finish,
                None if item.entropies is None else item.entropies[question.id, number],
                {name: found[question.id, number] for name, found in item.verdicts.items()},
            )
            for number, answer in enumerate(item.answers[question.id])
        ]
        for question in item.benchmark.questions
    ]


def summary(
    config: EvaluationConfig,
    subject: Subject,
    work: list[Work],
    demonstrations: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of `results.json`; a function of the files, without times."""
    parts = {
        item.benchmark.name: summarise(
            item.benchmark, samples_of(item), available=item.available, seed=config.seed
        )
        for item in work
    }
    kept = ("engine", "temperature", "top_p", "max_response_tokens", "template", "seed")
    settings = {name: getattr(config, name) for name in (*kept, "preset", "limit", "verifier")}
    settings["compute_dtype"] = subject.config.compute_dtype
    settings["stop_ids"] = list(subject.stop_ids)
    return plain(
        {
            "version": VERSION,
            "name": config.label,
            "model": {"path": subject.path, "fingerprint": subject.fingerprint},
            "settings": settings,
            "software": software(),
            "benchmarks": parts,
            "means": means(parts),
            "entropy": overall_entropy(parts),
            "expert_tokens": demonstrations,
        }
    )


def software() -> dict[str, str | None]:
    """Versions of what decides about verdicts and logits."""

    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: of(name) for name in ("curiojax", "math-verify", "jax", "transformers")}


def report(config: EvaluationConfig, results: dict[str, Any], directory: Path) -> None:
    """The report. The results are safe by now, so a failure here is a warning."""
    try:
        with progress.status("writing the report"):
            write_evaluation_report(
                directory / folder.REPORT,
                title=f"Evaluation of {results['name']}",
                results=[results],
                tables=[vars(table) for table in results_tables([results])],
                completions={results["name"]: completion_rows(directory, results)},
                cap_bytes=int(config.report_megabytes * 1e6),
            )
    except Exception as error:
        print(
            f"warning: the report could not be written ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
