"""What a run starts from: architecture, data, graders, and the state before its first step."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from curiojax import models, progress
from curiojax.config import RunConfig
from curiojax.data.encoding import tokenizer_fingerprint
from curiojax.data.pipeline import SupervisedData, build_dataset
from curiojax.data.prompts import PromptData, build_prompts
from curiojax.distributed import agree
from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import load_benchmark, parse_entries
from curiojax.evaluation.questions import Benchmark
from curiojax.models import ModelConfig
from curiojax.rewards.pool import Item, RewardPool
from curiojax.rewards.verifiers import check_verifier
from curiojax.training.recipe import Recipe
from curiojax.training.run_directory import require
from curiojax.training.state import TrainState, create_state, shardings_of


def read_model(config: RunConfig) -> tuple[ModelConfig, str]:
    """The architecture of `model.path` with the run's overrides, and a fingerprint of its weights.

    Raises:
      ConfigError: no such checkpoint, or not one that can be trained.
    """
    path = require(config.model.path, "model.path")
    return models.inspect_pretrained(path, overrides=model_overrides(config))


def model_overrides(config: RunConfig) -> dict[str, Any]:
    """What the config's `model` section changes about the checkpoint's own architecture."""
    section = config.model
    return {
        "compute_dtype": section.compute_dtype,
        "remat": section.remat,
        "attention": section.attention,
        "rope_theta": section.rope_theta,
        "max_position_embeddings": section.max_position_embeddings,
    }


def build_data(config: RunConfig, tokenizer: Any) -> SupervisedData:
    """The tokenised training data; prints what was left out, and what looks wrong."""
    require(config.data.path, "data.path")
    if config.objective.needs_suppressed and config.data.suppressed_path is None:
        raise ConfigError(
            f"data.suppressed_path: missing; objective {config.objective.name} unlearns wrong "
            "samples, so give a data file of them (or set objective.ul_weight=0)"
        )
    with progress.LazyBar("tokenising") as bar:
        data = build_dataset(
            config.data,
            tokenizer,
            seed=config.seed,
            sequences_per_step=config.sequences_per_step,
            rows_per_microbatch=config.rows_per_microbatch,
            normalizer=config.loss.normalizer,
            cache_dir=config.data.cache_dir,
            progress=bar,
        )
    if data.drops:
        progress.print_pairs("records dropped", data.drops)
    if data.suppressed is not None and data.suppressed.drops:
        progress.print_pairs("suppressed records dropped", data.suppressed.drops)
    for warning in data.warnings:
        say(f"warning: {warning}")
    return data


def check_contents(model_fingerprint: str, tokenizer: Any, data_fingerprint: str) -> None:
    """Raises a `ConfigError` when the processes of a run have read different things."""
    facts = {
        "model.path": model_fingerprint[:16],
        "model.path (tokenizer)": tokenizer_fingerprint(tokenizer)[:16],
        "data.path": data_fingerprint[:16],
    }
    agree("contents", facts, "copy the same files to every host, or name a place all of them share")


def build_prompt_data(config: RunConfig, tokenizer: Any, grader: RewardPool) -> PromptData:
    """The prompts of the RL stage; prints what was left out."""
    require(config.data.path, "data.path")

    def gradable(truths: list[str]) -> list[bool]:
        # An empty response is right for nobody; what matters is what becomes of the ground truth.
        grades = grader.grade([Item("", truth) for truth in truths])
        return [grade.status in ("ok", "no_answer") for grade in grades]

    longest = config.rollout.max_response_tokens
    with progress.LazyBar("reading prompts") as bar:
        prompts = build_prompts(
            config.data,
            tokenizer,
            seed=config.seed,
            gradable=gradable,
            demonstration_tokens=longest if config.objective.needs_demonstrations else None,
            progress=bar,
        )
    if prompts.drops:
        progress.print_pairs("records dropped", prompts.drops)
    return prompts


def read_benchmarks(config: RunConfig) -> list[Benchmark]:
    """The benchmarks that the run is evaluated on; none without `evaluation.every`.

    Raises:
      ConfigError: an unknown benchmark, one without a file, an unknown verifier, or several
        processes.
    """
    section = config.evaluation
    if section.every is None:
        return []
    if jax.process_count() > 1:
        raise ConfigError(
            "evaluation.every: a run of several processes is not evaluated on the way; set it to "
            "null, and evaluate its checkpoints"
        )
    directory = Path(section.benchmarks_dir).expanduser() if section.benchmarks_dir else None
    found = []
    for entry in parse_entries(section.benchmarks):
        whole = load_benchmark(entry, directory=directory)
        verifier = section.verifier or whole.verifier
        check_verifier(verifier)
        questions = whole.questions[: section.limit]
        found.append(dataclasses.replace(whole, questions=questions, verifier=verifier))
    return found


def start_grader(config: RunConfig, benchmarks: Sequence[Benchmark] = ()) -> RewardPool:
    """The processes that grade the run's completions, and answers to these benchmarks."""
    reward, verifiers = config.reward, [benchmark.verifier for benchmark in benchmarks]
    if config.stage == "sft":
        first, rule = verifiers.pop(0), "none"
    else:
        first, rule = reward.verifier, reward.format
    return RewardPool(
        first,
        rule,
        workers=reward.workers,
        timeout_seconds=reward.timeout_seconds,
        memory_limit_mb=reward.memory_limit_mb,
        preload=verifiers,
    )


def initial_state(recipe: Recipe) -> TrainState:
    """The state before the first step, its weights read from `model.path`."""
    config = recipe.config
    with progress.status("reading the weights"):
        _, params = models.load_pretrained(
            require(config.model.path, "model.path"),
            dtype=np.float32,
            mesh=recipe.mesh,
            overrides=model_overrides(config),
        )
    create = jax.jit(
        lambda p: create_state(p, recipe.optimizer, recipe.teacher, config.seed),
        out_shardings=shardings_of(recipe.abstract_state()),
    )
    with jax.set_mesh(recipe.mesh):
        return create(params)


def say(message: str) -> None:
    """One line on stderr, from the first process."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)
