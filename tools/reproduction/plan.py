"""Which runs there are, and which of them a table or a figure reads.

A run is one entry of `compare` in a scale's config, with one set of demonstrations and one seed.
Targets share runs; every run happens once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax.config import RunConfig
from curiojax.errors import ConfigError
from curiojax.objectives import POLICY_OBJECTIVES
from reproduction.settings import fingerprint

TARGETS = (
    *("table1", "table2", "table3", "table4"),
    *("figure1", "figure2", "figure4", "figure5"),
)
COUNTDOWN, MODCHAIN = "countdown", "modchain"
MAIN = "two 0.2"  # where everything is run; the other sets see the supervised stage only
OTHER_SETS = ("canon", "two 0.05")
SETS = (*OTHER_SETS, MAIN)

BASE, VANILLA, LOW_LR = "base", "vanilla", "vanilla-low-lr"
TABLE1 = (VANILLA, "entropy", "entropy-top20")
TABLE2 = (VANILLA, "entropy", "kl", "gem", "dft", "psft", "curio", "curio-tau1.3", "curio-self")
BEYOND = (LOW_LR, "curio-tau1.5", "curio-slow", "oxa", "base-kl", "base-kl-0.3")
# With the other demonstrations: whether the order of the main ones depends on them.
ELSEWHERE = (*TABLE1, "kl", "gem", "curio", LOW_LR, "curio-tau1.5", "base-kl", "base-kl-0.3")
AFTER_SFT = (
    *(VANILLA, "gem", "dft", "psft", "curio"),
    *(LOW_LR, "curio-tau1.5", "base-kl", "base-kl-0.3"),
)
WARM_UP = "warm-up"  # what the single-stage methods start from
HYBRIDS = ("luffy", "prefix_rft", "rl_plus", "srft", "hpt", "sft_rl")
CURVES = (VANILLA, "curio", "base-kl")
ENTROPIES = ("entropy-0.02", "entropy", "entropy-0.15", "entropy-0.3")
PIVOTS = tuple(f"curio-pivot{pivot}" for pivot in ("0.4", "0.6", "0.8", "1.0", "1.4"))
ALPHAS = tuple(f"curio-alpha{alpha}" for alpha in ("0.5", "2", "4"))
TAUS = tuple(f"curio-tau{tau}" for tau in ("1.1", "1.3", "1.5"))
BACKBONES = (VANILLA, "curio", "base-kl")


def with_grpo(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}+grpo" for name in names)


# What Tables 2 and 3 of the paper set its method against, and the single-stage methods they lack.
RIVALS = {
    "curio": tuple(name for name in TABLE2 if name != "curio"),
    "curio+grpo": ("grpo", *HYBRIDS, *with_grpo((VANILLA, "gem", "dft", "psft"))),
}

# With another base model of a world; Table 4 shows it.
OTHER_BASE = (BASE, *BACKBONES, LOW_LR, "base-kl-0.3", *with_grpo((*BACKBONES, LOW_LR)))

# By target: of which world, with which demonstrations, what is read. None: the config's own set.
Read = tuple[str, Sequence[str | None], Sequence[str]]
READS: dict[str, tuple[Read, ...]] = {
    "table1": (
        (COUNTDOWN, SETS, (BASE, *TABLE1)),
        (MODCHAIN, (None,), (BASE, *TABLE1)),
    ),
    "table2": (
        (COUNTDOWN, (MAIN,), (BASE, *TABLE2, *BEYOND)),
        (COUNTDOWN, OTHER_SETS, (BASE, *ELSEWHERE)),
    ),
    "table3": (
        (COUNTDOWN, (MAIN,), (BASE, VANILLA, "grpo", *with_grpo((*AFTER_SFT, WARM_UP)), *HYBRIDS)),
    ),
    "table4": (
        (COUNTDOWN, (MAIN,), OTHER_BASE),
        (MODCHAIN, (None,), OTHER_BASE),
    ),
    "figure1": ((COUNTDOWN, (MAIN,), (BASE, *CURVES, *with_grpo(CURVES))),),
    "figure2": ((COUNTDOWN, (MAIN,), (BASE, VANILLA, *ENTROPIES, "curio")),),
    "figure4": ((COUNTDOWN, (MAIN,), (BASE, *TABLE2, *BEYOND)),),
    "figure5": ((COUNTDOWN, (MAIN,), (VANILLA, "curio", *PIVOTS, *ALPHAS, *TAUS)),),
}


@dataclass(frozen=True)
class Run:
    """One run: a base model evaluated, or a method trained and evaluated.

    Attributes:
      world, demonstrations, seed, name: which one; the base model has seen no demonstrations ("").
        The world is `countdown`, or `countdown@large` with another base model.
      after: the run whose model this one starts from; None: the base model.
      settings: everything that its numbers depend on, as plain values.
    """

    world: str
    demonstrations: str
    seed: int
    name: str
    after: str | None
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Of the runs with the same data, relative to the output folder."""
        parts = [slug(self.world), slug(self.demonstrations)]
        return Path(f"seed-{self.seed}") / "-".join(part for part in parts if part)

    @property
    def directory(self) -> Path:
        """Relative to the output folder."""
        return self.folder / slug(self.name)

    @property
    def key(self) -> str:
        return str(self.directory)

    @property
    def needs(self) -> str | None:
        """The key of the run that has to be done before."""
        return str(self.folder / slug(self.after)) if self.after else None

    @property
    def title(self) -> str:
        data = f"{self.world}, {self.demonstrations}" if self.demonstrations else self.world
        return f"seed {self.seed}, {data}: {self.name}"


