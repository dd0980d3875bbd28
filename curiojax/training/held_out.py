"""Held-out questions that are answered during training: the run's accuracy and entropy by step.

Nothing here touches what the run learns: the draws have seeds of their own, the same at every step,
and the weights are only read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from curiojax.config import RunConfig
from curiojax.evaluation.entropy import measure
from curiojax.evaluation.generation import encode_questions, fits, number
from curiojax.evaluation.perplexity import Tokens
from curiojax.evaluation.questions import Benchmark, Sample, Verdict
from curiojax.models import ModelConfig
from curiojax.rewards.pool import Grade, Item, RewardPool
from curiojax.rollout.base import Completion, Rollout, Sampling
from curiojax.rollout.sampler import JaxSampler
from curiojax.training.held_out_metrics import held_out_metrics
from curiojax.training.memory import SamplerCall
from curiojax.training.recipe import Recipe
from curiojax.training.rounds import Grader, stop_ids


class Answer(NamedTuple):
    """A completion on its way to its grade."""

    completion: Completion
    text: str
    grade: Future[Grade]


def prepare(
    config: RunConfig,
    benchmarks: Sequence[Benchmark],
    grader: RewardPool | None,
    tokenizer: Any,
    model: ModelConfig,
) -> HeldOut | None:
    """The questions of a run, ready to be asked; None where there are none."""
    if not benchmarks or grader is None:
        return None
    return HeldOut(config, benchmarks, grader, tokenizer, model.max_position_embeddings)


class Part(NamedTuple):
    """A benchmark, and its prompts in the order of its questions."""

    benchmark: Benchmark
    prompts: list[list[int]]


class HeldOut:
    """Answers to the questions, by whatever engine has the run's weights.

    Args:
      benchmarks: with the questions that are asked.
      grader: knows their verifiers.
      context: the model's positions. A question whose prompt leaves no room for a whole response
        counts as wrong.
    """

    def __init__(
        self,
        config: RunConfig,
        benchmarks: Sequence[Benchmark],
        grader: Grader,
        tokenizer: Any,
        context: int,
    ):
        section = config.evaluation
        self._config, self._grader, self._tokenizer = config, grader, tokenizer
        self._every, self._context = section.every or 0, context
        self._sampling = Sampling(
            max_tokens=section.max_response_tokens or config.max_response_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            stop_ids=stop_ids(config, tokenizer),
            n=section.samples,
            log_probs=False,
        )
        self._parts = []
        for benchmark in benchmarks:
            prompts = encode_questions(benchmark, config.data.template, tokenizer)
            self._parts.append(Part(benchmark, [prompts[q.id] for q in benchmark.questions]))

    @property
    def call(self) -> SamplerCall:
        """The largest call of `generate`."""
        lengths = [
            len(prompt) for part in self._parts for prompt in part.prompts if self._fits(prompt)
        ]
        return SamplerCall(
            rows=self._config.evaluation.batch_size,
            completions=max(len(part.prompts) for part in self._parts) * self._sampling.n,
            longest_prompt=max(lengths, default=1),
            max_tokens=self._sampling.max_tokens,
        )

    def is_due(self, step: int, last: int) -> bool:
        """Whether to evaluate after a step, 0 being before the first one."""
        return step % self._every == 0 or step == last

    def evaluate(
        self,
        engine: Rollout | None,
        recipe: Recipe,
        params: Any,
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """What the answers are like: see `held_out_metrics`; and the `eval_seconds` that it took.

        Args:
          engine: holds the weights `params`; None: a sampler is made for them, and let go.
          progress: told how far it is whenever a question is through.
        """
        began = time.perf_counter()
        if engine is None:
            slots = self._config.evaluation.batch_size
            sampler = JaxSampler(params, recipe.model, num_slots=slots, mesh=recipe.mesh)
            with contextlib.closing(sampler):
                found = self._ask(sampler, recipe, params, progress)
        else:
            found = self._ask(engine, recipe, params, progress)
        return {**held_out_metrics(found), "eval_seconds": time.perf_counter() - began}

    def _ask(
        self,
        engine: Rollout,
        recipe: Recipe,
        params: Any,
        progress: Callable[[str], None] | None,
    ) -> list[tuple[Benchmark, list[list[Sample]]]]:
        found = []
        for part in self._parts:
            answers = self._answer(part, engine, progress)
            found.append((part.benchmark, self._samples(part, answers, recipe, params)))
        return found

    def _answer(
        self, part: Part, engine: Rollout, progress: Callable[[str], None] | None
    ) -> dict[int, list[Answer]]:
        """By index of the question; questions that do not fit are not in it."""
        questions, verifier = part.benchmark.questions, part.benchmark.verifier
        asked = [i for i, prompt in enumerate(part.prompts) if self._fits(prompt)]
        answers: dict[int, list[Answer]] = {}

        def on_group(position: int, completions: list[Completion]) -> None:
            truth = questions[asked[position]].ground_truth
            tokens = [completion.tokens for completion in completions]
            texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
            answers[asked[position]] = [
                Answer(
                    c,
                    text,
                    self._grader.submit(
                        Item(text, truth, c.finish_reason == "stop", verifier, "none")
                    ),
                )
                for c, text in zip(completions, texts, strict=True)
            ]
            if progress is not None:
                progress(f"{part.benchmark.name} {len(answers)}/{len(asked)}")

        if asked:
            engine.generate(
                [part.prompts[i] for i in asked],
                self._sampling,
                number(f"{self._config.evaluation.seed}/{part.benchmark.name}"),
                on_group=on_group,
                keys=[number(questions[i].id) for i in asked],
            )
        return answers

    def _fits(self, prompt: Sequence[int]) -> bool:
        return fits(prompt, self._sampling.max_tokens, self._context)

    def _samples(
        self, part: Part, answers: Mapping[int, Sequence[Answer]], recipe: Recipe, params: Any
    ) -> list[list[Sample]]:
        """The graded answers to all questions of a benchmark."""
        entropies = _entropies(part, answers, recipe, params)
        unasked = [Sample("", [], "prompt_too_long", [], {})] * self._sampling.n
        samples = []
        for index in range(len(part.prompts)):
            row = []
            for sample, (completion, text, future) in enumerate(answers.get(index, ())):
                grade = future.result()
                verdict = Verdict(grade.correct, grade.status, grade.extracted)
                row.append(
                    Sample(
                        text,
                        completion.tokens,
                        completion.finish_reason,
                        entropies[index, sample],
                        {part.benchmark.verifier: verdict},
                    )
                )
            samples.append(row or unasked)
        return samples


def _entropies(
    part: Part, answers: Mapping[int, Sequence[Answer]], recipe: Recipe, params: Any
) -> dict[tuple[int, int], list[float]]:
    """By question and sample; by a pass of the trainer's model where the engine has none."""
    completions = {(i, j): a.completion for i, row in answers.items() for j, a in enumerate(row)}
    known = {at: c.entropies for at, c in completions.items() if c.entropies is not None}
    if len(known) == len(completions):
        return known
    texts = _InMemory(
        {
            f"{i}/{j}": Tokens(
                np.asarray([*part.prompts[i], *c.tokens], np.int32), len(part.prompts[i])
            )
            for (i, j), c in completions.items()
        }
    )
    measure(
        params,
        recipe.model,
        texts,
        recipe.mesh,
        batch_tokens=recipe.config.rows_per_microbatch * recipe.config.row_length,
        chunk_tokens=recipe.config.loss.chunk_tokens,
    )
    return {(i, j): texts.entropies[f"{i}/{j}"] for i, j in completions}


class _InMemory:
    """`curiojax.evaluation.entropy.Texts` for one use."""

    def __init__(self, texts: Mapping[str, Tokens]):
        self.texts = texts
        self.entropies: dict[str, list[float]] = {}

    @property
    def known(self) -> np.ndarray:
        return np.zeros(len(self.texts), bool)

    def append(self, found: Mapping[str, tuple[list[float], list[float]]]) -> None:
        self.entropies |= {name: entropies for name, (entropies, _) in found.items()}
