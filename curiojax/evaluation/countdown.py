"""Evaluation on the Countdown world: accuracy, pass@k and entropy on held-out problems.

Two scores are kept apart. *Strict* is the reward: legal steps to the target, then exactly
`END BOX x` and the end of the sequence. *Search* ignores what follows the steps, so it also
measures a model that has not learnt the answer format, such as the base model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from curiojax.data.worlds.countdown import RESPONSE_TOKENS, Kind, Problem
from curiojax.data.worlds.demonstrations import evaluation_problems
from curiojax.evaluation.estimators import bootstrap_standard_error, mean_pass_at_k, pass_at_k
from curiojax.rewards.countdown import Verdict, verify
from curiojax.rollout import Completion, sample

if TYPE_CHECKING:
    from curiojax.models import ModelConfig


def evaluate_countdown(
    params: Any,
    model_config: ModelConfig,
    tokenizer: Any = None,
    *,
    prompts_id: int = 256,
    prompts_hard: int = 256,
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
      params, model_config: the model.
      tokenizer: its tokenizer; None: the shipped one.
      prompts_id, prompts_hard: number of problems that + and - suffice for, and that need * or /.
      samples: responses per problem.
      temperature: of the sampling. Entropies are those of the distribution at temperature 1.
      seed: of the choice of problems and of the sampling.
      batch_size: responses sampled at once.
      progress: as `curiojax.rollout.sampler.sample` takes it; called for each kind of problem.

    Returns:
      `id_pass1`, `id_pass<samples>`, `hard_pass1`, `hard_pass<samples>`: strict; the same names
      with `search_` in front: format ignored; `<name>_se` for the strict ones: bootstrap standard
      error over problems; `entropy`: mean over the generated tokens on ID problems, nats;
      `id_failures`, `hard_failures`: how often each fault came first; `samples`, `prompts_id`,
      `prompts_hard`, `temperature`, `seed`: as given.
    """
    tokenizer = base_tokenizer() if tokenizer is None else tokenizer
    result: dict[str, Any] = {}
    kinds: tuple[tuple[Kind, int], ...] = (("id", prompts_id), ("hard", prompts_hard))
    for kind, count in kinds:
        problems = evaluation_problems(kind, count, seed=seed)
        completions = sample_problems(
            params,
            model_config,
            tokenizer,
            problems,
            samples=samples,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        verdicts = grade(tokenizer, problems, completions)
        result |= _scores(kind, verdicts, samples)
        if kind == "id":
            entropies = [e for row in completions for c in row for e in c.entropies or ()]
            result["entropy"] = float(np.mean(entropies))
    return result | {
        "samples": samples,
        "prompts_id": prompts_id,
        "prompts_hard": prompts_hard,
        "temperature": temperature,
        "seed": seed,
    }


def sample_problems(
    params: Any,
    model_config: ModelConfig,
    tokenizer: Any,
    problems: Sequence[Problem],
    *,
    samples: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Callable[..., None] | None = None,
) -> list[list[Completion]]:
    """Samples responses of at most the 13 tokens that a right one has."""
    return sample(
        params,
        model_config,
        [tokenizer(problem.prompt).input_ids for problem in problems],
        max_new_tokens=RESPONSE_TOKENS,
        temperature=temperature,
        seed=seed,
        stop_ids=(tokenizer.eos_token_id,),
        samples_per_prompt=samples,
        batch_size=batch_size,
        progress=progress,
    )


def grade(
    tokenizer: Any, problems: Sequence[Problem], completions: Sequence[Sequence[Completion]]
) -> list[list[Verdict]]:
    """The verdict on every completion of every problem."""
    texts = tokenizer.batch_decode(
        [c.tokens for row in completions for c in row], skip_special_tokens=True
    )
    decoded = iter(texts)
    return [
        [verify(next(decoded), p.prompt, finished=c.finish_reason == "stop") for c in row]
        for p, row in zip(problems, completions, strict=True)
    ]


@cache
def base_tokenizer() -> Any:
    """The Countdown tokenizer, from the shipped base model."""
    from transformers import AutoTokenizer

    from curiojax.data.worlds import BASE_MODEL

    return AutoTokenizer.from_pretrained(BASE_MODEL)


def _scores(kind: Kind, verdicts: Sequence[Sequence[Verdict]], samples: int) -> dict[str, Any]:
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
