"""One round of sampling: prompts to graded completions, written down before anything is learnt.

Completions are graded while others are still being generated. A round is a pure function of the
weights, the data, the seed and the step, so a run that was killed makes the same rounds again.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.losses import groups_with_signal, handle_overlong
from curiojax.rewards.pool import Grade, Item
from curiojax.rollout.base import Completion, Rollout, Sampling
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
      completions, grades: one each, by sample index.
    """

    prompt: int
    completions: list[Completion]
    grades: list[Grade]

    @property
    def rewards(self) -> list[float]:
        return [grade.reward for grade in self.grades]

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
            groups, seconds = self._sample(indices, step, draw, progress)
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
        draw: int,
        progress: Callable[[str], None] | None,
    ) -> tuple[list[Group], tuple[float, float]]:
        ids = [self._prompts.ids[i] for i in indices]
        pending: dict[int, list[Future[Grade]]] = {}
        start = time.perf_counter()

        def on_group(position: int, completions: list[Completion]) -> None:
            truth = self._prompts.ground_truths[indices[position]]
            pending[position] = [
                self._grader.submit(Item(text, truth, finished=c.finish_reason == "stop"))
                for c, text in zip(completions, self.texts(completions), strict=True)
            ]
            if progress is not None:
                progress(f"{len(pending)}/{len(ids)}")

        seed = round_seed(self._config.seed, step, draw)
        completions = self._engine.generate(ids, self._sampling, seed, on_group=on_group)
        generated = time.perf_counter()
        groups = [
            Group(int(index), completions[i], [future.result() for future in pending[i]])
            for i, index in enumerate(indices)
        ]
        return groups, (generated - start, time.perf_counter() - generated)

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


# ---- on disk -------------------------------------------------------------------------------------


def round_path(directory: Path, step: int) -> Path:
    """Where the round of a step (from 0) is kept; numbered from 1, as in metrics.jsonl."""
    return directory / "rollouts" / f"step_{step + 1:06d}.jsonl.zst"


def write_round(
    path: Path, found: Round, prompts: PromptData, texts: Sequence[Sequence[str]]
) -> None:
    """Writes one JSON object per completion, compressed; appears under its name when whole.

    Each holds `id` (the record's), `messages` (the prompt), `sample`, `text`, `tokens`,
    `log_probs`, `finish_reason`, `version`, the parts of the reward and `ground_truth`.
    """
    import zstandard

    buffer = io.StringIO()
    for group, group_texts in zip(found.groups, texts, strict=True):
        rows = zip(group.completions, group.grades, group_texts, strict=True)
        for sample, (completion, grade, text) in enumerate(rows):
            line = {
                "id": prompts.names[group.prompt],
                "prompt_index": group.prompt,
                "messages": prompts.messages[group.prompt],
                "sample": sample,
                "text": text,
                **grade._asdict(),
                "finish_reason": completion.finish_reason,
                "ground_truth": prompts.ground_truths[group.prompt],
                "version": completion.version,
                "tokens": completion.tokens,
                "log_probs": completion.log_probs,
            }
            buffer.write(json.dumps(line, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    data = buffer.getvalue().encode("utf-8", "surrogatepass")
    temporary.write_bytes(zstandard.ZstdCompressor().compress(data))
    temporary.replace(path)


def read_round(path: Path, *, sampled: int | None = None) -> Round | None:
    """What `write_round` wrote; None if there is no such file, or it is not whole."""
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
        text = data.decode("utf-8", "surrogatepass")
        lines = [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError, zstandard.ZstdError):
        return None
    groups: list[Group] = []
    for line in lines:
        if line["sample"] == 0:
            groups.append(Group(line["prompt_index"], [], []))
        group = groups[-1]
        keys = ("tokens", "log_probs", "finish_reason", "version")
        group.completions.append(Completion(**{key: line[key] for key in keys}))
        group.grades.append(Grade(**{key: line[key] for key in Grade._fields}))
    if not groups:
        return None
    return Round(groups, groups[0].completions[0].version, sampled or len(groups))


def forget_rounds(directory: Path, keep: int | None, step: int) -> None:
    """Deletes the rounds that are older than the last `keep` steps; None keeps all."""
    if keep is None:
        return
    for path in (directory / "rollouts").glob("step_*.jsonl.zst"):
        number = path.name.removeprefix("step_").split(".")[0]
        if number.isdigit() and int(number) <= step + 1 - keep:
            path.unlink(missing_ok=True)
