"""Finished runs with made-up scores, for the parts of tools/reproduce.py that only read them."""

from pathlib import Path

from reproduction.plan import Run
from reproduction.records import Data, Finished


def finished(name, seed, path, *, demonstrations="two 0.2", directory=Path("."), **extras):
    """A run whose checkpoints have the scores `path`: {step: (ID pass@1, hard pass@4)}."""
    evaluations = {
        step: {
            "id_pass1": easy,
            "id_pass4": min(1.0, easy + 0.3),
            "hard_pass1": hard / 4,
            "hard_pass4": hard,
            "search_id_pass1": easy + 0.1,
            "search_hard_pass4": hard + 0.1,
            "entropy": 0.5,
            "samples": 4,
        }
        for step, (easy, hard) in path.items()
    }
    data = "" if name == "base" else demonstrations
    run = Run("countdown", data, seed, name, None, {})
    return Finished(run, directory, max(path), evaluations, extras, 10.0)


def two_methods(seeds):
    """Vanilla SFT on its way, and CurioSFT, which keeps 0.10 + 0.01 seed more at equal accuracy."""
    runs = []
    for seed in range(seeds):
        runs.append(finished("base", seed, {0: (0.0, 0.0)}))
        # On the way from (0.2, 0.4) to (0.6, 0.2) the height at 0.5 is 0.25.
        runs.append(finished("vanilla", seed, {2: (0.2, 0.4), 4: (0.6, 0.2)}))
        runs.append(finished("curio", seed, {4: (0.5, 0.35 + 0.01 * seed)}))
    return Data(runs)
