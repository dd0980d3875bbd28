r"""Small files in the layouts that the benchmarks are published in, with questions made up here.

`ANSWERS[name]` holds, for each question of `write_benchmark_files` in order, what a model would put
into its box to be right, written differently from the file where that matters.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_AIME = [
    (60, "How many minutes are there in one hour?", "060"),
    (61, "A box holds 3 rows of 7 eggs. How many eggs are there?", "021"),
    (62, "What is $2^7 - 24$?", "104"),
]
_MATH = [
    ("What is $\\frac{1}{2} + \\frac{1}{4}$?", "\\frac{3}{4}", "Algebra", 1),
    ("Give the point halfway between $(0,0)$ and $(2,4)$.", "\\left(1, 2\\right)", "Geometry", 2),
    ("Solve $2x = 6$.", "3", "Algebra", 1),
]


def _url(year, problem):
    return f"https://example.org/{year}_AIME_I_Problems/Problem_{problem}"


ROWS = {
    # HuggingFaceH4/aime_2024
    "aime24": [
        {
            "id": i,
            "problem": problem,
            "solution": "Count them.",
            "answer": answer,
            "url": _url(2024, i - 59),
            "year": "2024",
        }
        for i, problem, answer in _AIME
    ],
    # yentinglin/aime_2025
    "aime25": [
        {
            "id": i,
            "problem": problem,
            "answer": answer,
            "solution": "Add.",
            "url": _url(2025, i + 1),
            "year": "2025",
        }
        for i, problem, answer in [
            (0, "What is $40 + 30$?", "70"),
            (1, "How many degrees are left of a full turn after $24^\\circ$?", "336^\\circ"),
            (2, "What is $12 \\cdot 12$?", "144"),
        ]
    ],
    # AI-MO/aimo-validation-amc
    "amc": [
        {"id": i, "problem": problem, "answer": answer, "url": "https://example.org/AMC_12"}
        for i, problem, answer in [
            (0, "What is $100 + 42$?", 142.0),
            (1, "What is the half of $9$?", 4.5),
            (2, "What is $3 - 7$?", -4.0),
        ]
    ],
    # math-ai/amc23
    "amc23": [
        {"id": i, "question": question, "answer": answer, "url": "https://example.org/AMC_12A"}
        for i, question, answer in [
            (0, "How many days are there in two weeks?", "14.0"),
            (1, "What is $5 \\cdot 5$?", "25"),
            (2, "What is the next prime after $23$?", "29.0"),
        ]
    ],
    # HuggingFaceH4/MATH-500
    "math500": [
        {
            "problem": problem,
            "solution": f"It is $\\boxed{{{answer}}}$.",
            "answer": answer,
            "subject": subject,
            "level": level,
            "unique_id": f"test/{subject.lower()}/{number}.json",
        }
        for number, (problem, answer, subject, level) in enumerate(_MATH)
    ],
    # Qwen2.5-Math's minerva_math: the answer is in the box that ends the solution
    "minerva": [
        {"problem": problem, "solution": solution, "type": "Physics", "idx": i}
        for i, (problem, solution) in enumerate(
            [
                ("Give the speed of light in cm/s to 2 digits.", "So $c = \\boxed{3.0e10}$ cm/s."),
                ("How long is $x$ with $\\sin x = 10/13$?", "Hence \\boxed{np.arcsin(10/13)}."),
                ("What is the energy of a mass $m$?", "\\[ E = \\boxed{m c^{2}} \\]"),
                ("A rod is 2 m long; two rods?", "First \\boxed{2}, in all $\\boxed{4}$ m."),
            ]
        )
    ],
    # Hothan/OlympiadBench
    "olympiadbench": [
        {
            "id": 1600 + i,
            "question": question,
            "solution": ["By inspection."],
            "final_answer": answers,
            "context": context,
            "is_multiple_answer": len(answers) > 1 or "," in answers[0],
            "unit": None,
            "answer_type": "Numerical",
            "error": None,
            "question_type": "Open-ended",
            "subfield": "Number Theory",
            "subject": "Math",
            "language": "English",
        }
        for i, (question, answers, context) in enumerate(
            [
                ("Which integers $n$ satisfy $n^2 = 9$?", ["$3$,$-3$"], None),
                ("Find all primes below $4$.", ["$2$", "$3$"], None),
                ("Compute $T + 1$.", ["$\\frac{5}{2}$"], "Let $T = \\frac{3}{2}$."),
            ]
        )
    ],
    # Idavidrein/gpqa, gpqa_diamond
    "gpqa_diamond": [
        {
            "Record ID": f"rec{i}",
            "Question": question,
            "Correct Answer": right,
            "Incorrect Answer 1": wrong[0],
            "Incorrect Answer 2": wrong[1],
            "Incorrect Answer 3": wrong[2],
            "Explanation": "As everyone knows.",
            "High-level domain": "Chemistry",
            "Subdomain": "Water",
        }
        for i, (question, right, wrong) in enumerate(
            [
                ("What is water made of?", "H and O\n", ["He and O", "H and N", "C and O"]),
                ("At what temperature does it freeze?", "0 C", ["10 C", "50 C", "100 C"]),
                ("What is frozen water called?", "ice", ["steam", "dew", "fog"]),
                ("What is it in the kettle?", "hot", ["cold", "solid", "blue"]),
            ]
        )
    ],
    # allenai/ai2_arc, ARC-Challenge: letters or digits, three to five options
    "arc_challenge": [
        {
            "id": identity,
            "question": question,
            "choices": {"text": options, "label": labels},
            "answerKey": key,
        }
        for identity, question, options, labels, key in [
            ("X_1", "Which one flies?", ["stone", "bird", "tree", "fish"], list("ABCD"), "B"),
            ("X_2", "Which one swims?", ["stone", "bird", "tree", "fish"], list("1234"), "4"),
            ("X_3", "Which one grows?", ["tree", "stone", "cloud"], list("ABC"), "A"),
            ("X_4", "Which is first?", ["two", "three", "four", "five", "one"], list("ABCDE"), "E"),
        ]
    ],
    # TIGER-Lab/MMLU-Pro
    "mmlu_pro": [
        {
            "question_id": 70 + i,
            "question": f"Which of these is {number}?",
            "options": [str(k) for k in range(count)],
            "answer": "ABCDEFGHIJ"[number],
            "answer_index": number,
            "cot_content": "",
            "category": "math",
            "src": "made up",
        }
        for i, (number, count) in enumerate([(9, 10), (0, 4), (3, 7)])
    ],
}
ANSWERS = {
    "aime24": ["60", "21", "104"],
    "aime25": ["70", "336", "144"],
    "amc": ["142", "\\frac{9}{2}", "-4"],
    "amc23": ["14", "25", "29"],
    "math500": ["0.75", "(1,2)", "x=3"],
    "minerva": ["3 \\times 10^{10}", "\\arcsin\\frac{10}{13}", "mc^2", "4"],
    "olympiadbench": ["-3, 3", "2, 3", "2.5"],
    "arc_challenge": ["B", "\\text{D}", "A", "E) one"],
    "mmlu_pro": ["J", "(A)", "D"],
}
SYSTEM = "Your task is to follow a systematic, thorough reasoning process."


def write_benchmark_files(directory: Path) -> dict[str, Path]:
    """Writes `<name>.parquet` of every known benchmark; returns the paths by name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in ROWS.items():
        paths[name] = directory / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), paths[name])
    return paths


def verl_rows(rows: list[tuple[str, str, str]], copies: int = 1) -> list[dict]:
    """Rows as LUFFY's files have them, of (data_source, question, ground truth)."""
    return [
        {
            "data_source": source,
            "prompt": [
                {"content": SYSTEM, "role": "system"},
                {"content": question, "role": "user"},
            ],
            "ability": "math",
            "reward_model": {"ground_truth": truth, "style": "rule"},
            "extra_info": {"index": index, "split": "default"},
            "__index_level_0__": index,
        }
        for index, (source, question, truth) in enumerate(rows)
        for _ in range(copies)
    ]


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Writes rows as parquet or JSON lines, by the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
