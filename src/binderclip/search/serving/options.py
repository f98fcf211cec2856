"""What a server is told: where the index is, who may ask, and how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from binderclip.errors import InputError

__all__ = ["Options"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """Every option of `binderclip serve`, checked.

    Args:
        db: folder of the index; None serves embeddings and classes only.
        model: model's name; None takes the index's own.
        engine: that runs it: onnx, openvino or torch; None: as tuned.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        root_path: prefix under which a proxy shows the server.
        api_keys: keys that clients must send; none lets everybody ask.
        allow_hosts: names that the Host header may hold; by default those of this machine on a loopback address (so that
            no web page reaches a private server under a name of its own), and any elsewhere.
        cors: origins whose pages may call the API.
        trust_proxy: addresses of proxies whose X-Forwarded-For is believed.
        allow_urls: fetch pictures that requests name by http(s) address; never from private networks.
        originals: hand out the files themselves, not only thumbnails.
        full_paths: show absolute paths; otherwise paths begin at the folder that was indexed.
        page: serve the web page.
        max_body: bytes of a request.
        max_pixels: pixels of one picture in a request.
        max_inputs: inputs of one request.
        max_text: characters of one text.
        max_requests: requests at work at once; one more is told to come back (429).
        queue: inputs admitted and not yet answered, for texts and pictures each; beyond it 429.
        batch_rows: most inputs of a batch.
        batch_tokens: most tokens of a batch of texts, padding included.
        batch_pixels: most pixels (of the model's input) of a batch of pictures. On a processor a handful together is
            fastest, and a large batch no longer fits its cache; on an accelerator give it millions.
        rate_limit: requests for vectors a minute and client; 0 for no limit.
        timeout: seconds a request may take, from its first byte to the last of the answer.
        drain: seconds that requests at work get when the server is told to stop.
    """

    db: Path | None = None
    model: str | None = None
    engine: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    trust_proxy: tuple[str, ...] = ()
    allow_urls: bool = False
    originals: bool = True
    full_paths: bool = False
    page: bool = True
    max_body: int = 32 << 20
    max_pixels: int = 50_000_000
    max_inputs: int = 2048
    max_text: int = 32_768
    max_requests: int = 512
    queue: int = 4096
    batch_rows: int = 32
    batch_tokens: int = 2048
    batch_pixels: int = 262_144
    rate_limit: int = 0
    timeout: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        if any(len(key) < 8 for key in self.api_keys):
            raise InputError("an API key is shorter than 8 characters: make one with: openssl rand -hex 24")
        if self.root_path and not self.root_path.startswith("/"):
            raise InputError(f"the root path {self.root_path!r} must begin with /")
        for name in ("max_body", "max_pixels", "max_inputs", "max_text", "max_requests", "queue", "batch_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} must be at least 1")
        if "*" in self.cors and self.api_keys == ():
            raise InputError("--cors '*' without --api-key would let any web page read your pictures: name the origins")

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in _LOOPBACK

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Names that the Host header may hold, or None for any."""
        if "*" in self.allow_hosts:
            return None
        if self.allow_hosts:
            return self.allow_hosts
        return _LOOPBACK if self.is_private else None
