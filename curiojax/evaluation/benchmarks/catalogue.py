"""The benchmarks that are known by name: the nine of the paper, and the 40 problems of AMC 2023.

What the paper calls AMC23 has 83 problems, those of AMC 12 of 2022 and 2023: its scores are
multiples of 1 / (83 * 8). `amc` is that one; `amc23`, the 40 problems that others use, is no part
of the paper's sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from curiojax.evaluation.questions import Group

Reader = Literal["math", "olympiadbench", "gpqa", "arc", "mmlu_pro"]


@dataclass(frozen=True)
class Known:
    """A benchmark that others published.

    Attributes:
      name, title, group, samples, private: see `curiojax.evaluation.questions.Benchmark`.
      hub, config, split: where it is fetched from.
      questions: how many it has there.
      reader: which of `readers.LAYOUTS` turns a row into a question.
      others: further hub ids with the same questions; a copy of their files is read as well.
      data_sources: what `data_source` says of it in files that hold several benchmarks.
      year: rows of other years are left out, where the file tells the year.
      whole_numbers: answers are integers written as floats.
      gated: the hub asks for consent to terms first.
    """

    name: str
    title: str
    group: Group
    hub: str
    split: str
    questions: int
    reader: Reader = "math"
    config: str | None = None
    others: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()
    samples: int = 8
    year: str | None = None
    whole_numbers: bool = False
    private: bool = False
    gated: bool = False

    @property
    def verifier(self) -> str:
        return "choice" if self.group == "general" else "math"

    @property
    def strict_verifier(self) -> str | None:
        """Letters were graded as mathematics in the paper, which asks for a box around them."""
        return "math_verify" if self.group == "general" else None

    @property
    def hub_path(self) -> str:
        """As `curiojax.data.records.load_table` takes it."""
        return f"{self.hub}:{self.config}" if self.config else self.hub


# `data_sources`: the first are those of LUFFY's files (github.com/ElliottYan/LUFFY, data/), seen
# there, except `mmlu_pro`, whose file was not: it follows the others' pattern.
_ALL = (
    Known(
        name="aime24",
        title="AIME 2024",
        group="math",
        hub="HuggingFaceH4/aime_2024",
        split="train",
        questions=30,
        others=(
            "Maxwell-Jia/AIME_2024",
            "math-ai/aime24",
            "AI-MO/aimo-validation-aime",
            "BytedTsinghua-SIA/AIME-2024",
        ),
        data_sources=("aime", "aime24", "aime2024"),
        year="2024",
    ),
    Known(
        name="aime25",
        title="AIME 2025",
        group="math",
        hub="yentinglin/aime_2025",
        split="train",
        questions=30,
        others=("math-ai/aime25", "opencompass/AIME2025"),
        data_sources=("aime25", "aime2025"),
        year="2025",
    ),
    Known(
        name="amc",
        title="AMC",
        group="math",
        hub="AI-MO/aimo-validation-amc",
        split="train",
        questions=83,
        data_sources=("amc",),
        whole_numbers=True,
    ),
    Known(
        name="amc23",
        title="AMC 2023 (40)",
        group="math",
        hub="math-ai/amc23",
        split="test",
        questions=40,
        data_sources=("amc23",),
        whole_numbers=True,
    ),
    Known(
        name="math500",
        title="MATH-500",
        group="math",
        hub="HuggingFaceH4/MATH-500",
        split="test",
        questions=500,
        data_sources=("math", "math500"),
    ),
    Known(
        name="minerva",
        title="Minerva",
        group="math",
        hub="math-ai/minervamath",
        split="test",
        questions=272,
        others=("svc-huggingface/minerva-math", "knoveleng/Minerva-Math"),
        data_sources=("minerva", "minerva_math"),
    ),
    # Not Hothan/OlympiadBench, where it comes from: there are 674, and 675 were evaluated on.
    Known(
        name="olympiadbench",
        title="OlympiadBench",
        group="math",
        hub="math-ai/olympiadbench",
        split="test",
        questions=675,
        reader="olympiadbench",
        others=("Hothan/OlympiadBench:OE_TO_maths_en_COMP", "SumanthRH/olympiadbench_qwen_math"),
        data_sources=("olympiad_bench", "olympiadbench"),
    ),
    Known(
        name="arc_challenge",
        title="ARC-Challenge",
        group="general",
        hub="allenai/ai2_arc",
        config="ARC-Challenge",
        split="test",
        questions=1172,
        reader="arc",
        data_sources=("arc_c", "arc_challenge"),
    ),
    Known(
        name="gpqa_diamond",
        title="GPQA-Diamond",
        group="general",
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        questions=198,
        reader="gpqa",
        data_sources=("gpqa", "gpqa_diamond"),
        private=True,
        gated=True,
    ),
    Known(
        name="mmlu_pro",
        title="MMLU-Pro",
        group="general",
        hub="TIGER-Lab/MMLU-Pro",
        split="test",
        questions=12032,
        reader="mmlu_pro",
        data_sources=("mmlu_pro",),
        samples=1,
    ),
)
KNOWN: dict[str, Known] = {known.name: known for known in _ALL}
NAMES: tuple[str, ...] = tuple(KNOWN)

_PAPER = tuple(name for name in NAMES if name != "amc23")
SETS: dict[str, tuple[str, ...]] = {
    "paper": _PAPER,
    "math": tuple(name for name in _PAPER if KNOWN[name].group == "math"),
    "general": tuple(name for name in _PAPER if KNOWN[name].group == "general"),
}