def slug(name: str) -> str:
    """As `curiojax.quickstart.folder` names the directory of a run."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def configured(config: RunConfig, demonstrations: str | None, seed: int) -> RunConfig:
    """The config of a scale for one set of demonstrations and one seed."""
    world = config.world
    assert world is not None
    if demonstrations is not None:
        world = world.model_copy(update={"demonstrations": demonstrations})
    return config.model_copy(update={"world": world, "seed": seed})


def plan(
    configs: Mapping[str, RunConfig],
    targets: Sequence[str],
    seeds: int,
    methods: Sequence[str] = (),
) -> list[Run]:
    """The runs that the targets read, each after the one it starts from, seed by seed.

    Args:
      configs: of the scale, by world; a world without one is left out.
      targets: among `TARGETS`.
      seeds: how many, from the config's own on.
      methods: only these, what they start from, the base model and vanilla SFT; empty: all.
    """
    wanted = _wanted(configs, methods)
    bases = {world: fingerprint(config) for world, config in configs.items()}
    found: dict[str, Run] = {}
    for offset in range(seeds):
        for target in targets:
            for world, sets, names in reads(target, configs):
                for demonstrations in sets:
                    config = configs[world]
                    config = configured(config, demonstrations, config.seed + offset)
                    for name in names:
                        if name in wanted:
                            _add(found, world, config, name, bases[world])
    return list(found.values())


def reads(target: str, worlds: Iterable[str]) -> list[Read]:
    """`READS` of a target for the worlds that there are, those with other base models included."""
    worlds = list(worlds)
    found = [read for read in READS[target] if read[0] in worlds]
    if target == "table4":
        found += [(world, (None,), OTHER_BASE) for world in worlds if "@" in world]
    return found


def _wanted(configs: Mapping[str, RunConfig], methods: Sequence[str]) -> set[str]:
    known = {name for c in configs.values() for name in c.compare or {} if _is_built(c, name)}
    for name in methods:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or sorted(known)
            raise ConfigError(f"--methods: {name!r} is none of the runs; try {', '.join(near)}")
    return {BASE, VANILLA, *(methods or known)}


def _is_built(config: RunConfig, name: str) -> bool:
    """Whether there is such an objective in the RL stage."""
    run = (config.compare or {})[name]
    objective = run.get("objective", {}).get("name")
    return run.get("stage") != "grpo" or objective is None or objective in POLICY_OBJECTIVES


def _add(found: dict[str, Run], label: str, config: RunConfig, name: str, base: str | None) -> None:
    run = (config.compare or {}).get(name, {})
    if name != BASE and not run:
        return
    world = config.world
    assert world is not None
    evaluated = world.model_dump(mode="json")
    if name == BASE:
        del evaluated["demonstrations"]
        settings: dict[str, Any] = {"seed": config.seed, "world": evaluated}
        demonstrations, after = "", None
    else:
        after = run.get("after")
        if after is not None:
            _add(found, label, config, after, base)
        common = config.model_dump(
            mode="json", exclude_unset=True, exclude={"output_dir", "compare", "world"}
        )
        settings = {**common, "world": evaluated, "run": run}
        demonstrations = world.demonstrations
    if base is not None:
        settings |= {"base": base}
    added = Run(label, demonstrations, config.seed, name, after, settings)
    found.setdefault(added.key, added)
