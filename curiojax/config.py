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
    AnyStageObjective,
    Curio,
    Objective,
)
from curiojax.sections import (
    Checkpoint,
    Data,
    Evaluation,
    Logging,
    Loss,
    MeshShape,
    Model,
    Optimizer,
    Reward,
    Rollout,
    Section,
    Teacher,
    World,
    types_of,
)
from curiojax.stages import check_stage, default_objective, merge, with_defaults
from curiojax.yaml_files import explain, read_config, read_overrides, read_yaml

__all__ = [
    "RunConfig",
    "load_config",
    "parse_config",
    "parse_objective",
    "read_config",
    "read_yaml",
]

# What other programs call them, for the hint after an unknown key.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "batch_size": "sequences_per_step",
    "micro_batch_size": "rows_per_microbatch",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "max_length": "data.max_response_tokens",
    "gradient_checkpointing": "model.remat",
    "num_generations": "rollouts_per_prompt",
    "group_size": "rollouts_per_prompt",
    "ppo_mini_batch_size": "prompts_per_update",
    "per_device_train_batch_size": "rows_per_microbatch",
    "gradient_accumulation_steps": "rows_per_microbatch",
    "max_completion_length": "rollout.max_response_tokens",
    "max_tokens": "rollout.max_response_tokens",
}


SECTIONS = (
    *("model", "data", "loss", "teacher", "optimizer", "mesh", "checkpoint", "logging"),
    *("rollout", "reward", "evaluation"),
)


class RunConfig(Section):
    """One run.

    Attributes:
      preset: `paper` or `released`: see `curiojax.stages`.
      stage: `sft`, which learns from a data file's responses, or `grpo`, which learns from rewards
        of the model's own, and with some objectives from responses as well.
      epochs, steps: passes over the data, or optimiser updates; not both. In RL a step is one round
        of sampling and the updates made from it, 500 by default.
      sequences_per_step: records per update, over all devices.
      prompts_per_step: prompts that are sampled from in one step of RL.
      rollouts_per_prompt: completions of each; of `luffy` and `rl_plus` a demonstration is one.
      prompts_per_update: prompts whose completions make one update; divides `prompts_per_step`.
      max_staleness: 1 lets the completions of a step be sampled during the updates of the step
        before, from weights that are one step old.
      rows_per_microbatch: rows of `data.row_length` tokens per forward pass, over all devices.
      world: the embedded world that a comparison is made in; it gives model and data.
      compare: several runs of this config, by name, each with its own overrides; null: not this one
        of the file that is extended.
    """

    preset: Literal["paper", "released"] | None = None
    stage: Literal["sft", "grpo"] = "sft"
    seed: int = Field(default=0, ge=0, lt=2**31)
    output_dir: str | None = None
    epochs: int | None = Field(default=3, ge=1)
    steps: int | None = Field(default=None, ge=1)
    sequences_per_step: int = Field(default=256, ge=1)
    rows_per_microbatch: int = Field(default=16, ge=1)
    prompts_per_step: int = Field(default=128, ge=1)
    rollouts_per_prompt: int = Field(default=8, ge=2)
    prompts_per_update: int = Field(default=64, ge=1)
    max_staleness: Literal[0, 1] = 0
    model: Model = Model()
    data: Data = Data()
    rollout: Rollout = Rollout()
    reward: Reward = Reward()
    evaluation: Evaluation = Evaluation()
    objective: AnyStageObjective = Curio()
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
        if values.get("steps") is None and values.get("stage") == "grpo":
            values["steps"] = 500
        if values.get("steps") is not None:
            if values.get("epochs") is not None:
                raise ValueError(
                    "epochs and steps are both set; remove one (epochs=null or steps=null)"
                )
            values["epochs"] = None
        values = {k: {} if v is None and k in SECTIONS else v for k, v in values.items()}
        if isinstance(values.get("compare"), Mapping):
            # A file that extends another one can leave out its runs.
            values["compare"] = {k: v for k, v in values["compare"].items() if v is not None}
        if isinstance(values.get("objective"), Mapping):
            name = default_objective(values)
            values["objective"] = {"name": name, **values["objective"]}
            loss = values.get("loss", {})
            if values["objective"]["name"] == "oxa" and isinstance(loss, Mapping):
                values["loss"] = {"normalizer": "sequence_token_mean", **loss}
        return values

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if bool(self.compare) != (self.world is not None):
            raise ValueError("world and compare belong together; set both, or neither")
        check_stage(self)
        if self.data.suppressed_path is not None and not self.objective.needs_suppressed:
            raise ValueError(
                f"data.suppressed_path: objective {self.objective.name} has no use for wrong "
                "samples; remove it, or set objective.name=oxa (with ul_weight above 0)"
            )
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs and steps are both null; set one of them")
        curio = isinstance(self.objective, Curio) and self.objective.needs_teacher
        if self.teacher.precision != "same" and not curio:
            raise ValueError(
                f"teacher.precision: objective {self.objective.name} has no teacher here to run in "
                "eight bits; remove it, or set objective.name=curio with objective.teacher=ema and "
                "an alpha above 0"
            )
        if self.model.attention == "cudnn" and self.data.packing:
            raise ValueError(
                "model.attention: cudnn attends across packed records; set data.packing=false, or "
                "model.attention=blocked"
            )
        return self

    @property
    def max_response_tokens(self) -> int:
        """Longest response, in the data or from the model."""
        section = self.data if self.stage == "sft" else self.rollout
        return section.max_response_tokens

    @property
    def row_length(self) -> int:
        """Tokens per row."""
        return self.data.row_length or self.data.max_prompt_tokens + self.max_response_tokens

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates per step."""
        return 1 if self.stage == "sft" else self.prompts_per_step // self.prompts_per_update


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
        return RunConfig.model_validate(with_defaults(values))
    except ValidationError as error:
        raise _explain(error) from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file (or nothing) and applies `dotted.key=value` overrides.

    Raises:
      ConfigError: unreadable file, malformed override, unknown key (with the nearest valid one) or
        invalid value.
    """
    values = {} if path is None else read_config(path)
    said = read_overrides(overrides)
    if isinstance(values.get("objective"), dict):
        name = default_objective({**values, **said})
        values["objective"] = {"name": name, **values["objective"]}
    return parse_config(merge(values, said))


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError, prefix: str = "") -> ConfigError:
    """The first problem of a validation error as one line: field, problem, remedy."""
    problem = error.errors(include_url=False)[0]
    path = ([prefix] if prefix else []) + [str(part) for part in problem["loc"]]
    # The discriminator of the objective union shows up in the location; it is no key of the file.
    name = "curio"
    if path[:1] == ["objective"] and len(path) > 1 and path[1] in ALL_OBJECTIVES:
        name = path.pop(1)
    field, valid = ".".join(path), valid_keys(objective=name)
    if problem["type"] == "extra_forbidden" and path[0] == "objective":
        own = [key for key in valid if key.startswith("objective.")]
        if not difflib.get_close_matches(field, own, n=1, cutoff=0.85):
            return ConfigError(f"{field}: unknown key; {name} has {', '.join(own)}")
    examples = {"objective": "objective.name=NAME", "model": "model.path=DIR"}
    return explain(problem, field, valid, aliases=ALIASES, examples=examples)


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
