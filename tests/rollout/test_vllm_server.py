"""The processes of a server: started, replaced, and never left behind. No vLLM, only a stand-in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import psutil
import pytest
from fake_vllm import make_interpreter
from test_vllm_client import CONFIG, PROMPTS, SAMPLING, expected_tokens

from curiojax.errors import ConfigError
from curiojax.models import init_params, save_pretrained
from curiojax.rollout import vllm_guard
from curiojax.rollout.vllm import RolloutError, VllmRollout, VllmSettings
from curiojax.rollout.vllm_client import VllmClient
from curiojax.rollout.weights import WeightStore
from tests.ports import free_port
from tests.waiting import wait_until

SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "checkpoint"
    save_pretrained(init_params(jax.random.key(0), CONFIG), CONFIG, path)
    return path


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        base = {
            "max_model_len": 32,
            "log_dir": tmp_path / "logs",
            "weights_dir": tmp_path,
            "start_timeout_seconds": 300.0,
        }
        python = changes.pop("vllm_python", None) or make_interpreter(tmp_path)
        return VllmSettings(vllm_python=python, **base | changes)

    return make


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared(pids):
    return [Path(file) for file in vllm_guard.shared_memory(pids)]


def test_start_use_and_close(checkpoint, settings, tmp_path):
    with VllmRollout(CONFIG, checkpoint, settings(num_servers=2)) as rollout:
        pids = [pid for e in rollout._endpoints for pid in e.process.pids()]
        files = shared(pids)
        assert len(pids) == 4 and len(files) == 2
        results = rollout.generate(PROMPTS, SAMPLING, 7)
        assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
        assert rollout.sync(init_params(jax.random.key(1), CONFIG), 3).version == 3
        folders = [rollout._run_dir, rollout._store.folder]
        assert all(folder.is_dir() for folder in folders)
        # Not in our group, which Ctrl-C goes to.
        assert os.getpgrp() not in {os.getpgid(pid) for pid in pids}
    assert not any(map(alive, pids))
    assert not any(path.exists() for path in (*files, *folders))
    assert (tmp_path / "logs/vllm-server-1.log").exists()


def let_look(guard):
    """Waits until a guard has looked what shared memory there is, for which alone it reads."""
    reads = guard.io_counters().read_count
    wait_until(lambda: guard.io_counters().read_count > reads)
    naps = guard.num_ctx_switches().voluntary
    wait_until(lambda: guard.num_ctx_switches().voluntary > naps + 1)


@pytest.mark.parametrize("victim", ["server", "engine", "both"])
def test_a_killed_server_comes_back_with_its_weights(checkpoint, settings, victim):
    with VllmRollout(CONFIG, checkpoint, settings()) as rollout:
        rollout.sync(init_params(jax.random.key(1), CONFIG), 3)
        process = rollout._endpoints[0].process
        server, engine = process.pids()
        [file] = shared([engine])
        let_look(psutil.Process(process._guard.pid))
        for name, pid in (("engine", engine), ("server", server)):
            if victim in (name, "both"):
                os.kill(pid, signal.SIGKILL)
        results = rollout.generate(PROMPTS, SAMPLING, 7)
        assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
        assert {c.version for group in results for c in group} == {3}
        assert not alive(server) and not alive(engine)
        assert not file.exists()
        after = process.pids()
        assert len(after) == 2 and not {server, engine} & set(after)
    assert not any(map(alive, after))


TRAINER = """
    import signal, sys, threading, time
    from pathlib import Path
    # A background job of a shell ignores it, and so would all its descendants.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [{tests!r}]
    from test_vllm_client import CONFIG, PROMPTS, SAMPLING
    from curiojax.rollout.vllm import VllmRollout, VllmSettings
    settings = VllmSettings(
        max_model_len=32, log_dir={logs!r}, weights_dir={weights!r}, vllm_python={python!r}
    )
    rollout = VllmRollout(CONFIG, {checkpoint!r}, settings)
    rollout.generate(PROMPTS, SAMPLING, 7)
    pids = rollout._endpoints[0].process.pids() + [rollout._endpoints[0].process._guard.pid]
    print(*pids, rollout._run_dir, rollout._store.folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def trainer(checkpoint, tmp_path):
    """A process with an engine: itself, its server's processes with the guard last, its files."""
    code = TRAINER.format(
        tests=str(Path(__file__).parent),
        logs=str(tmp_path / "logs"),
        weights=str(tmp_path),
        python=str(make_interpreter(tmp_path)),
        checkpoint=str(checkpoint),
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=env
    )
    *pids, run_dir, weights = process.stdout.readline().split()
    pids = list(map(int, pids))
    assert len(pids) == 3 and all(map(alive, pids))
    [file] = shared(pids)
    return process, pids, [Path(file), Path(run_dir), Path(weights)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_with_the_trainer(trainer, how):
    process, pids, files = trainer
    process.send_signal(how)
    process.wait(timeout=300)
    wait_until(lambda: not any(map(alive, pids)))
    wait_until(lambda: not any(path.exists() for path in files))


def test_servers_end_where_the_trainer_and_the_guard_are_killed_at_once(trainer):
    process, pids, [file, run_dir, weights] = trainer
    os.kill(pids[-1], signal.SIGKILL)
    process.kill()
    process.wait(timeout=300)
    wait_until(lambda: not any(map(alive, pids)))
    wait_until(lambda: not file.exists())
    # Nobody is left to remove these; the next run removes the weights.
    WeightStore(weights.parent, CONFIG, "float32").close()
    assert not weights.exists()
    shutil.rmtree(run_dir)


def test_a_server_ends_with_its_guard_and_comes_back(checkpoint, settings):
    with VllmRollout(CONFIG, checkpoint, settings()) as rollout:
        process = rollout._endpoints[0].process
        pids = process.pids()
        os.kill(process._guard.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, pids)))
        results = rollout.generate(PROMPTS, SAMPLING, 7)
        assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
        after = process.pids()
    assert len(after) == 2 and not any(map(alive, after))


