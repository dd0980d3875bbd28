"""Trains: `python -m curiojax.train [CONFIG.yaml] [key=value ...]`.

With a config file, runs the stage it describes. Without one, runs the embedded default: a small
world, its base model and several ways to fine-tune it, on a laptop CPU. Running the same command
again continues an interrupted run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curiojax.config import RunConfig, load_config
from curiojax.distributed import agree, is_shared, joined, read_settings
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.yaml_files import find_config, read_arguments

if TYPE_CHECKING:
    from curiojax.training.result import Result

USAGE = """\
usage: python -m curiojax.train [CONFIG.yaml] [key=value ...]

  python -m curiojax.train
      the embedded default: some minutes on a laptop CPU, nothing to download
  python -m curiojax.train configs/qwen2.5-math-7b/sft.yaml data.path=train.parquet
      a real model; keys are dotted paths into the config, e.g. objective.alpha=0.5
  python -m curiojax.train configs/qwen2.5-math-7b/grpo.yaml model.path=runs/mine/hf \\
      data.path=train.parquet rollout.vllm_python=/opt/vllm/bin/python
      GRPO after it

  python -m curiojax.train CONFIG.yaml distributed.coordinator=node1:9876 \\
      distributed.num_processes=4 distributed.process_id=0
      one of several processes, one per host, ids from 0; under srun or mpirun without these keys;
      also distributed.join_seconds=300, distributed.heartbeat_seconds=30; exit code 75: a process
      stopped answering, start all again

The same command again continues an interrupted run. Keys and defaults: curiojax/config.py.
"""


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    settings, arguments = read_settings(arguments)
    with joined(settings):
        run(arguments)


def run(arguments: list[str]) -> None:
    """Trains as the command line says, together with the other processes if there are any."""
    name, overrides = read_arguments(arguments)
    config = load_config(find_config(name or "configs/quickstart.yaml"), overrides)
    check_alike(config)
    leave_devices_to_servers(config)
    if config.rollout.shares_devices:
        from curiojax.training.memory import leave_memory_to_servers

        leave_memory_to_servers(config)
    quiet_libraries()
    only_first_process_shows_progress()
    if config.compare:
        import jax

        if jax.process_count() > 1:
            raise ConfigError("compare: a comparison runs in one process; start it once")
        from curiojax.quickstart import run_comparison

        run_comparison(config)
        return
    from curiojax.training.compilation import compilation_cache, programs_folder

    # Process 0 alone writes programs. Were it to find one there that the others must compile, they
    # would wait for its share of XLA's tuning.
    folder = programs_folder()
    with compilation_cache(folder) if is_shared("programs", folder) else contextlib.nullcontext():
        finish(run_stage(config))


def run_stage(config: RunConfig) -> Result:
    """Trains as the config says."""
    if config.stage == "grpo":
        from curiojax.training.grpo import run_grpo

        return run_grpo(config)
    from curiojax.training.sft import run_sft

    return run_sft(config)


# Each process may find these at a place of its own; what is there is compared later.
OWN_KEYS: Any = {
    "output_dir": True,
    "model": {"path"},
    "data": {"path", "suppressed_path", "cache_dir", "workers"},
}
PACKAGES = ("curiojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check_alike(config: RunConfig) -> None:
    """Raises a `ConfigError` when the processes of a run are not about to do the same."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    agree("versions", versions, "install the same versions on every host")
    values = config.model_dump(mode="json", exclude=OWN_KEYS)
    agree("config", values, "give every process the same config and overrides")


def leave_devices_to_servers(config: RunConfig) -> None:
    """Keeps JAX off the GPUs that belong to vLLM's servers."""
    theirs = set(config.rollout.devices)
    if config.stage != "grpo" or config.rollout.engine != "vllm" or not theirs:
        return
    if config.rollout.shares_devices:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        every = [name.strip() for name in visible.split(",") if name.strip()]
    else:
        every = [str(number) for number in range(_count_gpus())]
    ours = [name for name in every if name not in {str(number) for number in theirs}]
    if every and not ours:
        raise ConfigError(
            f"rollout.devices: {sorted(theirs)} are all the GPUs there are ({', '.join(every)}); "
            "leave some to the trainer"
        )
    import jax

    # By position among the visible ones; the servers go by the names of the devices.
    jax.config.update(
        "jax_cuda_visible_devices", ",".join(str(every.index(name)) for name in ours) or "all"
    )


def _count_gpus() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def quiet_libraries() -> None:
    """Keeps the libraries' routine messages out of the way of the progress bar."""
    for name in ("absl", "orbax", "jax", "datasets", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Orbax leaves reads of a torn checkpoint behind, which then complain one by one.
    for name in ("asyncio", "concurrent.futures"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def only_first_process_shows_progress() -> None:
    import jax

    from curiojax import progress

    progress.enable(jax.process_index() == 0)


def finish(result: Result) -> None:
    """Says where everything is."""
    import jax

    from curiojax import progress

    if jax.process_index() != 0:
        return
    last = result.metrics[-1] if result.metrics else {}
    shown = ("step", "loss", "sft_nll", "sed_k2", "entropy", "entropy_top20", "tau_mean")
    if "reward" in last:
        shown = ("step", "reward", "accuracy", "format_rate", "entropy", "response_tokens")
    shown = (*shown, "eval/avg", "eval/entropy")
    progress.print_pairs("last step", {key: last[key] for key in shown if key in last})
    progress.print_pairs(
        "written",
        {
            "model": result.directory / "hf",
            "report": result.directory / "report.html",
            "metrics": result.directory / "metrics.jsonl",
            "checkpoints": result.directory / "checkpoints",
        },
    )


if __name__ == "__main__":
    exit_on_config_error(main)
