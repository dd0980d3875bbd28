"""A plan as JSON, and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from curiojax.planning.plan import RESERVE, Plan, ProgramPlan
from curiojax.planning.sweep import suggest
from curiojax.planning.target import CHIPS
from curiojax.progress import print_pairs, print_table
from curiojax.training.memory import format_bytes
from curiojax.training.plan import count_parameters

VERSION = 1
KINDS = {
    "parameters": "parameters",
    "optimiser": "optimiser",
    "teacher": "teacher",
    "quantised": "teacher's eight-bit layers",
    "gradients": "gradient sums",
    "batch": "micro-batch and statistics",
    "sampler_weights": "sampler's weights",
    "sampler_cache": "sampler's keys and values",
    "activations": "saved activations",
    "temporaries": "temporaries",
    "generated_code": "generated code",
}


def as_json(plan: Plan, source: str, asked: str, others: Sequence[Plan] | None) -> dict[str, Any]:
    """The content of `--json`: bytes are of one device, FLOPs and tokens of all together.

    Args:
      source: where the architecture was found.
      asked: the target that was asked for.
      others: the plans of a sweep; None without one.
    """
    config, model = plan.config, plan.model
    found: dict[str, Any] = {
        "version": VERSION,
        "jax": jax.__version__,
        "model": {
            "path": config.model.path,
            "source": source,
            "parameters": count_parameters(model),
        },
        "target": {
            "asked": asked,
            "compiled_for": plan.target.name,
            "exact": plan.target.exact,
            "chip": plan.target.chip.name,
            "devices": plan.devices,
            "mesh": plan.mesh,
        },
        "setting": {
            "stage": config.stage,
            "objective": config.objective.name,
            "row_length": config.row_length,
            "attention": model.attention,
            "compute_dtype": model.compute_dtype,
            "chunk_tokens": config.loss.chunk_tokens,
        },
        **_measured(plan),
        "programs": {name: _program(program) for name, program in plan.programs.items()},
        "sweep": None,
        "suggestion": None,
    }
    if others is not None:
        found["sweep"] = [_measured(other) for other in others]
        best = suggest(others, plan.target.chip.memory)
        found["suggestion"] = best and _setting(best)
    return found


def _setting(plan: Plan) -> dict[str, Any]:
    config = plan.config
    return {"remat": config.model.remat, "rows_per_microbatch": config.rows_per_microbatch}


def _measured(plan: Plan) -> dict[str, Any]:
    return {
        **_setting(plan),
        "bytes_per_device": plan.bytes_by_kind,
        "peak_bytes": plan.peak,
        "peak_in": plan.peak_in,
        "reserve_bytes": int(RESERVE),
        "fits": {name: plan.fits(chip.memory) for name, chip in CHIPS.items()},
        "microbatch": {
            "tokens": plan.tokens,
            "model_flops": plan.model_flops,
            "executed_flops": sum(p.flops for p in plan.per_microbatch) * plan.devices,
            "compute_seconds": plan.compute_seconds,
            "link_seconds": plan.link_seconds,
            "tokens_per_second": plan.tokens_per_second,
        },
    }


def _program(program: ProgramPlan) -> dict[str, Any]:
    return {
        "argument_bytes": program.arguments,
        "output_bytes": program.outputs,
        "aliased_bytes": program.aliased,
        "temporary_bytes": program.temporaries,
        "activation_bytes": program.activations,
        "generated_code_bytes": program.generated_code,
        "flops": program.flops,
        "eight_bit_flops": program.eight_bit_flops,
        "xla_flops": program.xla_flops,
        "collectives": {kind: t._asdict() for kind, t in program.collectives.items()},
        "overlap": program.overlap._asdict(),
        "head_passes": round(program.head_passes, 3),
        "widest_sort": program.widest_sort,
        "logits_at_once": program.logits_at_once,
    }


def show(plan: Plan, source: str, asked: str) -> None:
    """Prints a plan."""
    config, target = plan.config, plan.target
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    print_pairs(
        f"{config.model.path}, {config.objective.name}",
        {
            "architecture": source,
            "parameters": f"{count_parameters(plan.model):,}",
            "devices": f"{plan.devices} x {target.chip.name} = {mesh}",
            "compiled for": compiled_for(plan, asked),
            "micro-batch": f"{config.rows_per_microbatch} rows of {config.row_length:,} tokens",
            "rematerialisation": config.model.remat,
        },
    )
    kinds = {KINDS[name]: format_bytes(n) for name, n in plan.bytes_by_kind.items() if n}
    kinds["peak"] = f"{format_bytes(plan.peak)}, in {plan.peak_in}"
    kinds |= {
        f"fits {chip.memory / 1e9:.0f} GB": _verdict(plan, chip.memory) for chip in CHIPS.values()
    }
    print_pairs("memory per device", kinds)
    collectives = [
        [name, kind, traffic.count, format_bytes(traffic.bytes), format_bytes(traffic.largest)]
        for name, program in plan.programs.items()
        for kind, traffic in program.collectives.items()
    ]
    if collectives:  # one device has none
        print_table(["collectives per device", "kind", "arrays", "bytes", "largest"], collectives)
    print_pairs(f"a micro-batch at the peak of {plan.devices} x {target.chip.name}", _floor(plan))


def _floor(plan: Plan) -> Mapping[str, str]:
    executed = sum(program.flops for program in plan.per_microbatch) * plan.devices
    xla = [program.xla_flops for program in plan.per_microbatch]
    counted = [value for value in xla if value is not None]
    shown = {
        "model FLOPs (formula)": f"{plan.model_flops:.3g}",
        "executed FLOPs (compiled matrix products)": f"{executed:.3g}",
    }
    if len(counted) == len(xla):
        total = f"{sum(counted) * plan.devices:.3g}"
        shown["XLA's cost analysis (counts a loop's body once)"] = total
    if teacher := plan.programs.get("teacher_pass"):
        shown["of them the teacher's"] = _teacher(plan, teacher)
    if plan.model.attention == "cudnn":
        shown["not counted"] = "the attention inside cuDNN"
    return shown | {
        "compute, at least": f"{plan.compute_seconds:.3f} s",
        "NVLink, at least": f"{plan.link_seconds:.3f} s{_hidden(plan)}",
        "tokens per second, at most": f"{plan.tokens_per_second:,.0f}; "
        f"{plan.tokens_per_second / plan.devices:,.0f} per device",
    }


def _teacher(plan: Plan, program: ProgramPlan) -> str:
    total, seconds = program.flops * plan.devices, program.bfloat16_flops / plan.target.chip.flops
    text = f"{total:.3g}, at least {seconds:.3f} s"
    if plan.config.teacher.precision == "same":
        return text
    share = program.eight_bit_flops / program.flops
    return f"{text}; {share:.0%} in {plan.config.teacher.precision}, at twice the speed"


def _hidden(plan: Plan) -> str:
    total = sum(program.overlap.bytes for program in plan.per_microbatch)
    if not total or not plan.target.exact:
        return ""
    hidden = sum(program.overlap.behind_products for program in plan.per_microbatch)
    return f"; {hidden / total:.0%} of the bytes are sent beside matrix products"


def _verdict(plan: Plan, memory: float) -> str:
    left = memory - plan.peak
    if plan.fits(memory):
        return f"yes, {format_bytes(left)} left for NCCL, cuDNN and fragmentation"
    if left > 0:
        return f"no: {format_bytes(left)} left, and {format_bytes(RESERVE)} are set aside"
    return f"no, {format_bytes(-left)} too much"


def compiled_for(plan: Plan, asked: str) -> str:
    """What the numbers are worth, in a few words."""
    if plan.target.exact:
        return f"{plan.target.chip.name}, without one; kernels are not tuned, nothing is run"
    remark = "virtual CPU devices: less exact, mostly more (float32 for bfloat16)"
    if asked != "cpu":
        remark += "; exact in an environment of tools/setup_aot.sh"
    return remark


def show_sweep(plans: Sequence[Plan]) -> None:
    """Prints the plans of a sweep, and the one to take."""
    chip = plans[0].target.chip
    fits = [f"fits {c.memory / 1e9:.0f} GB" for c in CHIPS.values()]
    print_table(
        ["remat", "rows", "peak", *fits, "compute s", "NVLink s", "tokens/s at most"],
        [
            [
                plan.config.model.remat,
                plan.config.rows_per_microbatch,
                format_bytes(plan.peak),
                *("yes" if plan.fits(c.memory) else "no" for c in CHIPS.values()),
                round(plan.compute_seconds, 3),
                round(plan.link_seconds, 3),
                round(plan.tokens_per_second),
            ]
            for plan in plans
        ],
    )
    best = suggest(plans, chip.memory)
    if best is None:
        print(f"nothing fits {chip.name}: use more devices, or a smaller data.row_length")
        return
    setting = _setting(best)
    print(
        f"fastest that fits {chip.name}: model.remat={setting['remat']} "
        f"rows_per_microbatch={setting['rows_per_microbatch']}"
    )
