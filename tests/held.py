"""Programs that stop at a certain point, so that a test can kill them there from outside."""

from __future__ import annotations

# Every journal is appended to on the main thread, which then does nothing more.
HELD = """
import time
from curiojax.evaluation.journal import Journal
append = Journal.append
def append_and_wait(self, lines):
    append(self, lines)
    if self.path.name == {name!r} and self.path.read_bytes().count(b"\\n") > {lines}:
        time.sleep(3600)
Journal.append = append_and_wait
"""


def held(program: str, *, name: str, lines: int) -> str:
    """The program with a wait as soon as the journal of this name has more than so many lines."""
    return HELD.format(name=name, lines=lines) + program
