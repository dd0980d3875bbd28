"""What an optimised program does, read from its text: every operation and how often it runs.

XLA's own cost analysis counts the body of a loop once, whatever its length. Here a loop whose trip
count is known counts that often, so layers that are scanned over count as layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_BITS = {"pred": 8, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")
_NAME = re.compile(r"^(?:ROOT )?%([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Array(NamedTuple):
    """Type of one array: dtype as XLA spells it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Packed, without the padding of a layout."""
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        bits = _BITS.get(self.dtype) or (int(digits[1]) if digits else 0)
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
      kind: `dot`, `all-gather`, ...
      result: the arrays it makes, tuples flattened.
      operands: names of what it is given.
      text: the line.
    """

    name: str
    kind: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str = field(repr=False)


@dataclass(frozen=True)
class Program:
    """A parsed program.

    Attributes:
      computations: operations by name, by computation.
      times: how often each computation runs in one run of the program; 0 where nothing calls it. A
        loop of unknown length counts once, a conditional as all of its branches.
    """

    computations: dict[str, dict[str, Operation]]
    times: dict[str, int]

    def operations(self, *kinds: str) -> Iterator[tuple[Operation, str, int]]:
        """Operations that run, with their computation and how often they do."""
        for computation, body in self.computations.items():
            times = self.times.get(computation, 0)
            if times:
                for operation in body.values():
                    if not kinds or operation.kind in kinds:
                        yield operation, computation, times

    def inputs(self, operation: Operation, computation: str) -> list[tuple[Array, ...]]:
        """What an operation is given; empty for a name that its computation does not define."""
        body = self.computations[computation]
        return [body[name].result if name in body else () for name in operation.operands]


def parse(text: str) -> Program:
    """Reads the text of an optimised HLO module, as `Compiled.as_text()` gives it."""
    computations: dict[str, dict[str, Operation]] = {}
    entry, current = "", None
    for raw in text.splitlines():
        line = raw.strip()
        if current is None:
            header = _COMPUTATION.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif line == "}":
            current = None
        elif operation := _operation(line):
            current[operation.name] = operation
    return Program(computations, _times(computations, entry))


def _operation(line: str) -> Operation | None:
    named = _NAME.match(line)
    if not named:
        return None
    start = named.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    opening = line.find("(", end)
    if opening < 0:
        return None
    operands = line[opening : _closing(line, opening)]
    return Operation(
        named[1],
        line[end:opening].strip(),
        arrays(line[start:end]),
        tuple(_OPERAND.findall(operands)),
        line,
    )


def arrays(text: str) -> tuple[Array, ...]:
    """The array types named in a piece of a line."""
    return tuple(
        Array(dtype, tuple(int(n) for n in shape.split(",") if n))
        for dtype, shape in _SHAPE.findall(text)
    )


def _closing(line: str, opening: int) -> int:
    """The end of what begins with the parenthesis at `opening`."""
    depth = 0
    for position in range(opening, len(line)):
        depth += (line[position] == "(") - (line[position] == ")")
        if not depth:
            return position + 1
    return len(line)


def _times(computations: dict[str, dict[str, Operation]], entry: str) -> dict[str, int]:
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, body in computations.items():
        calls[name] = [pair for operation in body.values() for pair in called(operation)]
    # Callers before callees: the graph of calls has no cycles.
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for callee, _ in calls.get(name, ()):
                visit(callee)
            order.append(name)

    visit(entry)
    times = {entry: 1}
    for name in reversed(order):
        for callee, count in calls.get(name, ()):
            times[callee] = times.get(callee, 0) + times.get(name, 0) * count
    return times


def called(operation: Operation) -> Iterator[tuple[str, int]]:
    """The computations that an operation runs, and how often each time."""
    trips = 1
    if operation.kind == "while":
        known = _TRIPS.search(operation.text)
        trips = int(known[1]) if known else 1
    for _, name in _CALLED.findall(operation.text):
        yield name, trips
    for branches in _BRANCHES.findall(operation.text):
        for name in _OPERAND.findall(branches):
            yield name, 1
