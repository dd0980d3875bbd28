"""The plan of an epoch and the batch of any step.

The batch of step t is a pure function of (records, seed, t): an epoch is a permutation of the
records, a step takes the next `sequences_per_step` of them, and packing decides only how these
share rows. Resuming needs the step number and nothing else, whatever the number of processes,
threads or workers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from curiojax.data import encoding, packing, store

Batch = dict[str, np.ndarray]


class SupervisedData:
    """Tokenised records and the plan of their batches. Made by `pipeline.build_dataset`.

    Attributes:
      num_examples: records that are trained on.
      sequences_per_step: records in every batch.
      steps_per_epoch: batches of an epoch.
      remainder: records at the end of an epoch that fill no batch; others each epoch.
      row_length: tokens per row.
      drops: records left out, counted by reason.
      warnings: what the user should look at, one sentence each.
      format: schema the source was read as.
      num_rows: rows of the source, dropped ones included.
      lengths, prompt_lengths, response_lengths: tokens per record, int64 [num_examples].
      records: for each record, its index in what `load_records` returns, int64 [num_examples].
      fingerprint: hash of the token ids; with the seed it decides every batch.
      suppressed: a second set of records, to be unlearnt, some of which join every step; or None.
    """

    def __init__(
        self,
        tokens: store.Store,
        *,
        seed: int,
        sequences_per_step: int,
        rows_per_microbatch: int,
        row_length: int,
        packing: bool = True,
        normalizer: str = "global_token_mean",
        max_response_tokens: int = 0,
        suppressed: SupervisedData | None = None,
    ):
        self._store = tokens
        self.suppressed = suppressed
        self._seed = seed
        self._rows = rows_per_microbatch
        self._packing = packing
        self._normalizer = normalizer
        self.row_length = row_length
        self.sequences_per_step = sequences_per_step
        self.num_examples = len(tokens)
        self.steps_per_epoch, self.remainder = divmod(self.num_examples, sequences_per_step)
        self.lengths = tokens.lengths
        self.prompt_lengths = tokens.prompt_lengths
        self.response_lengths = self.lengths - self.prompt_lengths
        self.records = tokens.rows
        self.drops: dict[str, int] = tokens.meta["drops"]
        self.format: str = tokens.meta["format"]
        self.num_rows: int = tokens.meta["num_rows"]
        self.fingerprint: str = tokens.meta["fingerprint"]
        if suppressed is not None:
            both = self.fingerprint + suppressed.fingerprint
            self.fingerprint = hashlib.sha256(both.encode()).hexdigest()
        counts = tokens.meta["counts"]
        self.truncated: int = counts["truncated"]
        self.warnings = encoding.warnings(counts, self.num_examples, max_response_tokens)

    def ids(self, index: int) -> np.ndarray:
        """Prompt ids, then response ids of a record, int32."""
        return self._store.record(index)

    def example(self, index: int) -> tuple[list[int], list[int]]:
        """Prompt ids and response ids of a record."""
        ids = self.ids(index).tolist()
        prompt = int(self.prompt_lengths[index])
        return ids[:prompt], ids[prompt:]

    def queries(self) -> tuple[np.ndarray, np.ndarray]:
        """Which records answer the same query, and which repeat an earlier one, both [N].

        Returns:
          The first record with the same prompt ids, int64; and whether an earlier record has all
          the same ids, bool.
        """
        first: dict[bytes, int] = {}
        seen: set[bytes] = set()
        queries = np.zeros(self.num_examples, np.int64)
        repeated = np.zeros(self.num_examples, bool)
        for index in range(self.num_examples):
            ids = self.ids(index)
            prompt = ids[: self.prompt_lengths[index]].tobytes()
            queries[index] = first.setdefault(hashlib.sha256(prompt).digest(), index)
            whole = hashlib.sha256(prompt + b"|" + ids.tobytes()).digest()
            repeated[index] = whole in seen
            seen.add(whole)
        return queries, repeated

    def indices(self, step: int) -> np.ndarray:
        """The records of a step in the order of the epoch's plan, int64 [sequences_per_step]."""
        if step < 0:
            raise ValueError(f"step must not be negative; it is {step}")
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.num_examples, self._seed, epoch)
        return order[position * self.sequences_per_step : (position + 1) * self.sequences_per_step]

    def layout(self, step: int) -> list[list[int]]:
        """For each row of a step, which of `indices(step)` it holds, as positions therein.

        The k-th entry of a row is the record with segment id k + 1. Rows that only fill up the last
        micro-batch are not listed.
        """
        inputs = self.lengths[self.indices(step)] - 1
        if not self._packing:
            return [[position] for position in range(len(inputs))]
        return packing.pack(inputs.tolist(), self.row_length)

    def weights(self, step: int) -> np.ndarray:
        """Weight of each trained token of the records of a step, float64 [sequences_per_step].

        1 with `global_token_mean`. With `pair_token_mean` tokens count by the mean over the pair of
        records they are in, scaled so that the weights of a step add up to its number of trained
        tokens; dividing the weighted sum by that number is then the mean over pairs. The same with
        `sequence_token_mean` and single records.
        """
        tokens = self.response_lengths[self.indices(step)].astype(np.float64)
        if self._normalizer == "global_token_mean":
            return np.ones_like(tokens)
        group = 2 if self._normalizer == "pair_token_mean" else 1
        pairs = np.arange(len(tokens)) // group
        per_pair = np.bincount(pairs, tokens)
        return tokens.sum() / (len(per_pair) * per_pair[pairs])

    def batch(self, step: int) -> Batch:
        """The batch of a step; a pure function.

        Returns:
          Arrays [M, R, T] of M micro-batches, R = rows_per_microbatch, T = row_length. `tokens` are
          the inputs and `labels` the ids one later, int32; `positions` restart at 0 with each
          record, int32; `segment_ids` count the records of a row from 1, 0 is padding, int32;
          `loss_mask` is 1 where the label belongs to a response, its end-of-sequence token
          included, times the token's weight (see `weights`), float32. M depends on how many rows
          the records of the step need. With suppressed records also `suppressed`, float32: 1 in
          the micro-batches that hold nothing else. Their loss mask is scaled to the sum of the
          others', so that one division by that sum makes two means of the two sums.
        """
        promoted = self._own_batch(step)
        if self.suppressed is None:
            return promoted
        other = self.suppressed.batch(step)
        mask = other["loss_mask"].astype(np.float64)
        ratio = promoted["loss_mask"].sum(dtype=np.float64) / mask.sum()
        other["loss_mask"] = (mask * ratio).astype(np.float32)
        promoted["suppressed"] = np.zeros_like(promoted["loss_mask"])
        other["suppressed"] = np.ones_like(other["loss_mask"])
        return {name: np.concatenate([promoted[name], other[name]]) for name in promoted}

    def _own_batch(self, step: int) -> Batch:
        chosen, layout, weights = self.indices(step), self.layout(step), self.weights(step)
        num_microbatches = -(-len(layout) // self._rows)
        shape = (num_microbatches * self._rows, self.row_length)
        batch = {
            name: np.zeros(shape, np.float32 if name == "loss_mask" else np.int32)
            for name in ("tokens", "labels", "positions", "segment_ids", "loss_mask")
        }
        for row, members in enumerate(layout):
            start = 0
            for segment, member in enumerate(members, 1):
                index = int(chosen[member])
                ids = self._store.record(index)
                stop = start + len(ids) - 1
                batch["tokens"][row, start:stop] = ids[:-1]
                batch["labels"][row, start:stop] = ids[1:]
                batch["positions"][row, start:stop] = np.arange(stop - start)
                batch["segment_ids"][row, start:stop] = segment
                # From lengths, never from token values: the padding id may be the final one too.
                first = start + int(self.prompt_lengths[index]) - 1
                batch["loss_mask"][row, first:stop] = weights[member]
                start = stop
        return {
            name: array.reshape(num_microbatches, self._rows, self.row_length)
            for name, array in batch.items()
        }

    def iterate(self, start_step: int, stop_step: int) -> Iterator[tuple[int, Batch]]:
        """Yields (step, batch) for the steps in [start_step, stop_step), prefetching a few."""
        import grain  # imports jax, which reading records does not need

        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        steps = grain.MapDataset.source(range(start_step, stop_step))
        yield from steps.map(lambda step: (step, self.batch(step))).to_iter_dataset(options)


@functools.lru_cache(maxsize=4)
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the records in an epoch, int64 [num_examples], read-only.

    Records are sorted by raw Philox words keyed by (seed, epoch). numpy guarantees these words for
    ever, but not what `Generator.permutation` makes of them.
    """
    words = np.random.Philox(key=np.asarray([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order
