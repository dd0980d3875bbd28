"""From what the processes report to the results file: summaries, ratios and targets."""

from __future__ import annotations

import statistics
from typing import Any

from speed.sizes import PASSES, Size, forward_flops

Results = dict[str, Any]

VERSION = 1


def summarise(seconds: list[float]) -> dict[str, Any]:
    """Median, extremes and the middle half's width of wall seconds, and all of them in order."""
    found = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    quarters = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else []
    found["spread"] = quarters[2] - quarters[0] if quarters else 0.0
    return {**found, "all": seconds}


def complete(outcomes: Results, size: Size, counts: dict[str, int]) -> Results:
    """The outcomes with medians, rates, and shares of the matrix products' best rate."""
    results = {name: _summarised(outcome) for name, outcome in outcomes.items()}
    ceiling = None
    for variant in _variants(results, "matmul").values():
        variant["flops_per_second"] = variant["flops"] / variant["seconds"]["median"]
        ceiling = max(ceiling or 0.0, variant["flops_per_second"])
    work = forward_flops(size, counts["tokens"], counts["trained"], counts["pairs"])
    for part in ("steps", "reference"):
        for name, variant in _variants(results, part).items():
            median = variant["seconds"]["median"]
            variant["tokens_per_second"] = counts["tokens"] / median
            flops = PASSES[name.split("_")[0] if part == "steps" else "curio"] * work
            variant["model_flops"] = flops
            variant["utilisation"] = flops / median / ceiling if ceiling else None
    for part in ("search", "figure6"):
        for variant in _variants(results, part).values():
            variant["tokens_per_second"] = size.search_tokens / variant["seconds"]["median"]
    for variant in _variants(results, "decode").values():
        variant["tokens_per_second"] = variant["tokens"] / variant["seconds"]["median"]
    for variant in _variants(results, "export").values():
        variant["bytes_per_second"] = variant["bytes"] / variant["seconds"]["median"]
    for name, variant in _variants(results, "memory", timed=False).items():
        target = results.get("steps", {}).get("variants", {}).get(name)
        if target is not None:
            target["peak_bytes"] = variant.get("peak_bytes")
    return results


# name: what it says, its target as (which way, how much), or None where there is none
RATIOS: dict[str, tuple[str, tuple[str, float] | None]] = {
    "curio_fastest_to_sft_full": (
        "tokens per second, fastest CurioSFT / SFT with full remat",
        (">=", 1.0),
    ),
    "curio_to_sft_full": ("step time, CurioSFT / SFT, both with full remat", ("<=", 1.18)),
    "curio_to_sft_dots": ("step time, CurioSFT / SFT, both with matmul outputs saved", None),
    "fp8_to_sft_full": ("step time, CurioSFT with an fp8 teacher / SFT, full remat", ("<=", 1.18)),
    "fp8_to_sft_dots": ("step time, CurioSFT with an fp8 teacher / SFT, products saved", None),
    "self_to_sft_full": ("step time, CurioSFT with teacher=self / SFT, full remat", ("<=", 1.03)),
    "self_to_sft_dots": ("step time, CurioSFT with teacher=self / SFT, matmul outputs saved", None),
    "search_share": ("temperature search / step time, CurioSFT with full remat", ("<=", 0.02)),
    "utilisation": (
        "model FLOPs of CurioSFT with full remat / best matrix product",
        (">=", 0.5),
    ),
    "speed_to_reference": (
        "tokens per second, fastest CurioSFT / PyTorch with the same precision",
        (">=", 1.5),
    ),
    "memory_to_reference": (
        "peak memory, fastest CurioSFT / PyTorch with the same precision",
        ("<=", 0.6),
    ),
    "speed_to_half_reference": (
        "tokens per second, fastest CurioSFT / PyTorch with bfloat16 weights",
        None,
    ),
    "search_to_figure6": ("speed, temperature search / Figure 6 in PyTorch", (">=", 5.0)),
    "search_to_plain": ("speed, temperature search / top_k and 15 bisections in JAX", None),
    "newton_to_bisect": ("speed, search by Newton's method / by bisection", None),
    "head_to_dense": ("speed, LM head and loss in chunks / at once", None),
    "head_memory_to_dense": ("temporary memory, LM head and loss in chunks / at once", None),
    "warm_to_cold_start": ("time to compile a step, found on disk / anew", None),
}


