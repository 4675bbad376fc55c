"""Who may ask: this page, in a browser that was given the link, and no page of anybody else.

The server listens at this computer alone unless asked otherwise (:func:`listening`). A request has to name it by an
address that is its own, to hold the link's token as a cookie, and to come from the page itself (:class:`Door`); every
answer says that it is private and may load nothing from elsewhere (:class:`Guard`).
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blindharmony.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIRST_PORT = 8642
_TRIED = 20


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens there.

    Args:
        host: Name or address of this computer.
        port: The port; the first free one from 8642 on if None.

    Raises:
        UsageError: If the address is not this computer's, or the port is taken.

    Example:
        >>> with listening("127.0.0.1", 0) as free:
        ...     free.getsockname()[0]
        '127.0.0.1'
    """
    ports = range(FIRST_PORT, FIRST_PORT + _TRIED) if port is None else (port,)
    for number in ports:
        try:
            return _bound(host, number)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            what = f"cannot listen at {host}, port {number} ({error.strerror or error})"
            raise UsageError(what, remedy="use another --host or --port") from None
    tried = f"port {port} is" if port is not None else f"ports {ports[0]} to {ports[-1]} are"
    raise UsageError(f"{tried} taken by another program", remedy="choose one with --port, or end the other program")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if platform.system() != "Windows":  # there it would share the port with another program
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(64)
    except OSError:
        bound.close()
        raise
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address.

    Example:
        >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Whether this is a numerical address, which no name server can point elsewhere.

    Example:
        >>> is_address("192.168.1.7"), is_address("evil.example")
        (True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# Own files only; nothing inline, nothing from elsewhere, no frames.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# Results are pages of their own: a sandbox keeps whatever is in them away from this page.
RESULT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": PAGE_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# What a browser without the link may see: how to get in.
_OPEN = {"/", "/style.css"}
_READING = {"GET", "HEAD"}
_LARGEST_QUESTION = 2**20


@dataclass(frozen=True)
class Door:
    """What a request has to show.

    Attributes:
        host: The address that is listened at.
        port: The port.
        token: What the link holds.
    """

    host: str
    port: int
    token: str

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers share cookies between the ports of a computer."""
        return f"blindharmony-{self.port}"

    def knows(self, given: str) -> bool:
        """Whether this is the token; takes as long for one wrong letter as for all."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def welcome(self, host: str) -> bool:
        """Whether a Host header names this computer (a name server of strangers may point any other name here).

        Example:
            >>> door = Door("127.0.0.1", 8642, "t")
            >>> [door.welcome(h) for h in ("127.0.0.1:8642", "localhost:8642", "[::1]:8642", "evil.example:8642")]
            [True, True, True, False]
        """
        name, _, port = host.rpartition(":")
        if port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]").lower()
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        return is_address(name) or name in {self.host.lower(), platform.node().lower()}

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Why a request is refused, None if it is not."""
        if not self.welcome(headers.get("host", "")):
            return 421, "This address is not this page's."
        if method in _READING:
            ours = path == "/" or headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
            return None if ours else (403, "Another page asked for this.")
        # Browsers always say which page asks for a change; whoever does not say is refused as well.
        if headers.get("origin") != f"http://{headers['host']}":
            return 403, "Another page asked for this."
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "Another page asked for this."
        size = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
        if method == "POST" and not (size.isdecimal() and int(size) <= _LARGEST_QUESTION):
            return 413, "This is too long."
        return None

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether the browser was given the link before."""
        # Not by http.cookies, which gives up at the first cookie of another program that it does not like.
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == self.cookie and self.knows(value) for name, _, value in pairs)


class Guard:
    """Stands before the application.

    Args:
        app: The application.
        door: What a request has to show.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on; every answer gets the headers that keep it private."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with(list(message["headers"]))
            await send(message)

        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self.door.refusal(scope["method"], scope["path"], headers)
        if refused is None and scope["path"] not in _OPEN and not self.door.admits(headers):
            refused = (403, "Open the link that was printed when this page was started.")
        if refused is None:
            await self.app(scope, receive, guarded)
            return
        code, text = refused
        body = text.encode()
        kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await guarded({"type": "http.response.start", "status": code, "headers": [*kind, (b"connection", b"close")]})
        await guarded({"type": "http.response.body", "body": body})


def _with(headers: list[Any]) -> list[Any]:
    there = {name.lower() for name, _ in headers}
    return [*headers, *((k.encode(), v.encode()) for k, v in _ALWAYS.items() if k.encode() not in there)]
