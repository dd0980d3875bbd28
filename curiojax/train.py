"""Trains: `python -m curiojax.train [CONFIG.yaml] [key=value ...]`.

With a config file, runs the stage it describes. Without one, runs the embedded default: a small
world, its base model and three ways to fine-tune it, on a laptop CPU. Running the same command
again continues an interrupted run.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import resources
from pathlib import Path

from curiojax.config import RunConfig, load_config
from curiojax.errors import ConfigError, exit_on_config_error

USAGE = """\
usage: python -m curiojax.train [CONFIG.yaml] [key=value ...]

  python -m curiojax.train
      the embedded default: about three minutes on a laptop CPU, nothing to download
  python -m curiojax.train configs/qwen2.5-math-7b/sft.yaml data.path=train.parquet
      a real model; keys are dotted paths into the config, e.g. objective.alpha=0.5

The same command again continues an interrupted run. Keys and defaults: curiojax/config.py.
"""


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    config = read_arguments(arguments)
    initialize_distributed()
    quiet_libraries()
    if config.compare:
        from curiojax.quickstart import run_comparison

        run_comparison(config)
        return
    from curiojax.training.sft import run_sft

    finish(run_sft(config))


def read_arguments(arguments: list[str]) -> RunConfig:
    """The config that the command line describes."""
    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: a second config file; give one, and key=value overrides")
    if any(argument.startswith("-") for argument in arguments):
        bad = next(argument for argument in arguments if argument.startswith("-"))
        raise ConfigError(f"{bad}: there are no flags; write key=value (see --help)")
    return load_config(files[0] if files else packaged_config("quickstart.yaml"), overrides)


def packaged_config(name: str) -> Path:
    """A file of configs/, from the source tree or from inside the installed package."""
    package = Path(str(resources.files("curiojax")))
    for folder in (package / "_configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: not part of this installation; reinstall the package")


def initialize_distributed() -> None:
    """Joins the other processes of a multi-process run; does nothing in a single one.

    Follows JAX's own environment variables (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
    JAX_PROCESS_ID) and SLURM's.
    """
    explicit = "JAX_COORDINATOR_ADDRESS" in os.environ
    if explicit or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        import jax

        if explicit:
            jax.distributed.initialize(
                coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
                num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
                process_id=int(os.environ["JAX_PROCESS_ID"]),
            )
        else:
            jax.distributed.initialize()


def quiet_libraries() -> None:
    """Keeps the libraries' routine messages out of the way of the progress bar."""
    for name in ("absl", "orbax", "jax", "datasets", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def finish(result) -> None:
    """Says where everything is."""
    import jax

    from curiojax import progress

    if jax.process_index() != 0:
        return
    last = result.metrics[-1]
    shown = ("step", "loss", "sft_nll", "sed_k2", "entropy", "entropy_top20", "tau_mean")
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
