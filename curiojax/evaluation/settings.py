"""The config of `python -m curiojax.evaluate`: one frozen tree, validated before anything starts.

`preset < YAML file < key=value overrides`, as for training. The defaults are the paper's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from curiojax.errors import ConfigError
from curiojax.sections import MeshShape, Model, Section, types_of
from curiojax.stages import merge
from curiojax.yaml_files import explain, read_config, read_overrides

# The paper's text (section 5.1) gives top_p 0.95 and math-verify; its released evaluation leaves
# top_p at 1 and takes the better of two graders on the whole text, the reasoning included.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"temperature": 0.6, "top_p": 0.95},
    "released": {"temperature": 0.6, "top_p": 1.0, "verifier": "released_whole_text"},
}
ALIASES = {
    "model_path": "model.path",
    "model_name": "model.path",
    "tasks": "benchmarks",
    "n": "samples",
    "k": "samples",
    "max_tokens": "max_response_tokens",
    "max_new_tokens": "max_response_tokens",
    "tp": "num_servers",
}


class ExpertData(Section):
    """Demonstrations whose tokens are scored by the model: the entropy along an expert's text.

    Attributes:
      path, format, split: where they are, as in `data` of a training config.
      limit: how many records.
      groups: `moving`: the top 20 % of tokens by this model's own entropies; `fixed`: by those of
        the base model, from the folder `base`.
      base: output_dir of another evaluation on the same demonstrations.
    """

    path: str | None = None
    format: str | None = None
    split: str = "train"
    limit: int = Field(default=256, gt=0)
    groups: Literal["moving", "fixed"] = "moving"
    base: str | None = None

    @model_validator(mode="after")
    def _check(self) -> ExpertData:
        if (self.groups == "fixed") != (self.base is not None):
            raise ValueError(
                "groups fixed and base belong together: base is the output_dir of the evaluation "
                "whose entropies decide the groups"
            )
        return self


class EvaluationConfig(Section):
    """One evaluation of one model.

    Attributes:
      preset: `paper` or `released`.
      model: the checkpoint; `model=DIR` is short for `model.path=DIR`.
      name: what tables and reports call it; null: the last part of its path.
      benchmarks: names (`aime24`), sets of them (`paper`, `math`, `general`), or mappings that give
        a file of one's own; see `curiojax.evaluation.benchmarks`.
      benchmarks_dir: where benchmark files are looked for, as `NAME.parquet` (or jsonl, json),
        before the hub; `tools/prepare_data.py` fills such a folder.
      engine: `sampler`, JAX on this process's devices, or `vllm`, servers of their own.
      samples: completions per question; null: the benchmark's own number (8; 1 for MMLU-Pro).
      temperature, top_p: of the sampling; temperature 0 takes the most likely token.
      max_response_tokens: includes the end-of-sequence token.
      template: how a prompt is rendered, as in `data.template` of a training config.
      stop_token_ids: end a completion beside the tokenizer's end-of-sequence token.
      seed: of the sampling, and of resampling for standard errors.
      limit: first questions of each benchmark only, for a smoke run.
      output_dir: where everything goes; the same command again continues there.
      verifier: grades all benchmarks, instead of each one's own.
      entropy: measure the entropy of every generated token. With vLLM that is a pass of the JAX
        model over the completions, after the servers have ended.
      report_megabytes: size of the completions kept in the report, at most.
      mesh: devices of the JAX model; -1 takes all that are left.
      batch_size: completions that the JAX sampler computes at once.
      batch_tokens: tokens of one forward pass that measures entropies.
      vllm_python, base_urls, num_servers, devices, extra_args, timeout_seconds: as in `rollout` of
        a training config.
      grading_workers, grading_timeout_seconds, grading_memory_limit_mb: as in `reward`.
      expert_data: demonstrations to measure expert-token entropies on; none without its path.
    """

    preset: Literal["paper", "released"] | None = None
    model: Model = Model()
    name: str | None = None
    benchmarks: tuple[str | dict[str, Any], ...] = ("paper",)
    benchmarks_dir: str | None = None
    engine: Literal["sampler", "vllm"] = "sampler"
    samples: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_response_tokens: int = Field(default=8192, gt=0)
    template: str = "curio"
    stop_token_ids: tuple[int, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**31)
    limit: int | None = Field(default=None, gt=0)
    output_dir: str | None = None
    verifier: str | None = None
    entropy: bool = True
    report_megabytes: float = Field(default=20.0, ge=0)
    mesh: MeshShape = MeshShape()
    batch_size: int = Field(default=256, gt=0)
    batch_tokens: int = Field(default=32768, gt=0)
    vllm_python: str | None = None
    base_urls: tuple[str, ...] = ()
    num_servers: int | None = Field(default=None, ge=1)
    devices: tuple[int, ...] = ()
    extra_args: tuple[str, ...] = ()
    timeout_seconds: float = Field(default=3600, gt=0)
    grading_workers: int | None = Field(default=None, ge=1)
    grading_timeout_seconds: float = Field(default=10.0, gt=0)
    grading_memory_limit_mb: int = Field(default=2048, ge=128)
    expert_data: ExpertData = ExpertData()

    @model_validator(mode="after")
    def _check(self) -> EvaluationConfig:
        if not self.benchmarks:
            raise ValueError("benchmarks: none are named; choose some, e.g. [math500, aime24]")
        vllm = self.vllm_python is not None or bool(self.base_urls)
        if self.engine == "vllm" and not vllm:
            raise ValueError(
                "engine: vllm needs vllm_python (the interpreter of its environment, e.g. "
                "/opt/vllm/bin/python) or base_urls of running servers"
            )
        if self.engine == "sampler" and vllm:
            raise ValueError(
                "vllm_python, base_urls: are for engine=vllm; add it, or leave them out"
            )
        return self

    @property
    def label(self) -> str:
        """What tables and reports call the model."""
        path = Path(self.model.path or "model")
        # Every run directory ends in /hf.
        found = self.name or (path.parent.name if path.name == "hf" else "") or path.name
        return found if found not in ("", "..") else path.resolve().name

    @property
    def model_overrides(self) -> dict[str, Any]:
        """What the `model` section changes about the checkpoint's own architecture."""
        names = ("compute_dtype", "attention", "rope_theta", "max_position_embeddings")
        return {name: getattr(self.model, name) for name in names}


