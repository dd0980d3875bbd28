"""From a data config to tokenised records and the plan of their batches.

Token ids are kept on disk, keyed by the contents of the source, the tokenizer and the template; see
`batches` for what a step makes of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curiojax.data import encoding, records, store
from curiojax.data.batches import Batch, SupervisedData, epoch_order
from curiojax.errors import ConfigError

__all__ = ["Batch", "Progress", "SupervisedData", "build_dataset", "epoch_order"]

Progress = Callable[[int, int], None]

_VERSION = 1  # of the cached files and of what is written into them
_CHUNK = 32  # records tokenised at once


def build_dataset(
    data_config: Any,
    tokenizer: Any,
    *,
    seed: int,
    sequences_per_step: int,
    rows_per_microbatch: int,
    normalizer: str = "global_token_mean",
    cache_dir: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> SupervisedData:
    """Reads, tokenises (or finds in the cache) and plans the training data.

    Args:
      data_config: the `data` section of a run's config.
      tokenizer: a Hugging Face tokenizer.
      seed: of the order of the records.
      sequences_per_step: records per optimiser step.
      rows_per_microbatch: rows per forward pass.
      normalizer: `global_token_mean`, `pair_token_mean` or `sequence_token_mean`; see
        `SupervisedData.weights`.
      cache_dir: where token ids are kept; default: `data_config.cache_dir`, then
        `$CURIOJAX_CACHE/data`, then `~/.cache/curiojax/data`.
      progress: called with (records done, records in total) while tokenising.

    Raises:
      ConfigError: unreadable or unknown data, a template the tokenizer cannot express, too few
        records for one step, or rows shorter than a record.
    """
    if not data_config.path:
        raise ConfigError("data.path: not set; give a hub id or a parquet, JSONL or JSON file")
    encoder = encoding.Encoder(
        tokenizer,
        data_config.template,
        data_config.max_prompt_tokens,
        data_config.max_response_tokens,
        data_config.overlong,
    )
    encoder.check()
    wrong = getattr(data_config, "suppressed_path", None)
    row_length = data_config.row_length or (
        data_config.max_prompt_tokens + data_config.max_response_tokens
    )
    folder = cache_dir or getattr(data_config, "cache_dir", None) or records.default_cache_dir()

    def planned(path: str, count: int, fields: tuple[str, str], **more: Any) -> SupervisedData:
        limit = getattr(data_config, "limit", None) if path == data_config.path else None
        tokens = _tokens(data_config, path, limit, encoder, Path(folder), progress)
        _check(tokens, count, row_length, fields)
        return SupervisedData(
            tokens,
            seed=seed,
            sequences_per_step=count,
            rows_per_microbatch=rows_per_microbatch,
            row_length=row_length,
            packing=data_config.packing,
            normalizer=normalizer,
            max_response_tokens=data_config.max_response_tokens,
            **more,
        )

    suppressed = None
    if wrong:
        count = getattr(data_config, "suppressed_per_step", None) or sequences_per_step
        fields = ("data.suppressed_per_step", "data.suppressed_path")
        suppressed = planned(wrong, count, fields)
    fields = ("sequences_per_step", "data.path")
    return planned(data_config.path, sequences_per_step, fields, suppressed=suppressed)


def _check(
    tokens: store.Store, sequences_per_step: int, row_length: int, fields: tuple[str, str]
) -> None:
    field, path = fields
    if not len(tokens):
        reasons = tokens.meta["drops"]
        worst = max(reasons, key=reasons.get) if reasons else "no record"
        field = {
            "prompt too long": "data.max_prompt_tokens",
            "response too long": "data.max_response_tokens",
        }.get(worst, "data.path")
        raise ConfigError(
            f"{field}: none of the {tokens.meta['num_rows']} records can be used, most of them for "
            f"one reason: {worst} ({reasons.get(worst, 0)}); change the limit or the data"
        )
    if len(tokens) < sequences_per_step:
        drops = ", ".join(f"{n} {reason}" for reason, n in tokens.meta["drops"].items()) or "none"
        raise ConfigError(
            f"{field}: {sequences_per_step}, but {path} has only {len(tokens)} usable records of "
            f"{tokens.meta['num_rows']} (dropped: {drops}); lower {field}, raise the limits or use "
            "more data"
        )
    longest = int(tokens.lengths.max()) - 1
    if longest > row_length:
        raise ConfigError(
            f"data.row_length: {row_length} is shorter than the longest record, which takes "
            f"{longest} tokens; raise it, or lower data.max_response_tokens"
        )


def _tokens(
    config: Any,
    path: str,
    limit: int | None,
    encoder: encoding.Encoder,
    folder: Path,
    progress: Progress | None,
) -> store.Store:
    """The cached token ids of a source, tokenised first if need be."""
    key = {
        "version": _VERSION,
        "source": records.source_fingerprint(path, config.split),
        "format": config.format,
        "limit": limit,
        "tokenizer": encoding.tokenizer_fingerprint(encoder.tokenizer),
        "template": encoder.template,
        "limits": [encoder.max_prompt_tokens, encoder.max_response_tokens, encoder.overlong],
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    cached = store.read_store(folder / name)
    if cached is not None:
        return cached
    # The Arrow copy of the source is of no use once the token ids are written.
    with store.temporary_folder(folder) as arrow:
        source = records.load_records(
            path, format=config.format, split=config.split, limit=limit, cache_dir=arrow
        )
        reasons = np.zeros(len(encoding.REASONS), np.int64)
        counts = np.zeros(len(encoding.COUNTS), np.int64)

        def chunks() -> Iterator[encoding.Chunk]:
            for chunk in _encode(source, encoder, getattr(config, "workers", 0)):
                if chunk.error:
                    raise ConfigError(chunk.error)
                reasons[:] += chunk.reasons
                counts[:] += chunk.counts
                if progress is not None:
                    progress(int(reasons.sum()), len(source))
                yield chunk

        def describe() -> dict[str, Any]:
            drops = dict(source.drops)
            for reason, count in zip(encoding.REASONS[1:], reasons[1:].tolist(), strict=True):
                if count:
                    drops[reason] = drops.get(reason, 0) + count
            return {
                "key": key,
                "format": source.format,
                "num_rows": source.num_rows,
                "drops": drops,
                "counts": dict(zip(encoding.COUNTS, counts.tolist(), strict=True)),
            }

        return store.write_store(folder / name, chunks(), describe)


class _EncodeChunk:
    """Encodes the i-th chunk of the records; what a worker process is sent."""

    def __init__(self, source: records.Records, encoder: encoding.Encoder):
        self.source, self.encoder = source, encoder

    def __call__(self, chunk: int) -> dict[str, Any]:
        first = chunk * _CHUNK
        return vars(self.encoder(self.source[first : first + _CHUNK], first))


def _encode(
    source: records.Records, encoder: encoding.Encoder, workers: int
) -> Iterator[encoding.Chunk]:
    """Encodes all records in order, in threads or in worker processes."""
    import grain  # imports jax, which reading records does not need

    num_chunks = -(-len(source) // _CHUNK)
    threads = min(8, os.cpu_count() or 1)
    dataset = grain.MapDataset.source(range(num_chunks)).map(_EncodeChunk(source, encoder))
    dataset = dataset.to_iter_dataset(grain.ReadOptions(threads, 2 * threads))
    if workers > 0:
        _allow_worker_processes()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return (encoding.Chunk(**chunk) for chunk in dataset)


def _allow_worker_processes() -> None:
    # Grain reads absl flags when it starts workers, which fails unless absl has parsed some.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
