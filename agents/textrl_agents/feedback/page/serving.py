"""Runs the page: its socket, its signals, and its own messages in the terminal."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket

import uvicorn
from starlette.types import ASGIApp

from textrl_agents.training.terminal import StopSignals
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.foreign_text import shown, visible

_GRACE_SECONDS = 5  # for requests that run when the server is stopped


def bound_socket(host: str, port: int) -> socket.socket:
    """Take the port, so that it is known to be free before anything is sampled. port: 0 takes any.

    Raises ConfigError where the port is in use or the host is not this machine's.
    """
    try:
        where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)[0]
        # The protocol is named: asyncio sends at once (TCP_NODELAY) only where it is, and each page took 40 ms more.
        listening = socket.socket(*where[:3])
        try:
            if os.name == "posix":  # on Windows another program could take the port too
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where[4])
            listening.listen()
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use, perhaps by another `textrl feedback serve`; choose another --port, "
                "or --port 0 for any that is free"
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} may not be used by this user; choose a --port above 1023") from error
        raise ConfigError(f"host {shown(host)} is no address of this machine: {error}") from error
    except UnicodeError as error:
        raise ConfigError(f"host {shown(host)} is no name of a machine: {error}") from error


def serve(app: ASGIApp, listening: socket.socket) -> signal.Signals | None:
    """Answer requests until Ctrl-C or SIGTERM; return which it was. Requests that run are finished first."""
    _log_visibly()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # the sign-in link would be in it
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    with StopSignals("the page is closed") as stop:
        server.run(sockets=[listening])
    if stop.received is None:
        raise TextRLError("the page's server ended by itself; its messages above say why")
    return stop.received


class _VisibleFormatter(logging.Formatter):
    """A traceback may quote what a model wrote, and a terminal would obey its control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _log_visibly() -> None:
    logger = logging.getLogger("uvicorn")
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("%(levelname)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
