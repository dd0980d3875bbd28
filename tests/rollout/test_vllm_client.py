"""The protocol with vLLM, against a stand-in that refuses what vLLM would let pass."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time

import jax
import numpy as np
import pytest
from fake_vllm import FIELDS, FakeServer

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, init_params, save_pretrained
from curiojax.rollout import vllm_dispatch
from curiojax.rollout.base import Sampling
from curiojax.rollout.vllm import RolloutError, VllmRollout, VllmSettings, WeightsRefused
from curiojax.rollout.vllm_client import (
    Aborted,
    VllmClient,
    completion_body,
    read_completions,
    request_seed,
)
from tests.ports import free_port
from tests.waiting import wait_until

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=64,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=24,
    max_position_embeddings=64,
    attention_bias=True,
)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10], [11]]
SAMPLING = Sampling(max_tokens=5, n=3, top_p=0.9, stop_ids=(2,))


@pytest.fixture(scope="module")
def params():
    return init_params(jax.random.key(0), CONFIG)


@pytest.fixture(scope="module")
def checkpoint(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "checkpoint"
    save_pretrained(params, CONFIG, path)
    return path


@pytest.fixture
def connect(checkpoint, tmp_path):
    """Starts stand-ins, and a rollout engine that uses them; gives both."""
    opened = []

    def make(count=1, *, servers=None, **changes):
        servers = servers or [FakeServer() for _ in range(count)]
        for server in servers:
            opened.append(server.__enter__())
        settings = {"max_model_len": 32, "log_dir": tmp_path, "weights_dir": tmp_path}
        settings |= {"base_urls": tuple(s.url for s in servers), "start_timeout_seconds": 300.0}
        rollout = VllmRollout(CONFIG, checkpoint, VllmSettings(**settings | changes))
        opened.append(rollout)
        return rollout, servers

    yield make
    for thing in reversed(opened):
        thing.__exit__(None, None, None)


def expected_tokens(seed, index, sampling=SAMPLING):
    first = request_seed(seed, index)
    return [
        [(first + j) % 40 + 10 + i for i in range(sampling.max_tokens)] for j in range(sampling.n)
    ]


def test_the_request_is_these_fields_and_no_others():
    sampling = Sampling(
        max_tokens=7, temperature=0.5, top_p=0.9, top_k=4, min_tokens=2, stop_ids=(3, 5), n=8
    )
    body = completion_body("policy", np.array([1, 2]), sampling, 11, log_probs=True)
    assert body == {
        "model": "policy",
        "prompt": [1, 2],
        "n": 8,
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 11,
        "stop_token_ids": [3, 5],
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": False,
    }
    assert set(body) == FIELDS


def test_seeds_are_spread_and_fit_64_bits():
    seeds = {request_seed(seed, index) for seed in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert max(seeds) < 2**62 and min(seeds) >= 0
    ranked = sorted(seeds)
    # vLLM adds the sample's index: neighbours must be further apart than any group is large.
    assert min(b - a for a, b in itertools.pairwise(ranked)) > 10_000


def test_groups_come_in_order_and_from_the_callers_thread(connect):
    rollout, [server] = connect()
    seen = []
    results = rollout.generate(
        PROMPTS, SAMPLING, 7, on_group=lambda i, c: seen.append((i, c, threading.get_ident()))
    )
    assert [[c.tokens for c in group] for group in results] == [
        expected_tokens(7, i) for i in range(len(PROMPTS))
    ]
    assert sorted(i for i, _, _ in seen) == list(range(len(PROMPTS)))
    assert all(results[i] is c and thread == threading.get_ident() for i, c, thread in seen)
    assert {c.version for group in results for c in group} == {0}
    assert all(body["model"] == "their-name" for body in server.completions())


def test_prompts_are_spread_evenly(connect):
    rollout, servers = connect(3, concurrent_groups=2)
    meeting = threading.Barrier(6)  # two on each: none is answered before all are there
    for server in servers:
        server.meeting = meeting
    rollout.generate([[i + 1] for i in range(24)], SAMPLING, 0)
    assert [len(server.completions()) for server in servers] == [8, 8, 8]
    assert all(server.most_under_way == 2 for server in servers)


def test_greedy_asks_for_one_and_gives_n(connect):
    rollout, [server] = connect()
    [group] = rollout.generate([[1]], Sampling(max_tokens=4, temperature=0, n=3), 0)
    assert len(group) == 3 and group[0] == group[1] == group[2]
    assert server.completions()[0]["n"] == 1


def test_counts_and_limits_are_each_requests_own(connect):
    rollout, [server] = connect()
    counts, limits, keys = [2, 1, 3, 1, 1], [5, 1, 2, 3, 4], [9, 4, 8, 7, 0]
    settings = dataclasses.replace(SAMPLING, min_tokens=3)
    results = rollout.generate(PROMPTS, settings, 7, keys=keys, counts=counts, limits=limits)
    for group, prompt, count, limit, key in zip(
        results, PROMPTS, counts, limits, keys, strict=True
    ):
        alone = dataclasses.replace(SAMPLING, n=count, max_tokens=limit)
        assert [c.tokens for c in group] == expected_tokens(7, key, alone)
        if limit > 1:  # requests for one token are not told from the servers' own probes
            [body] = [body for body in server.completions() if body["prompt"] == prompt]
            want = (count, limit, min(3, limit))
            assert (body["n"], body["max_tokens"], body["min_tokens"]) == want
    # A prompt that does not fit with the default fits with its limit (32 tokens in all).
    assert rollout.generate([[1] * 30], SAMPLING, 0, limits=[2])[0][0].finish_reason == "length"
    with pytest.raises(ConfigError, match="max_tokens 3 exceeds 32"):
        rollout.generate([[1] * 30], SAMPLING, 0, limits=[3])
    with pytest.raises(ConfigError, match="limits: 6, that of prompt 1"):
        rollout.generate(PROMPTS[:2], SAMPLING, 0, limits=[5, 6])


def test_a_bad_request_stops_the_run_with_its_message(connect):
    rollout, [server] = connect()
    server.script = ["400"]
    with pytest.raises(RolloutError, match="a message with status 400"):
        rollout.generate(PROMPTS[:1], SAMPLING, 0)
    assert len(server.completions()) == 1


@pytest.mark.parametrize("what", ["500", "503", "disconnect", "abort", "forget"])
def test_what_was_lost_is_asked_for_again(connect, what):
    rollout, [server] = connect()
    server.script = [what]
    results = rollout.generate(PROMPTS, SAMPLING, 7)
    assert [[c.tokens for c in group] for group in results] == [
        expected_tokens(7, i) for i in range(len(PROMPTS))
    ]
    assert len(server.completions()) >= len(PROMPTS) + 1
    if what == "forget":  # the server came back with other weights, and got ours
        assert server.weight_version.endswith("-0")


def test_a_slow_request_is_dropped_and_sent_again(connect):
    rollout, [server] = connect(request_timeout_seconds=3.0)
    server.script = ["hang"]  # for a minute
    began = time.monotonic()
    results = rollout.generate(PROMPTS[:2], SAMPLING, 7)
    assert [c.tokens for c in results[0]] == expected_tokens(7, 0)
    assert time.monotonic() - began < 40
    assert len(server.completions()) == 3


def stop(server):
    server.shutdown()
    server.server_close()


def test_the_other_server_takes_over_until_it_is_back(connect):
    # On a port that nobody else takes in between.
    rollout, [one, two] = connect(servers=[FakeServer(free_port()), FakeServer()])
    stop(one)
    results = rollout.generate(PROMPTS, SAMPLING, 7)
    assert [[c.tokens for c in group] for group in results] == [
        expected_tokens(7, i) for i in range(len(PROMPTS))
    ]
    assert len(two.completions()) == len(PROMPTS)
    with FakeServer(one.server_address[1]) as back:
        wait_until(lambda: back.weight_version.endswith("-0"))
        back.delay = two.delay = 0.05
        assert len(rollout.generate(PROMPTS, SAMPLING, 7)) == len(PROMPTS)
        assert back.weights == two.weights and back.completions()


def test_servers_that_stay_away_end_the_call(connect):
    rollout, servers = connect(2, start_timeout_seconds=0.5)
    for server in servers:
        stop(server)
    with pytest.raises(RolloutError, match=r"its return did not happen within 0.5 seconds"):
        rollout.generate(PROMPTS, SAMPLING, 7)


@pytest.mark.parametrize("what", ["500", "abort"])
def test_what_never_works_ends(connect, what):
    rollout, [server] = connect()
    server.script = [what] * 100
    with pytest.raises(RolloutError, match=f"came to nothing {vllm_dispatch.ATTEMPTS} times"):
        rollout.generate(PROMPTS[:1], SAMPLING, 0)
    assert len(server.completions()) == vllm_dispatch.ATTEMPTS


def test_a_shortened_completion_is_an_error(connect):
    rollout, [server] = connect()
    server.script = ["cut"]
    with pytest.raises(RolloutError, match="cut a completion at 4 of 5 tokens"):
        rollout.generate(PROMPTS[:1], SAMPLING, 0)


def test_an_error_in_the_callback_ends_the_call(connect):
    rollout, [server] = connect()
    server.delay = 0.2

    def fail(index, completions):
        raise KeyError("grading")

    with pytest.raises(KeyError, match="grading"):
        rollout.generate([[1]] * 20, SAMPLING, 0, on_group=fail)
    server.delay = 0
    assert len(rollout.generate(PROMPTS, SAMPLING, 0)) == len(PROMPTS)


def choice(**changes):
    base = {"index": 0, "token_ids": [4, 2], "prompt_token_ids": [1], "finish_reason": "stop"}
    return base | {"logprobs": {"token_logprobs": [-1.0, -2.0]}} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"finish_reason": "abort"}, Aborted, "early"),
        ({"prompt_token_ids": [1, 1]}, RolloutError, "changed the prompt"),
        ({"token_ids": [4, 4]}, RolloutError, "does not follow"),
        ({"finish_reason": "length"}, RolloutError, "does not follow"),
        ({"token_ids": []}, RolloutError, "does not follow"),
        ({"logprobs": {"token_logprobs": [-1.0]}}, RolloutError, "one finite number"),
        ({"logprobs": {"token_logprobs": [-1.0, math.nan]}}, RolloutError, "one finite number"),
        ({"index": 1}, RolloutError, "1 were asked"),
        ({"logprobs": None}, RolloutError, "lacks"),
    ],
)
def test_replies_are_checked(changes, error, message):
    sampling = Sampling(max_tokens=3, stop_ids=(2,))
    good = read_completions({"choices": [choice()]}, [1], sampling, version=3, log_probs=True)
    assert good == [([4, 2], [-1.0, -2.0], "stop", 3, None)]
    with pytest.raises(error, match=message):
        reply = {"choices": [choice(**changes)]}
        read_completions(reply, [1], sampling, version=0, log_probs=True)


@pytest.mark.parametrize(
    ("prompts", "sampling", "message"),
    [
        ([[1], []], {}, "prompts: prompt 1 is empty"),
        ([[1], [64]], {}, "prompts: prompt 1 has ids outside the vocabulary of 64"),
        ([[-1]], {}, "outside the vocabulary"),
        ([[1] * 28], {}, "rollout.max_model_len: prompt 0 has 28 tokens"),
        ([[1]], {"temperature": 0.5}, "rollout.temperature: .* does not report log-probs"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_sent(connect, prompts, sampling, message):
    rollout, [server] = connect()
    with pytest.raises(ConfigError, match=message):
        rollout.generate(prompts, Sampling(max_tokens=5, **sampling), 0)
    assert not server.completions()


def test_where_log_probs_are_not_needed_they_are_not_asked_for(connect):
    rollout, [server] = connect(need_log_probs=False)
    [[completion]] = rollout.generate([[1]], Sampling(max_tokens=5, temperature=0.6), 0)
    assert completion.log_probs == [] and server.completions()[0]["logprobs"] is None


def test_a_call_can_do_without_log_probs(connect):
    rollout, [server] = connect()
    odd = Sampling(max_tokens=5, temperature=0.6, top_p=0.95, log_probs=False)
    [[completion]] = rollout.generate([[1]], odd, 0)
    assert completion.log_probs == [] and server.completions()[0]["logprobs"] is None
    with pytest.raises(ConfigError, match="does not report log-probs"):
        rollout.generate([[1]], dataclasses.replace(odd, log_probs=True), 0)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"temperature": 0.7}, True),
        ({"temperature": 0.7, "top_p": 0.9}, False),
        ({"temperature": 0.7, "top_k": 3}, False),
        ({"temperature": 0.7, "min_tokens": 2}, False),
        ({"temperature": 0.0, "top_p": 0.9}, True),
    ],
)
def test_processed_log_probs_only_where_they_are_the_promised_ones(connect, changes, allowed):
    server = FakeServer()
    server.logprobs_mode = "processed_logprobs"
    rollout, _ = connect(servers=[server], temperature=0.7)
    if allowed:
        assert rollout.generate([[1]], Sampling(max_tokens=5, **changes), 0)
    else:
        with pytest.raises(ConfigError, match="does not report log-probs"):
            rollout.generate([[1]], Sampling(max_tokens=5, **changes), 0)


def test_servers_are_checked_when_they_are_named(connect, checkpoint, tmp_path):
    old = FakeServer(version="0.33.0")
    with pytest.raises(ConfigError, match=r"has vLLM 0.33.0; supported is 0.32.x"):
        connect(servers=[old])
    with pytest.raises(ConfigError, match=r"--max-model-len 16, rollout.max_model_len is 32"):
        connect(servers=[FakeServer(max_model_len=16)])
    plain = FakeServer()
    plain.dev_mode = False
    with pytest.raises(ConfigError, match="VLLM_SERVER_DEV_MODE=1"):
        connect(servers=[plain])
    with pytest.raises(ConfigError, match="needs processed_logprobs"):
        connect(temperature=0.6)
    gone = FakeServer()
    gone.server_close()
    settings = VllmSettings(
        max_model_len=32, log_dir=tmp_path, weights_dir=tmp_path, base_urls=(gone.url,)
    )
    with pytest.raises(ConfigError, match="is not a vLLM server that answers"):
        VllmRollout(CONFIG, checkpoint, settings)
    with pytest.raises(ConfigError, match="max_position_embeddings 64"):
        connect(max_model_len=65)
    with pytest.raises(ConfigError, match="not of the form"):
        VllmClient("https://example.org")


def test_a_sync_follows_the_routes_in_order(connect, params):
    rollout, servers = connect(2)
    for server in servers:
        assert server.weights.endswith("checkpoint")  # ours, not what it happened to have
        server.requests.clear()
    report = rollout.sync(params, 12)
    assert report.version == rollout.version == 12
    assert report.num_bytes == 2 * sum(x.size for x in jax.tree.leaves(params))
    assert report.gigabytes_per_second > 0
    for server in servers:
        assert server.paths() == [
            "/pause",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/reset_prefix_cache",
            "/resume",
            "/v1/completions",
        ]
        assert server.weight_version.endswith("-12")
    assert rollout.last_sync["ways"] == ["transfer", "transfer"]
    [[completion, *_], *_] = rollout.generate(PROMPTS, SAMPLING, 0)
    assert completion.version == 12


def test_one_refusal_takes_all_servers_back(connect, params):
    rollout, [one, two] = connect(2)
    rollout.sync(params, 1)
    before = one.weights, one.weight_version
    two.refuse = "3 tensors are missing"
    with pytest.raises(WeightsRefused, match="3 tensors are missing"):
        rollout.sync(params, 2)
    assert (one.weights, one.weight_version) == before
    assert rollout.version == 1
    assert rollout.generate(PROMPTS, SAMPLING, 0)[0][0].version == 1
    assert one.paths()[-1] != "/pause" and two.paths().count("/resume") >= 3
    two.refuse = None
    assert rollout.sync(params, 2).version == 2


def test_weights_that_are_not_finite_never_leave(connect, params):
    rollout, [server] = connect()
    broken = jax.tree.map(lambda x: x, params)
    broken["final_norm"] = {"scale": params["final_norm"]["scale"].at[3].set(np.nan)}
    server.requests.clear()
    with pytest.raises(WeightsRefused, match="finite"):
        rollout.sync(broken, 1)
    assert server.paths() == []
    assert rollout.version == 0


def test_a_busy_prefix_cache_is_waited_for(connect, params):
    rollout, [server] = connect()
    server.requests.clear()
    server.busy = 2
    rollout.sync(params, 1)
    assert server.paths().count("/reset_prefix_cache") == 3


def test_reload_is_the_fallback(connect, params):
    rollout, [server] = connect()
    server.broken = {"/update_weights"}
    rollout.sync(params, 1)
    assert rollout.last_sync["ways"] == ["reload"]
    assert server.weight_version.endswith("-1")
    server.broken = {"/update_weights", "/collective_rpc"}
    with pytest.raises(RolloutError, match="did not take the weights"):
        rollout.sync(params, 2)
    assert rollout.version == 1


def test_a_sync_waits_for_the_completions_under_way(connect, params):
    rollout, [server] = connect()
    server.delay = 0.3
    versions = []
    thread = threading.Thread(
        target=lambda: versions.extend(
            c.version for g in rollout.generate(PROMPTS, SAMPLING, 0) for c in g
        )
    )
    thread.start()
    wait_until(server.completions)
    rollout.sync(params, 5)
    thread.join()
    assert set(versions) == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "rollout.vllm_python: name the interpreter"),
        ({"vllm_python": "x", "base_urls": ("http://a:1",)}, "exactly one of the two"),
        ({"vllm_python": "x", "num_servers": 0}, "rollout.num_servers: 0"),
        ({"vllm_python": "x", "devices": (1, 2, 3), "num_servers": 2}, "shared out evenly"),
        ({"vllm_python": "x", "devices": (1, 1)}, "named twice"),
        ({"base_urls": ("http://a:1",), "num_servers": 2}, "started here"),
        ({"vllm_python": "x", "dtype": "int8"}, "rollout.dtype"),
        ({"vllm_python": "x", "extra_args": ("--port=1",)}, "--port is set"),
    ],
)
def test_settings_are_checked(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        VllmSettings(max_model_len=32, log_dir=tmp_path, **changes)


def test_devices_are_shared_out(tmp_path):
    def make(**changes):
        return VllmSettings(max_model_len=32, log_dir=tmp_path, vllm_python="x", **changes)

    four = make(devices=(4, 5, 6, 7))
    assert (four.server_count, four.tensor_parallel_size) == (4, 1)
    assert [four.server_devices(i) for i in range(4)] == [(4,), (5,), (6,), (7,)]
    two = make(devices=(4, 5, 6, 7), num_servers=2)
    assert (two.server_count, two.tensor_parallel_size) == (2, 2)
    assert two.server_devices(1) == (6, 7)
    assert make().server_count == 1 and make(num_servers=3).server_devices(2) == ()


def test_without_a_folder_for_weights_those_of_the_start_stay(connect, params, tmp_path):
    rollout, _ = connect(weights_dir=None)
    results = rollout.generate(PROMPTS, SAMPLING, 7)
    assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
    with pytest.raises(RuntimeError, match="weights_dir"):
        rollout.sync(params, 1)
    assert not list(tmp_path.glob("curiojax-weights-*"))
