"""Reading and writing `config.json`, in both of its generations."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tiny_checkpoints import CASES, FAMILIES
from transformers import AutoConfig

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, check_context
from curiojax.models.config import (
    Llama3RopeScaling,
    apply_overrides,
    config_from_hf,
    config_to_hf,
)

# As the hub's files have it (transformers 4).
QWEN_MATH = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 4096,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN3 = QWEN_MATH | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "sliding_window": None,
}


def second_generation(hf):
    """The same model as transformers 5 writes it."""
    hf = dict(hf)
    hf["dtype"] = hf.pop("torch_dtype")
    scaling = hf.pop("rope_scaling", None) or {"rope_type": "default"}
    hf["rope_parameters"] = scaling | {"rope_theta": hf.pop("rope_theta")}
    return hf


def test_qwen2():
    assert config_from_hf(QWEN_MATH) == ModelConfig(
        model_type="qwen2",
        vocab_size=152064,
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=18944,
        rope_theta=10000.0,
        max_position_embeddings=4096,
        attention_bias=True,
        bos_token_id=151643,
        eos_token_ids=(151643,),
        checkpoint_dtype="bfloat16",
    )


def test_qwen3():
    config = config_from_hf(QWEN3)
    assert (config.head_dim, config.qk_norm, config.attention_bias) == (128, True, False)
    assert config.tie_word_embeddings and config.architecture == "Qwen3ForCausalLM"


def test_llama3():
    config = config_from_hf(LLAMA)
    assert config.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert (config.head_dim, config.rms_norm_eps) == (128, 1e-5)
    assert not config.tie_word_embeddings and not config.attention_bias


@pytest.mark.parametrize("hf", [QWEN_MATH, QWEN3, LLAMA], ids=lambda hf: hf["model_type"])
def test_both_generations_are_one_model(hf):
    first, second = config_from_hf(hf), config_from_hf(second_generation(hf))
    assert first == second and hash(first) == hash(second)
    nested = second_generation(hf)
    nested["rope_parameters"] = {"full_attention": nested["rope_parameters"]}
    assert config_from_hf(nested) == first
    assert config_from_hf(config_to_hf(second)) == first


@pytest.mark.parametrize("hf", [QWEN_MATH, QWEN3, LLAMA], ids=lambda hf: hf["model_type"])
def test_an_export_keeps_the_source(hf):
    written = config_to_hf(config_from_hf(hf | {"pad_token_id": 5, "_name_or_path": "somewhere"}))
    assert hf.items() <= written.items()
    assert written["pad_token_id"] == 5 and "_name_or_path" not in written


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_what_we_write(name):
    """Without a source, so that every key is ours."""
    want = CASES[name][1]
    config = dataclasses.replace(config_from_hf(want.to_dict()), source=None)
    written = config_to_hf(config, "bfloat16")
    assert json.loads(json.dumps(written)) == written
    # transformers 4 reads only this spelling.
    assert {"rope_theta", "rope_scaling", "torch_dtype"} <= set(written)
    got = AutoConfig.for_model(**written)
    assert type(got) is type(want)
    for key in (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads rope_parameters max_position_embeddings rms_norm_eps "
        "tie_word_embeddings hidden_act"
    ).split():
        assert getattr(got, key) == getattr(want, key), key
    if config.eos_token_ids:
        assert got.eos_token_id == want.eos_token_id
    assert getattr(got, "head_dim", None) == getattr(want, "head_dim", None)
    assert str(got.dtype) == "torch.bfloat16"


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_defaults_of_missing_keys(model_type):
    """A file with the sizes alone means what transformers takes it to mean."""
    hf = {
        "model_type": model_type,
        "vocab_size": 64,
        "hidden_size": 512,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 64,
    }
    config, want = config_from_hf(hf), AutoConfig.for_model(**hf)
    assert config.num_kv_heads == want.num_key_value_heads
    assert config.head_dim == getattr(want, "head_dim", None) or 512 // 64
    assert config.rope_theta == want.rope_parameters["rope_theta"]
    assert config.max_position_embeddings == want.max_position_embeddings
    assert config.rms_norm_eps == want.rms_norm_eps
    assert config.tie_word_embeddings == want.tie_word_embeddings
    assert config.attention_bias == (model_type == "qwen2")


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (QWEN_MATH, {"model_type": "gpt2"}, "model_type 'gpt2'"),
        (QWEN_MATH, {"model_type": None}, "model_type None"),
        (QWEN_MATH, {"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
        (QWEN_MATH, {"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        (QWEN_MATH, {"use_sliding_window": True}, "use_sliding_window"),
        (QWEN3, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        (QWEN_MATH, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        (QWEN_MATH, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        (QWEN_MATH, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        (QWEN_MATH, {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        (QWEN_MATH, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "contradict"),
        (LLAMA, {"rope_parameters": {"rope_type": "default"}}, "contradict"),
        (LLAMA, {"attention_bias": True}, "attention_bias"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (QWEN3, {"attention_bias": True}, "attention_bias"),
        (QWEN_MATH, {"attention_bias": False}, "attention_bias"),
        (QWEN_MATH, {"hidden_act": "gelu"}, "hidden_act"),
        (QWEN_MATH, {"attention_dropout": 0.1}, "attention_dropout"),
        (QWEN_MATH, {"use_mrope": True}, "use_mrope"),
        (QWEN_MATH, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (QWEN_MATH, {"auto_map": {"AutoModelForCausalLM": "x.Y"}}, "auto_map"),
        (QWEN_MATH, {"num_key_value_heads": 5}, "num_key_value_heads: 5 does not divide"),
        (QWEN_MATH, {"head_dim": 65}, "head_dim: 65 is odd"),
        (QWEN_MATH, {"vocab_size": None}, "vocab_size is missing"),
    ],
)
def test_refusals(base, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        config_from_hf(base | change)
    assert "\n" not in str(error.value)


def test_overrides():
    config = config_from_hf(QWEN_MATH)
    changed = apply_overrides(
        config, {"rope_theta": 40000, "max_position_embeddings": 16384, "remat": "full"}
    )
    assert (changed.rope_theta, changed.max_position_embeddings) == (40000.0, 16384)
    written = config_to_hf(changed)
    assert (written["rope_theta"], written["max_position_embeddings"]) == (40000.0, 16384)
    assert "remat" not in written
    assert apply_overrides(config, {"rope_theta": None}) == config
    for field, value in (("hidden_size", 5), ("rope_teta", 1.0)):
        with pytest.raises(ConfigError, match=f"{field}: cannot be overridden"):
            apply_overrides(config, {field: value})
    for field in ("remat", "attention", "compute_dtype"):
        with pytest.raises(ConfigError, match=f"model.{field}: 'some' is not one of"):
            apply_overrides(config, {field: "some"})


def test_context_check():
    config = config_from_hf(QWEN_MATH)
    check_context(config, 4096)
    with pytest.raises(ConfigError, match=r"data.row_length: 9216 tokens exceed .* 4096"):
        check_context(config, 9216)
