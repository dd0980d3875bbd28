"""The errors a user can fix, and how the command line shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable


class ConfigError(ValueError):
    """Something in the user's input is wrong.

    The message is one line that names the field and the remedy. Entry points print it without a
    traceback and exit with code 2; see `exit_on_config_error`.
    """


def exit_on_config_error(main: Callable[[], None]) -> None:
    """Runs `main`; a `ConfigError` becomes one line on stderr and exit code 2.

    Ctrl-C ends with the conventional code 130 and without a traceback.
    """
    try:
        main()
    except ConfigError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        raise SystemExit(130) from None
