"""Several ways to fine-tune one base model in an embedded world, trained and compared.

This is what `python -m curiojax.train` runs without a config file: the world's demonstrations go
through the same pipeline, loop and export as real data. A run may start from the model that another
one ends with, as GRPO does.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from curiojax import models, progress
from curiojax.config import (
    RunConfig,
    World,
    merge,
    parse_config,
    parse_objective,
)
from curiojax.data.tokenizer import load_tokenizer
from curiojax.data.worlds import WORLDS, embedded_world
from curiojax.data.worlds.interface import Demonstration, EmbeddedWorld, Problem, parse_recipe
from curiojax.data.worlds.records import write_parquet
from curiojax.errors import ConfigError
from curiojax.evaluation.results import read_evaluations, write_evaluation
from curiojax.evaluation.worlds import evaluate_world
from curiojax.evaluation.wrong_samples import write_jsonl, wrong_samples
from curiojax.models import ModelConfig
from curiojax.reports.quickstart import columns, show
from curiojax.stages import ONLY_IN
from curiojax.training.checkpoint import restore_params
from curiojax.training.compilation import compilation_cache
from curiojax.training.grpo import run_grpo
from curiojax.training.result import Result
from curiojax.training.run_directory import run_directory
from curiojax.training.sft import run_sft

# Of the common part of a comparison's config, what a run of GRPO has no use for.
SFT_ONLY = (*ONLY_IN["sft"], "objective", "data.max_response_tokens")


def run_comparison(config: RunConfig) -> None:
    """Trains every run of `config.compare`, evaluates them and the base, and writes the report."""
    for kind, count in _world(config).prompts.items():
        if count:
            embedded(config).kind(kind)
    keep_freed_memory()
    unsaid = parse_config({"preset": config.preset}).objective
    for field, given in (
        ("model.path", config.model.path),
        ("data.path", config.data.path),
        ("objective", None if config.objective == unsaid else config.objective),
    ):
        if given is not None:
            raise ConfigError(
                f"{field}: the embedded comparison brings its own; to train a real model, give a "
                "config file, e.g. configs/qwen2.5-math-7b/sft.yaml"
            )
    directory = run_directory(config)
    foreign = directory.is_dir() and not any(directory.glob("demonstrations-*.parquet"))
    if foreign and any(directory.iterdir()):
        raise ConfigError(
            f"output_dir: {directory} is not empty and holds no such comparison; choose another"
        )
    runs = {name: member(config, name, directory) for name in config.compare or {}}

    results: dict[str, Result] = {}
    explained: set[str] = set()
    with compilation_cache():  # runs of GRPO differ in the weights that they start from
        for number, (name, run) in enumerate(runs.items(), start=1):
            label = f"{name} ({number} of {len(runs)})"
            results[name] = train(run, name=label, details=run.stage not in explained)
            explained.add(run.stage)
    base = embedded(config).base_model
    known = {"base model": scores_of(config, base, directory / "base", 0)}
    for name, result in results.items():
        last, where = result.metrics[-1], result.directory
        known[name] = {**last, **scores_of(config, where / "hf", where, last["step"])}
    keys = columns(_world(config))
    rows = [[name, *(scores.get(key) for key in keys)] for name, scores in known.items()]

    if jax.process_index() == 0:
        show(config, embedded(config), directory, rows, results)


def train(run: RunConfig, *, name: str, details: bool) -> Result:
    """Trains, or continues, or finds the run finished, whichever its stage."""
    return (run_grpo if run.stage == "grpo" else run_sft)(run, name=name, details=details)


def member(config: RunConfig, name: str, directory: Path) -> RunConfig:
    """The config of one run of the comparison: the common part, its overrides, the world's data.

    `after` among the overrides names the run that this one continues from; `world` changes the data
    that it learns from.

    Raises:
      ConfigError: the overrides make no run, or there is no such run before this one.
    """
    overrides = dict((config.compare or {})[name])
    start = _start(config, name, overrides.pop("after", None))
    drawn = _world(config).model_copy(update=overrides.pop("world", {}))
    config = config.model_copy(update={"world": drawn})
    # What was left unsaid stays unsaid: a default made explicit could contradict an override.
    values = config.model_dump(
        mode="json", exclude_unset=True, exclude={"compare", "preset", "world"}
    )
    learns_from_rewards = overrides.get("stage") == "grpo"
    default = "grpo" if learns_from_rewards else "curio"
    objective = parse_objective({"name": default, **overrides.get("objective", {})})
    if learns_from_rewards:
        values = _without(values, SFT_ONLY) | {"preset": config.preset}
        shown = getattr(objective, "needs_demonstrations", False)
        data = {"path": str(prompts_file(config, directory, with_demonstrations=shown))}
    else:
        data = {"path": str(demonstrations_file(config, directory))}
        if objective.needs_suppressed:
            data["suppressed_path"] = str(wrong_samples_file(config, directory))
    ours = {
        "output_dir": str(folder(directory, name)),
        "model": {"path": str(folder(directory, start) / "hf" if start else base_model(config))},
        "data": data,
    }
    return parse_config(merge(merge(values, overrides), ours))


def folder(directory: Path, name: str) -> Path:
    """The run directory of a run of the comparison."""
    return directory / re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def demonstrations_file(config: RunConfig, directory: Path) -> Path:
    """The expert's demonstrations as a parquet file in the schema of real data."""
    world = _world(config)
    count, recipe = world.num_demonstrations, world.demonstrations.replace(" ", "-")
    path = directory / f"demonstrations-{world.name}-{recipe}-{count}-{config.seed}.parquet"
    if not path.is_file():
        expert, q = parse_recipe(world.demonstrations)
        _write(path, embedded(config).demonstrations(expert, q=q, count=count, seed=config.seed))
    return path


