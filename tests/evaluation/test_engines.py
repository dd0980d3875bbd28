"""An evaluation that cannot fit says so before it reads the weights."""

import dataclasses
import re
from pathlib import Path

import jax
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation import engines
from curiojax.evaluation.engines import Call, Weights, check_memory, start_engine
from curiojax.evaluation.settings import load_settings
from curiojax.planning.presets import PRESETS
from curiojax.rollout.memory import num_bytes, sampler_memory
from curiojax.sharding import make_mesh

SEVEN_B = dataclasses.replace(PRESETS["Qwen2.5-Math-7B"], compute_dtype="bfloat16")
CALL = Call(completions=16 * 30, longest_prompt=200)


def config(batch_size):
    return load_settings(None, ["model=x", f"batch_size={batch_size}", "max_response_tokens=8192"])


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def test_seven_billion_weights_and_256_long_answers_do_not_fit_a_gpu(monkeypatch):
    """57 kB a token (28 layers, 2 x 4 heads, 128 numbers of 2 bytes), and 8192 tokens twice."""
    monkeypatch.setattr(engines, "device_memory", lambda: 76_000_000_000)
    with pytest.raises(ConfigError) as caught:
        check_memory(config(256), SEVEN_B, one_device(), CALL)
    message = str(caught.value)
    assert message.startswith("batch_size: 256 completions") and "\n" not in message
    fitting = int(re.search(r"batch_size=(\d+) fits", message)[1])
    check_memory(config(fitting), SEVEN_B, one_device(), CALL)
    with pytest.raises(ConfigError):
        check_memory(config(fitting + 1), SEVEN_B, one_device(), CALL)


def test_eight_devices_split_it(monkeypatch):
    """Rows and weights lie over all of them; what is offered is a multiple of their number."""
    mesh = make_mesh(devices=jax.devices()[:8])
    monkeypatch.setattr(engines, "device_memory", lambda: 76_000_000_000)
    check_memory(config(256), SEVEN_B, mesh, CALL)
    monkeypatch.setattr(engines, "device_memory", lambda: 8_000_000_000)
    with pytest.raises(ConfigError, match=r"batch_size=(\d+) fits") as caught:
        check_memory(config(256), SEVEN_B, mesh, CALL)
    fitting = int(re.search(r"batch_size=(\d+) fits", str(caught.value))[1])
    assert fitting % 8 == 0
    check_memory(config(fitting), SEVEN_B, mesh, CALL)


def test_fewer_completions_than_rows_are_what_counts(monkeypatch):
    few = Call(completions=4, longest_prompt=200)
    _, cache = sampler_memory(
        SEVEN_B, one_device(), rows=256, completions=4, longest_prompt=200, max_tokens=8192
    )
    monkeypatch.setattr(engines, "device_memory", lambda: 46_000_000_000 + num_bytes(cache))
    check_memory(config(256), SEVEN_B, one_device(), few)


def test_too_little_for_one_is_said(monkeypatch):
    monkeypatch.setattr(engines, "device_memory", lambda: 46_000_000_000)
    with pytest.raises(ConfigError, match="not even one per device"):
        check_memory(config(8), SEVEN_B, one_device(), CALL)


def test_refused_before_the_weights_are_read(monkeypatch):
    monkeypatch.setattr(engines, "device_memory", lambda: 1_000_000)
    settings = config(8)
    weights = Weights(settings, "/nowhere", SEVEN_B)
    with pytest.raises(ConfigError, match="batch_size"):
        start_engine(settings, "/nowhere", SEVEN_B, weights, CALL, Path("/nowhere"))


def test_unknown_memory_refuses_nothing():
    check_memory(config(100_000), SEVEN_B, one_device(), CALL)
