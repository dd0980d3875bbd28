"""The results as tables: for the terminal, and in Markdown for the README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curiojax import progress
from speed.results import RATIOS, Results, met

CPU_NOTE = (
    "Measured on a CPU, where XLA's back end reaches about half of PyTorch's speed in matrix "
    "products: these numbers are no evidence about GPUs, and the targets are not for them."
)
COMMAND = "python tools/bench.py --size {}"
GPU_SIZES = ("0.5b", "1.5b", "fit")


def show(results: Results) -> None:
    """Prints what was measured to standard output."""
    machine, size = results["machine"], results["size"]
    load = machine["load"]["after"]
    progress.print_pairs(
        f"benchmark, size {size['name']}",
        {
            "device": machine["device"],
            "memory": _bytes(machine["memory_bytes"]),
            "load average": f"{load:.1f} on {machine['cores']} cores",
            "commit": results["commit"],
            "parameters": size["parameters"],
            "tokens per step": f"{size['tokens']:,}, {size['trained']:,} of them trained",
            "repeats": results["repeats"],
        },
    )
    rows = []
    for part, outcome in results["results"].items():
        if outcome["status"] != "ok":
            rows.append([part, outcome["status"], None, None, None, outcome["reason"]])
        for name, variant in outcome["variants"].items():
            rows.append([f"{part} {name}", *_cells(variant)])
    columns = ("what", "ms", "spread ms", "rate", "memory", "notes")
    progress.print_table(columns, rows, caption="ms: median; spread: width of the middle half")
    ratios = [
        [ratio["what"], f"{ratio['value']:.3f}", _target(ratio["target"]), _verdict(ratio, machine)]
        for ratio in results["ratios"].values()
    ]
    if ratios:
        progress.print_table(("ratio of medians", "value", "target", ""), ratios)
    for note in results["notes"]:
        print(note)


def _cells(variant: Results) -> list[Any]:
    if "seconds" not in variant:
        reason = variant.get("failed")
        return ["failed" if reason else "-", None, None, _bytes(variant.get("peak_bytes")), reason]
    seconds, notes = variant["seconds"], []
    rate = None
    if "tokens_per_second" in variant:
        rate = f"{progress.format_count(variant['tokens_per_second'])} tokens/s"
    elif "flops_per_second" in variant:
        rate = f"{variant['flops_per_second'] / 1e12:.3g} TFLOP/s"
    elif "bytes_per_second" in variant:
        rate = f"{variant['bytes_per_second'] / 1e9:.3g} GB/s"
    if variant.get("utilisation"):
        notes.append(f"{variant['utilisation']:.0%} of the best product")
    if "compile_seconds" in variant:
        notes.append(f"compiled in {variant['compile_seconds']:.1f} s")
    if "losses" in variant:
        notes.append("first losses " + " ".join(f"{x:.5f}" for x in variant["losses"]))
    if "tau_mean" in variant:
        notes.append(f"mean tau {variant['tau_mean']:.5f}")
    peak, planned = variant.get("peak_bytes"), variant.get("compiled_bytes")
    memory = _bytes(peak) or (planned and f"{_bytes(planned)} planned")
    times = (f"{1000 * seconds[key]:.3g}" for key in ("median", "spread"))
    return [*times, rate, memory, "; ".join(notes) or None]


def markdown(read: Sequence[Results]) -> str:
    """The README's table: a column per size, `not measured` where there is nothing."""
    columns = [(name, _find(read, name)) for name in GPU_SIZES]
    columns += [(r["size"]["name"], r) for r in read if r["machine"]["platform"] == "cpu"]
    heads = [
        f"{name}, {r['machine']['device']}" if r else f"`{COMMAND.format(name)}`"
        for name, r in columns
    ]
    lines = ["| what | target | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for name, (what, target) in RATIOS.items():
        cells = [_ratio_cell(r["ratios"].get(name) if r else None) for _, r in columns]
        lines.append(f"| {what} | {_target(target) or ''} | " + " | ".join(cells) + " |")
    absolute = {
        "CurioSFT, tokens per second": ("steps", "curio", "tokens_per_second", 1, ",.0f"),
        "decoding, tokens per second": ("decode", "top_p_0.95", "tokens_per_second", 1, ",.0f"),
        "weights to another engine, GB/s": ("export", "bfloat16", "bytes_per_second", 1e-9, ".2f"),
        "peak memory, CurioSFT with full remat, GB": (
            *("steps", "curio_full", "peak_bytes", 1e-9, ".1f"),
        ),
    }
    for what, key in absolute.items():
        cells = [_absolute_cell(r, *key) for _, r in columns]
        lines.append(f"| {what} | | " + " | ".join(cells) + " |")
    for _, r in columns:
        if r:
            commit = f", commit {r['commit']}" if r["commit"] else ""
            where = f"{r['size']['name']}: {r['machine']['device']}, {r['date'][:10]}{commit}."
            lines += ["", " ".join([where, *r["notes"]])]
    return "\n".join(lines)


def _find(read: Sequence[Results], name: str) -> Results | None:
    """The results of a size on a GPU."""
    on_gpu = [r for r in read if r["machine"]["platform"] != "cpu"]
    return next((r for r in on_gpu if r["asked_for"] == name), None)


def _ratio_cell(ratio: Results | None) -> str:
    return "not measured" if ratio is None else f"{ratio['value']:.2f}"


def _absolute_cell(
    results: Results | None, part: str, variant: str, key: str, scale: float, style: str
) -> str:
    found = (results or {}).get("results", {}).get(part, {}).get("variants", {})
    values = [v[key] for name, v in found.items() if name.startswith(variant) and v.get(key)]
    return format(scale * max(values), style) if values else "not measured"


def _target(target: Sequence[Any] | None) -> str | None:
    return None if target is None else f"{target[0]} {target[1]:g}"


def _verdict(ratio: Results, machine: Results) -> str | None:
    reached = None if machine["platform"] == "cpu" else met(ratio)
    return None if reached is None else "reached" if reached else "missed"


def _bytes(size: float | None) -> str | None:
    if not size:
        return None
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
