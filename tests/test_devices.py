"""What of the GPUs is left to the trainer when vLLM's servers have some, or share them all."""

import os

import jax
import pytest

from curiojax import train
from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.training import memory

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


SHARED = [*VLLM, "rollout.layout=shared", "rollout.memory_share=0.3"]


@pytest.fixture
def environment(monkeypatch):
    for name in memory.VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_shared_gpus_are_the_trainers_too(chosen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    train.leave_devices_to_servers(load_config(None, SHARED))
    assert chosen == {}


def test_jax_leaves_the_servers_their_share(environment):
    config = load_config(None, SHARED)
    memory.leave_memory_to_servers(config)
    assert float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == pytest.approx(0.65)
    assert memory.sharing(config.rollout) == {"GPU memory": "30% for the servers, 65% for JAX"}
    assert memory.sharing_warnings(config.rollout) == []


@pytest.mark.parametrize("name", memory.VARIABLES)
def test_what_the_user_set_stays(environment, monkeypatch, name):
    monkeypatch.setenv(name, "0.8")
    config = load_config(None, SHARED)
    memory.leave_memory_to_servers(config)
    assert {n: os.environ.get(n) for n in memory.VARIABLES if n in os.environ} == {name: "0.8"}
    [warning] = memory.sharing_warnings(config.rollout)
    assert warning.startswith("rollout.memory_share: 30%") and name in warning


@pytest.mark.parametrize("overrides", [VLLM, ["stage=grpo"], []])
def test_where_nothing_is_shared_nothing_is_set(environment, overrides):
    config = load_config(None, overrides)
    memory.leave_memory_to_servers(config)
    assert not any(name in os.environ for name in memory.VARIABLES)
    assert memory.sharing(config.rollout) == {}


def test_a_share_that_is_no_number_is_named(environment, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(ConfigError, match="XLA_PYTHON_CLIENT_MEM_FRACTION: 'most' is no number"):
        memory.leave_memory_to_servers(load_config(None, SHARED))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=grpo", "rollout.layout=shared"], "layout shared is one of vLLM's"),
        (
            ["stage=grpo", "rollout={layout: shared, engine: vllm, base_urls: ['http://a:1']}"],
            "set vllm_python instead of base_urls",
        ),
        ([*SHARED, "max_staleness=1", "objective.tis_cap=2", "rollout.top_p=1"], "max_staleness"),
        ([*SHARED, "rollout.memory_share=1"], "rollout.memory_share"),
    ],
)
def test_what_sharing_does_not_go_with_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)
