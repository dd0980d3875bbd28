"""One run: trained, evaluated, and written down as done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from curiojax import models, quickstart
from curiojax.config import RunConfig
from curiojax.data.tokenizer import load_tokenizer
from curiojax.evaluation.diversity import text_diversity
from curiojax.evaluation.worlds import evaluate_world, sample_problems
from curiojax.folders import write_text
from reproduction.plan import BASE, VANILLA, Run, configured
from reproduction.records import DONE, EXTRAS

TEMPERATURES = (1.15, 1.3)  # of the decoding control
DIVERSITY_PROMPTS = 64


def perform(run: Run, config: RunConfig, output: Path) -> None:
    """Trains and evaluates what is missing of a run; the record that it is done comes last."""
    began = time.monotonic()
    ours = configured(config, run.demonstrations or None, run.seed)
    directory = output / run.directory
    folder = output / run.folder
    record: dict[str, Any] = {"settings": run.settings}
    if run.name == BASE:
        checkpoint, step = quickstart.base_model(ours), 0
        quickstart.scores_of(ours, checkpoint, directory, step)
    else:
        member = quickstart.member(ours, run.name, folder)
        checkpoint = directory / "hf"
        result = quickstart.train(member, name=run.name, details=False)
        record["train_seconds"] = round(time.monotonic() - began, 2)
        step = result.metrics[-1]["step"]
        every = member.checkpoint.keep_every or step
        for at in (*range(every, step, every), step):
            quickstart.scores_at(ours, directory, at, last=step)
    extras = _extras(run, ours, checkpoint, step)
    write_text(directory / EXTRAS, json.dumps(extras, indent=1))
    record |= {"step": step, "seconds": round(time.monotonic() - began, 2)}
    write_text(directory / DONE, json.dumps(record, indent=1))


def _extras(run: Run, config: RunConfig, checkpoint: Path, step: int) -> dict[str, Any]:
    """How different a model's samples are; of plain SFT also what hotter decoding gives."""
    model, params = models.load_pretrained(checkpoint, dtype=jnp.float32)
    assert config.world is not None
    world = quickstart.embedded(config)
    tokenizer = load_tokenizer(str(world.base_model))
    count = min(DIVERSITY_PROMPTS, config.world.id_prompts)
    completions = sample_problems(
        params,
        model,
        tokenizer,
        world.evaluation_problems("id", count, seed=config.seed),
        max_new_tokens=world.kind("id").response_tokens,
        samples=config.world.samples,
        seed=config.seed,
    )
    tokens = [[completion.tokens for completion in row] for row in completions]
    texts = [tokenizer.batch_decode(row) for row in tokens]
    extras: dict[str, Any] = {"diversity": text_diversity(tokens, texts)}
    if run.name == VANILLA:
        extras["decoding"] = {
            str(temperature): evaluate_world(
                world,
                params,
                model,
                tokenizer,
                prompts=config.world.prompts,
                samples=config.world.samples,
                temperature=temperature,
                seed=config.seed,
            )
            for temperature in TEMPERATURES
        }
    return extras
