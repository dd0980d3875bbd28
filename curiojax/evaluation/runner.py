"""One evaluation: questions to completions, entropies, grades, `results.json` and a report.

Every part writes its own files and starts from what is there, so that the same command continues an
evaluation that was killed, and ends with the same `results.json`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from curiojax import folders, progress
from curiojax.errors import ConfigError
from curiojax.evaluation import checks, expert, folder
from curiojax.evaluation.benchmarks import parse_entries
from curiojax.evaluation.engines import Call, Weights, start_engine
from curiojax.evaluation.entropy import EntropyFile
from curiojax.evaluation.field_names import own_field_names
from curiojax.evaluation.generation import (
    QUESTIONS_PER_CALL,
    CompletionFile,
    fits,
    generate,
    missing,
)
from curiojax.evaluation.grading import GradeFile
from curiojax.evaluation.outcome import report, summary
from curiojax.evaluation.perplexity import Tokens
from curiojax.evaluation.rows import write_questions
from curiojax.evaluation.settings import EvaluationConfig, to_yaml
from curiojax.evaluation.work import Subject, Work, prepare, read_subject
from curiojax.rewards.pool import RewardPool
from curiojax.rewards.supervisor import WorkersUnavailable
from curiojax.rollout.base import RolloutError, Sampling


def run_evaluation(config: EvaluationConfig) -> dict[str, Any]:
    """Evaluates, writes everything into the output folder, and returns the results.

    Raises:
      ConfigError: the input is wrong; raised before anything is sampled or replaced. Later: no room
        on the disk or in memory, or an engine that is lost; the same command continues.
    """
    with own_field_names():
        return _run(config)


def _run(config: EvaluationConfig) -> dict[str, Any]:
    directory = output_folder(config)
    folder.check_folder(directory)
    subject = read_subject(config)
    work = [prepare(config, subject, entry) for entry in parse_entries(config.benchmarks)]
    checks.check_prompts(config, subject, work)
    checks.check_files(config, directory, work)
    demonstrations = expert.read_expert(config, subject, directory)
    with folders.lock(directory):
        with Weights(config, subject.path, subject.config) as weights:
            sample(config, subject, work, directory, weights)
            if config.entropy:
                measure_entropies(work, directory, weights)
            expert_tokens = None
            if demonstrations is not None:
                expert_tokens = expert.measure_expert(config, demonstrations, directory, weights)
        grade(config, work, directory)
        results = summary(config, subject, work, expert_tokens)
        folder.write_json(directory / folder.RESULTS, results)
        report(config, results, directory)
    return results


def output_folder(config: EvaluationConfig) -> Path:
    """The folder of the config, or `evaluations/<model>`."""
    return Path(config.output_dir or f"evaluations/{config.label}").expanduser()


def sample(
    config: EvaluationConfig,
    subject: Subject,
    work: list[Work],
    directory: Path,
    weights: Weights,
) -> None:
    """Samples whatever completions are missing; starts an engine only if there are any."""
    context = subject.config.max_position_embeddings
    if not (directory / folder.CONFIG).exists():  # marks the folder as ours
        folder.write_text(directory / folder.CONFIG, to_yaml(config))
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
        # What is said beside the completions is replaced once they are known to go with it.
        folder.write_text(directory / folder.CONFIG, to_yaml(config))
        for item in work:
            write_questions(directory, item.benchmark)
        progress.print_pairs(str(directory), overview(config, subject, work, files))
        lengths = [
            len(item.prompts[question])
            for item, file in zip(work, files, strict=True)
            for question in missing(item.benchmark, file)
            if fits(item.prompts[question], config.max_response_tokens, context)
        ]
        engine = None
        if lengths:
            checks.check_own_verifiers(work)
            if config.engine == "vllm" and (config.entropy or config.expert_data.path):
                checks.check_devices(config, subject.config)
            counts = [
                min(len(missing(item.benchmark, file)), QUESTIONS_PER_CALL) * item.samples
                for item, file in zip(work, files, strict=True)
            ]
            call = Call(max(counts), max(lengths))
            engine = start_engine(config, subject.path, subject.config, weights, call, directory)
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
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    raise ConfigError(
                        f"batch_size: {config.batch_size} completions of up to "
                        f"{config.max_response_tokens} tokens do not fit into memory; lower it, "
                        "and the same command continues from what was sampled"
                    ) from None
            item.answers = file.answers


def overview(
    config: EvaluationConfig, subject: Subject, work: list[Work], files: list[CompletionFile]
) -> dict[str, str]:
    """What is about to be done, by name."""
    shown = {
        "model": subject.path,
        "engine": f"{config.engine}, temperature {config.temperature:g}, top_p {config.top_p:g}, "
        f"up to {config.max_response_tokens:,} tokens",
    }
    for item, file in zip(work, files, strict=True):
        count, there = len(item.benchmark.questions), len(file.answers)
        of_all = f" of {item.available:,}" if count < item.available else ""
        done = f"; {there:,} are through" if there else ""
        shown[item.benchmark.title] = f"{count:,}{of_all} questions x {item.samples}{done}"
    return shown


def measure_entropies(work: list[Work], directory: Path, weights: Weights) -> None:
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
            weights.measure(file, item.benchmark.title)
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
        try:
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
        except WorkersUnavailable as error:
            raise ConfigError(
                f"grading_workers: {error}; lower it, and the same command continues from what was "
                "graded"
            ) from error
        for item, verifier, file in files:
            item.verdicts[verifier] = file.verdicts
