"""What every folder of ours needs: a lock, and files that appear in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curiojax.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LOCK = "lock"


def holds_anything(directory: Path, first: str) -> bool:
    """Whether a folder holds more than a process leaves that was killed before it wrote `first`."""
    ours = {LOCK, _temporary(Path(first)).name}
    return directory.is_dir() and bool({path.name for path in directory.iterdir()} - ours)


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps a second process out of an output folder for as long as this one lives.

    Raises:
      ConfigError: another process has it, or the folder cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("w")
    except OSError as error:
        raise ConfigError(
            f"output_dir: {directory} cannot be written ({error.strerror}); choose another"
        ) from None
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"output_dir: another process is running in {directory}; wait for it, or choose "
                "another"
            ) from None
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a file, which appears in one go.

    Raises:
      ConfigError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {path} cannot be written ({error.strerror}); mend that, and the same "
            "command continues"
        ) from None


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")
