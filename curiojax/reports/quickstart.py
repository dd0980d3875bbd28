"""What the embedded comparison shows in the end: a report, and the same table in the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from curiojax import progress
from curiojax.config import RunConfig, to_yaml
from curiojax.reports.training import write_training_report
from curiojax.sections import World

if TYPE_CHECKING:
    from curiojax.data.worlds.interface import EmbeddedWorld

READINGS = {
    "countdown": (
        "One seed on a toy task: read differences below about 0.03 as noise. A study of such a "
        "world with four seeds found: vanilla SFT raises accuracy on problems like the "
        "demonstrations, and costs entropy and most of the base model's pass@16 on hard problems. "
        "Where the demonstrations hold several strategies, CurioSFT as published gives a part of "
        "both back and costs accuracy; a fixed temperature of 1.5 does more of the same. A lower "
        "learning rate has an effect of similar size, and strategies that the demonstrations lack "
        "are lost with every method. GRPO afterwards raises accuracy a little and costs entropy; "
        "whether it started from vanilla SFT or from CurioSFT as published made no difference "
        "that the study could tell from noise."
    ),
    "modchain": (
        "One seed on a toy task: read differences below about 0.03 as noise. What makes a hard "
        "problem hard is its length: a line per reduction, as most demonstrations have it, does "
        "not fit. The base model often reduces several places in one line; 5 % of the "
        "demonstrations do. Vanilla SFT learns the answer format and loses most of that; a softer "
        "target keeps more of what is rare in the demonstrations. GRPO makes such lines frequent "
        "again, for problems where the model still finds them. Its reward looks at the answer "
        "alone, so it also pays for guesses: what hard pass@k has over the right lines."
    ),
}

# What the score that ignores the answer is called, and what it is.
SEARCH = {
    "countdown": ("format ignored", "judged by the search alone"),
    "modchain": ("lines right", "judged by the lines alone, which a guess does not pass"),
}


class Run(Protocol):
    """The part of `curiojax.training.result.Result` that is needed here."""

    @property
    def directory(self) -> Path: ...
    @property
    def metrics(self) -> list[dict[str, Any]]: ...
    @property
    def token_view(self) -> dict[str, Any] | None: ...


def columns(world: World) -> dict[str, str]:
    """What the table shows: keys of the evaluation and of the last step's metrics, and titles."""
    k = world.samples
    longer = {"longer_pass1": "longer pass@1"} if world.longer_prompts else {}
    return {
        "id_pass1": "ID pass@1",
        f"id_pass{k}": f"ID pass@{k}",
        f"hard_pass{k}": f"hard pass@{k}",
        f"search_hard_pass{k}": SEARCH[world.name][0],
        **longer,
        "entropy": "entropy",
        "weight_mean": "mean w",
        "weight_below_0.9": "w < 0.9",
    }


def show(
    config: RunConfig,
    world: EmbeddedWorld,
    directory: Path,
    rows: Sequence[Sequence[Any]],
    results: Mapping[str, Run],
) -> None:
    """Writes the report and prints its table, one row per model, with `columns(config.world)`."""
    assert config.world is not None
    titles, samples = ["run", *columns(config.world).values()], config.world.samples
    counts = config.world.prompts.items()
    asked = [f"{count} {world.kind(name).title}" for name, count in counts if count]
    name, meaning = SEARCH[world.name]
    caption = (
        f"{' and '.join(asked)} problems, held out, {samples} samples each at temperature 1. "
        "Entropy: nats per token of the model's own samples. "
        f"{name.capitalize()}: hard pass@{samples} {meaning}. "
        "w: weight of a token's cross-entropy gradient, in the last training step. One seed."
    )
    curio = next((r for r in results.values() if "tau_mean" in r.metrics[-1]), None)
    shown = curio or next(iter(results.values()))
    view = shown.token_view
    if view:
        name = next(name for name, result in results.items() if result is shown)
        view = {**view, "title": f"{view['title']}, after {name}"}
    write_training_report(
        directory / "report.html",
        title=f"curiojax quickstart: {len(results)} ways to fine-tune one model",
        runs={name: result.metrics for name, result in results.items()},
        table={"columns": titles, "rows": rows, "caption": caption},
        token_view=view,
        notes=[READINGS[world.name]],
        config_text=to_yaml(config),
    )
    title = f"Held-out {world.title} problems, one seed"
    progress.print_table(titles, rows, title=title, caption=caption)
    width = min(100, shutil.get_terminal_size().columns)
    print(f"\n{textwrap.fill(READINGS[world.name], width=width)}\n")
    progress.print_pairs(
        "written",
        {
            "report": directory / "report.html",
            "models": ", ".join(str(result.directory / "hf") for result in results.values()),
        },
    )
    print(
        "\nA real model, on GPUs, and GRPO after it:\n"
        "  python -m curiojax.train configs/qwen2.5-math-7b/sft.yaml data.path=train.parquet\n"
        "  python -m curiojax.train configs/qwen2.5-math-7b/grpo.yaml data.path=train.parquet "
        "rollout.vllm_python=/opt/vllm/bin/python"
    )
