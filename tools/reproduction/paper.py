"""The numbers that the paper prints: Tables 1 to 4 of arXiv 2602.02244, accuracies in percent.

Its figures are drawings without numbers; what the text says about them is in `FIGURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class PaperTable(NamedTuple):
    """A table of the paper.

    Attributes:
      title: its caption.
      columns: what the numbers of a row are.
      rows: by the name that a method has here, the name it has there and its numbers; None: "-".
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, tuple[float | None, ...]]]

    def value(self, method: str, column: str) -> float | None:
        """A number, or None where the table has none."""
        row = self.rows.get(method)
        return None if row is None else row[1][self.columns.index(column)]


def _table(title: str, columns: str, text: str) -> PaperTable:
    rows = {}
    for line in text.strip().splitlines():
        name, label, numbers = (part.strip() for part in line.split("|"))
        values = tuple(None if n == "-" else float(n) for n in numbers.split())
        rows[name] = (label, values)
    return PaperTable(title, tuple(c.strip() for c in columns.split(",")), rows)


TABLE1 = _table(
    "OOD performance comparison",
    "GPQA, MMLU-Pro, ARC-C, Avg.",
    """
    vanilla       | Vanilla SFT              | 27.7 47.5 78.8 51.3
    entropy       | SFT w/ Entropy           | 28.0 45.9 77.2 50.4
    entropy-top20 | SFT w/ Entropy (Top 20%) | 29.6 47.9 79.3 52.3
    """,
)
TABLE2 = _table(
    "Performance comparison in the SFT stage",
    "AIME25, AIME24, AMC23, MATH, Minerva, Olympiad, ID avg., "
    "GPQA, MMLU-Pro, ARC-C, OOD avg., Entropy, Speed",
    """
    base         | Qwen2.5-Math-7B      |  4.6  8.3 35.5 50.1 12.1 16.5 21.2 26.2 32.4 63.2 40.6 0.15 -
    vanilla      | Vanilla SFT          | 22.9 26.7 59.6 85.8 45.5 50.4 48.5 27.7 47.5 78.8 51.3 0.31 43.2
    entropy      | SFT with Entropy     | 23.3 25.4 60.3 86.1 44.2 49.2 48.1 28.0 45.9 77.2 50.4 0.36 44.6
    kl           | SFT with KL          | 21.6 24.6 58.2 83.9 45.2 46.3 46.6 27.4 47.8 78.0 51.1 0.30 50.2
    gem          | GEM                  | 24.6 26.7 60.2 85.7 47.7 50.9 49.3 30.6 49.0 81.4 53.7 0.66 44.5
    dft          | DFT                  | 23.3 25.0 59.3 86.6 46.4 49.9 48.4 31.1 48.8 79.0 53.0 0.29 43.7
    psft         | PSFT                 | 25.0 28.8 60.4 86.9 48.3 52.6 50.3 29.9 47.8 76.7 51.5 0.32 45.2
    curio        | CurioSFT             | 26.3 29.6 59.9 87.0 49.8 53.2 51.0 31.7 49.5 81.3 54.2 0.43 53.9
    curio-tau1.3 | w/o Adaptive Temp.   | 24.6 26.7 59.0 86.4 48.8 53.1 49.8 29.5 47.3 79.8 52.2 0.45 51.9
    curio-self   | w/o Separate Teacher | 25.0 28.8 58.2 85.4 49.3 52.8 49.9 30.8 48.2 80.2 53.0 0.39 45.5
    """,  # noqa: E501
)
TABLE3 = _table(
    "Performance comparison in the RL stage",
    "AIME25, AIME24, AMC23, MATH, Minerva, Olympiad, ID avg., GPQA, MMLU-Pro, ARC-C, OOD avg.",
    """
    grpo         | Vanilla GRPO  | 18.8 20.8 62.8 84.7 46.7 50.0 47.3 40.3 50.1 84.1 58.2
    luffy        | LUFFY         | 29.4 23.1 65.6 87.6 49.5 57.2 52.1 39.9 53.0 80.5 57.8
    prefix_rft   | Prefix-RFT    | 26.4 31.8 68.2 88.4 50.9 55.7 53.6 39.1 52.1 84.0 58.4
    rl_plus      | RL-PLUS       | 25.9 33.4 68.1 90.2 52.3 58.8 54.8 40.4 54.7 82.3 59.1
    vanilla+grpo | SFT + RL      | 24.6 32.1 68.1 88.2 51.9 57.1 53.7 41.1 53.3 83.5 59.3
    gem+grpo     | GEM + RL      | 27.5 34.6 71.1 90.8 52.1 61.3 56.2 40.3 54.1 83.7 59.4
    dft+grpo     | DFT + RL      | 24.2 31.3 69.8 91.3 50.5 59.0 54.4 40.4 54.0 84.9 59.8
    psft+grpo    | PSFT + RL     | 26.7 36.7 71.5 91.2 52.0 62.7 56.8 42.8 55.4 85.1 61.1
    curio+grpo   | CurioSFT + RL | 30.4 39.2 72.7 91.7 54.9 63.2 58.7 43.2 56.0 85.9 61.7
    """,
)
_TABLE4_COLUMNS = "AIME24, AIME25, AMC, MATH, Minerva, Olympiad, ID avg."
TABLE4 = {
    "Qwen3-4B-Base": _table(
        "Robustness across different backbones: Qwen3-4B-Base",
        _TABLE4_COLUMNS,
        """
        base         | Base model      |  6.3  4.2 42.0 53.0 17.9 20.8 24.0
        vanilla      | SFT             | 20.4 19.6 53.0 83.5 47.4 47.7 45.3
        vanilla+grpo | SFT + GRPO      | 27.5 22.9 62.9 89.0 50.2 57.9 51.7
        curio        | CurioSFT        | 21.3 25.0 54.4 84.2 48.3 48.2 46.9
        curio+grpo   | CurioSFT + GRPO | 28.8 27.9 65.0 89.7 53.6 59.1 54.0
        """,
    ),
    "Llama-3.1-8B-Instruct": _table(
        "Robustness across different backbones: Llama-3.1-8B-Instruct",
        _TABLE4_COLUMNS,
        """
        base         | Base model      |  2.1  2.5 19.3 43.2 26.3 14.8 18.0
        vanilla      | SFT             |  8.3 11.7 38.3 68.1 32.7 35.6 32.5
        vanilla+grpo | SFT + GRPO      |  9.6 12.1 40.3 74.1 35.5 38.9 35.1
        curio        | CurioSFT        | 10.0 10.4 38.9 69.0 33.0 36.6 33.0
        curio+grpo   | CurioSFT + GRPO | 14.2 11.7 42.9 74.3 38.6 40.9 37.1
        """,
    ),
}
FIGURES = {
    "figure1": "The paper: entropy collapses during SFT, less with CurioSFT, and accuracy (Avg@8 "
    "on AIME 2024) gains more in RL after CurioSFT.",
    "figure2": "The paper: at a small coefficient entropy barely rises, at 0.06 it rises on top "
    "20 % and rest alike without better pass@32, at 0.08 and more it explodes; CurioSFT raises "
    "it on high-entropy tokens and leaves the others.",
    "figure4": "The paper: n-gram diversity (1 - similarity) is higher where entropy was "
    "preserved, CurioSFT's included.",
    "figure5": "The paper: pivots from 0.4 to 1.4 nats all beat plain SFT, 1.2 is best.",
}
