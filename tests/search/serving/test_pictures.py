"""Pictures inside requests: what is read, what is refused before it is decoded, and addresses."""

from __future__ import annotations

import base64
import io
import socket
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data.media import open_image
from binderclip.errors import MediaError
from binderclip.search.serving import fetching
from binderclip.search.serving.pictures import model_input, picture_bytes

from ..helpers import FakeEncoder
from .kit import data_address, picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_give_what_offline_decoding_gives(kind: str) -> None:
    data = picture(size=(40, 30), kind=kind)
    encoder = FakeEncoder()
    expected = encoder.pixels(open_image(data, min_side=encoder.min_side).image)
    for text in (
        data_address(data),
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
    ):
        found = model_input(picture_bytes(text), encoder, 10_000)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data:image/png;base64,", "empty"),
        ("data:image/png,abc", "no data address"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,é", "not base64"),
        ("", "empty"),
        ("A", "not base64"),
    ],
)
def test_what_is_no_picture_is_told_in_a_line(text: str, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        picture_bytes(text)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(101, 100), (60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("binderclip.search.serving.pictures.open_image", never)
    with pytest.raises(MediaError, match="too large"):
        model_input(bomb(width, height), FakeEncoder(), 10_000)


@pytest.mark.parametrize("cut", [1, 10, 40, 200, -20])
def test_damage_is_a_media_error(cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    with pytest.raises(MediaError):
        model_input(out.getvalue()[:cut], FakeEncoder(), 10_000)


@pytest.mark.parametrize(
    "body", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF", b"x" * 99]
)
def test_formats_that_start_programs_are_not_tried(body: bytes) -> None:
    with pytest.raises(MediaError, match="no picture"):
        model_input(body, FakeEncoder(), 10_000)


# -- addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://224.0.0.1/",
    ],
)
def test_inner_addresses_are_never_fetched(url: str) -> None:
    with pytest.raises(MediaError, match=r"private network|not known"):
        fetching.fetch(url, max_bytes=1000)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://x.org/a",
        "http://user@x.org/",
        "http://x.org:8080/",
        "http://",
        "http://[",
        "gopher://x",
    ],
)
def test_other_schemes_and_ports_are_refused(url: str) -> None:
    with pytest.raises(MediaError, match=r"may not be fetched|no address"):
        fetching.fetch(url, max_bytes=1000)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.215.14", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(MediaError, match="private network"):
        fetching.fetch("http://rebinding.example/", max_bytes=1000)


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * (5000 if self.path == "/big" else 10))

    def log_message(self, *_: Any) -> None:
        return


def test_a_public_address_is_read_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        monkeypatch.setattr(fetching, "_public_address", lambda host, port: "127.0.0.1")
        monkeypatch.setattr(fetching, "_PORTS", {"http": site.server_port})
        assert fetching.fetch("http://pictures.example/small", max_bytes=100) == b"x" * 10
        with pytest.raises(MediaError, match="too large"):
            fetching.fetch("http://pictures.example/big", max_bytes=100)
        with pytest.raises(MediaError, match="302"):
            fetching.fetch("http://pictures.example/moved", max_bytes=100)
        site.shutdown()
