"""The folder of a run: whose it is, and what may change when it is continued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

from curiojax import folders
from curiojax.config import RunConfig, to_yaml
from curiojax.distributed import wait_for_all
from curiojax.errors import ConfigError

MARKER = "identity.json"

# Keys that may change when a run is continued: they say where and how it is computed, not what.
NOT_IDENTITY = (
    "preset",  # its fields are in the config already
    "output_dir",
    "rows_per_microbatch",
    "mesh",
    "checkpoint",
    "logging",
    "evaluation",
    "world",
    "compare",
    "model.path",
    "model.remat",
    "model.attention",
    "data.path",
    "data.suppressed_path",
    "data.workers",
    "data.cache_dir",
    "loss.chunk_tokens",
    "optimizer.skip_limit",
    "rollout.batch_size",
    "rollout.vllm_python",
    "rollout.base_urls",
    "rollout.num_servers",
    "rollout.devices",
    "rollout.layout",
    "rollout.memory_share",
    "rollout.weights_dir",
    "rollout.extra_args",
    "rollout.timeout_seconds",
    "rollout.keep_steps",
    "reward.workers",
    "reward.timeout_seconds",
    "reward.memory_limit_mb",
)


def run_directory(config: RunConfig) -> Path:
    """The run directory named by the config."""
    return Path(require(config.output_dir, "output_dir")).expanduser()


def identity(config: RunConfig, model_fingerprint: str, data_fingerprint: str) -> dict[str, Any]:
    """What a run is: its config, less what may change, with the contents of model and data."""
    values = config.model_dump(mode="json")
    for key in NOT_IDENTITY:
        section, _, leaf = key.rpartition(".")
        (values[section] if section else values).pop(leaf)
    values["model"]["fingerprint"] = model_fingerprint
    values["data"]["fingerprint"] = data_fingerprint
    return values


def check_claim(directory: Path, ours: dict[str, Any]) -> None:
    """Raises a `ConfigError` when the run directory holds something else; writes nothing.

    A run of another identity that never took a step is nothing: it may be replaced.
    """
    marker = directory / MARKER
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"output_dir: {directory} is a file; name a folder")
    if marker.is_file():
        try:
            theirs = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            raise ConfigError(f"output_dir: {marker} is damaged; choose another folder") from None
        if theirs != ours and _has_steps(directory):
            raise ConfigError(
                f"output_dir: {directory} holds another run: {_told(_differences(theirs, ours))}; "
                "restore the old values to continue it, or choose another output_dir"
            )
    elif folders.holds_anything(directory, MARKER):
        raise ConfigError(
            f"output_dir: {directory} is not empty and holds no run of this program; choose another"
        )


def claim(directory: Path, config: RunConfig, ours: dict[str, Any]) -> None:
    """Makes the run directory ours, after `check_claim`."""
    wait_for_all("claim")  # nobody writes before everybody has looked
    if jax.process_index() != 0:
        return
    # The marker first: a folder without it is taken for somebody else's.
    folders.write_text(directory / MARKER, json.dumps(ours, indent=1))
    folders.write_text(directory / "config.yaml", to_yaml(config))


def lock(directory: Path) -> AbstractContextManager[None]:
    """As `curiojax.folders.lock`; of several processes, the first one holds it."""
    return folders.lock(directory) if jax.process_index() == 0 else nullcontext()


def require(value: str | None, field: str) -> str:
    """The value of a key that has no default, or a `ConfigError` that names it."""
    if value is None:
        raise ConfigError(f"{field}: missing; give it in the config file or as {field}=...")
    return value


def _has_steps(directory: Path) -> bool:
    metrics = directory / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size:
        return True
    checkpoints = directory / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def _told(differences: Iterable[tuple[str, Any, Any]], most: int = 3) -> str:
    """The first of the differences in words, and how many more there are."""
    found = list(differences)
    told = [f"{key} was {old!r} and is {new!r} now" for key, old, new in found[:most]]
    more = len(found) - most
    return ", ".join(told) + (f", and {more} more" if more > 0 else "")


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{prefix}.{key}" if prefix else key
            yield from _differences(old.get(key), new.get(key), name)
    elif old != new:
        yield prefix, old, new
