"""Trains: `python -m curiojax.train [CONFIG.yaml] [key=value ...]`.

With a config file, runs the stage it describes. Without one, runs the embedded default: a small
world, its base model and several ways to fine-tune it, on a laptop CPU. Running the same command
again continues an interrupted run.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from curiojax.config import RunConfig, load_config
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

The same command again continues an interrupted run. Keys and defaults: curiojax/config.py.
"""


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    name, overrides = read_arguments(arguments)
    config = load_config(find_config(name or "configs/quickstart.yaml"), overrides)
    leave_devices_to_servers(config)
    if config.rollout.shares_devices:
        from curiojax.training.memory import leave_memory_to_servers

        leave_memory_to_servers(config)
    initialize_distributed()
    quiet_libraries()
    only_first_process_shows_progress()
    if config.compare:
        from curiojax.quickstart import run_comparison

        run_comparison(config)
        return
    from curiojax.training.compilation import compilation_cache, programs_folder

    with compilation_cache(programs_folder()):
        finish(run_stage(config))


def run_stage(config: RunConfig) -> Result:
    """Trains as the config says."""
    if config.stage == "grpo":
        from curiojax.training.grpo import run_grpo

        return run_grpo(config)
    from curiojax.training.sft import run_sft

    return run_sft(config)


def initialize_distributed() -> None:
    """Joins the other processes of a multi-process run; does nothing in a single one.

    Follows JAX's own environment variables (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
    JAX_PROCESS_ID) and SLURM's.
    """
    # Inside an allocation but outside srun there is one process, and nobody to wait for.
    under_srun = os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None and not under_srun:
        return
    import jax

    if address is None:
        jax.distributed.initialize()
        return
    try:
        count, index = (int(os.environ[f"JAX_{name}"]) for name in ("NUM_PROCESSES", "PROCESS_ID"))
    except (KeyError, ValueError):
        raise ConfigError(
            "JAX_COORDINATOR_ADDRESS: is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID must be "
            "numbers; set them, or unset all three"
        ) from None
    jax.distributed.initialize(coordinator_address=address, num_processes=count, process_id=index)


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
