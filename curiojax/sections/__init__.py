"""The sections of a run's config: frozen models with the paper's values as defaults."""

from curiojax.sections.base import Section, types_of
from curiojax.sections.learning import Loss, Optimizer, Teacher
from curiojax.sections.run import Checkpoint, Data, Logging, MeshShape, Model, World
from curiojax.sections.sampling import Evaluation, Reward, Rollout

__all__ = [
    "Checkpoint",
    "Data",
    "Evaluation",
    "Logging",
    "Loss",
    "MeshShape",
    "Model",
    "Optimizer",
    "Reward",
    "Rollout",
    "Section",
    "Teacher",
    "World",
    "types_of",
]
