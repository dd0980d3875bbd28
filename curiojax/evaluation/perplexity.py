"""Perplexity of responses under a model, for any number of records, resumable.

Perplexity is exp(mean negative log-probability of the scored tokens), at temperature 1. What the
response follows is a choice:

- `none`: nothing. The response's text alone, without prompt and without end-of-sequence token, as
  OXA's released code has it; its first token is context only, unless the tokenizer opens every text
  with a token of its own. It measures how surprising a way of reasoning is, whatever the question.
- `prompt`: the rendered prompt. Every token that training would learn is scored, the
  end-of-sequence token among them.

A row holds one record. Records are grouped by length into a few row lengths, each compiled once,
and the longest go first: a batch that does not fit in memory shows at once. Logits exist for one
chunk of tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from curiojax import models
from curiojax.data.encoding import adds_bos
from curiojax.data.pipeline import SupervisedData
from curiojax.errors import ConfigError
from curiojax.evaluation.scores import ScoreFile
from curiojax.losses.lm_head import chunked_loss
from curiojax.models.weights import gathered
from curiojax.objectives import Sft
from curiojax.sharding import named_sharding, num_batch_shards

Context = Literal["none", "prompt"]

SHORTEST_ROW = 32


class Tokens(NamedTuple):
    """Token ids of a record, int32, and the first of them that is scored."""

    ids: np.ndarray
    first: int


class Batch(NamedTuple):
    """Records that share a forward pass, and its shape."""

    records: np.ndarray
    rows: int
    length: int


class Responses:
    """The records of a data set as the model is to read them."""

    def __init__(self, data: SupervisedData, tokenizer: Any, context: Context):
        self._data, self._context = data, context
        self._eos = tokenizer.eos_token_id
        self._opening = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []

    def __len__(self) -> int:
        return self._data.num_examples

    @property
    def max_lengths(self) -> np.ndarray:
        """Upper bounds of the sequences' lengths, int64 [N], without reading them."""
        if self._context == "prompt":
            return self._data.lengths
        return self._data.response_lengths + len(self._opening)

    def __getitem__(self, index: int) -> Tokens:
        ids, prompt = self._data.ids(index), int(self._data.prompt_lengths[index])
        if self._context == "prompt":
            return Tokens(ids, prompt)
        response = ids[prompt:]
        if len(response) and response[-1] == self._eos:
            response = response[:-1]
        return Tokens(np.concatenate([np.asarray(self._opening, np.int32), response]), 1)


