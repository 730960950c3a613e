"""The command's server: a socket, the address to open, and the end by Ctrl-C."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cnncodes.app.classifier import MANY, Classifier
from cnncodes.errors import ParameterError
from cnncodes.machine import available_threads
from cnncodes.models.session import DEFAULT_PROVIDER
from cnncodes.parameters import PORT, THREADS
from cnncodes.serve.api import create_app
from cnncodes.serve.batching import Batcher
from cnncodes.serve.guard import LOOPBACK_NAMES, TOKEN, Access
from cnncodes.serve.limits import Limits

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
TOKEN_PATTERN = re.compile(r"[\w.~-]{16,256}", re.ASCII)
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
BACKLOG = 1024  # connections that the operating system keeps until they are accepted


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that ends a connection whose next request's head takes too long.

    uvicorn itself waits for ever once a byte of it has arrived.
    """

    seconds = 30.0
    _timer: asyncio.TimerHandle | None = None
    _has_answered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        self._has_answered = True
        self._wait_for_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.seconds, self._end_unless_it_came, self.cycle)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end_unless_it_came(self, earlier: object) -> None:
        if self.cycle is earlier and not self.transport.is_closing():
            if not self._has_answered:
                self.transport.write(TIMEOUT)
            self.transport.close()


def serve(
    app: str | Path,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    token: str | None = None,
    open_page: bool | None = None,
    threads: int | None = None,
    provider: str = DEFAULT_PROVIDER,
    limits: Limits | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until Ctrl-C, which lets those that are being answered finish.

    Parameters
    ----------
    app : str or Path
        A file made by ``cnncodes bundle``.
    host : str
        Name or address to listen on. Other than loopback it needs a token; one is made if
        none is set.
    port : int
        Its port; 0 takes any that is free.
    token : str, optional
        What requests must have: 16 to 256 letters, digits, or any of ``-._~``.
    open_page : bool, optional
        Open the page in the browser; by default where there is a desktop and a terminal.
    threads : int, optional
        Images computed at a time; by default one per available CPU.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    limits : Limits, optional
        The bounds of what is taken on.
    on_ready : callable, optional
        Called with the address of the page when it can be opened.

    Raises
    ------
    FileFormatError
        The file is not an app.
    ParameterError
        The host or the port cannot be used, or a parameter is out of range.
    """
    limits = limits or Limits()
    port = PORT.check(port, "port")
    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    if token is not None and not TOKEN_PATTERN.fullmatch(token):
        raise ParameterError("token must be 16 to 256 letters, digits, or any of -._~")
    # One thread per session: the workers are the others, as in `extract`.
    classifier = Classifier(app, threads=threads, provider=provider, n_images=MANY)
    with _listen(host, port) as listener:
        address: str = listener.getsockname()[0]
        access = _access(host, address, token)
        batcher = Batcher(
            classifier,
            n_workers=threads,
            max_waiting=limits.max_waiting,
            max_pixels=limits.max_pixels,
        )
        with closing(batcher):
            url = _url(host, listener, access.token)
            if on_ready is not None:
                on_ready(url)
            if _has_desktop() if open_page is None else open_page:
                # In a thread, since some browsers return only when they are closed.
                Thread(target=webbrowser.open, args=[url], daemon=True).start()
            _run(create_app(classifier, batcher, limits, access), listener, limits)


def _run(app: Any, listener: socket.socket, limits: Limits) -> None:
    """Run uvicorn until a signal; it lets requests finish, and raises the signal again then."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what it logs, it raises too
    config = uvicorn.Config(
        app,
        http=type("Protocol", (TimedProtocol,), {"seconds": limits.seconds_to_send}),
        ws="none",
        lifespan="off",
        log_level="critical",  # a failed request is answered, and a signal is the user's own
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(limits.seconds_to_answer) + 1,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ParameterError(f"host {host!r}: has no address ({error}); leave host out") from error
    family, *_, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ParameterError(
            f"port {port} of {host}: cannot be used ({error.strerror}); choose another, or 0 for "
            "any that is free"
        ) from error
    return listener


def _access(host: str, address: str, token: str | None) -> Access:
    """Return names and token of a server that listens on an address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    names = LOOPBACK_NAMES | {host.lower().strip("[]"), address}
    if ip.is_loopback:
        return Access(names, token=token)
    if ip.is_unspecified:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    return Access(names, ip.is_unspecified, token or secrets.token_urlsafe(24))


def _url(host: str, listener: socket.socket, token: str | None) -> str:
    """Return the address of the page."""
    address, port = listener.getsockname()[:2]
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        host = _own_address(listener.family)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")


def _own_address(family: int) -> str:
    """Return this machine's address in its network; connecting a UDP socket sends nothing."""
    example = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((example, 9))
        except OSError:  # without a network
            return "localhost"
        own: str = probe.getsockname()[0]
        return own


def _has_desktop() -> bool:
    """Whether a browser would open in a window, for a person who waits for it."""
    is_graphic = os.name == "nt" or sys.platform == "darwin"
    is_graphic = is_graphic or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return is_graphic and sys.stdout.isatty()
