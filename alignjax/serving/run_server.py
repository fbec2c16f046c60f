"""A server on a port of this machine, until it is interrupted."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from alignjax.config import ConfigError
from alignjax.outside import reason

GRACE = 3  # seconds that answers under way have when the server is to end
LAST = 7  # and then, until they are broken off, to tell whoever waits


def bound(host: str, port: int) -> socket.socket:
    """Binds a socket.

    Args:
        host: The address or name to listen at.
        port: The port; 0 for a free one.

    Returns:
        The socket; its name says the port.

    Raises:
        ConfigError: The address is not this machine's, or the port is taken or not to be had.
    """
    with contextlib.ExitStack() as closing:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            opened = closing.enter_context(socket.socket(family, kind, protocol))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"cannot listen at {host}:{port}: {reason(error)}; name another --host or --port"
            ) from None
        closing.pop_all()
    return opened


def address_of(opened: socket.socket) -> str:
    """Returns the URL of what listens at a socket."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(opened: socket.socket) -> bool:
    """Says whether only this machine can reach a socket."""
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def server_of(app: Starlette) -> uvicorn.Server:
    """Returns a server of an application, which ends when its `should_exit` is set."""
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE + LAST, server_header=False
    )
    return uvicorn.Server(settings)


def serve_until_interrupted(app: Starlette, opened: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM, which end it alike.

    Args:
        app: The application, whose state has `close`: it ends all that is under way.
        opened: Where it listens.
    """

    # When all is closed uvicorn sends itself the signal once more, to whoever handled it before: Python's own answer to
    # SIGTERM would end the process before what was opened around this is closed.
    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    server = server_of(app)
    timer, exits = threading.Timer(GRACE, app.state.close), server.handle_exit

    def ending(number: int, frame: FrameType | None) -> None:
        # What is answered after GRACE is ended by the worker, in words; of what does not even hear that, and is broken
        # off by uvicorn, the log would hold tracebacks.
        if server.should_exit:
            app.state.close()
        else:
            timer.start()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        exits(number, frame)

    server.handle_exit = ending  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[opened])
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
