"""Progress bars and small tables for the terminal.

Bars go to stderr, so standard output stays fit for a pipe. On a terminal they are live (rich);
where stderr is a file or a CI log they become an occasional plain line. All bars of a process share
one display, so they may be nested.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol, TypeVar

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

PLAIN_INTERVAL_SECONDS = 10.0
_NON_TERMINAL_WIDTH = 120
_SHORT_CELL = 24  # characters

_STAT_LABELS = {"tokens_per_second": "tokens/s"}


class Bar(Protocol):
    """What `bar(...)` returns; also callable, for functions that take a progress callback."""

    def __call__(self, done: float, total: float | None = None, **stats: Any) -> None: ...

    def update(self, done: float, total: float | None = None, **stats: Any) -> None:
        """Shows that `done` of `total` is finished, with the latest `stats` (loss=..., ...)."""

    def close(self) -> None: ...

    def __enter__(self) -> Bar: ...

    def __exit__(self, *exception: object) -> None: ...


class LazyBar:
    """A bar that appears with its first update, for work that a cache may make unnecessary."""

    def __init__(self, description: str):
        self._description = description
        self._bar: Bar | None = None

    def __call__(self, done: float, total: float | None = None, **stats: Any) -> None:
        if self._bar is None:
            self._bar = bar(self._description, total)
        self._bar.update(done, total, **stats)

    def __enter__(self) -> LazyBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


_enabled = True


def enable(show: bool) -> None:
    """Switches all output of this module on or off, for processes other than the first."""
    global _enabled
    _enabled = show


def restore_terminal() -> None:
    """Gives the terminal its cursor back, for a process that ends without closing its bars."""
    if _enabled and _live_terminal():
        Console(stderr=True).show_cursor(True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps the parts of a longer piece of work quiet; bars that are open already stay."""
    before = _enabled
    enable(False)
    try:
        yield
    finally:
        enable(before)


def bar(description: str, total: float | None = None, *, done: float = 0) -> Bar:
    """A progress bar on stderr, to be closed (or used in a `with` block) by the caller.

        with bar("training", total=252) as progress:
            progress.update(step, loss=1.2, entropy=0.3, tokens_per_second=12_300)

    Args:
      description: what is being done, shown as it is (no markup).
      total: how much there is to do; None when unknown (`update` may give it later).
      done: where it starts, for a run that resumes. It does not count towards the ETA.
    """
    if _enabled and _live_terminal():
        return _LiveBar(description, total, done)
    return _PlainBar(description, total, done)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items of `iterable` behind a bar; `total` defaults to its length if it has one."""
    if total is None:
        try:
            total = len(iterable)  # type: ignore[arg-type]
        except TypeError:
            total = None
    with bar(description, total) as progress:
        for count, item in enumerate(iterable, start=1):
            yield item
            progress.update(count)


@contextlib.contextmanager
def status(message: str) -> Iterator[None]:
    """Shows that something without a known length is going on, and how long it took.

    with status("compiling the step"):
        ...
    """
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    spinner = (
        console.status(Text(f"{message} ..."))
        if _enabled and _live_terminal()
        else contextlib.nullcontext()
    )
    with spinner:
        yield
    if _enabled:
        print(f"{message}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def print_pairs(title: str, pairs: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Prints names and values in two columns (derived sizes, memory budget, drop counts)."""
    table = Table(
        title=Text(title), title_justify="left", box=None, show_header=False, pad_edge=False
    )
    table.title_style = "bold"
    table.add_column(overflow="fold", style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(str(name)), Text(format_value(value)))
    _print(table, _console(file))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str | None = None,
    caption: str | None = None,
    file: IO[str] | None = None,
) -> None:
    """Prints a table to `file` (standard output if None); columns of numbers are right-aligned.

    One that is too wide for the terminal comes in parts, each beginning with the first column.
    """
    if not _enabled:
        return
    console = _console(file)
    cells = format_rows(rows)
    texts = [[str(name), *(row[i] for row in cells)] for i, name in enumerate(columns)]
    least = [_least_width(column, whole=i == 0) for i, column in enumerate(texts)]
    parts = _parts(least, console)
    for part in parts:
        table = Table(
            title=Text(title) if title is not None and part is parts[0] else None,
            caption=Text(caption) if caption is not None and part is parts[-1] else None,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        table.title_style = "bold"
        widths = _widths(
            [least[i] for i in part], [_width(texts[i]) for i in part], _room(len(part), console)
        )
        for i, width in zip(part, widths, strict=True):
            justify = "right" if is_numeric([row[i] for row in rows]) else "left"
            table.add_column(Text(texts[i][0]), justify=justify, overflow="fold", width=width)
        for row in cells:
            table.add_row(*(Text(row[i]) for i in part))
        console.print(table)


def _width(texts: Iterable[str]) -> int:
    """Of the longest line, in characters of a terminal."""
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)


def _least_width(texts: Sequence[str], *, whole: bool) -> int:
    """The longest word of a column; short cells, such as `0.43 ± 0.01`, are not broken either."""
    longest = _width(texts if whole else texts[1:])
    words = _width(word for text in texts for word in text.split())
    return max(words, longest) if whole or longest <= _SHORT_CELL else words


def _room(columns: int, console: Console) -> int:
    """What is left for the texts of so many columns: three characters lie between two of them."""
    return console.width - 3 * (columns - 1) - 2


def _parts(least: Sequence[int], console: Console) -> list[list[int]]:
    """Which columns stand side by side; every part begins with the first."""
    parts = [[0]] if least else [[]]
    for i in range(1, len(least)):
        part = [*parts[-1], i]
        if len(part) > 2 and sum(least[j] for j in part) > _room(len(part), console):
            part = [0, i]
            parts.append(part)
        parts[-1] = part
    return parts


