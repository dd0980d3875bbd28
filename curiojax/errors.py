"""The errors a user can fix, and how the command line shows them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable


class ConfigError(ValueError):
    """Something in the user's input is wrong.

    The message is one line that names the field and the remedy. Entry points print it without a
    traceback and exit with code 2; see `exit_on_config_error`.
    """


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so in good order, after a checkpoint."""


def exit_on_config_error(main: Callable[[], None]) -> None:
    """Runs `main`; a `ConfigError` becomes one line on stderr and exit code 2.

    Ctrl-C ends with the conventional code 130 and without a traceback, and so does, with 141, a
    reader of the output that has seen enough (`... --help | head -1`).
    """
    try:
        main()
        sys.stdout.flush()
    except ConfigError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        broken = [stream.fileno() for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not broken:  # another pipe
            raise
        # Or Python would complain again on its way out, when it flushes them.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in broken:
            os.dup2(nowhere, descriptor)
        raise SystemExit(128 + signal.SIGPIPE) from None


def _is_unread(stream: object) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)  # type: ignore[attr-defined]
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
