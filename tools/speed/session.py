"""Which measurements there are, what each is given, and which of them are compared in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curiojax.config import load_config
from curiojax.models.config import config_to_hf
from curiojax.objectives import Curio
from speed import inputs
from speed.launch import Outcome, Worker, run_together
from speed.sizes import Size
from speed.worker import SETUP_UNITS

STEP_VARIANTS = ("sft_full", "curio_full", "self_full", "sft_dots", "curio_dots", "self_dots")
ON_A_GPU = ("fp8_full", "fp8_dots")  # a CPU has no units for it
# Members of a group take turns where they fit side by side.
GROUPS = (
    ("matmul",),
    ("steps", "reference"),
    ("memory",),
    ("search", "figure6"),
    ("head",),
    ("decode",),
    ("export",),
    ("start",),
)
NAMES = tuple(name for group in GROUPS for name in group)
OF_TORCH = ("reference", "figure6")
FIRST_STEPS = 3


@dataclass
class Session:
    """What all measurements of one invocation share.

    Attributes:
      folder: temporary.
      gpu: the device is one: bfloat16 references, and no room for two processes side by side.
      reports_memory: the back end says how much memory was in use.
      weights: a checkpoint of the same random weights, for sizes that are compared by value.
    """

    size: Size
    repeats: int
    folder: Path
    gpu: bool
    reports_memory: bool
    single: bool
    torch_python: str
    timeout: float
    progress: Callable[[int], None]
    weights: str | None = None

    def __post_init__(self) -> None:
        model = self.size.model
        arrays = inputs.packed_rows(
            model.vocab_size,
            self.size.microbatches,
            self.size.rows,
            self.size.row_length,
            single=self.single,
        )
        self.counts = inputs.counts(arrays)
        self.arrays = self.folder / "rows.npz"
        np.savez(self.arrays, **arrays)

    @property
    def step_variants(self) -> tuple[str, ...]:
        return STEP_VARIANTS + (ON_A_GPU if self.gpu else ())

    def run(self, names: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of a group, or of those of its members that are asked for."""
        if "memory" in names and not self.reports_memory:
            reason = "this back end does not report how much memory was in use"
            return {"memory": {"status": "skipped", "reason": reason}}
        parts = {name: self._workers(name) for name in names}
        if self.gpu or not all(len(workers) == 1 for workers in parts.values()):
            return {name: _one_by_one(workers) for name, workers in parts.items()}
        outcomes = run_together([workers[0] for workers in parts.values()])
        return dict(zip(parts, outcomes, strict=True))

    def units(self, name: str) -> int:
        """How much of the progress bar a measurement takes."""
        if name in ("memory", "start"):
            return len(self._jobs(name)) * SETUP_UNITS
        variants = {
            "matmul": 3,
            "steps": len(self.step_variants),
            "search": 3,
            "head": 2,
            "decode": 2,
        }.get(name)
        return (variants or len(self._jobs(name))) * (SETUP_UNITS + self.repeats)

    def _workers(self, name: str) -> list[Worker]:
        environment = {}
        if name == "start":  # it brings its own, whatever the caller's environment says
            environment["JAX_COMPILATION_CACHE_DIR"] = ""
        elif self.gpu:  # programs are kept for the processes that follow
            environment["JAX_COMPILATION_CACHE_DIR"] = str(self.folder / "programs")
        if self.gpu and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.95"
        ours = {"environment": environment}
        theirs = {"python": self.torch_python, "module": "speed.torch_worker"}
        return [
            Worker(
                {"measurement": name, "repeats": self.repeats, **job},
                self.folder / f"{name}-{number}",
                timeout=self.timeout,
                progress=self.progress,
                **(theirs if name in OF_TORCH else ours),
            )
            for number, job in enumerate(self._jobs(name))
        ]

    def _jobs(self, name: str) -> list[dict[str, Any]]:
        size = {"size": self.size.to_json()}
        rows = {**size, "arrays": str(self.arrays)}
        logits = {"tokens": self.size.search_tokens, "vocab_size": self.size.model.vocab_size}
        match name:
            case "matmul":
                return [
                    {
                        **size,
                        "side": 8192 if self.gpu else 1024,
                        "flops": 2e13 if self.gpu else 2e10,
                    }
                ]
            case "steps":
                return [{**rows, "variants": self.step_variants}]
            case "memory":
                return [{**rows, "variant": variant} for variant in self.step_variants]
            case "start":
                cache = {"cache": str(self.folder / "start")}
                return [{**size, **cache, "variant": which} for which in ("cold", "warm")]
            case "search":
                return [logits]
            case "figure6":
                return [{**logits, "search": figure6_numbers()}]
            case "reference":
                kinds = {"autocast": False, "bfloat16": True} if self.gpu else {"float32": False}
                return [
                    {**self._reference(), "variant": variant, "half": half}
                    for variant, half in kinds.items()
                ]
            case _:
                return [size]

    def _reference(self) -> dict[str, Any]:
        config = load_config(None, [])
        optimizer = config.optimizer
        return {
            "hf_config": config_to_hf(self.size.model),
            "weights": self.weights,
            "arrays": str(self.arrays),
            "single": self.single,
            "first_steps": FIRST_STEPS,
            "search": figure6_numbers(),
            "alpha": Curio().alpha,
            "teacher_every": config.teacher.every,
            "teacher_step_size": config.teacher.step_size,
            "learning_rate": 1e-4,
            "betas": optimizer.betas,
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
            "max_grad_norm": optimizer.max_grad_norm,
        }


def figure6_numbers() -> dict[str, Any]:
    """The objective's defaults, as `figure6` names them."""
    ours = Curio()
    return {
        "tau_min": ours.tau_min,
        "tau_max": ours.tau_max,
        "top_k": ours.top_k,
        "steps": ours.search_steps,
        "pivot": ours.entropy_pivot,
        "gamma": ours.gamma,
        "max_increment": ours.max_entropy_increment,
    }


def _one_by_one(workers: list[Worker]) -> Outcome:
    """One outcome of processes with a variant each; one that fails leaves the others."""
    outcomes = [worker.run() for worker in workers]
    good = [outcome for outcome in outcomes if outcome["status"] == "ok"]
    if not good or len(workers) == 1:
        return outcomes[0]
    variants: dict[str, Any] = {}
    for worker, outcome in zip(workers, outcomes, strict=True):
        failed = {worker.job["variant"]: {"failed": outcome.get("reason")}}
        variants |= outcome.get("variants", failed)
    return {**good[0], "variants": variants}
