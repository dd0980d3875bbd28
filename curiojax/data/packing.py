"""Several records share a row of tokens."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Assigns records to rows by best-fit decreasing.

    Records are taken from the longest to the shortest (ties: in order) and each goes to the row
    with the least room that still takes it, or to a new row. The open rows are kept sorted by their
    room, so a record costs one binary search.

    Args:
      lengths: tokens each record takes.
      row_length: tokens a row holds.

    Returns:
      Rows of indices into `lengths`, in the order the rows were opened; every index occurs once.

    Raises:
      ValueError: a record is empty or longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = int(lengths[index])
        if not 0 < length <= row_length:
            raise ValueError(f"record {index} takes {length} tokens; a row holds 1 to {row_length}")
        position = bisect_left(room, (length, -1))
        if position == len(room):
            rows.append([])
            free, row = row_length, len(rows) - 1
        else:
            free, row = room.pop(position)
        rows[row].append(index)
        insort(room, (free - length, row))
    return rows


def fill(lengths: Sequence[int], row_length: int) -> float:
    """Share of the tokens of the packed rows that belong to records."""
    rows = pack(lengths, row_length)
    return sum(int(n) for n in lengths) / (len(rows) * row_length) if rows else 1.0
