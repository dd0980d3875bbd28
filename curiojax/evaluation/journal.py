"""A file of JSON lines that is appended to and survives being killed.

The first line, the header, says what the others belong to. A line that a kill cut short is taken
off when the file is opened again, and nothing before it is ever changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError


class Journal:
    """One such file, open for appending.

    Args:
      path: the file; it is begun if it is not there.
      header: plain JSON values; a file that begins with another is refused.
      take: called with every line that is there already, in order.
      field: names the file in errors, e.g. `--scores`.

    Raises:
      ConfigError: the file belongs to something else, is damaged or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        take: Callable[[dict[str, Any]], None],
        *,
        field: str = "output_dir",
    ):
        self.path, self._field = path, field
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read(header, take)
            self._stream = path.open("ab")
            if self._stream.tell() == 0:
                self.append([header])
        except OSError as error:
            raise ConfigError(
                f"{field}: {path} cannot be written ({error.strerror}); choose another folder"
            ) from None

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines in one write; they are on disk when this returns."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._stream.write(text.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, header: Mapping[str, Any], take: Callable[[dict[str, Any]], None]) -> None:
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
                        take(values)
                except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                    if isinstance(error, ConfigError):
                        raise
                    raise ConfigError(
                        f"{self._field}: {self.path}, line {number + 1} is damaged; remove the "
                        "file to make it again"
                    ) from None
                whole += len(line)
        os.truncate(self.path, whole)

    def _check(self, found: dict[str, Any], header: Mapping[str, Any]) -> None:
        for key in {**header, **found}:
            if found.get(key) != header.get(key):
                raise ConfigError(
                    f"{self._field}: {self.path} was made with {key} = {found.get(key)!r}, this is "
                    f"{header.get(key)!r}; go back to the old value, or choose another folder"
                )
