"""A vLLM server as a process: started, watched, and ended together with all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from curiojax.rollout import vllm_guard
from curiojax.rollout.vllm_client import EngineLost, RolloutError
from curiojax.rollout.vllm_settings import VllmSettings

_WORKER_MODULE = "curiojax_vllm_worker"
_BACKEND = "curiojax_files"
_REMOVED_FROM_ENV = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_ENV = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that take weights exist only with it
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
_ERROR_LINE = re.compile(r"\b\w*(?:Error|Exception|error): .+")


def make_run_directory() -> Path:
    """A private directory for the worker's module and the servers' sockets.

    Short, because paths of sockets must be.
    """
    folder = Path(tempfile.mkdtemp(prefix="curiojax-vllm-", dir="/tmp"))
    export_worker(folder / "worker")
    (folder / "empty").mkdir()
    return folder


def export_worker(folder: Path) -> Path:
    """Puts the module that vLLM's workers import into `folder`, where nothing else is.

    The package's own directory would not do: it has modules with the names of vLLM's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("vllm_worker.py"), folder / f"{_WORKER_MODULE}.py")
    return folder


def server_arguments(
    settings: VllmSettings, checkpoint: Path, port: int, host: str = "127.0.0.1"
) -> list[str]:
    """The command line of a server, after the interpreter.

    The entry point is not `vllm serve`, which the build for CPUs does not have.
    """
    return [
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(checkpoint)),
        *("--served-model-name", "policy"),
        *("--host", host),
        *("--port", str(port)),
        *("--dtype", settings.dtype),
        *("--max-model-len", str(settings.max_model_len)),
        *("--tensor-parallel-size", str(settings.tensor_parallel_size)),
        *("--logprobs-mode", settings.logprobs_mode),
        # Not the checkpoint's, which could change the defaults of sampling.
        *("--generation-config", "vllm"),
        "--skip-tokenizer-init",
        "--return-tokens-as-token-ids",
        "--enable-prefix-caching",
        *("--worker-extension-cls", f"{_WORKER_MODULE}.Extension"),
        *("--weight-transfer-config", f'{{"backend": "{_BACKEND}"}}'),
        *(() if settings.memory_share is None else _sharing(settings.memory_share)),
        *settings.extra_args,
    ]


def _sharing(share: float) -> tuple[str, ...]:
    return "--enable-sleep-mode", "--gpu-memory-utilization", f"{share:g}"


def server_environment(settings: VllmSettings, index: int, run_dir: Path) -> dict[str, str]:
    """The environment of a server: this process's, without what belongs to its interpreter."""
    env = {key: x for key, x in os.environ.items() if key not in _REMOVED_FROM_ENV}
    env |= _ENV
    env["PYTHONPATH"] = str(run_dir / "worker")
    env["VLLM_RPC_BASE_PATH"] = str(run_dir)
    if devices := settings.server_devices(index):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return env | dict(settings.env)


class ServerProcess:
    """A server and the guard that starts it and outlives it.

    Args:
      run_dir: from `make_run_directory`.
      remove: directories that the guard removes when this process dies without having done so.
    """

    def __init__(
        self,
        settings: VllmSettings,
        index: int,
        run_dir: Path,
        log_dir: Path,
        remove: Sequence[Path] = (),
    ):
        self.settings, self.index, self.run_dir = settings, index, run_dir
        self.log = log_dir / f"vllm-server-{index}.log"
        self.port = 0
        self._remove = list(remove)
        self._guard: subprocess.Popen | None = None
        self._log_start = 0
        self._pid_file = run_dir / f"server-{index}.pid"

    def start(self, checkpoint: Path) -> None:
        """Starts the server with the weights in `checkpoint`; does not wait for it."""
        self.stop()
        self.port = _free_port()
        command = [
            os.path.expanduser(str(self.settings.vllm_python)),
            *server_arguments(self.settings, checkpoint, self.port),
        ]
        self._pid_file.unlink(missing_ok=True)
        guard = [sys.executable, "-I", "-S", vllm_guard.__file__, str(self._pid_file)]
        guard += map(str, self._remove)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [*guard, "--", *command],
                stdin=subprocess.PIPE,  # the guard takes its closing for the end of this process
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.run_dir / "empty",  # `python -m` imports from where it is
                env=server_environment(self.settings, self.index, self.run_dir),
                start_new_session=True,  # neither Ctrl-C nor killing this process's group hits it
            )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_alive(self) -> None:
        """Raises `EngineLost`, with what the log says, when the server has ended."""
        if self._guard is None or self._guard.poll() is not None:
            raise EngineLost(f"vLLM server {self.index} ended: {self.reason()}; see {self.log}")

    def reason(self) -> str:
        """The most telling line of the log since the last start."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
            lines = [line for line in lines if " WARNING " not in line]
            found = [match[0] for line in lines if (match := _ERROR_LINE.search(line))]
            # The first error is the cause, the last ones are what it led to.
            causes = [line for line in found if "Engine core initialization failed" not in line]
            return " ".join((causes or found or lines or ["nothing in the log"])[0].split())[:500]
        return "there is no log"

    def pids(self) -> list[int]:
        """Ids of the server's processes, the API server first."""
        return [] if self._guard is None else vllm_guard.descendants(self._guard.pid)

    def stop(self) -> None:
        """Ends the server and everything it started, and removes its shared memory."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        with contextlib.suppress(OSError):
            guard.send_signal(signal.SIGTERM)
        try:
            guard.wait(timeout=60)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        guard.stdin.close()
        if guard.returncode < 0:  # the guard was killed itself, and could not do its work
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(self._pid_file.read_text()), signal.SIGKILL)


def wait_until(condition, seconds: float, what: str, *, interval: float = 0.2) -> None:
    """Waits for `condition()` to hold; it may raise to give up early.

    Raises:
      RolloutError: naming `what`, after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RolloutError(f"{what} did not happen within {seconds:g} seconds")
        time.sleep(interval)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
