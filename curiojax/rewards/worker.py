"""The process that touches what a model wrote; `process.py` starts and, if need be, kills it.

Run as `main()` of a fresh interpreter. It speaks JSON over a socket, for each item:

    -> {"response", "ground_truth", "finished", "verifier", "format"}
    <- {"format_ok", "key", "answer"}      what is known before the costly part
    -> {"go": true}                        or false, when the verdict is in the pool's cache
    <- {"correct", "status", "extracted", "message"}

Only plain texts travel: nothing that came from computer algebra is ever turned into one. Importing
this module imports neither JAX nor computer algebra.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

MAX_EXTRACTED_CHARS = 256
MAX_MESSAGE_CHARS = 300
# The verdict of these is a function of `extract_answer` and the ground truth alone, so that equal
# answers of different responses are compared once. One's own function can have the attribute
# `answer_decides`.
ANSWER_DECIDES = frozenset({"math", "exact", "number"})
# The pool kills a worker whose resident memory passes the limit. Between two looks memory can grow
# further, up to this multiple of the limit.
HARD_LIMIT_FACTOR = 2

_PR_SET_PDEATHSIG = 1
_HEADER = struct.Struct(">I")


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message; the escapes of ASCII JSON carry lone surrogates as well."""
    payload = json.dumps(message).encode("ascii")
    connection.sendall(_HEADER.pack(len(payload)) + payload)


def message_size(buffer: bytes | bytearray) -> int | None:
    """Bytes of the message that a buffer begins with, its header included; None if unknown yet."""
    if len(buffer) < _HEADER.size:
        return None
    return _HEADER.size + _HEADER.unpack_from(buffer)[0]


def decode(frame: bytes | bytearray) -> dict[str, Any]:
    """The message of a complete frame.

    Raises:
      ValueError: if it is not a JSON object.
    """
    message = json.loads(frame[_HEADER.size :])
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def digest(*parts: str) -> str:
    """A short name for a tuple of texts, for cache keys that do not hold whole responses."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(_HEADER.pack(len(data)) + data)
    return hasher.hexdigest()


def main() -> None:
    """Serves one pool until that closes the socket; arguments: sys.path, socket, parent."""
    descriptor, parent = int(sys.argv[2]), int(sys.argv[3])
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=descriptor)
    settings = _receive(connection)
    if settings is None:
        os._exit(0)
    _limit_resources(int(settings["memory_limit_mb"]) * 2**20)
    failure = _prepare(settings["verifiers"])
    if failure is not None:
        send(connection, failure)
        os._exit(1)
    _silence()
    send(connection, {"ready": True})
    with contextlib.suppress(OSError):  # the pool is gone
        while (item := _receive(connection)) is not None:
            _serve(connection, item)
    os._exit(0)  # no clean-up: it could run code of what was graded


def _serve(connection: socket.socket, item: dict[str, Any]) -> None:
    preview, verdict = _guarded(_preview, item)
    send(connection, preview or {"format_ok": False, "key": None, "answer": None})
    decision = _receive(connection)
    if decision is None or not decision["go"]:
        return
    if verdict is None:
        result, verdict = _guarded(_verify, item)
        verdict = result or verdict
    assert verdict is not None
    send(connection, verdict)


def _guarded(function: Any, item: dict[str, Any]) -> tuple[dict | None, dict | None]:
    """Calls a function on an item; returns its result, or else the verdict that its failure is."""
    try:
        return function(item), None
    except MemoryError:
        status, message = "memory", None
    # Everything: exceptions for alarms derive from BaseException, and a verifier may call sys.exit.
    except BaseException as error:
        late = type(error).__name__ in {"TimeoutError", "TimeoutException"}
        status = "timeout" if late else "error"
        message = _describe(error)
    finally:
        signal.alarm(0)  # one that a verifier left running would strike in the next item
    return None, {"correct": False, "status": status, "extracted": None, "message": message}


def _preview(item: dict[str, Any]) -> dict[str, Any]:
    from curiojax.rewards.answers import extract_answer
    from curiojax.rewards.formats import check_format

    response = item["response"]
    format_ok = check_format(item["format"], response, finished=item["finished"])
    key = answer = None
    if _answer_decides(item["verifier"]):
        answer = extract_answer(response)
        key = digest("none") if answer is None else digest("some", answer)
    return {"format_ok": format_ok, "key": key, "answer": _cut(answer)}


def _verify(item: dict[str, Any]) -> dict[str, Any]:
    verdict = _verifier(item["verifier"])(item["response"], item["ground_truth"])
    return {
        "correct": bool(verdict.correct),
        "status": str(verdict.status),
        "extracted": _cut(verdict.extracted),
        "message": None,
    }


@functools.cache
def _verifier(name: str) -> Any:
    from curiojax.rewards.verifiers import get_verifier

    return get_verifier(name)


def _answer_decides(name: str) -> bool:
    function = getattr(_verifier(name), "function", None)
    return name in ANSWER_DECIDES or getattr(function, "answer_decides", False) is True


def _cut(text: object) -> str | None:
    """A text's beginning; None for everything else, which is never asked for its text."""
    return text[:MAX_EXTRACTED_CHARS] if type(text) is str else None


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]
    except Exception:
        return type(error).__name__


def _prepare(verifiers: list[str]) -> dict[str, Any] | None:
    """Imports and tries what is needed, so that no item's time goes to it; returns a failure."""
    from curiojax.errors import ConfigError
    from curiojax.rewards.verifiers import warm_up

    try:
        for name in verifiers:
            warm_up(name)
    except ConfigError as error:
        return {"config_error": str(error)}
    except BaseException as error:
        return {"failed": _describe(error)}
    return None


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None when the other end is closed."""
    frame = bytearray()
    while (size := message_size(frame)) is None or len(frame) < size:
        missing = (_HEADER.size if size is None else size) - len(frame)
        part = connection.recv(min(missing, 2**20))
        if not part:
            return None
        frame += part
    return decode(frame)


def _die_with(parent: int) -> None:
    """Ends this process with the pool's, whatever ends that one.

    The kernel does it on Linux, also while a computation holds the interpreter's lock for ever. Its
    signal comes when the thread that started this process ends; that is a thread of the pool which
    lives as long as the worker does. Elsewhere a thread looks, as well as it can.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before the call
            os._exit(0)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _limit_resources(memory_limit: int) -> None:
    """Limits the memory that can be asked for.

    RLIMIT_DATA counts private writable memory. RLIMIT_AS would count reserved addresses too, of
    which numerical libraries take gigabytes per core without using them, so that a limit that
    holds computer algebra in check would stop them from being imported.
    """
    hard = HARD_LIMIT_FACTOR * memory_limit
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When the machine runs out of memory, the kernel should end this process, not the trainer.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _silence() -> None:
    """Drops what verifiers and their libraries print: thousands of lines, some of them hostile."""
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
