"""Small, self-made worlds in which every problem can be generated and every answer checked."""

from __future__ import annotations

from pathlib import Path

from curiojax.data.worlds.interface import EmbeddedWorld
from curiojax.errors import ConfigError

# The shipped base model of the Countdown world: a Hugging Face checkpoint with its tokenizer.
BASE_MODEL = Path(__file__).parent / "countdown_base"
WORLDS = ("countdown",)


def embedded_world(name: str) -> EmbeddedWorld:
    """The world of a name.

    Raises:
      ConfigError: there is none such.
    """
    if name == "countdown":
        from curiojax.data.worlds.demonstrations import COUNTDOWN

        return COUNTDOWN
    raise ConfigError(f"world.name: {name!r} is unknown; choose one of {', '.join(WORLDS)}")
