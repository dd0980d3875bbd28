"""Files of graded completions: which samples of a model are right and which are wrong.

Each line of a JSONL file is one completion, or one prompt with lists of completions and grades. The
columns go by the names below; the first that is there is taken, and the caller is told which.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from curiojax.errors import ConfigError

PROMPT = ("prompt", "messages", "query", "question", "problem", "instruction")
RESPONSE = ("response", "completion", "text", "output", "generation")
RESPONSES = ("responses", "completions", "texts", "outputs", "generations")
GRADE = ("correct", "is_correct", "passed", "reward", "score")
GRADES = ("corrects", "rewards", "scores")
FINISH = ("finish_reason", "finish_reasons", "finished")
STATUS = ("status",)
TRUTH = ("ground_truth", "answer", "gold")
_IDENTITY = ("id", "uuid")

# What a verifier says when it reached no verdict: such a sample is not known to be wrong.
_NO_VERDICT = ("unverifiable", "error", "timeout", "memory", "crash")
# A file of rollouts names the record in `prompt`, and not what was asked.
_ID_ONLY = "prompt_index"
# Text that a chat template writes: a prompt that holds it has been rendered already.
_MARKUP = ("<|im_start|>", "<|start_header_id|>")

UNGRADED = "without a grade"
PARTLY = "neither right nor wrong (a grade between 0 and 1)"
CUT = "cut off before their end"
NO_TEXT = "without a prompt or a response"
REPEATED = "repeated"


@dataclass
class Graded:
    """What was read.

    Attributes:
      correct, wrong: how many completions of either kind were kept.
      columns: which column was taken for what.
      left_out: completions that are neither, counted by reason.
    """

    correct: int = 0
    wrong: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def split_graded(paths: Sequence[str | Path], correct: Path, wrong: Path) -> Graded:
    """Sorts the completions of JSONL files into two that the trainer's loader reads.

    A grade is true or false, or a number: 1 and more is right, 0 and less is wrong, what is between
    is left out. So are wrong completions that were cut off (`finish_reason: length`): training
    would end them with an end-of-sequence token that the model never wrote. Of equal completions of
    one prompt the first counts.

    Args:
      paths: what to read.
      correct, wrong: JSONL files of `{id, prompt, response, ground_truth}`, `prompt` a list of
        messages; replaced in one go.

    Raises:
      ConfigError: a file cannot be read, a column is missing, or no line has a grade.
    """
    result = Graded()
    seen: set[bytes] = set()
    with _replacing(correct) as right, _replacing(wrong) as other:
        for path in paths:
            columns: dict[str, str] = {}
            for number, row in _rows(Path(path)):
                columns = columns or _find_columns(row, path)
                result.columns = result.columns or columns
                for index, sample in enumerate(_samples(row, columns, f"{path}, line {number}")):
                    reason, is_right = _verdict(sample, seen)
                    if reason:
                        result.left_out[reason] += 1
                        continue
                    record = _record(sample, f"{Path(path).stem}:{number}:{index}")
                    line = json.dumps(record, ensure_ascii=False) + "\n"
                    (right if is_right else other).write(line)
                    result.correct += is_right
                    result.wrong += not is_right
    if not result.columns:
        raise ConfigError(f"--graded: {', '.join(map(str, paths))} is empty; give completions")
    if not result.correct + result.wrong and result.left_out[UNGRADED]:
        raise ConfigError(
            f"--graded: none of {result.left_out[UNGRADED]} completions has a grade: "
            f"{result.columns['grade']!r} must be true, false or a number"
        )
    return result


def write_chosen(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes canonical records with what was measured as parquet; replaced in one go.

    The columns `prompt` (a list of {role, content}) and `response` are the schema
    `prompt_completion` of `curiojax.data.schemas`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    message = pa.struct([("role", text), ("content", text)])
    schema = pa.schema(
        [
            ("id", text),
            ("prompt", pa.list_(message)),
            ("response", text),
            ("ground_truth", text),
            ("perplexity", pa.float64()),
            ("response_tokens", pa.int64()),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        group: list[Mapping[str, Any]] = []
        for record in records:
            truth = record.get("ground_truth")
            group.append({**record, "ground_truth": truth if truth is None else _as_text(truth)})
            if len(group) == 1024:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        writer.write_table(pa.Table.from_pylist(group, schema))
    temporary.replace(path)


def grade_column(path: str | Path) -> str | None:
    """The column of a local JSONL or parquet file that looks like a verdict on each record."""
    path = Path(path)
    columns: Iterable[str] = ()
    if path.suffix == ".jsonl" and path.is_file():
        columns = next(_rows(path), (0, {}))[1]
    elif path.suffix == ".parquet" and path.is_file():
        import pyarrow.parquet as pq

        columns = pq.read_schema(path).names
    return _first(("correct", "is_correct", "passed"), columns)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with _lines(path) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise ConfigError(
                        f"--graded: {path}, line {number}: not a JSON object; give one per line"
                    )
                yield number, row
    except OSError as error:
        raise ConfigError(f"--graded: cannot read {path} ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--graded: {path} is no text; give JSONL, plain or as .zst") from None


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    """The lines of a file, which may be compressed (.zst, as rollouts are written)."""
    with path.open("rb") as stream:
        if path.suffix == ".zst":
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
            try:
                yield io.TextIOWrapper(reader, encoding="utf-8", errors="surrogatepass")
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from None
        else:
            yield io.TextIOWrapper(stream, encoding="utf-8")


def _find_columns(row: Mapping[str, Any], path: str | Path) -> dict[str, str]:
    found = {}
    prompts = [name for name in PROMPT if name != "prompt" or _ID_ONLY not in row]
    for role, names in (
        ("prompt", prompts),
        ("response", (*RESPONSE, *RESPONSES)),
        ("grade", (*GRADE, *GRADES)),
    ):
        name = _first(names, row)
        if name is None:
            if role == "prompt" and _ID_ONLY in row:
                raise ConfigError(
                    f"--graded: {path}: its `prompt` is the record's id; add what was asked, as "
                    "`messages` or `question`"
                )
            raise ConfigError(
                f"--graded: {path} has no column for the {role} (one of {', '.join(names)}); the "
                f"columns are {', '.join(row) or 'none'}: rename one"
            )
        found[role] = name
    more = {"finish": FINISH, "status": STATUS, "ground truth": TRUTH, "id": _IDENTITY}
    for role, names in more.items():
        name = _first(names, row)
        if name is not None:
            found[role] = name
    return found


def _samples(
    row: Mapping[str, Any], columns: Mapping[str, str], where: str
) -> Iterator[dict[str, Any]]:
    """One entry per completion: lists of completions and grades go side by side."""
    shared = {role: row.get(name) for role, name in columns.items()}
    shared["prompt"] = _messages(shared["prompt"], columns["prompt"], where)
    texts, grades = shared["response"], shared["grade"]
    if isinstance(texts, list) and not any(isinstance(text, Mapping) for text in texts):
        if not isinstance(grades, list) or len(grades) != len(texts):
            raise ConfigError(
                f"--graded: {where}: {len(texts)} entries in {columns['response']!r} need as many "
                f"in {columns['grade']!r}"
            )
        for index, (text, grade) in enumerate(zip(texts, grades, strict=True)):
            ends = shared.get("finish")
            if isinstance(ends, list):
                ends = ends[index] if index < len(ends) else None
            yield {**shared, "response": text, "grade": grade, "finish": ends}
    else:
        if isinstance(texts, list):  # one turn of the assistant
            texts = texts[-1].get("content")
        yield {**shared, "response": texts}


def _verdict(sample: Mapping[str, Any], seen: set[bytes]) -> tuple[str, bool]:
    """Why a completion is left out, or an empty text, and whether it is right."""
    prompt, text, grade = sample["prompt"], sample["response"], sample["grade"]
    if not prompt or not isinstance(text, str) or not text.strip():
        return NO_TEXT, False
    graded = isinstance(grade, int | float) and math.isfinite(grade)
    if not graded or sample.get("status") in _NO_VERDICT:
        return UNGRADED, False
    if 0 < grade < 1:
        return PARTLY, False
    if grade <= 0 and sample.get("finish") in ("length", "max_tokens", False):
        return CUT, False
    key = hashlib.sha256(json.dumps([prompt, text]).encode()).digest()
    if key in seen:
        return REPEATED, False
    seen.add(key)
    return "", grade >= 1


def _record(sample: Mapping[str, Any], name: str) -> dict[str, Any]:
    identity, truth = sample.get("id"), sample.get("ground truth")
    return {
        # One id may stand for all samples of a prompt.
        "id": name if identity is None else str(identity),
        "prompt": sample["prompt"],
        "response": sample["response"],
        "ground_truth": None if truth is None else _as_text(truth),
    }


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _messages(value: Any, column: str, where: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        if any(mark in value for mark in _MARKUP):
            raise ConfigError(
                f"--graded: {where}: {column!r} holds a prompt with chat markup, which training "
                "would render once more; give the question itself, or a list of messages"
            )
        return [{"role": "user", "content": value}] if value.strip() else []
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return []
    return [
        {"role": str(turn.get("role")), "content": str(turn.get("content") or "")} for turn in value
    ]


def _first(names: Iterable[str], present: Iterable[str]) -> str | None:
    present = set(present)
    return next((name for name in names if name in present), None)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
