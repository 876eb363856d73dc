"""The server: a socket, the application, and a graceful stop."""

import signal
import socket
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from promptstage.utilities.errors import UserError

PATIENCE = 30  # seconds that requests may take to finish after a signal; then they are cancelled
KEEP_ALIVE = 75  # seconds that a connection may be idle: clients that reuse one should not find it closed


class Terminated(BaseException):
    """SIGTERM, once the server has stopped."""


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket, which does not listen yet.

    Args:
        port: 0: a free one.

    Raises:
        UserError: if the address is in use, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        own = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"host {host!r:.60} cannot be used: {error.strerror or error}") from error
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(address)
    except OSError as error:
        own.close()
        raise UserError(f"port {port} of {host} cannot be used: {error.strerror or error}") from error
    return own


def is_local(own: socket.socket) -> bool:
    """Return whether a bound socket can be reached from this machine alone."""
    address: Any = own.getsockname()[0]
    return address == "::1" or str(address).startswith("127.")


def server_of(application: FastAPI) -> uvicorn.Server:
    """Create the HTTP server, which logs nothing."""
    config = uvicorn.Config(
        application,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=PATIENCE,
        timeout_keep_alive=KEEP_ALIVE,
        ws="none",
    )
    return uvicorn.Server(config)


def run(application: FastAPI, own: socket.socket) -> int:
    """Serve until a signal comes, then finish the running requests; return the exit code.

    Returns:
        130 after Ctrl-C, 143 after SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        server_of(application).run(sockets=[own])
    except KeyboardInterrupt:
        return 130
    except Terminated:
        return 143
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated
