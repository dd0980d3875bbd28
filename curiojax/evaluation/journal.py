"""A file of JSON lines that is appended to and survives being killed.

The first line, the header, says what the others belong to. A line that a kill cut short is taken
off when the file is opened again, and nothing before it is ever changed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

# What to do about a file that belongs to something else.
REMEDY = "go back to the old value, or choose another folder"
# The same of a file whose content can be computed again from another one.
REMAKE = "go back to the old value, or remove the file to make it again"


def check_header(
    path: Path, header: Mapping[str, Any], *, field: str = "output_dir", remedy: str = REMEDY
) -> None:
    """Looks at the first line of a file, if it is there; reads and changes nothing else.

    Raises:
      ConfigError: as `Journal` would for that line.
    """
    try:
        with path.open("rb") as stream:
            line = stream.readline()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(field, path, error) from None
    if line.endswith(b"\n"):
        _check_first(line, header, path, field, remedy)


class Journal:
    """One such file, open for appending.

    Args:
      path: the file; it is begun if it is not there.
      header: plain JSON values; a file that begins with another is refused.
      take: called with every line that is there already, in order.
      field: names the file in errors, e.g. `--scores`.
      remedy: what to do about a file that is refused.

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
        remedy: str = REMEDY,
    ):
        self.path, self._field, self._remedy = path, field, remedy
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read(header, take)
            self._stream = path.open("ab")
            if self._stream.tell() == 0:
                self.append([header])
        except OSError as error:
            raise _unusable(field, path, error) from None

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines in one write; they are on disk when this returns.

        Raises:
          ConfigError: they cannot be written, for want of room for example.
        """
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            self._stream.write(text.encode())
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise ConfigError(
                f"{self._field}: {self.path} cannot be written ({error.strerror}); mend that, and "
                "the same command continues from what is there"
            ) from None

    def close(self) -> None:
        # What could not be written is still in the buffer; `append` has told of it.
        with contextlib.suppress(OSError):
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
                if number == 0:
                    _check_first(line, header, self.path, self._field, self._remedy)
                else:
                    with _damaged(self.path, self._field, number):
                        take(json.loads(line))
                whole += len(line)
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)


def _check_first(
    line: bytes, header: Mapping[str, Any], path: Path, field: str, remedy: str
) -> None:
    with _damaged(path, field, 0):
        found = json.loads(line)
        for key in {**header, **found}:
            if found.get(key) != header.get(key):
                raise ConfigError(
                    f"{field}: {path} was made with {key} = {found.get(key)!r}, this is "
                    f"{header.get(key)!r}; {remedy}"
                )


@contextlib.contextmanager
def _damaged(path: Path, field: str, number: int) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ConfigError(
            f"{field}: {path}, line {number + 1} is damaged; remove the file to make it again"
        ) from None


def _unusable(field: str, path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{field}: {path} cannot be read or written ({error.strerror}); choose another folder"
    )
