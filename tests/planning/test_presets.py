"""Architectures: parameter counts as their makers publish them, and where they come from."""

import json

import pytest

from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.models.config import config_to_hf
from curiojax.planning.flops import forward_flops, matmul_parameters
from curiojax.planning.plan import make_recipe, state_bytes
from curiojax.planning.presets import PRESETS, find_architecture
from curiojax.planning.target import CHIPS, Target, make_target
from curiojax.training.plan import count_parameters


@pytest.mark.parametrize(
    "name, count",
    # Totals of the tensors in the published checkpoints, a tied head counted once.
    [
        ("Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen3-4B", 4_022_468_096),
        ("Llama-3.1-8B", 8_030_261_248),
    ],
)
def test_parameter_counts(name, count):
    assert count_parameters(PRESETS[name]) == count


@pytest.mark.parametrize("file", ["qwen2.5-math-7b", "qwen3-4b", "llama3.1-8b"])
def test_shipped_configs_need_no_network(file):
    model, source = find_architecture(load_config(f"configs/{file}/sft.yaml"))
    assert source.startswith("preset ")
    assert model.remat == "full" and model.compute_dtype == "bfloat16"


def test_overrides_reach_the_architecture():
    config = load_config("configs/qwen2.5-math-7b/sft.yaml", ["model.remat=dots"])
    model, _ = find_architecture(config)
    assert model.remat == "dots"
    assert (model.rope_theta, model.max_position_embeddings) == (40_000, 16_384)


def test_a_folder_goes_before_a_preset(tmp_path):
    folder = tmp_path / "Qwen3-4B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_hf(PRESETS["Llama-3.1-8B"])))
    model, source = find_architecture(load_config(None, [f"model.path={folder}"]))
    assert model.model_type == "llama" and source == str(folder / "config.json")
    assert model.rope_scaling == PRESETS["Llama-3.1-8B"].rope_scaling


def test_what_is_not_known_is_said_with_what_is():
    with pytest.raises(ConfigError, match=r"model\.path: missing.*Qwen2\.5-Math-7B"):
        find_architecture(load_config(None))
    with pytest.raises(ConfigError, match=r"nowhere/else.*known without.*Llama-3\.1-8B"):
        find_architecture(load_config(None, ["model.path=nowhere/else"]))


def test_bytes_of_the_7b_by_hand():
    """7.6 B weights of 4 bytes over 8 devices; norms and biases are on each of them."""
    config = load_config("configs/qwen2.5-math-7b/sft.yaml")
    model, _ = find_architecture(config)
    norms, biases = (2 * 28 + 1) * 3584, 28 * (3584 + 2 * 512)
    shard = 4 * ((7_615_616_512 - norms - biases) // 8 + norms + biases)
    assert shard == 3_808_974_848
    found = state_bytes(make_recipe(config, model, make_target("cpu", 8)))
    assert found["parameters"] == found["gradients"] == shard
    # Two moments, and two counters: the optimiser's updates and the teacher's.
    assert found["optimiser"] == 2 * shard + 4
    assert found["teacher"] == shard + 4
    # Over twice as many devices, but each model has half of them.
    config = load_config("configs/qwen2.5-math-7b/sft.yaml", ["mesh.data=2"])
    halved = state_bytes(make_recipe(config, model, make_target("cpu", 8)))["parameters"]
    assert halved == 4 * ((7_615_616_512 - norms - biases) // 4 + norms + biases)


def test_flops_of_the_7b_by_hand():
    model = PRESETS["Qwen2.5-Math-7B"]
    per_layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18_944
    assert matmul_parameters(model) == 28 * per_layer + 152_064 * 3584
    # Layers 13.05, head 1.09 and causal attention 1.64 GFLOPs per token at 8192 tokens.
    assert forward_flops(model, 8192) == pytest.approx(15.79e9, rel=2e-3)


def test_targets():
    with pytest.raises(ConfigError, match="--target: 'b200'"):
        make_target("b200", 8)
    with pytest.raises(ConfigError, match="--devices: 9, but this process has 8"):
        make_target("cpu", 9)
    target = make_target("cpu", 4)
    assert isinstance(target, Target) and len(target.devices) == 4 and not target.exact
    assert target.chip is CHIPS["h100"]
