"""Does a run fit, and how fast can it be? Answered by compiling its step, without the machine.

    python tools/plan_memory.py CONFIG [key=value ...] [--devices 8] [--target h100] [--sweep]

Compiles the programs that training would run, from shapes: no weights are read and nothing is
trained. With JAX's CUDA plug-in installed (tools/setup_aot.sh makes an environment that has it) the
compiler is the GPU's own and needs no GPU; without it, virtual CPU devices stand in, which is less
exact. Prints, per device, bytes by kind and their sum at the peak, the collectives, FLOPs, and the
least time they can take. `--sweep` also tries the other rematerialisation policies and sizes of
micro-batch, and names the fastest that fits.

The figures are those of the step. Not in them: NCCL, cuDNN and the CUDA context (5 GB are set aside
when it is said what fits); in an RL run, a vLLM server's memory (the JAX sampler's is counted).
JAX takes 75 % of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION (0.95, say) is set.
"""

from __future__ import annotations

import argparse
import json

from curiojax import progress
from curiojax.config import RunConfig, load_config
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.planning.environment import prepare
from curiojax.yaml_files import find_config, read_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    name, overrides = read_arguments([options.config, *options.overrides])
    if name is None:
        raise ConfigError("CONFIG: missing; name a config file, e.g. configs/qwen3-4b/sft.yaml")
    config = load_config(find_config(name), overrides)
    if config.compare:
        raise ConfigError(f"{name}: a comparison has no step of its own; plan a config of one run")
    if options.devices < 1:
        raise ConfigError(f"--devices: {options.devices} is no number of devices; give 1 or more")
    prepare(options.devices)
    run(config, options)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compiles a config's training step and says what it needs of each device.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("config", help="a config file, e.g. configs/qwen2.5-math-7b/sft.yaml")
    add("overrides", nargs="*", metavar="key=value", help="as in training")
    add("--devices", type=int, default=8)
    add("--target", default="h100", help="cpu, h100 or h200")
    add("--sweep", action="store_true", help="also try other settings, and suggest one")
    add("--rows", default=None, help="rows_per_microbatch to sweep over, e.g. 8,16,32")
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_intermixed_args(arguments)


def run(config: RunConfig, options: argparse.Namespace) -> None:
    """Plans and prints. JAX is imported here: by now the environment is what it has to be."""
    from curiojax.planning import show
    from curiojax.planning.plan import make_plan
    from curiojax.planning.presets import find_architecture
    from curiojax.planning.sweep import check_rows, default_rows, sweep
    from curiojax.planning.target import make_target

    target = make_target(options.target, options.devices)
    model, source = find_architecture(config)
    rows = parse_rows(options.rows) if options.rows else default_rows(config, target)
    check_rows(config, model, target, rows if options.sweep else [])
    with progress.status("compiling the step"):
        plan = make_plan(config, model, target)
    if not options.json:
        show.show(plan, source, options.target)
    plans = None
    if options.sweep:
        with progress.bar("settings compiled") as bar:
            plans = sweep(config, model, target, rows, known=[plan], progress=bar)
    if options.json:
        print(json.dumps(show.as_json(plan, source, options.target, plans), indent=1))
    elif plans:
        show.show_sweep(plans)


def parse_rows(text: str) -> list[int]:
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        rows = [0]
    if min(rows) < 1:
        raise ConfigError(f"--rows: {text!r} is no list of numbers of rows; e.g. --rows 8,16,32")
    return rows


if __name__ == "__main__":
    exit_on_config_error(main)
