"""Lines of several processes in one log."""

from __future__ import annotations

from typing import Any, TextIO


class Prefixed:
    """A text stream that begins every line with the name of the process."""

    def __init__(self, stream: TextIO, prefix: str):
        self._stream, self._prefix = stream, prefix
        self._in_line = False

    def write(self, text: str) -> int:
        shown = []
        for line in text.splitlines(keepends=True):
            shown.append(line if self._in_line else self._prefix + line)
            self._in_line = not line.endswith("\n")
        # In one piece, or the lines of several processes would run into each other.
        self._stream.write("".join(shown))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
