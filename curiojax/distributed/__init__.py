"""Several processes, one per host or per GPU, that train as one.

`join` brings them together before anything else is done. From then on whatever ends one of them,
an error, a signal or its death, ends all, each with a line that says why; see `group`. In a run of
one process nothing here does anything.
"""

from curiojax.distributed.agreement import (
    agree,
    check_shared,
    first_then_others,
    is_shared,
    wait_for_all,
)
from curiojax.distributed.joining import joined
from curiojax.distributed.settings import Settings, read_settings

__all__ = [
    "Settings",
    "agree",
    "check_shared",
    "first_then_others",
    "is_shared",
    "joined",
    "read_settings",
    "wait_for_all",
]