def score(
    params: Any,
    config: models.ModelConfig,
    responses: Responses,
    scores: ScoreFile,
    mesh: Mesh,
    *,
    batch_tokens: int = 32768,
    chunk_tokens: int = 1024,
    progress: Callable[..., None] | None = None,
) -> None:
    """Scores the records that `scores` lacks and appends them as they arrive.

    The batches depend on the records and on the number of devices only. One that was interrupted is
    computed again as a whole, so a run that is continued ends with the bytes of one that never
    stopped.

    Args:
      params, config: the model; params laid out on `mesh`.
      responses: what to score.
      scores: what is known already, and where results go.
      batch_tokens: tokens of one forward pass, all devices together, padding included.
      chunk_tokens: tokens whose logits exist at a time, on each group of devices.
      progress: called with (tokens done, tokens in all, **statistics) after every batch.

    Raises:
      ConfigError: a batch does not fit into memory.
    """
    shards = num_batch_shards(mesh)
    lengths = responses.max_lengths
    total, done = int(lengths.sum()), int(lengths[scores.known].sum())
    sharding = named_sharding(mesh, ("batch", "length"))
    run = _program(config, chunk_tokens, mesh)
    with jax.set_mesh(mesh):
        for batch in plan(lengths, batch_tokens, shards):
            missing = ~scores.known[batch.records]
            if not missing.any():
                continue
            arrays, sizes = fill(batch, responses)
            device = {name: jax.device_put(array, sharding) for name, array in arrays.items()}
            log_probs = np.asarray(compute(run, params, device), np.float64)
            # Summed here, in float64 and in order: the same for every mesh and batch.
            sums = log_probs.sum(axis=1)[: len(sizes)]
            nll = np.divide(-sums, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
            scores.append(batch.records[missing], nll[missing], sizes[missing])
            done += int(lengths[batch.records[missing]].sum())
            if progress is not None:
                seen = scores.perplexity(batch.records)
                median = float(np.median(seen)) if np.isfinite(seen).all() else None
                progress(done, total, records=int(scores.known.sum()), perplexity=median)


@lru_cache(maxsize=4)  # so that a second data set reuses what was compiled for the first
def _program(config: models.ModelConfig, chunk_tokens: int, mesh: Mesh) -> Callable:
    shards = num_batch_shards(mesh)
    return jax.jit(
        partial(token_log_probs, config=config, chunk_tokens=chunk_tokens, num_shards=shards),
        out_shardings=named_sharding(mesh, ()),
    )


def compute(run: Callable, params: Any, batch: dict[str, jax.Array]) -> Any:
    """What a program makes of a batch, on the host.

    Raises:
      ConfigError: the batch does not fit into memory.
    """
    try:
        return jax.device_get(run(params, batch))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        rows, length = batch["tokens"].shape
        raise ConfigError(
            f"batch_tokens: {rows} rows of {length} tokens do not fit into memory; lower it"
        ) from None


def token_log_probs(params: Any, batch: dict[str, jax.Array], **settings: Any) -> jax.Array:
    """Log-probability of every label, in nats, float32 [B, T]; 0 where `loss_mask` is 0."""
    return token_scores(params, batch, **settings)["log_prob"]


def token_scores(
    params: Any,
    batch: dict[str, jax.Array],
    *,
    config: models.ModelConfig,
    chunk_tokens: int,
    num_shards: int,
) -> dict[str, jax.Array]:
    """What the LM head tells of every label: `log_prob`, `entropy`, ..., float32 [B, T] each."""
    hidden = models.forward(
        params, config, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    head: Any = gathered(models.head_weight(params, config), ("vocab", "embed"), hidden.dtype)
    _, tokens = chunked_loss(
        Sft(),
        head,
        hidden,
        batch["labels"],
        batch["loss_mask"],
        chunk_tokens=chunk_tokens,
        num_shards=num_shards,
    )
    return tokens


def plan(lengths: np.ndarray, batch_tokens: int, shards: int = 1) -> Iterator[Batch]:
    """Groups records by length; every record occurs once, long ones first.

    Args:
      lengths: int [N], upper bounds.
      batch_tokens: tokens of a batch, at most, if one row per shard takes no more.
      shards: rows of a batch are a multiple of it.
    """
    inputs = np.maximum(np.asarray(lengths) - 1, 1)
    sizes = np.asarray(row_lengths(int(inputs.max()) if len(inputs) else 1))
    bucket = np.searchsorted(sizes, inputs)
    for number in range(len(sizes) - 1, -1, -1):
        members = np.flatnonzero(bucket == number)
        size = int(sizes[number])
        most = max(batch_tokens // size // shards, 1)
        rows = shards * min(most, -(-len(members) // shards))
        for start in range(0, len(members), max(rows, 1)):
            yield Batch(members[start : start + rows], rows, size)


def row_lengths(longest: int) -> Sequence[int]:
    """32, 48, 64, 96, 128, ... up to the first that takes `longest`: a sixth is padding."""
    sizes = [SHORTEST_ROW]
    while sizes[-1] < longest:
        last = sizes[-1]
        sizes.append(last * 3 // 2 if last & (last - 1) == 0 else last * 4 // 3)
    return sizes


def fill(
    batch: Batch, responses: Sequence[Tokens] | Responses
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays of a forward pass, and how many tokens of each record are scored."""
    shape = (batch.rows, batch.length)
    names = ("tokens", "labels", "positions", "segment_ids")
    arrays: dict[str, np.ndarray] = {name: np.zeros(shape, np.int32) for name in names}
    arrays["loss_mask"] = np.zeros(shape, np.float32)
    sizes = np.zeros(len(batch.records), np.int64)
    for row, index in enumerate(batch.records.tolist()):
        ids, first = responses[index]
        length = max(len(ids) - 1, 0)
        arrays["tokens"][row, :length] = ids[:-1]
        arrays["labels"][row, :length] = ids[1:]
        arrays["positions"][row, :length] = np.arange(length)
        arrays["segment_ids"][row, :length] = 1
        arrays["loss_mask"][row, first - 1 : length] = 1
        sizes[row] = max(len(ids) - first, 0)
    return arrays, sizes
