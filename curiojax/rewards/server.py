"""Grades responses over HTTP: `python -m curiojax.rewards.server`, for trainers on other hosts.

A trainer on the same machine needs no server; it has its own pool. This one also answers to the
paper's released client, at the address that client expects.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import uvicorn

from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.rewards.pool import RewardPool, available_cpus
from curiojax.rewards.service import Limits, Service

TOKEN_VARIABLE = "CURIOJAX_REWARD_TOKEN"
STOP_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    token = os.environ.get(TOKEN_VARIABLE) or None
    with bind(options, token) as listener:
        with RewardPool(
            options.verifier,
            options.format,
            workers=options.workers,
            timeout_seconds=options.timeout,
            memory_limit_mb=options.memory_mb,
            preload=("released",),
        ) as pool:
            service = Service(pool, Limits(options.max_body_mb * 2**20, options.queue), token)
            serve(service, listener)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
      ConfigError: for a flag that is not known or has a value that is none.
    """
    parser = _Parser(
        prog="python -m curiojax.rewards.server",
        description="Grades responses over HTTP.",
        epilog=f"With {TOKEN_VARIABLE} in the environment, requests need it as bearer token.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; beyond loopback with a token")
    add("--port", type=int, default=19876, help="0 takes a free one")
    add("--workers", type=int, default=available_cpus(), help="processes that grade")
    add("--verifier", default="math", help="of items that name none")
    add("--format", default="strict", help="of items that name none: strict, released or none")
    add("--timeout", type=float, default=6.0, help="seconds per item")
    add("--memory-mb", type=int, default=1024, help="memory per worker")
    add("--queue", type=int, default=50_000, help="items at once; then 503")
    add("--max-body-mb", type=int, default=64, help="size of a request; then 413")
    add("--no-token", action="store_true", help="listen beyond loopback without a token")
    options = parser.parse_args(arguments)
    for name in ("queue", "max_body_mb"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: it has to be at least 1")
    if not 0 <= options.port <= 65_535:
        raise ConfigError(f"--port: {options.port} is no port; use 0 to 65535")
    return options


def bind(options: argparse.Namespace, token: str | None) -> socket.socket:
    """A listening socket.

    Raises:
      ConfigError: if the address is taken, not this machine's, or open to others without a token.
    """
    host, port = options.host, options.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host: {host!r} is no address of this machine: {error}") from None
    is_loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not is_loopback and token is None and not options.no_token:
        raise ConfigError(
            f"--host: {host} is open to other machines; set {TOKEN_VARIABLE} to a secret that "
            "requests have to present, or add --no-token in a network that you trust"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"--port: cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; "
            "choose another one with --port, or stop what uses it"
        ) from None


def serve(service: Service, listener: socket.socket) -> None:
    """Answers requests until SIGTERM or Ctrl-C, then finishes those that have begun."""
    config = uvicorn.Config(
        service.app(),
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(config)

    def stop(*_: Any) -> None:
        server.should_exit = True

    # For a signal that comes before uvicorn listens for it; and uvicorn repeats the one that
    # stopped it, whose default action would spoil the exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    pool = service.pool
    print(
        f"reward server on http://{host}:{port} ({pool.workers} workers, verifier {pool.verifier}, "
        f"format {pool.format}, token {'needed' if service.token else 'not needed'})",
        flush=True,
    )
    server.run(sockets=[listener])
    print("reward server stopped", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


if __name__ == "__main__":
    exit_on_config_error(main)