def load_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Reads a YAML file (or nothing) and applies `dotted.key=value` overrides.

    Raises:
      ConfigError: unreadable file, malformed override, unknown key (with the nearest valid one) or
        invalid value; in one line.
    """
    values = {} if path is None else read_config(path, spelling=_long)
    return parse_settings(merge(values, _long(_read(overrides))))


def parse_settings(values: Mapping[str, Any]) -> EvaluationConfig:
    """Validates a tree of plain values, with its preset applied underneath.

    Raises:
      ConfigError: in one line, naming the field.
    """
    values = _long(dict(values))
    preset = values.get("preset")
    chosen = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    try:
        return EvaluationConfig.model_validate(merge(chosen, values))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        if field.startswith("benchmarks"):
            return _refuse_benchmarks(problem)
        raise explain(
            problem,
            field,
            valid_keys(),
            aliases=ALIASES,
            examples={"model": "model=DIR"},
        ) from None


def to_yaml(config: EvaluationConfig) -> str:
    """The resolved config as YAML that `load_settings` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def valid_keys(model: type[Section] = EvaluationConfig, prefix: str = "") -> list[str]:
    """All dotted keys."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for inner in types_of(field.annotation):
            if issubclass(inner, Section):
                keys += valid_keys(inner, f"{prefix}{name}.")
    return keys


def _read(overrides: Sequence[str]) -> dict[str, Any]:
    """As `read_overrides`; `model=DIR` and `model.rope_theta=X` may stand beside each other."""
    long = [f"model.path={o[6:]}" if o.startswith("model=") else o for o in overrides]
    return read_overrides(long)


def _long(values: dict[str, Any]) -> dict[str, Any]:
    """`model: DIR` written out, and one benchmark as a list of one."""
    values = dict(values)
    if isinstance(values.get("model"), str):
        values["model"] = {"path": values["model"]}
    if isinstance(values.get("benchmarks"), str | Mapping):
        values["benchmarks"] = [values["benchmarks"]]
    return values


def _refuse_benchmarks(problem: Mapping[str, Any]) -> EvaluationConfig:
    raise ConfigError(
        f"benchmarks: {problem['input']!r} is no list of names or mappings; write "
        "benchmarks=[math500,aime24]"
    ) from None
