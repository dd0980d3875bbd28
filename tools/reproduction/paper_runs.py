"""The paper's own scale: which commands make its tables, and what they are expected to cost.

Nothing here runs them. A run lives in OUTPUT/seed-S/BACKBONE/METHOD, in two folders: `train`, the
run directory, and `evaluation`, what `python -m curiojax.evaluate` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curiojax.config import RunConfig, load_config, read_config
from curiojax.planning.flops import forward_flops, matmul_parameters, passes
from curiojax.planning.presets import find_architecture
from curiojax.yaml_files import find_config
from reproduction.plan import BACKBONES, BASE, HYBRIDS, PIVOTS, TABLE1, TABLE2, slug, with_grpo

MAIN = "qwen2.5-math-7b"
OTHERS = {"qwen3-4b": "Qwen3-4B-Base", "llama3.1-8b": "Llama-3.1-8B-Instruct"}
MODELS = {
    MAIN: "Qwen/Qwen2.5-Math-7B",
    "qwen3-4b": "Qwen/Qwen3-4B-Base",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}
BASELINES = {
    method: f"configs/baselines/{file}.yaml"
    for method, file in (
        ("vanilla", "vanilla_sft"),
        ("entropy", "sft_entropy"),
        ("entropy-top20", "sft_entropy_top20"),
        ("kl", "sft_kl"),
        ("gem", "gem"),
        ("dft", "dft"),
        ("psft", "psft"),
        ("curio", "curiosft"),
        ("curio-tau1.3", "curiosft_fixed_temperature"),
        ("curio-self", "curiosft_self_teacher"),
        *((name, name) for name in HYBRIDS),
    )
} | {"base-kl": "configs/beyond/base_support_kl.yaml"}
AFTER_SFT = ("vanilla", "gem", "dft", "psft", "curio", "base-kl")

# What the hours stand on. Estimates: nothing of this scale has been measured here.
GPUS, TRAINERS = 8, 4  # of which GRPO's trainer has four, and vLLM the others
PEAK_FLOPS, UTILISATION = 989e12, 0.35  # dense bfloat16 of one H100; share of it in model FLOPs
RECORDS, RECORD_TOKENS = 45_600, 5000
COMPLETION_TOKENS, SAMPLER_TOKENS_PER_SECOND = 3500, 6000  # per completion; of one GPU
EVALUATED_COMPLETIONS = 35_000  # nine benchmarks, 8 samples each but for MMLU-Pro's 12,032
ASSUMPTIONS = (
    f"Hours are estimated, not measured: {GPUS} H100, model FLOPs at {UTILISATION:.0%} of their "
    f"peak, {RECORDS:,} records of {RECORD_TOKENS:,} tokens, completions of {COMPLETION_TOKENS:,} "
    f"tokens sampled at {SAMPLER_TOKENS_PER_SECOND:,} tokens/s per GPU. The paper reports 43.2 s "
    "per step of plain SFT on 8 H800, that is 6.4 h for its three epochs."
)


@dataclass(frozen=True)
class PaperRun:
    """A run at the paper's scale.

    Attributes:
      backbone, name: the base model and the method; `base` is evaluated only.
      config: of its training; None: nothing is trained.
      overrides: beside the paths and the seed.
      after: the run that it starts from.
    """

    backbone: str
    name: str
    seed: int
    config: str | None
    overrides: tuple[str, ...] = ()
    after: str | None = None

    def folder(self, output: Path, name: str | None = None) -> Path:
        return output / f"seed-{self.seed}" / self.backbone / slug(name or self.name)

    def model(self, output: Path) -> str:
        if self.config is None:
            return MODELS[self.backbone]
        return str(self.folder(output) / "train" / "hf")

    def train(self, output: Path) -> str | None:
        """The training command."""
        if self.config is None:
            return None
        start = [f"model.path={self.folder(output, self.after)}/train/hf"] if self.after else []
        vllm = ['rollout.vllm_python="$VLLM_PYTHON"'] if self.stage == "grpo" else []
        said = ['data.path="$DATA"', f"seed={self.seed}", *start, *vllm, *self.overrides]
        target = f"output_dir={self.folder(output)}/train"
        return " ".join(["python -m curiojax.train", self.config, *said, target])

    def evaluate(self, output: Path) -> str:
        """The evaluation command."""
        parts = [
            f"python -m curiojax.evaluate configs/{self.backbone}/evaluate.yaml",
            f"model={self.model(output)}",
            f"name={slug(self.name)}",
            'vllm_python="$VLLM_PYTHON" benchmarks_dir="$BENCHMARKS"',
            f"output_dir={self.folder(output)}/evaluation",
        ]
        return " ".join(parts)

    @property
    def stage(self) -> str:
        return load_run_config(self).stage if self.config else "base"


def load_run_config(run: PaperRun) -> RunConfig:
    assert run.config is not None
    path = find_config(run.config)
    samples = read_config(path).get("stage") == "grpo"
    vllm = ["rollout.vllm_python=python"] if samples else []  # as the command will say
    return load_config(path, [*run.overrides, *vllm])


def paper_runs(targets: Sequence[str], seeds: int) -> list[PaperRun]:
    """The runs of the targets, each after the one that it starts from."""
    found: dict[tuple[int, str, str], PaperRun] = {}
    for seed in range(seeds):
        for target in targets:
            for run in _of(target, seed):
                found.setdefault((seed, run.backbone, run.name), run)
    return list(found.values())


def _of(target: str, seed: int) -> Iterable[PaperRun]:
    sft = {
        "table1": TABLE1,
        "table2": (*TABLE2, "base-kl"),
        "table3": AFTER_SFT,
        "figure1": BACKBONES,
        "figure2": ("vanilla", "entropy-0.02", "entropy", "entropy-0.08", "curio"),
        "figure4": TABLE2,
        "figure5": ("vanilla", "curio", *PIVOTS),
    }
    yield PaperRun(MAIN, BASE, seed, None)
    for name in sft.get(target, ()):
        yield _supervised(name, seed)
    if target == "table3":
        extended = ("model.rope_theta=40000", "model.max_position_embeddings=16384")
        base = (f"model.path={MODELS[MAIN]}", *extended)
        yield PaperRun(MAIN, "grpo", seed, f"configs/{MAIN}/grpo.yaml", base)
        for name in HYBRIDS:
            if find_config(BASELINES[name]).is_file():
                yield PaperRun(MAIN, name, seed, BASELINES[name])
        for name in with_grpo(AFTER_SFT):
            yield _rl(MAIN, name, seed)
    if target == "figure1":
        for name in with_grpo(BACKBONES):
            yield _rl(MAIN, name, seed)
    if target == "table4":
        for backbone in OTHERS:
            yield PaperRun(backbone, BASE, seed, None)
            for name, objective in (("vanilla", "sft"), ("curio", "curio")):
                config = f"configs/{backbone}/sft.yaml"
                yield PaperRun(backbone, name, seed, config, (f"objective.name={objective}",))
                yield _rl(backbone, f"{name}+grpo", seed)


def _supervised(name: str, seed: int) -> PaperRun:
    if name in BASELINES:
        return PaperRun(MAIN, name, seed, BASELINES[name])
    if name in PIVOTS:
        pivot = name.removeprefix("curio-pivot")
        return PaperRun(MAIN, name, seed, BASELINES["curio"], (f"objective.entropy_pivot={pivot}",))
    coef = name.removeprefix("entropy-")
    return PaperRun(MAIN, name, seed, BASELINES["entropy"], (f"objective.coef={coef}",))


def _rl(backbone: str, name: str, seed: int) -> PaperRun:
    start = name.removesuffix("+grpo")
    return PaperRun(backbone, name, seed, f"configs/{backbone}/grpo.yaml", (), start)


# ---- what it costs ------------------------------------------------------------------------------


def hours(run: PaperRun) -> float:
    """Expected, of training and evaluation, on one machine; see `ASSUMPTIONS`."""
    evaluation = EVALUATED_COMPLETIONS * COMPLETION_TOKENS / (GPUS * SAMPLER_TOKENS_PER_SECOND)
    if run.config is None:
        return evaluation / 3600
    config = load_run_config(run)
    model, _ = find_architecture(config.model_copy(update={"model": _architecture(config, run)}))
    if config.stage == "sft":
        tokens = RECORDS * (config.epochs or 1) * RECORD_TOKENS
        flops = tokens * passes(config) * forward_flops(model, RECORD_TOKENS)
        return (flops / (GPUS * PEAK_FLOPS * UTILISATION) + evaluation) / 3600
    completions = (config.steps or 0) * config.prompts_per_step * config.rollouts_per_prompt
    tokens = completions * COMPLETION_TOKENS
    flops = tokens * passes(config) * forward_flops(model, COMPLETION_TOKENS)
    sampling = tokens / ((GPUS - TRAINERS) * SAMPLER_TOKENS_PER_SECOND)
    return (flops / (TRAINERS * PEAK_FLOPS * UTILISATION) + sampling + evaluation) / 3600


def state_gigabytes(run: PaperRun) -> float | None:
    """Of one GPU: float32 weights, gradients, two moments of Adam, and a teacher if there is one.

    Activations come on top; `tools/plan_memory.py` compiles the step to know them.
    """
    if run.config is None:
        return None
    config = load_run_config(run)
    model, _ = find_architecture(config.model_copy(update={"model": _architecture(config, run)}))
    untied = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    copies = 4 + int(config.objective.needs_teacher)
    gpus = TRAINERS if config.stage == "grpo" else GPUS
    return 4 * copies * (matmul_parameters(model) + untied) / gpus / 1e9


def _architecture(config: RunConfig, run: PaperRun):
    """The section `model` with the base model's name, whose shape is known without a download."""
    return config.model.model_copy(update={"path": MODELS[run.backbone]})
