"""One round of sampling: prompts to graded completions, written down before anything is learnt.

Completions are graded while others are still being generated. A round is a pure function of the
weights, the data, the seed and the step, so a run that was killed makes the same rounds again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.losses import groups_with_signal, handle_overlong
from curiojax.rewards.pool import Grade, Item
from curiojax.rollout.base import Completion, Rollout, Sampling
from curiojax.training.asks import asks_of, continued, keywords_of
from curiojax.training.setup import say

# Extra draws of prompts in a step of dynamic sampling, after which it makes do with what it has.
MAX_DRAWS = 10


class Grader(Protocol):
    """The part of `curiojax.rewards.pool.RewardPool` that is needed here."""

    def submit(self, item: Item) -> Future[Grade]: ...


class Group(NamedTuple):
    """All completions of one prompt.

    Attributes:
      prompt: index of the prompt in the data.
      completions, grades: one each, by sample index; a demonstration is the last of them.
      given: of each completion, how many of its first tokens were given: 0 for the policy's own,
        all for a demonstration.
    """

    prompt: int
    completions: list[Completion]
    grades: list[Grade]
    given: list[int]

    @property
    def rewards(self) -> list[float]:
        return [grade.reward for grade in self.grades]

    @property
    def has_demonstration(self) -> bool:
        return 0 < self.given[-1] == len(self.completions[-1].tokens)

    @property
    def own(self) -> list[int]:
        """Sample indices of the completions that the policy drew from the first token on."""
        return [index for index, given in enumerate(self.given) if not given]

    @property
    def truncated(self) -> list[bool]:
        return [c.finish_reason == "length" for c in self.completions]


class Round(NamedTuple):
    """The graded completions of a step.

    Attributes:
      groups: `prompts_per_step` of them.
      version: number of the step whose weights they were sampled with.
      sampled: groups that were sampled for it; more than there are with dynamic sampling.
      generate_seconds: wall time of the sampling, grading that went on beside it included.
      grade_seconds: wall time spent waiting for grades after the last completion.
    """

    groups: list[Group]
    version: int
    sampled: int
    generate_seconds: float = 0.0
    grade_seconds: float = 0.0


class Collector:
    """Makes the rounds of a run.

    Args:
      config: the run.
      prompts: what is sampled from.
      engine: what samples.
      grader: what grades.
      tokenizer: turns completions into texts.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: PromptData,
        engine: Rollout,
        grader: Grader,
        tokenizer: Any,
    ):
        self._config, self._prompts = config, prompts
        self._engine, self._grader, self._tokenizer = engine, grader, tokenizer
        section = config.rollout
        self._sampling = Sampling(
            max_tokens=section.max_response_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            top_k=section.top_k,
            min_tokens=section.min_tokens,
            stop_ids=stop_ids(config, tokenizer),
            n=config.rollouts_per_prompt,
        )

    def collect(
        self, step: int, version: int, progress: Callable[[str], None] | None = None
    ) -> Round:
        """Samples and grades the round of a step, with the weights that the engine holds.

        Args:
          step: from 0.
          version: of these weights: the number of steps that made them.
          progress: told how far it is whenever a prompt is through.
        """
        config, wanted = self._config, self._config.prompts_per_step
        dynamic = config.objective.dynamic_sampling  # type: ignore[union-attr]
        chosen, spare, sampled = [], [], 0
        generating = grading = 0.0
        for draw in range(MAX_DRAWS if dynamic else 1):
            missing = wanted - len(chosen)
            if draw == 0:
                indices = self._prompts.indices(step, wanted)
            else:
                # A quarter of a step at least: many small calls would leave the engine idle.
                indices = self._prompts.extra_indices(step, draw, max(missing, wanted // 4))
            groups, seconds = self._sample(indices, step, version, draw, progress)
            generating, grading = generating + seconds[0], grading + seconds[1]
            sampled += len(groups)
            for group in groups:
                (chosen if not dynamic or self._teaches(group) else spare).append(group)
            if len(chosen) >= wanted:
                break
        if len(chosen) < wanted:
            say(
                f"warning: step {step + 1}: only {len(chosen)} of {sampled} groups have rewards "
                "that differ; the update takes in others, which teach nothing"
            )
        return Round((chosen + spare)[:wanted], version, sampled, generating, grading)

    def _teaches(self, group: Group) -> bool:
        mode = self._config.objective.overlong  # type: ignore[union-attr]
        rewards, kept = handle_overlong(mode, [group.rewards], [group.truncated])
        return bool(groups_with_signal(rewards, kept)[0])

    def _sample(
        self,
        indices: Sequence[int] | np.ndarray,
        step: int,
        version: int,
        draw: int,
        progress: Callable[[str], None] | None,
    ) -> tuple[list[Group], tuple[float, float]]:
        asks = asks_of(self._config, self._prompts, indices, step)
        graded: dict[int, list[tuple[Completion, int, Future[Grade]]]] = {}
        open_asks = Counter(ask.position for ask in asks)
        start = time.perf_counter()

        def on_group(index: int, drawn: list[Completion]) -> None:
            ask = asks[index]
            prompt = int(indices[ask.position])
            completions = [continued(ask.given, completion) for completion in drawn]
            shown = [] if ask.given else self._demonstration(prompt, version)
            given = [len(ask.given)] * len(drawn) + [len(c.tokens) for c in shown]
            completions += shown
            truth = self._prompts.ground_truths[prompt]
            graded[index] = [
                (c, k, self._grader.submit(Item(text, truth, finished=c.finish_reason == "stop")))
                for c, k, text in zip(completions, given, self.texts(completions), strict=True)
            ]
            open_asks[ask.position] -= 1
            if progress is not None and not open_asks[ask.position]:
                through = sum(not count for count in open_asks.values())
                progress(f"{through}/{len(indices)}")

        seed, sampling = round_seed(self._config.seed, step, draw), self._sampling
        ids = [[*self._prompts.ids[indices[ask.position]], *ask.given] for ask in asks]
        self._engine.generate(ids, sampling, seed, on_group=on_group, **keywords_of(asks, sampling))
        generated = time.perf_counter()
        members: list[list[tuple[Completion, int, Grade]]] = [[] for _ in indices]
        for index, ask in enumerate(asks):
            members[ask.position] += [(c, k, grade.result()) for c, k, grade in graded[index]]
        groups = [
            Group(
                int(prompt),
                [completion for completion, _, _ in rows],
                [grade for _, _, grade in rows],
                [given for _, given, _ in rows],
            )
            for prompt, rows in zip(indices, members, strict=True)
        ]
        return groups, (generated - start, time.perf_counter() - generated)

    def _demonstration(self, prompt: int, version: int) -> list[Completion]:
        """That of a prompt as a completion, where it has one and the objective takes it whole."""
        tokens, objective = self._prompts.demonstration(prompt), cast(Any, self._config.objective)
        if tokens is None or not objective.needs_demonstrations:
            return []
        if objective.continues_demonstrations:
            return []
        reason = "stop" if tokens[-1] in self._sampling.stop_ids else "length"
        return [Completion(list(tokens), [0.0] * len(tokens), reason, version)]

    def texts(self, completions: Sequence[Completion]) -> list[str]:
        """The completions as the verifier reads them: without special tokens."""
        return self._tokenizer.batch_decode(
            [c.tokens for c in completions], skip_special_tokens=True
        )


def stop_ids(config: RunConfig, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end-of-sequence token and those of the config."""
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *config.rollout.stop_token_ids]))


def round_seed(seed: int, step: int, draw: int) -> int:
    """Seed of the sampling of one draw of one step, in [0, 2^31)."""
    return int(np.random.SeedSequence([seed, step, draw]).generate_state(1)[0] >> 1)
