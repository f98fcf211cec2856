"""Who may ask, and how often: keys, the page's session, the Host header, and a bucket of requests for each client."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from binderclip.search.serving.options import Options

__all__ = ["COOKIE", "Access", "RateLimit"]

#: The page's session: pictures are asked for by the browser itself, which sends no key.
COOKIE = "binderclip_session"

_CLIENTS = 10_000


class Access:
    """The keys of a server; every comparison takes the same time, whatever was sent."""

    def __init__(self, options: Options) -> None:
        self._hosts = options.hosts
        self._keys = [_digest(key) for key in options.api_keys]
        self._sessions = [
            hmac.digest(key.encode(), b"binderclip session 1", "sha256").hex() for key in options.api_keys
        ]

    def key_of(self, headers: Mapping[str, str]) -> int | None:
        """Which key a request holds; 0 where none is needed, None where it holds none that is right."""
        if not self._keys:
            return 0
        sent = headers.get("x-api-key", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            sent = token.strip()
        found = _match(_digest(sent), self._keys)
        if found is None and not sent:
            found = _match(_digest(_cookie(headers)), [_digest(one) for one in self._sessions])
        return found

    def session(self, key: int) -> str:
        """The cookie that stands for a key; the key cannot be had from it."""
        return self._sessions[key] if self._sessions else ""

    def knows_host(self, headers: Mapping[str, str]) -> bool:
        """Whether the Host header names this server."""
        if self._hosts is None:
            return True
        host = headers.get("host", "").lower()
        name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
        return name in self._hosts


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _match(sent: bytes, known: list[bytes]) -> int | None:
    found = None
    for i, one in enumerate(known):  # all of them, so that the time says nothing
        found = i if hmac.compare_digest(sent, one) else found
    return found


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


class RateLimit:
    """A bucket for each client that holds a minute's requests and fills all the time.

    Args:
        per_minute: requests; 0 for no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float | None = None) -> int:
        """Takes one request from a client's bucket: 0, or the whole seconds until there is one again."""
        if not self._most:
            return 0
        now = time.monotonic() if now is None else now
        held, then = self._buckets.pop(client, (float(self._most), now))
        held = min(held + (now - then) * self._most / 60.0, float(self._most))
        enough = held >= 1.0
        self._buckets[client] = (held - enough, now)
        while len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if enough else math.ceil((1.0 - held) * 60.0 / self._most)
