"""What the processes of a run must have in common, looked at before they compute anything together."""

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

SHARED_SECONDS = 60.0  # network file systems may show a new file that much later


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


def _told(group: Group, values: dict[int, str]) -> str:
    """Which process says what; the majority is right, and process 0 where there is none."""
    counts = Counter(values.values())
    usual = max(counts, key=lambda value: (counts[value], value == values[0]))
    odd = next(index for index, value in values.items() if value != usual)
    other = next(index for index, value in values.items() if value == usual)
    more = len(values) - counts[usual] - 1
    return (
        f"{_short(values[odd])} on {group.name(odd)}{f' (and {more} more differ)' if more else ''}, "
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
    """Makes sure that all processes see the same run directory.

    Raises:
      ConfigError: one does not see a file that process 0 has written.
    """
    group = groups.current
    if group is None:
        return
    # A new name every time: network file systems remember for a while what was not there.
    name = group.gather("curiojax/shared/name", f".shared-{secrets.token_hex(8)}")[0]
    if group.index == 0:
        (directory / name).touch()
    group.gather("curiojax/shared/written", "")
    seen = _appears(directory / name)
    everybody = group.gather("curiojax/shared/seen", json.dumps(seen))
    if group.index == 0:
        (directory / name).unlink(missing_ok=True)
    blind = [index for index, text in sorted(everybody.items()) if not json.loads(text)]
    if blind:
        raise ConfigError(
            f"output_dir: {group.name(blind[0])} does not see what {group.name(0)} writes to "
            f"{directory}; name a folder on storage that all processes share"
        )


def _appears(path: Path) -> bool:
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True
