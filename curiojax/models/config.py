"""What a model is: `ModelConfig`, read from and written to a Hugging Face `config.json`.

Both generations of the file are read: `rope_theta` / `rope_scaling` / `torch_dtype`, as the files
on the hub have it, and `rope_parameters` / `dtype`, as transformers 5 writes it. What the decoder
does not implement is refused here, before a weight is read: a model that loads gives right answers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from curiojax.errors import ConfigError


class Family(NamedTuple):
    """What one architecture takes for granted where its `config.json` is silent."""

    architecture: str
    attention_bias: bool  # on q, k and v; never on the output projection
    qk_norm: bool
    num_kv_heads: int | None  # None: as many as query heads
    head_dim: int | None  # None: hidden_size / num_heads
    max_position_embeddings: int


FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", True, False, 32, None, 32768),
    "qwen3": Family("Qwen3ForCausalLM", False, True, 32, 128, 32768),
    "llama": Family("LlamaForCausalLM", False, False, None, None, 2048),
}
DEFAULT_ROPE_THETA = 10_000.0
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
REMAT_POLICIES = ("full", "dots", "none")
ATTENTION_IMPLEMENTATIONS = ("auto", "xla", "blocked", "cudnn")


@dataclass(frozen=True)
class Llama3RopeScaling:
    """`rope_scaling` of type `llama3`: low frequencies are divided by `factor`, high ones kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a decoder, plus three run-time choices; hashable, so a static jit argument.

    Attributes:
      model_type: `qwen2`, `qwen3` or `llama`.
      rope_scaling: None for plain rotary embeddings.
      attention_bias: biases on the query, key and value projections.
      qk_norm: RMS norm of every query and key head.
      eos_token_ids: the ids that end a sequence, as far as `config.json` names them.
      checkpoint_dtype: dtype of the weights in the checkpoint that this came from.
      compute_dtype: dtype of activations and of the weights as used; None: the parameters' dtype.
      remat: what the backward pass recomputes: `full` (all but the layers' inputs), `dots` (all but
        the matrix products with weights), `none`.
      attention: see `curiojax.models.attention.attention`.
      source: the `config.json` this was read from, kept so that an export gives back the keys we do
        not know. It takes no part in equality or hashing.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float = DEFAULT_ROPE_THETA
    rope_scaling: Llama3RopeScaling | None = None
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    checkpoint_dtype: str | None = None
    compute_dtype: str | None = None
    remat: str = "none"
    attention: str = "auto"
    source: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_key_value_heads: {self.num_kv_heads} does not divide num_attention_heads "
                f"{self.num_heads}; check config.json"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim: {self.head_dim} is odd, rotary embeddings need an even one; "
                "check config.json"
            )
        if self.compute_dtype is not None:
            _check_choice("model.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        _check_choice("model.remat", self.remat, REMAT_POLICIES)
        _check_choice("model.attention", self.attention, ATTENTION_IMPLEMENTATIONS)

    @property
    def architecture(self) -> str:
        """The class name that `config.json` lists under `architectures`."""
        return FAMILIES[self.model_type].architecture


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """Reads the content of a `config.json`.

    Raises:
      ConfigError: for an architecture or a feature that the decoder does not implement.
    """
    family = _family(hf)
    _refuse_unsupported(hf, family)

    def get(key: str, default: Any = None) -> Any:
        value = hf.get(key)
        return default if value is None else value

    def required(key: str) -> int:
        if hf.get(key) is None:
            raise ConfigError(f"config.json: {key} is missing; add the model's value")
        return int(hf[key])

    num_heads = required("num_attention_heads")
    # A missing key means the family's default, an explicit null means "derive it".
    num_kv_heads = hf.get("num_key_value_heads", family.num_kv_heads) or num_heads
    head_dim = hf.get("head_dim", family.head_dim) or required("hidden_size") // num_heads
    rope_theta, rope_scaling = _rope(hf)
    eos = get("eos_token_id", ())
    dtype = get("dtype", get("torch_dtype"))
    return ModelConfig(
        model_type=hf["model_type"],
        vocab_size=required("vocab_size"),
        hidden_size=required("hidden_size"),
        num_layers=required("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=int(num_kv_heads),
        head_dim=int(head_dim),
        intermediate_size=required("intermediate_size"),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_position_embeddings=int(get("max_position_embeddings", family.max_position_embeddings)),
        rms_norm_eps=float(get("rms_norm_eps", 1e-6)),
        tie_word_embeddings=bool(get("tie_word_embeddings", False)),
        attention_bias=family.attention_bias,
        qk_norm=family.qk_norm,
        bos_token_id=hf.get("bos_token_id"),
        eos_token_ids=(eos,) if isinstance(eos, int) else tuple(eos),
        checkpoint_dtype=None if dtype in (None, "auto") else str(dtype).removeprefix("torch."),
        source=json.dumps(dict(hf)),
    )


def config_to_hf(config: ModelConfig, dtype: str | None = None) -> dict[str, Any]:
    """Writes a `config.json` that transformers 4, transformers 5 and vLLM read alike.

    Starts from the file the model came from, if any. Rotary settings are always written as
    `rope_theta` + `rope_scaling`: transformers 5 reads both spellings, while transformers 4 would
    pass over `rope_parameters` and silently fall back to its default.

    Args:
      dtype: name of the dtype of the exported weights; None leaves the source's.
    """
    family = FAMILIES[config.model_type]
    hf: dict[str, Any] = json.loads(config.source) if config.source else {"hidden_act": "silu"}
    for key in ("rope_parameters", "_name_or_path"):
        hf.pop(key, None)
    hf |= {
        "architectures": [config.architecture],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    if config.bos_token_id is not None:
        hf["bos_token_id"] = config.bos_token_id
    if config.eos_token_ids:
        ids = config.eos_token_ids
        hf["eos_token_id"] = ids[0] if len(ids) == 1 else list(ids)
    if config.rope_scaling is not None:
        hf["rope_scaling"] = {"rope_type": "llama3", **dataclasses.asdict(config.rope_scaling)}
    implied = family.head_dim or config.hidden_size // config.num_heads
    if family.head_dim or "head_dim" in hf or config.head_dim != implied:
        hf["head_dim"] = config.head_dim
    if not family.attention_bias:
        hf["attention_bias"] = False
    dtype = dtype or config.checkpoint_dtype
    if dtype is not None:
        hf["torch_dtype"] = dtype
        if "dtype" in hf:
            hf["dtype"] = dtype
    return hf


def apply_overrides(config: ModelConfig, overrides: Mapping[str, Any] | None) -> ModelConfig:
    """Replaces fields of a config read from a checkpoint; an entry that is None changes nothing.

    Raises:
      ConfigError: for a field that is fixed by the checkpoint's tensors, or unknown.
    """
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    allowed = {
        "rope_theta": float,
        "rope_scaling": _override_rope_scaling,
        "max_position_embeddings": int,
        "rms_norm_eps": float,
        "bos_token_id": int,
        "eos_token_ids": tuple,
        "compute_dtype": str,
        "remat": str,
        "attention": str,
    }
    for name in changes:
        if name not in allowed:
            raise ConfigError(
                f"model.{name}: cannot be overridden; the fields that can are {', '.join(allowed)}"
            )
    return dataclasses.replace(
        config, **{name: allowed[name](value) for name, value in changes.items()}
    )


def check_context(config: ModelConfig, length: int, field_name: str = "data.row_length") -> None:
    """Raises a `ConfigError` when sequences of `length` tokens exceed the model's positions."""
    if length > config.max_position_embeddings:
        raise ConfigError(
            f"{field_name}: {length} tokens exceed the model's max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the data, or extend the model with "
            "model.max_position_embeddings (and usually a larger model.rope_theta)"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _family(hf: Mapping[str, Any]) -> Family:
    known = ", ".join(family.architecture for family in FAMILIES.values())
    model_type = hf.get("model_type")
    if model_type not in FAMILIES:
        raise ConfigError(
            f"config.json: model_type {model_type!r} is not supported; supported are {known}"
        )
    family = FAMILIES[model_type]
    architectures = hf.get("architectures") or [family.architecture]
    if list(architectures) != [family.architecture]:
        raise ConfigError(
            f"config.json: architectures {architectures} with model_type {model_type!r} is not "
            f"supported; supported are {known}"
        )
    return family


def _refuse_unsupported(hf: Mapping[str, Any], family: Family) -> None:
    def refuse(key: str, why: str) -> None:
        raise ConfigError(
            f"config.json: {key} = {hf.get(key)!r} is not supported ({why}); "
            "use a checkpoint without it"
        )

    if hf.get("use_sliding_window"):
        refuse("use_sliding_window", "attention here is over the full context")
    if any(kind != "full_attention" for kind in hf.get("layer_types") or ()):
        refuse("layer_types", "attention here is over the full context")
    if hf.get("hidden_act", "silu") not in ("silu", "swish"):
        refuse("hidden_act", "the gated MLP here uses silu")
    if hf.get("mlp_bias"):
        refuse("mlp_bias", "the MLP here has no biases")
    if hf.get("attention_dropout"):
        refuse("attention_dropout", "there is no dropout here")
    if hf.get("attention_bias") and not family.attention_bias:
        refuse("attention_bias", "the output projection here has no bias")
    if family.attention_bias and False in (hf.get("attention_bias"), hf.get("qkv_bias")):
        key = "attention_bias" if hf.get("attention_bias") is False else "qkv_bias"
        refuse(key, f"{family.architecture} here always has biases")
    if hf.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        refuse("partial_rotary_factor", "rotary embeddings here turn whole heads")
    if hf.get("use_mrope"):
        refuse("use_mrope", "positions here are one-dimensional")
    if hf.get("quantization_config"):
        refuse("quantization_config", "weights here are plain floating point")
    if "AutoModelForCausalLM" in (hf.get("auto_map") or {}):
        refuse("auto_map", "the repository's own code is never run")


def _rope(hf: Mapping[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    found = {key: hf[key] for key in ("rope_scaling", "rope_parameters") if hf.get(key)}
    for key, value in found.items():
        # transformers 5 may nest the settings by kind of layer; only one kind gets this far.
        if set(value) == {"full_attention"}:
            found[key] = value["full_attention"]
    thetas = {float(value["rope_theta"]) for value in found.values() if "rope_theta" in value}
    if hf.get("rope_theta") is not None:
        thetas.add(float(hf["rope_theta"]))
    scalings = {_rope_scaling(key, value) for key, value in found.items()}
    if len(thetas) > 1 or len(scalings) > 1:
        raise ConfigError(
            "config.json: rope_theta / rope_scaling and rope_parameters contradict each other; "
            "remove one of the two spellings"
        )
    return min(thetas, default=DEFAULT_ROPE_THETA), next(iter(scalings), None)


def _rope_scaling(key: str, value: Mapping[str, Any]) -> Llama3RopeScaling | None:
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ConfigError(
            f"config.json: {key} of type {kind!r} is not supported; supported are default, llama3"
        )
    if value.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        raise ConfigError(f"config.json: {key}.partial_rotary_factor is not supported; remove it")
    if kind == "default":
        return None
    names = [f.name for f in dataclasses.fields(Llama3RopeScaling)]
    missing = [name for name in names if value.get(name) is None]
    if missing:
        raise ConfigError(
            f"config.json: {key} of type llama3 lacks {', '.join(missing)}; add the model's values"
        )
    factor, low, high, original = (value[name] for name in names)
    return Llama3RopeScaling(float(factor), float(low), float(high), int(original))


def _override_rope_scaling(value: Any) -> Llama3RopeScaling | None:
    if isinstance(value, Llama3RopeScaling):
        return value
    return _rope_scaling("rope_scaling", value)
