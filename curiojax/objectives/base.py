"""What all objectives share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Objective(BaseModel):
    """Base of all objectives: immutable, hashable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def needs_teacher(self) -> bool:
        """Whether a second set of weights has to be kept and run: a teacher that follows the
        student, an earlier student, or the base model."""
        return False

    @property
    def needs_teacher_logits(self) -> bool:
        """Whether the loss compares with that model's whole distribution, so that its logits are
        formed beside the student's; otherwise a few numbers per token are enough."""
        return False

    @property
    def needs_suppressed(self) -> bool:
        """Whether a second data set, of sequences to unlearn, has to be given."""
        return False

    @property
    def needs_demonstrations(self) -> bool:
        """Whether prompts come with an expert's response, learnt beside the model's own."""
        return False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but hardly meant, one sentence each."""
        return ()
