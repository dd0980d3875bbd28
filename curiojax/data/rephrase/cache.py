"""Replies on disk: one line each, appended as they arrive, kept through a kill.

A reply is kept as it came, before any check, so that other limits for the checks cost nothing.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

from curiojax.data.rephrase.replies import Reply
from curiojax.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

_HEADER = b'{"rephrase_replies": 1}\n'


class Cache:
    """The replies of a file by key; several data sets, models and prompts may share one."""

    def __init__(self, path: Path, *, write: bool = True):
        """Opens the file, or begins it. A line that a kill cut short is taken off.

        Args:
          path: the file.
          write: False to read only, and then to make nothing.

        Raises:
          ConfigError: the file is something else or damaged, another process writes to it, or it
            cannot be written.
        """
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._stream = None
        try:
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = path.open("ab", buffering=0)
                self._lock()
            self._size = self._read() if path.exists() else 0
            if self._stream is not None:
                self._stream.truncate(self._size)
                if not self._size:
                    self._append(_HEADER)
        except OSError as error:
            raise ConfigError(
                f"--cache: {path} cannot be used ({error.strerror}); name another file"
            ) from None

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply; it has left this process when this returns.

        Raises:
          ConfigError: the disk is full or the like; what was kept before stays readable.
        """
        line = json.dumps({"key": key, **dataclasses.asdict(reply)})
        try:
            self._append(line.encode("ascii") + b"\n")
        except OSError as error:
            raise ConfigError(
                f"--cache: {self.path} cannot be written ({error.strerror}); make room and run "
                "the same command again"
            ) from None
        self._replies[key] = reply

    def close(self) -> None:
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None or self._stream is None:
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"--cache: another process writes to {self.path}; wait for it, or name another file"
            ) from None

    def _append(self, line: bytes) -> None:
        assert self._stream is not None
        try:
            if self._stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._stream.truncate(self._size)  # no half line, lest the next one follow it
            raise
        self._size += len(line)

    def _read(self) -> int:
        """Reads all whole lines; returns how many bytes they are."""
        with self.path.open("rb") as stream:
            header = stream.readline()
            if header != _HEADER:
                if _HEADER.startswith(header):  # empty, or killed while it was begun
                    return 0
                raise ConfigError(
                    f"--cache: {self.path} exists and holds no replies of this tool; name another "
                    "file"
                )
            whole = len(header)
            for number, line in enumerate(stream, 2):
                if not line.endswith(b"\n"):
                    break
                try:
                    values = json.loads(line)
                    self._replies.setdefault(values.pop("key"), Reply(**values))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise ConfigError(
                        f"--cache: {self.path}, line {number} is damaged; remove that line to ask "
                        "again"
                    ) from None
                whole += len(line)
            return whole
