"""Whose an output is: a file beside it says what it was made from and with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

_VERSION = 1


class Job:
    """An output file and the files beside it.

    Attributes:
      output: the data set; `replies`, `report` and `record` go by its name and a further suffix,
        which no reader of data sets takes for data.
    """

    def __init__(self, output: Path):
        self.output = output
        self.replies = output.with_name(f"{output.name}.replies")
        self.report = output.with_name(f"{output.name}.html")
        self.record = output.with_name(f"{output.name}.job")

    def check(self, identity: dict[str, Any]) -> None:
        """Refuses to overwrite what another job made.

        Args:
          identity: what the job is, plain JSON values.

        Raises:
          ConfigError: a file is in the way.
        """
        there = [path for path in (self.output, self.report) if path.exists()]
        if not there and not self.record.exists():
            return
        theirs = self._theirs()
        if theirs is None:
            path = (there or [self.record])[0]
            raise ConfigError(
                f"--output: {path} exists and was not made by this tool; name another file"
            )
        for key in {**identity, **theirs} if there else ():
            if theirs.get(key) != identity.get(key):
                raise ConfigError(
                    f"--output: {self.output} was made with {key} = {theirs.get(key)!r}, this "
                    f"would be {identity.get(key)!r}; name another file (and --cache "
                    f"{self.replies} to reuse its replies)"
                )

    def claim(self, identity: dict[str, Any], result: dict[str, Any] | None = None) -> None:
        """Writes whose the files are, before they are written, and after it with the result.

        Raises:
          ConfigError: it cannot be written.
        """
        content = {"version": _VERSION, "job": identity, "result": result}
        temporary = self.record.with_name(f".{self.record.name}.{os.getpid()}.tmp")
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
            temporary.replace(self.record)
        except OSError as error:
            raise ConfigError(
                f"--output: {self.record} cannot be written ({error.strerror})"
            ) from None

    def _theirs(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
            theirs = content["job"] if content["version"] == _VERSION else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return theirs if isinstance(theirs, dict) else None
