"""What a GPU computes while it communicates: read from the order of a scheduled program."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from curiojax.planning.anatomy import COLLECTIVES, payload
from curiojax.planning.hlo import Operation, Program, called


class Overlap(NamedTuple):
    """Bytes of collectives of one device in one run.

    Attributes:
      bytes: of all of them, counted as in `anatomy.Traffic`.
      asynchronous: of those that start as one operation and end as another.
      behind_products: of those among them that have a matrix product in between.
    """

    bytes: int
    asynchronous: int
    behind_products: int


def overlap(program: Program) -> Overlap:
    """How much of the communication the schedule puts beside matrix products.

    A program for CPU devices has no asynchronous collectives.
    """

    @cache
    def has_product(computation: str) -> bool:
        body = program.computations.get(computation, {})
        return any(multiplies(operation) for operation in body.values())

    def multiplies(operation: Operation) -> bool:
        if operation.kind == "dot" or 'custom_call_target="__cu' in operation.text:
            return True
        return any(has_product(name) for name, _ in called(operation))

    total = apart = hidden = 0
    for computation, body in program.computations.items():
        times, order = program.times.get(computation, 0), list(body.values())
        for position, operation in enumerate(order if times else []):
            if operation.kind.removesuffix("-start") not in COLLECTIVES:
                continue
            size = times * sum(payload(operation, program.inputs(operation, computation)))
            total += size
            if not operation.kind.endswith("-start"):
                continue
            apart += size
            between = order[position + 1 :]
            ends = (i for i, o in enumerate(between) if operation.name in o.operands)
            hidden += size * any(multiplies(o) for o in between[: next(ends, 0)])
    return Overlap(total, apart, hidden)
