"""The prompts of the RL stage, and which of them a step samples from.

The prompts of step t are a pure function of (data, seed, t), as the records of a supervised step
are: an epoch is a permutation of the prompts, and a step takes the next of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curiojax.data import encoding, records, templates
from curiojax.data.batches import epoch_order
from curiojax.errors import ConfigError

UNVERIFIABLE = "ground truth that the verifier cannot grade against"
# These keep their prompt.
MISSING = "demonstration missing (the prompt is kept)"
TOO_LONG = "demonstration too long (the prompt is kept)"
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
      fingerprint: hash of ids and ground truths (and demonstrations); with the seed it decides
        every step's prompts.
      demonstrations: of each prompt the token ids of the record's response, encoded as the
        supervised stage does, or None where it has none; empty where none were asked for.
    """

    ids: list[list[int]]
    messages: list[list[templates.Message]]
    ground_truths: list[str]
    names: list[str]
    drops: dict[str, int]
    seed: int
    fingerprint: str
    demonstrations: list[list[int] | None] = field(default_factory=list)

    @property
    def num_demonstrations(self) -> int:
        """Prompts with a demonstration."""
        return sum(found is not None for found in self.demonstrations)

    def demonstration(self, prompt: int) -> list[int] | None:
        """That of a prompt, if it has one."""
        return self.demonstrations[prompt] if self.demonstrations else None

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
    demonstration_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PromptData:
    """Reads, checks and tokenises the prompts.

    Args:
      data_config: the `data` section of a run's config.
      tokenizer: a Hugging Face tokenizer.
      seed: of the order of the prompts.
      gradable: for ground truths, whether the verifier can grade against each. A prompt whose
        ground truth it cannot parse would only ever be punished, so it is left out and counted.
      demonstration_tokens: longest demonstration, its end-of-sequence token included; what becomes
        of a longer one is `data.overlong`'s to say, and its prompt stays. None: they are not read.
      progress: called with (records done, records in all).

    Raises:
      ConfigError: unreadable data, no ground truth anywhere, nothing left to sample from, or not
        one demonstration where they are asked for.
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
    demonstrations: list[list[int] | None] = []
    encoder = _demonstration_encoder(data_config, tokenizer, demonstration_tokens)

    def drop(reason: str) -> None:
        drops[reason] = drops.get(reason, 0) + 1

    for start in range(0, len(source), _CHUNK):
        chunk = source[start : start + _CHUNK]
        prompts = encoding.encode_prompts(
            data_config.template, [record["prompt"] for record in chunk], tokenizer
        )
        texts = [str(record["ground_truth"]) for record in chunk]
        verifiable = gradable(texts)
        responses = [None] * len(chunk) if encoder is None else _responses(encoder, chunk)
        rows = zip(chunk, prompts, texts, verifiable, responses, strict=True)
        for record, prompt, truth, fine, response in rows:
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
                demonstrations.append(response)
                if encoder is not None and response is None:
                    drop(TOO_LONG if record["response"].strip() else MISSING)
        if progress is not None:
            progress(min(start + _CHUNK, len(source)), len(source))
    if not ids:
        raise ConfigError(_nothing_left(data_config.path, source.num_rows, drops))
    if encoder is None:
        demonstrations = []
    elif not any(demonstrations):
        raise ConfigError(
            f"data.path: none of the {len(ids)} prompts of {data_config.path} has a demonstration "
            f"of at most {demonstration_tokens} tokens, which this objective learns from; give "
            "data with responses (a column such as target), or set objective.name=grpo"
        )
    hashed = [ids, truths, *([demonstrations] if encoder else [])]
    digest = hashlib.sha256(json.dumps(hashed).encode("utf-8", "surrogatepass")).hexdigest()
    return PromptData(ids, messages, truths, names, drops, seed, digest, demonstrations)


def _demonstration_encoder(
    data_config: Any, tokenizer: Any, longest: int | None
) -> encoding.Encoder | None:
    if longest is None:
        return None
    encoder = encoding.Encoder(
        tokenizer,
        data_config.template,
        data_config.max_prompt_tokens,
        longest,
        data_config.overlong,
        limit_field="rollout.max_response_tokens",
    )
    encoder.check()
    return encoder


def _responses(encoder: encoding.Encoder, chunk: list[dict[str, Any]]) -> list[list[int] | None]:
    """The token ids of the records' responses; None where there is none, or none that fits."""
    encoded = encoder(chunk)
    if encoded.error:
        raise ConfigError(encoded.error)
    found: list[list[int] | None] = [None] * len(chunk)
    start = 0
    for row, prompt, length in zip(
        encoded.rows, encoded.prompt_lengths, encoded.lengths, strict=True
    ):
        found[row] = encoded.tokens[start + prompt : start + length].tolist()
        start += length
    return found


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
