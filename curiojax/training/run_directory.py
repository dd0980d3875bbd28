"""The folder of a run: whose it is, and what may change when it is continued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from curiojax.config import RunConfig, to_yaml
from curiojax.data.pipeline import SupervisedData
from curiojax.errors import ConfigError
from curiojax.models import ModelConfig

# Keys that may change when a run is continued: they say where and how it is computed, not what.
NOT_IDENTITY = (
    "output_dir",
    "rows_per_microbatch",
    "mesh",
    "checkpoint",
    "logging",
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
)


def run_directory(config: RunConfig) -> Path:
    return Path(require(config.output_dir, "output_dir"))


def identity(config: RunConfig, model: ModelConfig, data: SupervisedData) -> dict[str, Any]:
    """What a run is, for the check that a directory's checkpoints belong to it."""
    values = config.model_dump(mode="json")
    for key in NOT_IDENTITY:
        section, _, leaf = key.rpartition(".")
        (values[section] if section else values).pop(leaf)
    shape = (model.vocab_size, model.hidden_size, model.num_layers, model.num_heads)
    values["model"]["shape"] = " x ".join(str(size) for size in shape)
    values["data"]["fingerprint"] = data.fingerprint
    return values


def claim(directory: Path, config: RunConfig, ours: dict[str, Any]) -> None:
    """Makes the run directory ours, or raises a `ConfigError` when it holds something else."""
    marker = directory / "identity.json"
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"output_dir: {directory} is a file; name a folder")
    if marker.is_file():
        theirs = json.loads(marker.read_text(encoding="utf-8"))
        if theirs != ours:
            key, old, new = next(_differences(theirs, ours))
            raise ConfigError(
                f"output_dir: {directory} holds a run with {key} = {old!r}, this one has {new!r}; "
                "restore the old value to continue it, or choose another output_dir"
            )
    elif directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(
            f"output_dir: {directory} is not empty and holds no run of this program; choose another"
        )
    if jax.process_count() > 1:  # nobody writes before everybody has looked
        multihost_utils.sync_global_devices("claim the run directory")
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        temporary = marker.with_suffix(".tmp")
        temporary.write_text(json.dumps(ours, indent=1), encoding="utf-8")
        temporary.replace(marker)


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            name = f"{prefix}.{key}" if prefix else key
            yield from _differences(old.get(key), new.get(key), name)
    elif old != new:
        yield prefix, old, new


def require(value: str | None, field: str) -> str:
    if value is None:
        raise ConfigError(f"{field}: missing; give it in the config file or as {field}=...")
    return value
