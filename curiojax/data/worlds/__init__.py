"""Small, self-made worlds in which every problem can be enumerated and every answer checked."""

from pathlib import Path

# The shipped base model of the Countdown world: a Hugging Face checkpoint with its tokenizer.
BASE_MODEL = Path(__file__).parent / "countdown_base"