def prompts_file(config: RunConfig, directory: Path, *, with_demonstrations: bool = False) -> Path:
    """Problems for RL, as a parquet file in the schema of real data.

    With demonstrations the ID problems come with one each; the expert shows no hard ones.
    """
    world = _world(config)
    count, share = world.num_prompts, world.hard_share
    kind = f"-{world.demonstrations.replace(' ', '-')}" if with_demonstrations else ""
    path = directory / f"prompts-{world.name}{kind}-{count}-{share}-{config.seed}.parquet"
    if not path.is_file():
        hard, ours = round(count * share), embedded(config)
        easy = count - hard
        if with_demonstrations:
            expert, q = parse_recipe(world.demonstrations)
            first = ours.demonstrations(expert, q=q, count=easy, seed=config.seed)
        else:
            first = ours.training_problems("id", easy, seed=config.seed)
        _write(path, [*first, *ours.training_problems("hard", hard, seed=config.seed)])
    return path


def wrong_samples_file(config: RunConfig, directory: Path) -> Path:
    """What the base model gets wrong, for objectives that unlearn it, as a JSONL file."""
    world, count = embedded(config), _world(config).num_demonstrations
    path = directory / f"wrong-samples-{world.name}-{count}-{config.seed}.jsonl"
    if not path.is_file():
        model, params = models.load_pretrained(base_model(config), dtype=jnp.float32)
        tokenizer = load_tokenizer(str(world.base_model))
        with progress.status("sampling wrong answers of the base model"):
            found = wrong_samples(world, params, model, tokenizer, count=count, seed=config.seed)
        write_jsonl(path, found)
    return path


def scores_of(config: RunConfig, checkpoint: Path, directory: Path, step: int) -> dict[str, Any]:
    """The scores of an exported model, which are kept in the directory of its run."""
    return _kept(config, directory, step, lambda: evaluate(config, checkpoint))


def scores_at(config: RunConfig, directory: Path, step: int, *, last: int) -> dict[str, Any]:
    """The scores of a finished run at one of its checkpoints, which are kept in its directory.

    Args:
      step: one whose checkpoint the run has kept, or `last`, of which there is the export.
    """
    if step == last:
        return scores_of(config, directory / "hf", directory, step)

    def measure() -> dict[str, Any]:
        # As `load_pretrained` lays them out, so that the sampler is not compiled a second time.
        model = models.read_config(directory / "hf")
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=one),
            models.abstract_params(model, jnp.float32),
        )
        params, _ = restore_params(directory / "checkpoints", like, step)
        return score(config, model, params, f"{directory.name}, step {step}")

    return _kept(config, directory, step, measure)


def _kept(
    config: RunConfig, directory: Path, step: int, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What is known of a step, or else what is measured now."""
    known = read_evaluations(directory).get(step)
    if known is not None and is_current(config, known):
        return known
    scores = measure()
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        write_evaluation(directory, step, scores)
    return scores


def is_current(config: RunConfig, scores: Mapping[str, Any]) -> bool:
    """Whether the scores were measured as the config asks."""
    world = _world(config)
    prompts = {f"prompts_{kind}": count for kind, count in world.prompts.items()}
    asked = {"samples": world.samples, "seed": config.seed, **prompts}
    return all(scores.get(key, 0) == value for key, value in asked.items())


def evaluate(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Samples from an exported model on held-out problems."""
    model, params = models.load_pretrained(folder, dtype=jnp.float32)
    name = "base model" if folder == embedded(config).base_model else folder.parent.name
    return score(config, model, params, name)


def score(config: RunConfig, model: ModelConfig, params: Any, name: str) -> dict[str, Any]:
    """Samples from a model on held-out problems; `name` is for the display."""
    asked, world = _world(config), embedded(config)
    with progress.status(f"evaluating {name}"):
        return evaluate_world(
            world,
            params,
            model,
            load_tokenizer(str(world.base_model)),
            prompts=asked.prompts,
            samples=asked.samples,
            seed=config.seed,
        )


def embedded(config: RunConfig) -> EmbeddedWorld:
    """The world that a comparison is made in."""
    return embedded_world(_world(config).name)


def base_model(config: RunConfig) -> Path:
    """What runs start from: `model.path`, which has the world's tokenizer, or the shipped one."""
    return Path(config.model.path) if config.model.path else embedded(config).base_model


def keep_freed_memory() -> None:
    """Lets the C library keep memory for the next step rather than give it back each time.

    By default glibc maps and unmaps every large buffer. A step of a small model is over so soon
    that filling those pages anew took a quarter of its time on a CPU.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        allocator = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        allocator(parameter, value)


def _start(config: RunConfig, name: str, start: Any) -> str | None:
    """The run that `name` starts from; None: the base model."""
    names = list(config.compare or {})
    before = names[: names.index(name)]
    if start is None or start in before:
        return start
    raise ConfigError(
        f"compare.{name}.after: {start!r} is none of the runs before it; "
        + (
            f"name one of {', '.join(map(repr, before))}"
            if before
            else "leave it out, or move the run down"
        )
    )


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`values` without some keys, which are dotted paths."""
    kept = dict(values)
    for key in keys:
        section, _, leaf = key.rpartition(".")
        if not section:
            kept.pop(leaf, None)
        elif section in kept:
            kept[section] = {k: v for k, v in kept[section].items() if k != leaf}
    return kept


def _write(path: Path, items: Sequence[Demonstration | Problem]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another process may write the same file
    write_parquet(temporary, items)
    temporary.replace(path)


def _world(config: RunConfig) -> World:
    if config.world is None:
        raise ConfigError(
            f"compare: needs an embedded world; set world.name to {' or '.join(WORLDS)}"
        )
    return config.world
