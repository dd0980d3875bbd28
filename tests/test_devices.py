"""Which GPUs are left to the trainer when vLLM's servers have some of their own."""

import jax
import pytest

from curiojax import train
from curiojax.config import load_config
from curiojax.errors import ConfigError

VLLM = ["stage=grpo", "rollout={engine: vllm, vllm_python: python, devices: [4, 5, 6, 7]}"]


@pytest.fixture
def chosen(monkeypatch):
    """What JAX is told to use."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(train, "_count_gpus", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return told


def test_the_trainer_takes_the_others(chosen):
    train.leave_devices_to_servers(load_config(None, VLLM))
    assert chosen == {"jax_cuda_visible_devices": "0,1,2,3"}


def test_visible_devices_are_counted_by_position(chosen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,2,4,3")
    train.leave_devices_to_servers(load_config(None, VLLM))
    assert chosen == {"jax_cuda_visible_devices": "1,3"}  # the devices 2 and 3


@pytest.mark.parametrize("overrides", [["stage=grpo"], [], [*VLLM, "rollout.devices=[]"]])
def test_without_devices_of_their_own_jax_is_left_alone(chosen, overrides):
    train.leave_devices_to_servers(load_config(None, overrides))
    assert chosen == {}


def test_somebody_has_to_train(chosen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(ConfigError, match=r"rollout\.devices.*leave some to the trainer"):
        train.leave_devices_to_servers(load_config(None, VLLM))
