"""What the processes of a run must have in common before they compute anything together."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curiojax.distributed import group as groups
from curiojax.distributed.group import Group
from curiojax.errors import ConfigError

SHARED_SECONDS = 30.0  # network file systems may show a new file later


def agree(name: str, facts: Mapping[str, Any], remedy: str) -> None:
    """Compares facts over all processes, each of which waits for the others.

    Args:
      name: of the occasion; once per run.
      facts: JSON-able values, or trees of them, by the key that an error names, those first that
        others follow from.
      remedy: what to do where they differ.

    Raises:
      ConfigError: they differ; the same on every process. Names the process that is unlike most.
    """
    group = groups.current
    if group is None:
        return
    texts = {key: json.dumps(value, sort_keys=True) for key, value in _flat(facts)}
    found = {
        index: json.loads(text)
        for index, text in group.gather(f"curiojax/agree/{name}", json.dumps(texts)).items()
    }
    for key in dict.fromkeys(key for texts in found.values() for key in texts):
        values = {index: found[index].get(key, "null") for index in sorted(found)}
        if len(set(values.values())) > 1:
            raise ConfigError(f"{key}: {_told(group, values)}; {remedy}")


def wait_for_all(name: str) -> None:
    """Returns when every process has got here; once per run."""
    if groups.current is not None:
        groups.current.gather(f"curiojax/reached/{name}", "")


def _told(group: Group, values: dict[int, str]) -> str:
    """Which process says what; the majority is right, and process 0 where there is none."""
    counts = Counter(values.values())
    usual = max(counts, key=lambda value: (counts[value], value == values[0]))
    odd = next(index for index, value in values.items() if value != usual)
    other = next(index for index, value in values.items() if value == usual)
    rest = len(values) - counts[usual] - 1
    more = f" (and {rest} more differ)" if rest else ""
    return (
        f"{_short(values[odd])} on {group.name(odd)}{more}, "
        f"but {_short(usual)} on {group.name(other)}"
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def first_then_others(name: str) -> Iterator[None]:
    """Lets process 0 do something before the others do, who then find it in a shared cache."""
    group = groups.current
    if group is None:
        yield
        return
    key = f"curiojax/first/{name}"
    if group.index != 0:
        group.wait_for(key, 1)
    yield
    if group.index == 0:
        group.put(f"{key}/0", "")


def check_shared(directory: Path) -> None:
    """Makes sure that all processes see the same run directory; once per run.

    Raises:
      ConfigError: one does not see a file that process 0 has written.
    """
    blind = _blind("output_dir", directory, SHARED_SECONDS)
    if blind and (group := groups.current):
        raise ConfigError(
            f"output_dir: {group.name(blind[0])} does not see what {group.name(0)} writes to "
            f"{directory}; name a folder on storage that all processes share"
        )


def is_shared(name: str, directory: Path) -> bool:
    """Whether all processes mean the same folder, which process 0 can write to.

    Args:
      name: of the occasion; once per run.
    """
    group = groups.current
    if group is None:
        return True
    named = group.gather(f"curiojax/named/{name}", str(directory))
    return len(set(named.values())) == 1 and not _blind(name, directory, seconds=2)


def _blind(occasion: str, directory: Path, seconds: float) -> list[int]:
    """The processes that do not see a new file of process 0's in this folder."""
    group = groups.current
    if group is None:
        return []
    key = f"curiojax/shared/{occasion}"
    # A new name every time: network file systems remember for a while what was not there.
    name = group.gather(f"{key}/name", f".shared-{secrets.token_hex(8)}")[0]
    if group.index == 0:
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / name).touch()
    group.gather(f"{key}/written", "")
    found = group.gather(f"{key}/seen", json.dumps(_appears(directory / name, seconds)))
    if group.index == 0:
        (directory / name).unlink(missing_ok=True)
    return [index for index, text in sorted(found.items()) if not json.loads(text)]


def _appears(path: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
