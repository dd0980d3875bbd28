"""Starts one vLLM server the way the trainer does, for runs that name it in rollout.base_urls.

    python tools/serve_vllm.py CHECKPOINT --vllm-python ~/vllm/bin/python --max-model-len 9216 \\
        --port 8000 --devices 4 -- --gpu-memory-utilization 0.9

CHECKPOINT is a local folder; what follows `--` goes to vLLM as it is. The server listens on
loopback unless told otherwise. Whoever reaches it can load weights into it and run its workers'
methods: bind it to a private interface at most. It runs until it is ended.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.rollout.vllm_server import make_run_directory, server_arguments, server_environment
from curiojax.rollout.vllm_settings import VllmSettings, check_interpreter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("--vllm-python", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="the run's rollout.temperature"
    )
    parser.add_argument("--devices", help="ids of GPUs, as 4,5: that many share the model")
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        split = ours.index("--")
        ours, theirs = ours[:split], ours[split + 1 :]
    arguments = parser.parse_args(ours)
    if not (arguments.checkpoint / "config.json").is_file():
        raise ConfigError(f"CHECKPOINT: {arguments.checkpoint} has no config.json; name a folder")
    devices = tuple(int(x) for x in arguments.devices.split(",")) if arguments.devices else ()
    settings = VllmSettings(
        max_model_len=arguments.max_model_len,
        log_dir=".",
        vllm_python=arguments.vllm_python,
        num_servers=1,
        devices=devices,
        dtype=arguments.dtype,
        temperature=arguments.temperature,
        extra_args=tuple(theirs),
    )
    version = check_interpreter(arguments.vllm_python)
    run_dir = make_run_directory()
    command = [
        os.path.expanduser(arguments.vllm_python),
        *server_arguments(settings, arguments.checkpoint.resolve(), arguments.port, arguments.host),
    ]
    print(f"vLLM {version}: {' '.join(command)}", flush=True)
    env = server_environment(settings, 0, run_dir)
    os.chdir(run_dir / "empty")
    os.execve(command[0], command, env)


if __name__ == "__main__":
    exit_on_config_error(main)
