"""Small, self-made worlds in which every problem can be generated and every answer checked."""

from __future__ import annotations

from pathlib import Path

from curiojax.data.worlds.interface import EmbeddedWorld
from curiojax.errors import ConfigError

# The shipped base model of Countdown, the quickstart's world: a checkpoint with its tokenizer.
BASE_MODEL = Path(__file__).parent / "countdown_base"
WORLDS = ("countdown", "modchain")


def embedded_world(name: str) -> EmbeddedWorld:
    """The world of a name.

    Raises:
      ConfigError: there is none such.
    """
    if name == "countdown":
        from curiojax.data.worlds.demonstrations import COUNTDOWN

        return COUNTDOWN
    if name == "modchain":
        from curiojax.data.worlds.modchain_demonstrations import MODCHAIN

        return MODCHAIN
    raise ConfigError(f"world.name: {name!r} is unknown; choose one of {', '.join(WORLDS)}")
