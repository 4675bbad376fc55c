"""The address: this computer alone unless asked otherwise, and a port that is free."""

from __future__ import annotations

import errno
import ipaddress
import platform
import socket

from blindharmony.errors import UsageError

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
        >>> with listening("127.0.0.1", 0) as found:
        ...     found.getsockname()[0]
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
    found = socket.socket(family, kind, protocol)
    try:
        if platform.system() != "Windows":  # there it would share the port with another program
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(64)
    except OSError:
        found.close()
        raise
    return found


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
