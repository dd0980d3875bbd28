"""The config of each world that a reproduction covers, from files and other base models.

A world is named here as in tables and folders: `countdown`, or `countdown@large` for the same
problems with another base model, whose folder is called `large`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from curiojax import models, quickstart
from curiojax.config import RunConfig, load_config, read_yaml
from curiojax.data.worlds import WORLDS, embedded_world
from curiojax.errors import ConfigError
from curiojax.training.plan import count_parameters
from curiojax.yaml_files import find_config

CONFIGS = ("configs/reproduce/laptop.yaml", "configs/reproduce/laptop_modchain.yaml")


def read_configs(files: Sequence[str] | None, bases: Sequence[str] = ()) -> dict[str, RunConfig]:
    """The config of each world.

    Args:
      files: one for each world; none: those of the laptop scale.
      bases: other base models, as `countdown=FOLDER`.

    Raises:
      ConfigError: a file or a base model does not fit.
    """
    found: dict[str, RunConfig] = {}
    origins: dict[str, Path] = {}
    for name in files or CONFIGS:
        path = find_config(name)
        if not files and not is_built(read_yaml(path)["world"]["name"]):
            continue
        config = load_config(path)
        if config.world is None:
            raise ConfigError(f"--config: {path} has no world; see {CONFIGS[0]}")
        world = config.world.name
        if world in found:
            raise ConfigError(
                f"--config: {path} and {origins[world]} are of the same world; give each an "
                "--output of its own"
            )
        found[world], origins[world] = config, path
    return found | _with_other_bases(found, bases)


def _with_other_bases(configs: dict[str, RunConfig], bases: Sequence[str]) -> dict[str, RunConfig]:
    found: dict[str, RunConfig] = {}
    for text in bases:
        world, equals, folder = text.partition("=")
        if not equals or not folder or world not in configs:
            known = " or ".join(f"{name}=FOLDER" for name in configs)
            raise ConfigError(f"--base: {text!r} is not of the form {known}")
        path = Path(folder).resolve()
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"--base: {folder} holds no checkpoint; make one with tools/train_world_base.py"
            )
        label = f"{world}@{path.name}"
        if label in found:
            raise ConfigError(f"--base: two folders are called {path.name}; rename one")
        config = configs[world]
        model = config.model.model_copy(update={"path": str(path)})
        found[label] = config.model_copy(update={"model": model})
    return found


def fingerprint(config: RunConfig) -> str | None:
    """Of the base model's weights; None for the shipped one."""
    return models.inspect_pretrained(config.model.path)[1] if config.model.path else None


def base_sizes(configs: Mapping[str, RunConfig]) -> dict[str, int]:
    """How many parameters the base model of each world has."""
    found = {world: quickstart.base_model(config) for world, config in configs.items()}
    return {w: count_parameters(models.inspect_pretrained(path)[0]) for w, path in found.items()}


def is_built(world: str) -> bool:
    """Whether there is a base model to start from."""
    return world in WORLDS and (embedded_world(world).base_model / "config.json").is_file()
