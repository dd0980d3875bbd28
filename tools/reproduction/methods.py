"""What the runs are called in tables and figures."""

from __future__ import annotations

from curiojax.data.worlds import embedded_world

TITLES = {
    "base": "base model",
    "vanilla": "vanilla SFT",
    "entropy": "SFT + entropy 0.06",
    "entropy-top20": "SFT + entropy, top 20 %",
    "kl": "SFT + KL (k3)",
    "gem": "GEM",
    "dft": "DFT",
    "psft": "PSFT",
    "curio": "CurioSFT",
    "curio-tau1.3": "CurioSFT w/o adaptive tau (1.3)",
    "curio-self": "CurioSFT w/o separate teacher",
    "vanilla-low-lr": "control: SFT, 0.4 x lr",
    "curio-tau1.5": "CurioSFT, tau 1.5",
    "curio-slow": "CurioSFT, slow teacher",
    "oxa": "OXA",
    "base-kl": "base-support KL 1.0 (ours)",
    "base-kl-0.3": "base-support KL 0.3 (ours)",
    "warm-up": "SFT, 84 steps",
    "grpo": "GRPO from the base",
    "luffy": "LUFFY",
    "prefix_rft": "Prefix-RFT",
    "rl_plus": "RL-PLUS",
    "srft": "SRFT",
    "hpt": "HPT",
    "sft_rl": "RL + SFT loss",
    "entropy-0.02": "SFT + entropy 0.02",
    "entropy-0.08": "SFT + entropy 0.08",
    "entropy-0.15": "SFT + entropy 0.15",
    "entropy-0.3": "SFT + entropy 0.3",
}


def title(name: str) -> str:
    """Of a run; `curio+grpo` is CurioSFT + GRPO."""
    start, plus, stage = name.partition("+")
    return TITLES.get(start, start) + (f" + {stage.upper()}" if plus else "")


def data_title(world: str, demonstrations: str) -> str:
    """Of a set of demonstrations in a world; `countdown@large` is one with another base model."""
    name, at, base = world.partition("@")
    kind, _, share = demonstrations.partition(" ")
    said = {"canon": "one strategy"}.get(kind, demonstrations)
    if kind == "two":
        said = f"two strategies, the second in {100 * float(share):g} %"
    return f"{embedded_world(name).title}{f' from {base}' if at else ''}, {said}"
