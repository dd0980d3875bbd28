"""A file of scores that survives being killed: one line per record, appended as they arrive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from curiojax.errors import ConfigError

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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read(header)
            self._stream = path.open("ab")
            if self._stream.tell() == 0:
                self._write(json.dumps(header) + "\n")
        except OSError as error:
            raise ConfigError(
                f"--scores: {path} cannot be written ({error.strerror}); choose another folder"
            ) from None

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
            lines.append(json.dumps(line) + "\n")
        self._write("".join(lines))

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, text: str) -> None:
        self._stream.write(text.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self, header: dict[str, Any]) -> None:
        whole = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream):
                if not line.endswith(b"\n"):
                    break
                try:
                    values = json.loads(line)
                    if number == 0:
                        self._check(values, header)
                    else:
                        self._take(values)
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    if isinstance(error, ConfigError):
                        raise
                    raise ConfigError(
                        f"--scores: {self.path}, line {number + 1} is damaged; remove the file to "
                        "score again"
                    ) from None
                whole += len(line)
        os.truncate(self.path, whole)

    def _check(self, found: dict[str, Any], header: dict[str, Any]) -> None:
        for key in header | found:
            if found.get(key) != header.get(key):
                raise ConfigError(
                    f"--scores: {self.path} was made with {key} = {found.get(key)!r}, this is "
                    f"{header.get(key)!r}; go back to the old value, or choose another folder"
                )

    def _take(self, values: dict[str, Any]) -> None:
        record, nll = values["record"], values["nll"]
        self.nll[record] = np.nan if nll is None else nll
        self.tokens[record], self.known[record] = values["tokens"], True
