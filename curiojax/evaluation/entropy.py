"""Entropy of every token of given texts under a model, resumable.

H_t = -sum_v p_v log p_v in nats, of the distribution at temperature 1 over the whole vocabulary, at
the position that predicts token t: what the paper calls token entropy, on the tokens that the model
generated or on an expert's. It is measured by one forward pass over the finished text, with the
same code whatever sampled it, so that numbers compare between engines.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from curiojax import models
from curiojax.evaluation.journal import REMAKE, Journal, check_header
from curiojax.evaluation.perplexity import Tokens, compute, fill, plan, token_scores
from curiojax.sharding import named_sharding, num_batch_shards

VERSION = 1
DIGITS = 4  # decimals kept, of nats


class Texts(Protocol):
    """Texts, and what is known of their tokens; `EntropyFile` keeps it on disk."""

    texts: Mapping[str, Tokens]

    @property
    def known(self) -> np.ndarray: ...

    def append(self, found: Mapping[str, tuple[list[float], list[float]]]) -> None: ...


class EntropyFile:
    """Entropies of texts, on disk and in memory.

    Attributes:
      texts: as given.
      entropies: by name of the text, those of its scored tokens in nats, where known; arrays, for
        there are millions.
      log_probs: of the tokens themselves, likewise.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], texts: Mapping[str, Tokens]):
        """Opens the file, or begins it.

        Args:
          identity: of the model and of where the texts come from, plain JSON values.
          texts: by name, token ids and the first that is scored.

        Raises:
          ConfigError: the file holds something else.
        """
        self.texts = texts
        empty = [name for name, (ids, first) in texts.items() if len(ids) <= first]
        self.entropies: dict[str, array[float]] = {name: array("d") for name in empty}
        self.log_probs: dict[str, array[float]] = {name: array("d") for name in empty}
        self._journal = Journal(path, _header(identity), self._take, remedy=REMAKE)

    @property
    def known(self) -> np.ndarray:
        """bool [N], in the order of the texts."""
        return np.asarray([name in self.entropies for name in self.texts], bool)

    def append(self, found: Mapping[str, tuple[list[float], list[float]]]) -> None:
        """Adds entropies and log-probs of some texts; they are on disk when this returns."""
        for name, (entropies, log_probs) in found.items():
            self._keep(name, entropies, log_probs)
        self._journal.append(
            {
                "text": name,
                "ids": _digest(self.texts[name]),
                "entropies": entropies,
                "log_probs": log_probs,
            }
            for name, (entropies, log_probs) in found.items()
        )

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> EntropyFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, line: dict[str, Any]) -> None:
        name = line["text"]
        if name not in self.texts:  # of a run with more questions
            return
        if line["ids"] != _digest(self.texts[name]):  # sampled again since; it is measured again
            return
        self._keep(name, line["entropies"], line["log_probs"])

    def _keep(self, name: str, entropies: list[float], log_probs: list[float]) -> None:
        ids, first = self.texts[name]
        if not len(entropies) == len(log_probs) == len(ids) - first:
            raise ValueError("one value per token")
        self.entropies[name], self.log_probs[name] = array("d", entropies), array("d", log_probs)


def check_entropies(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` when the file is there and holds something else; writes nothing."""
    check_header(path, _header(identity), remedy=REMAKE)


def _header(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, **identity}


def _digest(text: Tokens) -> str:
    ids = np.asarray(text.ids, "<i4").tobytes()
    return hashlib.blake2b(ids, digest_size=8).hexdigest()


def measure(
    params: Any,
    config: models.ModelConfig,
    file: Texts,
    mesh: Mesh,
    *,
    batch_tokens: int = 32768,
    chunk_tokens: int = 1024,
    progress: Callable[..., None] | None = None,
) -> None:
    """Measures the texts that `file` lacks and appends them as they arrive.

    A text's batch depends on the texts and the number of devices only; one that was interrupted is
    computed again as a whole.

    Args:
      params, config: the model; params laid out on `mesh`.
      batch_tokens: tokens of one forward pass, all devices together, padding included.
      chunk_tokens: tokens whose logits exist at a time, on each group of devices.
      progress: called with (tokens done, tokens in all) after every batch.

    Raises:
      ConfigError: a batch does not fit into memory.
    """
    names, texts = list(file.texts), list(file.texts.values())
    lengths = np.asarray([len(ids) for ids, _ in texts], np.int64)
    known = file.known
    done, total = int(lengths[known].sum()), int(lengths.sum())
    shards, sharding = num_batch_shards(mesh), named_sharding(mesh, ("batch", "length"))
    run = _program(config, chunk_tokens, mesh)
    with jax.set_mesh(mesh):
        for batch in plan(lengths, batch_tokens, shards):
            missing = ~known[batch.records]
            if not missing.any():
                continue
            arrays, _ = fill(batch, texts)
            device = {name: jax.device_put(array, sharding) for name, array in arrays.items()}
            entropies, log_probs = compute(run, params, device)
            found = {}
            for row in np.flatnonzero(missing).tolist():
                index = int(batch.records[row])
                ids, first = texts[index]
                part = slice(first - 1, len(ids) - 1)
                found[names[index]] = _rounded(entropies[row, part]), _rounded(log_probs[row, part])
            file.append(found)
            done += int(lengths[batch.records[missing]].sum())
            if progress is not None:
                progress(done, total)


def _rounded(values: np.ndarray) -> list[float]:
    # Adding 0 turns -0.0, which JSON would keep, into 0.0.
    return (np.round(values.astype(np.float64), DIGITS) + 0.0).tolist()


@lru_cache(maxsize=4)  # so that a second benchmark reuses what was compiled for the first
def _program(config: models.ModelConfig, chunk_tokens: int, mesh: Mesh) -> Callable:
    return jax.jit(
        partial(
            token_entropies,
            config=config,
            chunk_tokens=chunk_tokens,
            num_shards=num_batch_shards(mesh),
        ),
        out_shardings=named_sharding(mesh, ()),
    )


def token_entropies(
    params: Any, batch: dict[str, jax.Array], **settings: Any
) -> tuple[jax.Array, jax.Array]:
    """Entropy at every position and log-prob of its label, in nats, float32 [B, T] each."""
    tokens = token_scores(params, batch, **settings)
    return tokens["entropy"], tokens["log_prob"]
