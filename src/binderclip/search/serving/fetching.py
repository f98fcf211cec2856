"""Fetching a picture that a request names by address: only where the server's owner allows it, never from inside.

The name is resolved once, every address it has must be a public one, and the connection goes to that very address: a
name that changes its mind between the check and the connection gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urlsplit

from binderclip.errors import MediaError

__all__ = ["fetch"]

_PORTS = {"http": 80, "https": 443}


def fetch(url: str, *, max_bytes: int, timeout: float = 10.0) -> bytes:
    """The bytes at an address.

    Args:
        url: http or https, on the usual port.
        max_bytes: most to read.
        timeout: seconds for the whole.

    Raises:
        MediaError: it may not be fetched, or could not be.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise MediaError("is no address that can be read") from None
    if parts.scheme not in _PORTS or not host or parts.username or port not in (None, _PORTS[parts.scheme]):
        raise MediaError("may not be fetched: only http and https addresses on their usual port are")
    address = _public_address(host, _PORTS[parts.scheme])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    until = time.monotonic() + timeout
    try:
        return _read(parts.scheme, host, address, target, max_bytes, until)
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(f"could not be fetched ({type(error).__name__})") from None


def _public_address(host: str, port: int) -> str:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise MediaError("could not be fetched: its name is not known") from None
    for one in found:
        address = ipaddress.ip_address(one.split("%")[0])
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        if not address.is_global or address.is_multicast or (inner is not None and not inner.is_global):
            raise MediaError("may not be fetched: it is on a private network")
    if not found:
        raise MediaError("could not be fetched: its name is not known")
    return sorted(found)[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, under the name that was asked for."""

    def __init__(self, host: str, address: str, port: int, timeout: float, tls: bool) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _read(scheme: str, host: str, address: str, target: str, max_bytes: int, until: float) -> bytes:
    link = _Pinned(host, address, _PORTS[scheme], max(until - time.monotonic(), 0.1), scheme == "https")
    try:
        link.request("GET", target, headers={"User-Agent": "binderclip", "Accept": "image/*"})
        answer = link.getresponse()
        if answer.status != 200:
            raise MediaError(f"could not be fetched: it answered {answer.status} (redirects are not followed)")
        parts, size = [], 0
        while part := answer.read1(65_536):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise MediaError(f"is too large: over {max_bytes:,} bytes")
            if time.monotonic() > until:
                raise TimeoutError
        return b"".join(parts)
    finally:
        link.close()
