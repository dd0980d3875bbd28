"""A file of scores that survives being killed: one line per record, appended as they arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from curiojax.evaluation.journal import Journal

_VERSION = 1


class ScoreFile:
    """Negative log-likelihoods of records, on disk and in memory.

    The first line says what was scored with what; each other line is one record:
    `{"record": 17, "tokens": 412, "nll": 0.91, "perplexity": 2.48}`, with null where there was
    nothing to score. A line that a kill cut short is taken off when the file is opened again.

    Attributes:
      nll: mean negative log-probability per token in nats, float64 [N]; NaN where unknown or empty.
      tokens: scored tokens, int64 [N].
      known: bool [N].
    """

    def __init__(self, path: Path, identity: dict[str, Any], count: int):
        """Opens the file, or begins it.

        Args:
          path: the file.
          identity: of model, data and settings, plain JSON values; a file of another is refused.
          count: N.

        Raises:
          ConfigError: the file holds other scores or cannot be written.
        """
        self.path = path
        self.nll = np.full(count, np.nan)
        self.tokens = np.zeros(count, np.int64)
        self.known = np.zeros(count, bool)
        header = {"version": _VERSION, "records": count, **identity}
        self._journal = Journal(path, header, self._take, field="--scores")

    def perplexity(self, records: Any = slice(None)) -> np.ndarray:
        """exp(nll) of all or some records, float64; NaN where unknown."""
        with np.errstate(over="ignore"):
            return np.exp(self.nll[records])

    def append(self, records: np.ndarray, nll: np.ndarray, tokens: np.ndarray) -> None:
        """Adds the scores of some records; they are on disk when this returns."""
        self.nll[records], self.tokens[records], self.known[records] = nll, tokens, True
        lines = []
        for record, perplexity in zip(records.tolist(), self.perplexity(records), strict=True):
            values = {"nll": self.nll[record], "perplexity": perplexity}
            numbers = {k: float(v) if np.isfinite(v) else None for k, v in values.items()}
            line = {"record": record, "tokens": int(self.tokens[record]), **numbers}
            lines.append(line)
        self._journal.append(lines)

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, values: dict[str, Any]) -> None:
        record, nll = values["record"], values["nll"]
        self.nll[record] = np.nan if nll is None else nll
        self.tokens[record], self.known[record] = values["tokens"], True
