"""The whole run as one tree of frozen models. Defaults are the paper's values.

A run is described by `preset < YAML file < key=value overrides`; whatever is left unsaid keeps the
default below. A file may start with `extends: other.yaml`, a path beside it, and say only what
differs. Everything is validated before anything is compiled, downloaded or written, and the
resolved tree is saved with the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from curiojax.errors import ConfigError
from curiojax.objectives import (
    ALL_OBJECTIVES,
    AnyObjective,
    AnyStageObjective,
    Curio,
    Objective,
)
from curiojax.sections import (
    Checkpoint,
    Data,
    Logging,
    Loss,
    MeshShape,
    Model,
    Optimizer,
    Section,
    Teacher,
    World,
    types_of,
)

# The paper's text and the released code differ. Where a preset is named, it sets these fields; what
# a file or an override says wins. Objective fields apply to `objective.name: curio` only.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "objective": {"search_steps": 15, "gate_entropy": None},
        "optimizer": {"lr_horizon_multiplier": 1},
        "data": {"overlong": "drop"},
    },
    "released": {
        # The 0.03-nat gate is the default already.
        "objective": {"search_steps": 20},
        "optimizer": {"lr_horizon_multiplier": 4},
        "data": {"overlong": "truncate"},
        "loss": {"normalizer": "pair_token_mean"},
    },
}


# What other programs call them, for the hint after an unknown key.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "batch_size": "sequences_per_step",
    "micro_batch_size": "rows_per_microbatch",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "max_length": "data.max_response_tokens",
    "gradient_checkpointing": "model.remat",
}


SECTIONS = ("model", "data", "loss", "teacher", "optimizer", "mesh", "checkpoint", "logging")


class RunConfig(Section):
    """One run.

    Attributes:
      preset: `paper` or `released`: see `PRESETS`.
      epochs, steps: passes over the data, or optimiser updates; not both.
      sequences_per_step: records per update, over all devices.
      rows_per_microbatch: rows of `data.row_length` tokens per forward pass, over all devices.
      world: the embedded world that a comparison is made in; it gives model and data.
      compare: several runs of this config, by name, each with its own overrides.
    """

    preset: Literal["paper", "released"] | None = None
    stage: Literal["sft"] = "sft"
    seed: int = Field(default=0, ge=0, lt=2**31)
    output_dir: str | None = None
    epochs: int | None = Field(default=3, ge=1)
    steps: int | None = Field(default=None, ge=1)
    sequences_per_step: int = Field(default=256, ge=1)
    rows_per_microbatch: int = Field(default=16, ge=1)
    model: Model = Model()
    data: Data = Data()
    objective: AnyObjective = Curio()
    loss: Loss = Loss()
    teacher: Teacher = Teacher()
    optimizer: Optimizer = Optimizer()
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpoint = Checkpoint()
    logging: Logging = Logging()
    world: World | None = None
    compare: dict[str, dict[str, Any]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        if values.get("steps") is not None:
            if values.get("epochs") is not None:
                raise ValueError(
                    "epochs and steps are both set; remove one (epochs=null or steps=null)"
                )
            values["epochs"] = None
        values = {k: {} if v is None and k in SECTIONS else v for k, v in values.items()}
        if isinstance(values.get("objective"), Mapping):
            values["objective"] = {"name": "curio", **values["objective"]}
            loss = values.get("loss", {})
            if values["objective"]["name"] == "oxa" and isinstance(loss, Mapping):
                values["loss"] = {"normalizer": "sequence_token_mean", **loss}
        return values

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if bool(self.compare) != (self.world is not None):
            raise ValueError("world and compare belong together; set both, or neither")
        if self.data.suppressed_path is not None and not self.objective.needs_suppressed:
            raise ValueError(
                f"data.suppressed_path: objective {self.objective.name} has no use for wrong "
                "samples; remove it, or set objective.name=oxa (with ul_weight above 0)"
            )
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs and steps are both null; set one of them")
        if self.model.attention == "cudnn" and self.data.packing:
            raise ValueError(
                "model.attention: cudnn attends across packed records; set data.packing=false, or "
                "model.attention=blocked"
            )
        return self

    @property
    def row_length(self) -> int:
        """Tokens per row."""
        return self.data.row_length or self.data.max_prompt_tokens + self.data.max_response_tokens


def parse_objective(values: Mapping[str, Any]) -> Objective:
    """Builds an objective, supervised or policy, from a dict: `{"name": "curio", "alpha": 0.5}`.

    Raises:
      ConfigError: unknown name or field, or a value out of range; names the field.
    """
    try:
        return TypeAdapter(AnyStageObjective).validate_python(dict(values))
    except ValidationError as error:
        raise _explain(error, prefix="objective") from None


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Validates a tree of plain values, with its preset applied underneath.

    Raises:
      ConfigError: in one line, naming the field.
    """
    try:
        return RunConfig.model_validate(_with_preset(values))
    except ValidationError as error:
        raise _explain(error) from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file (or nothing) and applies `dotted.key=value` overrides.

    Raises:
      ConfigError: unreadable file, malformed override, unknown key (with the nearest valid one) or
        invalid value.
    """
    values = {} if path is None else read_config(path)
    if isinstance(values.get("objective"), dict):
        values["objective"] = {"name": "curio", **values["objective"]}
    # The overrides are one tree before they meet the file, so that their order does not matter.
    said: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is not an override; write key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        said = merge(said, _nest(key.strip().split("."), value))
    return parse_config(merge(values, said))


def read_config(path: str | Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads a YAML file laid over the one that its `extends` names, if it does.

    Raises:
      ConfigError: an unreadable file, or one that extends itself.
    """
    values = read_yaml(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"extends: must be the path of a config file (it is {parent!r})")
    path, below = Path(path), (*below, Path(path).resolve())
    if (path.parent / parent).resolve() in below:
        raise ConfigError(f"extends: {path} extends itself through {parent}")
    return merge(read_config(path.parent / parent, below), values)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that must hold a mapping."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; see the folder configs/ for examples")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: must hold `key: value` lines, not a {type(values).__name__}")
    return values or {}


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `update` laid over it, section by section.

    An `objective` of another name replaces the whole objective: the fields of one objective mean
    nothing to another.
    """
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            renamed = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = dict(value) if key == "objective" and renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


def _with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    preset = values.get("preset")
    if (
        not isinstance(preset, str) or preset not in PRESETS
    ):  # an unknown preset is reported by validation
        return dict(values)
    defaults = dict(PRESETS[preset])
    objective = values.get("objective")
    if isinstance(objective, Mapping) and objective.get("name", "curio") != "curio":
        defaults.pop("objective")
    else:
        fields = dict(defaults["objective"])
        defaults["objective"] = {"name": "curio", **fields}
    return merge(defaults, values)


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _explain(error: ValidationError, prefix: str = "") -> ConfigError:
    """The first problem of a validation error as one line: field, problem, remedy."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    path = ([prefix] if prefix else []) + location
    # The discriminator of the objective union shows up in the location; it is no key of the file.
    name = "curio"
    if path[:1] == ["objective"] and len(path) > 1 and path[1] in ALL_OBJECTIVES:
        name = path.pop(1)
    field = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = valid_keys(objective=name)
        if path[0] == "objective":
            own = [key for key in valid if key.startswith("objective.")]
            if not difflib.get_close_matches(field, own, n=1, cutoff=0.85):
                return ConfigError(f"{field}: unknown key; {name} has {', '.join(own)}")
        leaves = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)} | ALIASES
        if path[-1] in ALIASES:
            return ConfigError(f"{field}: unknown key; did you mean {ALIASES[path[-1]]}?")
        near = difflib.get_close_matches(field, valid, n=1, cutoff=0.6) or [
            leaves[leaf] for leaf in difflib.get_close_matches(path[-1], leaves, n=1, cutoff=0.0)
        ]
        return ConfigError(f"{field}: unknown key; did you mean {near[0]}?")
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        example = {"objective": "objective.name=NAME", "model": "model.path=DIR"}
        hint = example.get(field, f"{field}.KEY=VALUE")
        return ConfigError(f"{field}: is a section, not {problem['input']!r}; write {hint}")
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, Mapping | BaseModel) else f" (it is {given!r})"
    return ConfigError(f"{field}: {message}{shown}" if field else message)


def valid_keys(
    model: type[BaseModel] = RunConfig, prefix: str = "", *, objective: str = "curio"
) -> list[str]:
    """All dotted keys of a config with this objective, in the order of the file."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if name == "objective":
            keys += [f"objective.{key}" for key in ALL_OBJECTIVES[objective].model_fields]
        inner = [t for t in types_of(field.annotation) if issubclass(t, Section)]
        for section in inner:
            keys += valid_keys(section, f"{prefix}{name}.")
    return keys