def ratios(results: Results, counts: dict[str, int], size: Size) -> Results:
    """Value, operands and target of every ratio that can be formed; a target may be missed."""
    found: Results = {}
    medians = {
        f"{part}.{name}": variant["seconds"]["median"]
        for part in results
        for name, variant in _variants(results, part).items()
    }

    def add(name: str, over: str, under: str, scale: float = 1.0) -> None:
        """Quotient of two medians."""
        if over in medians and under in medians:
            put(name, scale * medians[over] / medians[under], f"{over} / {under}")

    def put(name: str, value: float, of: str) -> None:
        what, target = RATIOS[name]
        found[name] = {"value": value, "of": of, "what": what, "target": target}

    curio = [name for name in ("steps.curio_full", "steps.curio_dots") if name in medians]
    fastest = min(curio, key=lambda name: medians[name], default="none")
    add("curio_fastest_to_sft_full", "steps.sft_full", fastest)
    for remat in ("full", "dots"):
        add(f"curio_to_sft_{remat}", f"steps.curio_{remat}", f"steps.sft_{remat}")
        add(f"fp8_to_sft_{remat}", f"steps.fp8_{remat}", f"steps.sft_{remat}")
        add(f"self_to_sft_{remat}", f"steps.self_{remat}", f"steps.sft_{remat}")
    # The search is timed on a few tokens; a step has this many times as many.
    scale = counts["trained"] / size.search_tokens
    add("search_share", "search.bisect", "steps.curio_full", scale)
    same = "reference.float32" if "reference.float32" in medians else "reference.autocast"
    add("speed_to_reference", same, fastest)
    add("speed_to_half_reference", "reference.bfloat16", fastest)
    add("search_to_figure6", "figure6.figure6", "search.bisect")
    add("search_to_plain", "search.plain", "search.bisect")
    add("newton_to_bisect", "search.bisect", "search.newton")
    add("head_to_dense", "head.dense", "head.chunked")
    add("warm_to_cold_start", "start.warm", "start.cold")

    def value_of(path: str, key: str) -> Any:
        part, name = path.split(".") if "." in path else ("", "")
        return results.get(part, {}).get("variants", {}).get(name, {}).get(key)

    used = value_of("steps.curio_full", "utilisation")
    if used:
        put("utilisation", used, "steps.curio_full")
    for name, over, under, key in (
        ("memory_to_reference", fastest, same, "peak_bytes"),
        ("head_memory_to_dense", "head.chunked", "head.dense", "compiled_bytes"),
    ):
        if value_of(over, key) and value_of(under, key):
            put(name, value_of(over, key) / value_of(under, key), f"{key}: {over} / {under}")
    return found


def met(ratio: Results) -> bool | None:
    """Whether a ratio reaches its target; None where there is none."""
    if ratio["target"] is None:
        return None
    way, bound = ratio["target"]
    return ratio["value"] >= bound if way == ">=" else ratio["value"] <= bound


def _summarised(outcome: Results) -> Results:
    variants = {
        name: variant | ({"seconds": summarise(variant["seconds"])} if "seconds" in variant else {})
        for name, variant in outcome.get("variants", {}).items()
    }
    return {"reason": None, **outcome, "variants": variants}


def _variants(results: Results, part: str, *, timed: bool = True) -> Results:
    found = results.get(part, {}).get("variants", {})
    return {name: v for name, v in found.items() if not timed or "seconds" in v}
