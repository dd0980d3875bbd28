"""Evaluation in an embedded world: accuracy, pass@k and entropy on held-out problems.

Two scores are kept apart. *Strict* is the reward: the right answer in the asked format, and the end
of the sequence. *Search* judges the way to the answer and ignores what follows it, so it also
measures a model that has not learnt the answer format, such as the base model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curiojax.data.worlds.interface import EmbeddedWorld, Problem
from curiojax.evaluation.estimators import bootstrap_standard_error, mean_pass_at_k, pass_at_k
from curiojax.evaluation.world_verdicts import Response, Verdict, judge
from curiojax.rollout import Completion, sample

if TYPE_CHECKING:
    from curiojax.models import ModelConfig


def evaluate_world(
    world: EmbeddedWorld,
    params: Any,
    model_config: ModelConfig,
    tokenizer: Any = None,
    *,
    prompts: Mapping[str, int],
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Samples answers to held-out problems and grades them.

    The problems, and the noise of every sample, depend only on the arguments, so two models are
    compared on the same draws.

    Args:
      world: the world.
      params, model_config: the model.
      tokenizer: its tokenizer; None: that of the shipped base model.
      prompts: how many problems of which kind, e.g. {"id": 256, "hard": 256}; 0 leaves a kind out.
      samples: responses per problem.
      temperature: of the sampling. Entropies are those of the distribution at temperature 1.
      seed: of the choice of problems and of the sampling.
      batch_size: responses sampled at once.
      progress: as `curiojax.rollout.sampler.sample` takes it; called for each kind of problem.

    Returns:
      For each kind, here `id`: `id_pass1`, `id_pass<samples>`: strict; the same names with
      `search_` in front; `<name>_se` for the strict ones: bootstrap standard error over problems;
      `id_failures`: how often each fault came first; `prompts_id`. Besides `entropy`: mean over the
      generated tokens on ID problems, nats; `samples`, `temperature`, `seed`: as given.

    Raises:
      ConfigError: the world has no such kind, or fewer problems of it.
    """
    tokenizer = world_tokenizer(world.base_model) if tokenizer is None else tokenizer
    counts = {name: count for name, count in prompts.items() if count}
    drawn = {name: world.evaluation_problems(name, n, seed=seed) for name, n in counts.items()}
    result: dict[str, Any] = {}
    for name, problems in drawn.items():
        completions = sample_problems(
            params,
            model_config,
            tokenizer,
            problems,
            max_new_tokens=world.kind(name).response_tokens,
            samples=samples,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        result |= _scores(name, grade(world, tokenizer, problems, completions), samples)
        if name == "id":
            entropies = [e for row in completions for c in row for e in c.entropies or ()]
            result["entropy"] = float(np.mean(entropies))
    return result | {
        "samples": samples,
        **{f"prompts_{name}": count for name, count in counts.items()},
        "temperature": temperature,
        "seed": seed,
    }


def sample_problems(
    params: Any,
    model_config: ModelConfig,
    tokenizer: Any,
    problems: Sequence[Problem],
    *,
    max_new_tokens: int,
    samples: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Callable[..., None] | None = None,
) -> list[list[Completion]]:
    """Samples responses of at most the tokens that a right one of that kind may have."""
    return sample(
        params,
        model_config,
        [tokenizer(problem.prompt).input_ids for problem in problems],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop_ids=(tokenizer.eos_token_id,),
        samples_per_prompt=samples,
        batch_size=batch_size,
        progress=progress,
    )


def grade(
    world: EmbeddedWorld,
    tokenizer: Any,
    problems: Sequence[Problem],
    completions: Sequence[Sequence[Completion]],
) -> list[list[Verdict]]:
    """The verdict on every completion of every problem."""
    texts = tokenizer.batch_decode(
        [c.tokens for row in completions for c in row], skip_special_tokens=True
    )
    decoded = iter(texts)
    responses = [
        Response(next(decoded), problem, completion.finish_reason == "stop")
        for problem, row in zip(problems, completions, strict=True)
        for completion in row
    ]
    verdicts = iter(judge(world, responses))
    return [[next(verdicts) for _ in row] for row in completions]


@cache
def world_tokenizer(base_model: Path) -> Any:
    """The tokenizer of a world, from its shipped base model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


def _scores(kind: str, verdicts: Sequence[Sequence[Verdict]], samples: int) -> dict[str, Any]:
    strict = np.asarray([[v.correct for v in row] for row in verdicts])
    search = np.asarray([[v.search_correct for v in row] for row in verdicts])
    faults = Counter(v.failure for row in verdicts for v in row if v.failure)
    scores: dict[str, Any] = {f"{kind}_failures": dict(faults.most_common())}
    for k in sorted({1, samples}):
        scores[f"{kind}_pass{k}"] = mean_pass_at_k(strict, k)
        scores[f"search_{kind}_pass{k}"] = mean_pass_at_k(search, k)
        per_problem = pass_at_k(samples, strict.sum(axis=1), k)
        scores[f"{kind}_pass{k}_se"] = bootstrap_standard_error(per_problem)
    return scores
