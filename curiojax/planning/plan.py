"""What one optimiser update needs of each device: the run's own programs, compiled from shapes.

Nothing is allocated: weights, batches and, for a GPU target, the devices are descriptions. The
programs are those that training runs, so the plan changes when they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from curiojax.config import RunConfig
from curiojax.models import ModelConfig
from curiojax.planning import anatomy
from curiojax.planning.flops import model_flops
from curiojax.planning.hlo import parse
from curiojax.planning.overlap import Overlap, overlap
from curiojax.planning.target import Target, without_a_device
from curiojax.sharding import make_mesh, num_batch_shards
from curiojax.training.memory import num_bytes, sampler_bytes
from curiojax.training.passes import teacher_head
from curiojax.training.plan import check_fit
from curiojax.training.policy_step import PolicyStep, compile_policy_step
from curiojax.training.recipe import Recipe
from curiojax.training.state import persistent_state
from curiojax.training.step import Step, compile_step

# Per device, for what no compiler sees: NCCL's buffers, cuDNN, the CUDA context and gaps between
# allocations. An allowance, not a measurement.
RESERVE = 5e9
# Bytes per second that one GPU sends over NVLink to the others of its host. Between hosts, eight
# adapters of 400 Gb/s each make nearly the same bound.
LINK_BANDWIDTH = 450e9


@dataclass(frozen=True)
class ProgramPlan:
    """One program, on one device.

    Attributes:
      arguments, outputs, aliased, temporaries, generated_code: bytes, by XLA's memory analysis.
      activations: bytes among the temporaries that the layers keep for the backward pass.
      own: what it needs beside the state, the gradient sums and the batch that are there anyway:
        temporaries, and outputs that do not take the place of an input.
      flops: of matrix products, loops counted as often as they run; kernels of libraries are not
        seen.
      eight_bit_flops: those among `flops` that multiply eight-bit numbers, where the target's
        compiler leaves them eight bits.
      xla_flops: by XLA's cost analysis, which counts the body of a loop once; None where XLA has
        none for the target.
      collectives: by kind.
      overlap: how much of them the schedule puts beside matrix products.
      head_passes: products of all tokens with the LM head: 1 without a gradient, 3 with one.
      widest_sort: length of the longest axis that is sorted.
      logits_at_once: tokens whose scores over the vocabulary exist at the same time.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    activations: int
    generated_code: int
    flops: int
    eight_bit_flops: int
    xla_flops: float | None
    collectives: Mapping[str, anatomy.Traffic]
    overlap: Overlap
    head_passes: float
    widest_sort: int
    logits_at_once: int

    @property
    def own(self) -> int:
        return self.temporaries + self.outputs - self.aliased

    @property
    def bfloat16_flops(self) -> float:
        """As many FLOPs with bfloat16 would take the chip the same time."""
        return self.flops - self.eight_bit_flops / 2

    @property
    def sent_bytes(self) -> int:
        """Bytes that pass the link: a reduction to every device is one to a shard and a gather."""
        return sum(t.bytes * (1 + (kind == "all-reduce")) for kind, t in self.collectives.items())


@dataclass(frozen=True)
class Plan:
    """A step on one device of the target.

    Attributes:
      kept: bytes of what is there during a whole step, by kind: exact.
      programs: what runs once per micro-batch; once per step, `update` and, for a teacher that is
        run in eight bits, `requantise`.
      tokens: of a micro-batch, over all devices, padding included.
      model_flops: of a micro-batch, over all devices.
      sampling: bytes of the JAX sampler's keys and values when they are most, in RL. It samples
        between the updates, so that only the larger of the two counts.
    """

    config: RunConfig
    model: ModelConfig
    target: Target
    mesh: dict[str, int]
    kept: Mapping[str, int]
    programs: Mapping[str, ProgramPlan]
    tokens: int
    model_flops: float
    sampling: int = 0

    @property
    def devices(self) -> int:
        return len(self.target.devices)

    @property
    def largest_program(self) -> str:
        return max(self.programs, key=lambda name: self.programs[name].own)

    @property
    def peak_in(self) -> str:
        return "sampling" if self._sampling_decides else self.largest_program

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes at the peak, which is their sum."""
        code = sum(program.generated_code for program in self.programs.values())
        if self._sampling_decides:
            ours = dict.fromkeys(self._of_updates, 0) | {"sampler_cache": self.sampling}
        else:
            ours = self._of_updates | {"sampler_cache": 0}
        return {**self.kept, **ours, "generated_code": code}

    @property
    def _of_updates(self) -> dict[str, int]:
        """What is there during the updates only."""
        largest = self.programs[self.largest_program]
        return {
            "gradients": self.kept["gradients"],
            "batch": self.kept["batch"],
            "activations": largest.activations,
            "temporaries": largest.own - largest.activations,
        }

    @property
    def _sampling_decides(self) -> bool:
        return self.sampling > sum(self._of_updates.values())

    @property
    def peak(self) -> int:
        return sum(self.bytes_by_kind.values())

    def fits(self, memory: float) -> bool:
        """With the allowance for what is not seen."""
        return self.peak + RESERVE <= memory

    @property
    def per_microbatch(self) -> list[ProgramPlan]:
        per_step = ("update", "requantise")
        return [program for name, program in self.programs.items() if name not in per_step]

    @property
    def compute_seconds(self) -> float:
        """Of a micro-batch's matrix products at the chip's peak."""
        flops = sum(program.bfloat16_flops for program in self.per_microbatch)
        return flops / self.target.chip.flops

    @property
    def link_seconds(self) -> float:
        """Of a micro-batch's collectives at the full bandwidth of NVLink."""
        remote = (self.devices - 1) / self.devices
        sent = sum(program.sent_bytes for program in self.per_microbatch)
        return sent * remote / LINK_BANDWIDTH

    @property
    def tokens_per_second(self) -> float:
        """At most, over all devices: communication hides behind products, or the reverse."""
        return self.tokens / max(self.compute_seconds, self.link_seconds)


