"""Servers on the trainer's GPUs: they sleep between the completions, and wake with weights only."""

from __future__ import annotations

import os
import signal

import jax
import pytest
from fake_vllm import FakeServer
from test_vllm_client import CONFIG, PROMPTS, SAMPLING, expected_tokens
from test_vllm_server import checkpoint, settings  # noqa: F401  (fixtures)

from curiojax.errors import ConfigError
from curiojax.models import init_params
from curiojax.rollout.vllm import VllmRollout, VllmSettings, WeightsRefused
from curiojax.rollout.vllm_client import ServerError, VllmClient
from curiojax.rollout.vllm_server import server_arguments

SLEEP = "/sleep?level=2"
WAKE = [
    "/wake_up?tags=weights",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/wake_up?tags=kv_cache",
    "/reset_prefix_cache",
    "/v1/completions",  # the probe
]
GENERATE = ["/v1/completions"] * len(PROMPTS)


@pytest.fixture(scope="module")
def weights():
    return {seed: init_params(jax.random.key(seed), CONFIG) for seed in (1, 2)}


@pytest.fixture
def rollout(checkpoint, settings):  # noqa: F811
    with VllmRollout(CONFIG, checkpoint, settings(memory_share=0.4)) as engine:
        yield engine


def client(rollout):
    return rollout._endpoints[0].client


def seen(rollout, since=0):
    """The requests of the server's present life, from the given one on."""
    found = client(rollout).get("/seen", timeout=60)
    assert not found["bad_order"]
    return found["paths"][since:]


def check(rollout, version):
    results = rollout.generate(PROMPTS, SAMPLING, 7)
    assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
    assert {c.version for group in results for c in group} == {version}


def test_the_routes_of_a_step_come_in_order(rollout, weights):
    before = len(seen(rollout))
    check(rollout, 0)
    for version in (1, 2):
        rollout.sleep()
        assert client(rollout).get("/is_sleeping", timeout=60) == {"is_sleeping": True}
        rollout.sync(weights[version], version)
        assert rollout.last_sync["ways"] == ["transfer"]
        check(rollout, version)
    step = [SLEEP, *WAKE, *GENERATE]
    assert seen(rollout, before) == [*GENERATE, *step, *step]


@pytest.mark.parametrize("synced", [False, True])
def test_without_new_weights_a_woken_server_gets_those_in_use(rollout, weights, synced):
    if synced:
        rollout.sync(weights[1], 3)
    rollout.sleep()
    before = len(seen(rollout))
    check(rollout, 3 * synced)  # twice, as dynamic sampling does: woken once
    check(rollout, 3 * synced)
    assert seen(rollout, before) == [*WAKE, *GENERATE, *GENERATE]


def test_asleep_twice_is_asleep(rollout):
    before = len(seen(rollout))
    rollout.sleep()
    rollout.sleep()
    assert seen(rollout, before) == [SLEEP]


@pytest.mark.parametrize("when", ["awake", "asleep"])
@pytest.mark.parametrize("then", ["sync", "generate"])
def test_a_killed_server_comes_back(rollout, weights, when, then):
    if when == "asleep":
        rollout.sleep()
    os.kill(rollout._endpoints[0].process.pids()[0], signal.SIGKILL)
    if then == "sync":
        rollout.sync(weights[1], 3)
        assert rollout.last_sync["ways"] == ["restart"]
    check(rollout, 3 * (then == "sync"))
    rollout.sleep()
    rollout.sync(weights[2], 4)
    check(rollout, 4)


def test_killed_before_it_sleeps_it_comes_back_too(rollout):
    os.kill(rollout._endpoints[0].process.pids()[1], signal.SIGKILL)
    rollout.sleep()
    check(rollout, 0)


def test_refused_weights_leave_it_awake_with_the_old_ones(rollout, weights):
    rollout.sync(weights[1], 1)
    rollout.sleep()
    bad = {"refuse": "3 tensors are missing", "refuse_in": "version-00000002"}
    client(rollout).post("/set", bad, timeout=60)
    before = len(seen(rollout))
    with pytest.raises(WeightsRefused, match="3 tensors are missing"):
        rollout.sync(weights[2], 2)
    assert seen(rollout, before) == [*WAKE[:3], *WAKE]
    check(rollout, 1)


def test_what_does_not_take_weights_on_waking_is_started_anew(rollout, weights):
    rollout.sleep()
    client(rollout).post("/set", {"broken": ["/update_weights", "/collective_rpc"]}, timeout=60)
    pids = rollout._endpoints[0].process.pids()
    rollout.sync(weights[1], 1)
    assert rollout.last_sync["ways"] == ["restart"]
    assert not set(pids) & set(rollout._endpoints[0].process.pids())
    check(rollout, 1)


def test_what_does_not_sleep_is_ended(rollout, capfd):
    client(rollout).post("/set", {"broken": ["/sleep"]}, timeout=60)
    pids = rollout._endpoints[0].process.pids()
    rollout.sleep()
    assert "ended, not asleep" in capfd.readouterr().err
    assert rollout._endpoints[0].process.pids() == []
    check(rollout, 0)
    assert not set(pids) & set(rollout._endpoints[0].process.pids())


def test_servers_with_gpus_of_their_own_do_not_sleep(checkpoint, settings):  # noqa: F811
    with VllmRollout(CONFIG, checkpoint, settings()) as rollout:
        before = len(seen(rollout))
        rollout.sleep()
        assert seen(rollout, before) == []


@pytest.mark.parametrize(
    "order",
    [
        [SLEEP, "/v1/completions"],
        [SLEEP, "/update_weights"],
        [SLEEP, "/wake_up?tags=kv_cache"],
        [SLEEP, "/wake_up?tags=weights", "/wake_up?tags=kv_cache"],
        [SLEEP, "/wake_up?tags=weights", "/reset_prefix_cache"],
        [SLEEP, "/wake_up?tags=weights", "/resume"],
        ["/sleep?level=1"],
        [SLEEP, "/wake_up"],
    ],
)
def test_the_stand_in_refuses_any_other_order(order):
    with FakeServer() as server:
        server.sleep_mode = True
        talk = VllmClient(server.url)
        for path in order[:-1]:
            talk.post(path, {}, timeout=60)
        with pytest.raises(ServerError):
            talk.post(order[-1], {"max_tokens": 2}, timeout=60)
        assert len(server.bad_order) == 1


def test_a_server_is_told_its_share(tmp_path):
    base = {"max_model_len": 32, "log_dir": tmp_path, "vllm_python": "x"}
    shared = server_arguments(VllmSettings(**base, memory_share=0.35), tmp_path, 1)
    apart = server_arguments(VllmSettings(**base), tmp_path, 1)
    assert shared == [*apart, "--enable-sleep-mode", "--gpu-memory-utilization", "0.35"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_share": 1.0}, "rollout.memory_share: 1 is not between"),
        ({"vllm_python": None, "base_urls": ("http://a:1",)}, "rollout.base_urls: servers on"),
        ({"num_servers": 2}, "rollout.devices: name the GPUs of the 2 servers"),
        ({"extra_args": ("--gpu-memory-utilization=0.9",)}, "--gpu-memory-utilization is set"),
    ],
)
def test_settings_are_checked(changes, message, tmp_path):
    base = {"max_model_len": 32, "log_dir": tmp_path, "vllm_python": "x", "memory_share": 0.4}
    with pytest.raises(ConfigError, match=message):
        VllmSettings(**base | changes)
