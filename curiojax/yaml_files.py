"""Config files and command-line overrides as plain trees, and what is wrong with them in a line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from curiojax.errors import ConfigError
from curiojax.stages import merge


def read_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The config file, if one is named, and the `key=value` overrides of a command line.

    Raises:
      ConfigError: a flag, or a second file.
    """
    files = [a for a in arguments if "=" not in a or Path(a).is_file()]
    for argument in arguments:
        if argument.startswith("-"):
            raise ConfigError(
                f"{argument}: there are no flags; name the config file alone and write key=value, "
                "see --help"
            )
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: a second config file; give one, and key=value overrides")
    return (files[0] if files else None), [a for a in arguments if a not in files]


def find_config(name: str) -> Path:
    """A config file; `configs/...` is also found inside the installed package."""
    if Path(name).is_file():
        return Path(name)
    package = Path(str(resources.files("curiojax")))
    inside = name.removeprefix("configs/")
    for folder in (package / "_configs", package.parent / "configs"):
        if (folder / inside).is_file():
            return folder / inside
    return Path(name)  # reported as missing by whoever reads it


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`dotted.key=value` overrides as one tree, whose values are read as YAML.

    One tree before it meets the file, so that the order of the overrides does not matter.

    Raises:
      ConfigError: something that is no override.
    """
    said: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is not an override; write key=value")
        value: Any
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        said = merge(said, value)
    return said


def read_config(
    path: str | Path,
    below: tuple[Path, ...] = (),
    spelling: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Reads a YAML file laid over the one that its `extends` names, if it does.

    Args:
      below: files that extend this one.
      spelling: writes out what a file may say in short, before another is laid over it.

    Raises:
      ConfigError: an unreadable file, or one that extends itself.
    """
    values = spelling(read_yaml(path))
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"extends: must be the path of a config file (it is {parent!r})")
    path, below = Path(path), (*below, Path(path).resolve())
    if (path.parent / parent).resolve() in below:
        raise ConfigError(f"extends: {path} extends itself through {parent}")
    return merge(read_config(path.parent / parent, below, spelling), values)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that must hold a mapping."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; see the folder configs/ for examples")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: must hold `key: value` lines, not a {type(values).__name__}")
    return values or {}


def explain(
    problem: Mapping[str, Any],
    field: str,
    valid: Sequence[str],
    *,
    aliases: Mapping[str, str] | None = None,
    examples: Mapping[str, str] | None = None,
) -> ConfigError:
    """A problem that pydantic found as one line: field, problem, remedy.

    Args:
      problem: one of `ValidationError.errors()`.
      field: its dotted key.
      valid: all dotted keys that there are.
      aliases: what other programs call a key, and its name here.
      examples: how to write a key of a section, by section.
    """
    aliases, examples = aliases or {}, examples or {}
    last = field.rsplit(".", 1)[-1]
    if problem["type"] == "extra_forbidden":
        if last in aliases:
            return ConfigError(f"{field}: unknown key; did you mean {aliases[last]}?")
        leaves = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)} | dict(aliases)
        near = difflib.get_close_matches(field, valid, n=1, cutoff=0.6) or [
            leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, n=1, cutoff=0.0)
        ]
        return ConfigError(f"{field}: unknown key; did you mean {near[0]}?")
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        hint = examples.get(field, f"{field}.KEY=VALUE")
        return ConfigError(f"{field}: is a section, not {problem['input']!r}; write {hint}")
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, Mapping | BaseModel) else f" (it is {given!r})"
    return ConfigError(f"{field}: {message}{shown}" if field else message)