def make_plan(config: RunConfig, model: ModelConfig, target: Target) -> Plan:
    """Compiles the config's step for the target's devices and takes its measure.

    Raises:
      ConfigError: config, model and devices do not go together.
    """
    recipe = make_recipe(config, model, target)
    with without_a_device():
        step = compile_policy_step(recipe) if config.stage == "grpo" else compile_step(recipe)
    return measure(recipe, step, target)


def make_recipe(config: RunConfig, model: ModelConfig, target: Target) -> Recipe:
    """The recipe of a step on the target's devices."""
    mesh = make_mesh(**config.mesh.model_dump(), devices=target.devices)
    check_fit(config, model, mesh)
    # The length of the run is a constant of the learning-rate schedule; any will do.
    return Recipe(config, model, mesh, config.steps or 1000)


def measure(recipe: Recipe, step: Step | PolicyStep, target: Target) -> Plan:
    """The plan of a step that is compiled already."""
    programs = {name: _look(recipe, compiled) for name, compiled in step.programs.items()}
    kept = state_bytes(recipe)
    known = 2 * kept["parameters"]
    if getattr(recipe.config.objective, "needs_teacher_logits", False):
        teacher: Any = recipe.abstract_state().teacher
        known += num_bytes(teacher_head(recipe, teacher.params))
    # What a micro-batch adds: its tokens, and what the passes before found about them.
    kept["batch"] = programs["accumulate"].arguments - known
    kept["sampler_weights"], sampling = sampler_bytes(recipe)
    return Plan(
        recipe.config,
        recipe.model,
        target,
        dict(recipe.mesh.shape),
        kept,
        programs,
        recipe.config.rows_per_microbatch * recipe.config.row_length,
        model_flops(recipe.config, recipe.model),
        sampling,
    )


def state_bytes(recipe: Recipe) -> dict[str, int]:
    """Bytes on one device of what a run keeps, by kind; nothing is compiled for it."""
    state = recipe.abstract_state()
    return {
        "parameters": num_bytes(state.params),
        "optimiser": num_bytes(state.opt_state),
        "teacher": num_bytes(persistent_state(state).teacher),
        "quantised": num_bytes(getattr(state.teacher, "quantised", ())),
        "gradients": num_bytes(state.params),
    }


def _look(recipe: Recipe, compiled: Any) -> ProgramPlan:
    memory = compiled.memory_analysis()
    program = parse(compiled.as_text())
    model, shape = recipe.model, recipe.mesh.shape
    vocab, hidden = model.vocab_size // shape["tensor"], model.hidden_size
    tokens = recipe.config.rows_per_microbatch * recipe.config.row_length
    tokens //= num_batch_shards(recipe.mesh)
    axes = {tokens, recipe.config.row_length}
    saved = anatomy.saved_activations(program, model.num_layers, axes)
    return ProgramPlan(
        arguments=int(memory.argument_size_in_bytes),
        outputs=int(memory.output_size_in_bytes),
        aliased=int(memory.alias_size_in_bytes),
        temporaries=int(memory.temp_size_in_bytes),
        activations=min(saved, int(memory.temp_size_in_bytes)),
        generated_code=int(memory.generated_code_size_in_bytes),
        flops=anatomy.executed_flops(program),
        eight_bit_flops=anatomy.executed_flops(program, eight_bit=True),
        xla_flops=_xla_flops(compiled),
        collectives=anatomy.collectives(program),
        overlap=overlap(program),
        head_passes=anatomy.head_passes(program, vocab, hidden, tokens),
        widest_sort=anatomy.widest_sort(program),
        logits_at_once=anatomy.logits_at_once(program, vocab, {hidden, hidden // shape["fsdp"]}),
    )


def _xla_flops(compiled: Any) -> float | None:
    try:
        found = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return float(found["flops"]) if found and "flops" in found else None
