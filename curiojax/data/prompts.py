"""The prompts of the RL stage, and which of them a step samples from.

The prompts of step t are a pure function of (data, seed, t), as the records of a supervised step
are: an epoch is a permutation of the prompts, and a step takes the next of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from curiojax.data import encoding, records, templates
from curiojax.data.batches import epoch_order
from curiojax.errors import ConfigError

UNVERIFIABLE = "ground truth that the verifier cannot grade against"
_CHUNK = 256  # prompts tokenised at once
_REFILL = 1 << 32  # keys of the extra draws of a step, away from those of the epochs


@dataclass(frozen=True)
class PromptData:
    """Prompts with what their answers are graded against. Made by `build_prompts`.

    Attributes:
      ids: token ids of each prompt, as rendered by the template.
      messages: the prompts as `{role, content}` turns.
      ground_truths: one text each.
      names: the record's id in the source.
      drops: records left out, counted by reason.
      seed: of the order.
      fingerprint: hash of ids and ground truths; with the seed it decides every step's prompts.
    """

    ids: list[list[int]]
    messages: list[list[templates.Message]]
    ground_truths: list[str]
    names: list[str]
    drops: dict[str, int]
    seed: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)

    def indices(self, step: int, count: int) -> np.ndarray:
        """The prompts of a step, int64 [count]; steps take them epoch by epoch, none left over."""
        if step < 0:
            raise ValueError(f"step must not be negative; it is {step}")
        first = step * count
        epochs = range(first // len(self), (first + count - 1) // len(self) + 1)
        order = np.concatenate([epoch_order(len(self), self.seed, epoch) for epoch in epochs])
        start = first - epochs.start * len(self)
        return order[start : start + count]

    def extra_indices(self, step: int, draw: int, count: int) -> np.ndarray:
        """Further prompts for a step that needs more of them, int64 [count].

        A draw is a function of (seed, step, draw), apart from the epochs' order, so that how many
        draws earlier steps needed does not move the prompts of later ones.
        """
        key = np.asarray([self.seed, _REFILL + (step << 8) + draw], np.uint64)
        words = np.random.Philox(key=key).random_raw(count)
        return (words % np.uint64(len(self))).astype(np.int64)


def build_prompts(
    data_config: Any,
    tokenizer: Any,
    *,
    seed: int,
    gradable: Callable[[list[str]], list[bool]],
    progress: Callable[[int, int], None] | None = None,
) -> PromptData:
    """Reads, checks and tokenises the prompts.

    Args:
      data_config: the `data` section of a run's config.
      tokenizer: a Hugging Face tokenizer.
      seed: of the order of the prompts.
      gradable: for ground truths, whether the verifier can grade against each. A prompt whose
        ground truth it cannot parse would only ever be punished, so it is left out and counted.
      progress: called with (records done, records in all).

    Raises:
      ConfigError: unreadable data, no ground truth anywhere, or nothing left to sample from.
    """
    if not data_config.path:
        raise ConfigError("data.path: not set; give a hub id or a parquet, JSONL or JSON file")
    templates.check_template(data_config.template, tokenizer)
    source = records.load_records(
        data_config.path,
        format=data_config.format,
        split=data_config.split,
        limit=data_config.limit,
        need="ground_truth",
    )
    drops = dict(source.drops)
    ids: list[list[int]] = []
    messages: list[list[templates.Message]] = []
    truths: list[str] = []
    names: list[str] = []

    def drop(reason: str) -> None:
        drops[reason] = drops.get(reason, 0) + 1

    for start in range(0, len(source), _CHUNK):
        chunk = source[start : start + _CHUNK]
        prompts = encoding.encode_prompts(
            data_config.template, [record["prompt"] for record in chunk], tokenizer
        )
        texts = [str(record["ground_truth"]) for record in chunk]
        verifiable = gradable(texts)
        for record, prompt, truth, fine in zip(chunk, prompts, texts, verifiable, strict=True):
            if not prompt:
                drop(encoding.EMPTY_PROMPT)
            elif len(prompt) > data_config.max_prompt_tokens:
                drop(encoding.PROMPT_TOO_LONG)
            elif not fine:
                drop(UNVERIFIABLE)
            else:
                ids.append(prompt)
                messages.append(record["prompt"])
                truths.append(truth)
                names.append(record["id"])
        if progress is not None:
            progress(min(start + _CHUNK, len(source)), len(source))
    if not ids:
        raise ConfigError(_nothing_left(data_config.path, source.num_rows, drops))
    digest = hashlib.sha256(json.dumps([ids, truths]).encode("utf-8", "surrogatepass"))
    return PromptData(ids, messages, truths, names, drops, seed, digest.hexdigest())


def _nothing_left(path: str, num_rows: int, drops: dict[str, int]) -> str:
    worst = max(drops, key=lambda reason: drops[reason]) if drops else "no record"
    remedy = {
        encoding.PROMPT_TOO_LONG: "raise data.max_prompt_tokens",
        UNVERIFIABLE: "choose another reward.verifier",
    }.get(worst, "the RL stage needs a column such as reward_model.ground_truth or answer")
    return (
        f"data.path: none of the {num_rows} records of {path} can be sampled from, most of them "
        f"for one reason: {worst} ({drops.get(worst, 0)}); {remedy}"
    )