def test_only_unused_shared_memory_of_the_server_is_removed(tmp_path):
    used, unused, other = (SHM / f"psm_test{os.getpid()}{x}" for x in "abc")
    try:
        for file in (used, unused, other):
            file.write_bytes(b"x")
        with used.open("rb"):
            vllm_guard.remove_shared_memory({str(used), str(unused)})
            assert used.exists() and not unused.exists() and other.exists()
        vllm_guard.remove_shared_memory({str(used)})
        assert not used.exists()
    finally:
        for file in (used, unused, other):
            file.unlink(missing_ok=True)


def test_a_server_that_does_not_start_says_why(checkpoint, settings, tmp_path):
    name = f"doomed{os.getpid()}-"  # other tests have files there, too
    problem = "Free memory on device is less than desired"
    python = make_interpreter(tmp_path, FAKE_FAILURE=problem, FAKE_NAME=name)
    with pytest.raises(ConfigError, match="ValueError: Free memory on device") as caught:
        VllmRollout(CONFIG, checkpoint, settings(vllm_python=python))
    assert "\n" not in str(caught.value) and "vllm-server-0.log" in str(caught.value)
    assert not list(tmp_path.glob("curiojax-weights-*"))
    assert not list(SHM.glob(f"psm_{name}*"))


def test_interpreters_are_checked(checkpoint, settings, tmp_path):
    def start(python, **changes):
        VllmRollout(CONFIG, checkpoint, settings(vllm_python=python, **changes))

    with pytest.raises(ConfigError, match=r"rollout.vllm_python: /nowhere/python is not an exec"):
        start("/nowhere/python")
    with pytest.raises(ConfigError, match=r"has no vLLM; install vllm==0.32.0"):
        start(make_interpreter(tmp_path, FAKE_VERSIONS="{}"))
    with pytest.raises(ConfigError, match=r"has vLLM 0.33.1; supported is 0.32.x"):
        start(make_interpreter(tmp_path, FAKE_VERSIONS='{"vllm": "0.33.1"}'))
    with pytest.raises(ConfigError, match="is it a Python"):
        start("/bin/false")
    with pytest.raises(ConfigError, match=r"rollout.weights_dir: .*is not there"):
        start(make_interpreter(tmp_path), weights_dir=tmp_path / "missing")


def test_a_server_by_the_tool_takes_our_weights(checkpoint, settings, tmp_path):
    port = free_port()
    tool = Path(__file__).parents[2] / "tools/serve_vllm.py"
    command = [sys.executable, str(tool), str(checkpoint), "--port", str(port)]
    command += ["--vllm-python", str(make_interpreter(tmp_path)), "--max-model-len", "32"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen(
        [*command, "--", "--enforce-eager"], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout.readline().rstrip().endswith("--enforce-eager")
        url = f"http://127.0.0.1:{port}"
        client = VllmClient(url)

        def answers():
            with contextlib.suppress(RolloutError):
                client.get("/health", timeout=30)
                return True

        wait_until(answers)
        base = {"max_model_len": 32, "log_dir": tmp_path, "weights_dir": tmp_path}
        with VllmRollout(CONFIG, checkpoint, VllmSettings(**base, base_urls=(url,))) as rollout:
            rollout.sync(init_params(jax.random.key(1), CONFIG), 3)
            results = rollout.generate(PROMPTS, SAMPLING, 7)
        assert [c.tokens for c in results[2]] == expected_tokens(7, 2)
        assert server.poll() is None  # not ours to end
    finally:
        for pid in vllm_guard.descendants(server.pid):
            file = Path(f"/dev/shm/psm_fake{pid}")
            os.kill(pid, signal.SIGKILL)
            file.unlink(missing_ok=True)
        server.kill()
        server.wait()