def _widths(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """The columns' widths: `natural`, or what `room` there is, shared out by what they lack.

    Where there is not even room for `least`, the widest give way, and break their words.
    """
    widths = list(least)
    while sum(widths) > max(room, len(widths)):
        widths[widths.index(max(widths))] -= 1
    lacking = [wanted - width for wanted, width in zip(natural, widths, strict=True)]
    spare = max(0, min(room - sum(widths), sum(lacking)))
    return [
        w + spare * lack // max(1, sum(lacking)) for w, lack in zip(widths, lacking, strict=True)
    ]


def is_numeric(column: Sequence[Any]) -> bool:
    """Whether a table column holds numbers (and None) only; an empty one does not."""
    numbers = [value for value in column if value is not None]
    return bool(numbers) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in numbers
    )


def format_rows(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """The cells of a table as text; a column with fractions gets three decimals throughout."""
    columns = []
    for column in zip(*rows, strict=True):
        numbers = [value for value in column if value is not None]
        fractions = is_numeric(column) and any(isinstance(value, float) for value in numbers)
        if fractions and all(abs(value) < 100 for value in numbers):
            columns.append(["-" if value is None else f"{value:.3f}" for value in column])
        else:
            columns.append([format_value(value) for value in column])
    return [list(cells) for cells in zip(*columns, strict=True)]


def format_value(value: object) -> str:
    """A value as text: 1,234 for integers, four digits for floats, `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def format_count(value: float) -> str:
    """A large count in short: 950, 12.3k, 4.56M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _format_stats(stats: Mapping[str, Any]) -> str:
    parts = []
    for name, value in stats.items():
        label = _STAT_LABELS.get(name, name)
        if value is None:
            continue
        if name == "tokens_per_second" and math.isfinite(float(value)):
            parts.append(f"{format_count(float(value))} {label}")
        elif isinstance(value, str):
            parts.append(f"{label} {value}")
        elif isinstance(value, int):
            parts.append(f"{label} {value:,}")
        else:
            parts.append(f"{label} {float(value):.3f}")  # also numpy and jax scalars
    return "  ".join(parts)


def _live_terminal() -> bool:
    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


def _console(file: IO[str] | None) -> Console:
    stream = sys.stdout if file is None else file
    width = None if stream.isatty() else _NON_TERMINAL_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _print(renderable: Table, console: Console) -> None:
    if _enabled:
        console.print(renderable)


class _PlainBar:
    """One line at the start, then at most one per interval, and one at the end."""

    def __init__(
        self,
        description: str,
        total: float | None,
        done: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._description, self._total, self._done, self._clock = description, total, done, clock
        self._stats: dict[str, Any] = {}
        self._first: tuple[float, float] | None = None  # (time, done) of the first update
        self._printed_at = -math.inf
        self._printed_done: float | None = None

    def update(self, done: float, total: float | None = None, **stats: Any) -> None:
        now = self._clock()
        self._done = done
        self._total = self._total if total is None else total
        self._stats.update(stats)
        if self._first is None:  # the time before it is mostly compilation: not part of the ETA
            self._first = (now, done)
        if now - self._printed_at >= PLAIN_INTERVAL_SECONDS:
            self._print_line(now)

    __call__ = update

    def close(self) -> None:
        if self._first is not None and self._printed_done != self._done:
            self._print_line(self._clock())

    def __enter__(self) -> _PlainBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _print_line(self, now: float) -> None:
        if not _enabled:
            return
        self._printed_at, self._printed_done = now, self._done
        line = f"{self._description}: {self._done:g}"
        if self._total is not None:
            line += f"/{self._total:g}"
        stats = _format_stats(self._stats)
        line += f"  {stats}" if stats else ""
        assert self._first is not None
        elapsed, progressed = now - self._first[0], self._done - self._first[1]
        if self._total is not None and self._done < self._total and progressed > 0:
            line += f"  ETA {format_duration((self._total - self._done) * elapsed / progressed)}"
        print(line, file=sys.stderr, flush=True)


def _make_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stats]}", markup=False),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        # Steps of a large model take minutes; the default window of 30 s would never hold two of
        # them and so never give an ETA.
        speed_estimate_period=3600.0,
        # Printing above the bar needs rich to own standard output, which it would send to stderr:
        # only right when both are the same terminal.
        redirect_stdout=sys.stdout.isatty(),
    )


class _Display:
    """The one live display of the process: started with the first bar, stopped with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._open = 0

    def add(self, description: str, total: float | None, done: float) -> tuple[Progress, TaskID]:
        with self._lock:
            if self._progress is None:
                self._progress = _make_progress()
                self._progress.start()
            progress = self._progress
            self._open += 1
            task = progress.add_task(description, total=total, completed=int(done), stats="")
            return progress, task

    def release(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None


_display = _Display()


class _LiveBar:
    def __init__(self, description: str, total: float | None, done: float):
        self._progress, self._task = _display.add(description, total, done)
        self._total, self._done = total, done
        self._stats: dict[str, Any] = {}
        self._closed = False

    def update(self, done: float, total: float | None = None, **stats: Any) -> None:
        self._done = done
        self._total = self._total if total is None else total
        self._stats.update(stats)
        self._progress.update(
            self._task, completed=done, total=total, stats=_format_stats(self._stats)
        )

    __call__ = update

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._total is None:
                self._progress.update(self._task, total=self._done)
            self._progress.stop_task(self._task)
            self._progress.refresh()
            _display.release()

    def __enter__(self) -> _LiveBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
