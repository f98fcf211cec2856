"""The door: keys, hosts, limits, logs, health, and what never becomes a 500."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import InputError
from binderclip.search.serving import run
from binderclip.search.serving.access import RateLimit
from binderclip.search.serving.logs import _JsonLines
from binderclip.search.serving.options import Options

from ..helpers import FakeEncoder
from .kit import Live, data_address, live, picture

KEY = "a-key-of-some-length"


def test_keys(library: tuple[Path, Path]) -> None:
    with live(library[1], FakeEncoder(), api_keys=(KEY, "another-key-1")) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"X-API-Key": KEY + "x"},
        ):
            answer = server.get("/v1/search?q=red", headers=headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": "bearer another-key-1"},
            {"X-API-Key": KEY},
        ):
            assert server.get("/v1/search?q=red", headers=headers).status == 200
        assert server.get("/v1/models").status == 401
        for open_to_all in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert server.get(open_to_all).status == 200
        cookie = server.post("/v1/session", headers={"X-API-Key": KEY}).headers["set-cookie"]
        assert KEY not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert server.get("/v1/models", headers={"Cookie": cookie.split(";")[0]}).status == 200
        assert server.get("/v1/models", headers={"Cookie": "binderclip_session=" + "0" * 64}).status == 401


def test_a_page_under_another_name_cannot_reach_a_private_server(server: Live) -> None:
    assert server.get("/v1/models", headers={"Host": "evil.example"}).status == 400
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000"):
        assert server.get("/v1/models", headers={"Host": host}).status == 200


def test_cors_is_off_until_asked_for(server: Live) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert not any(name.startswith("access-control") for name in server.get("/v1/models", headers=preflight).headers)
    with live(None, FakeEncoder(), cors=("https://a.example",), api_keys=(KEY,)) as open_one:
        answer = open_one.ask("OPTIONS", "/v1/embeddings", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = open_one.ask("OPTIONS", "/v1/embeddings", headers=preflight | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    with pytest.raises(InputError, match="any web page"):
        Options(cors=("*",))


def test_sizes_and_pixels() -> None:
    with live(None, FakeEncoder(), max_body=20_000, max_pixels=500) as server:
        big = {"input": "a" * 30_000}
        assert server.post("/v1/embeddings", big).error["code"] == "too_large"
        # The same without a length at the head: counted as it comes.
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        parts = (b'{"input":"' if i == 0 else b"a" * 1000 for i in range(60))
        link.request(
            "POST", "/v1/embeddings", body=parts, headers={"Content-Type": "application/json"}, encode_chunked=True
        )
        assert link.getresponse().status == 413
        link.close()
        answer = server.post("/v1/embeddings", {"input": data_address(picture(size=(32, 24)))})
        assert "over 500 pixels" in answer.error["message"]


def test_the_rate_is_a_bucket() -> None:
    rate = RateLimit(60)
    assert [rate.wait("a", now=0.0) for _ in range(61)] == [0] * 60 + [1]
    assert rate.wait("b", now=0.0) == 0
    assert [rate.wait("a", now=2.5) for _ in range(3)] == [0, 0, 1]
    assert rate.wait("a", now=1e6) == 0
    assert [RateLimit(0).wait("a") for _ in range(1000)] == [0] * 1000
    with live(None, FakeEncoder(), rate_limit=3) as server:
        answers = [server.post("/v1/embeddings", {"input": "a"}) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 3 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert server.get("/v1/models").status == 200


class Slow(FakeEncoder):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def encode_text(self, texts: object) -> np.ndarray:
        self.go.wait(20)
        return super().encode_text(texts)  # type: ignore[arg-type]


def crowd(server: Live, encoder: Slow, count: int, refused: int) -> list[int]:
    """The statuses of requests that are asked at once; the model is let go when so many have been refused."""
    found: list[int] = []
    encoder.go.clear()
    body = [{"input": f"{count} {refused} {i}"} for i in range(count)]
    jobs = [
        threading.Thread(target=lambda one=one: found.append(server.post("/v1/embeddings", one).status)) for one in body
    ]
    for job in jobs:
        job.start()
    until = time.monotonic() + 20
    while len(found) < refused and time.monotonic() < until:
        time.sleep(0.01)
    encoder.go.set()
    for job in jobs:
        job.join(30)
    return sorted(found)


def test_a_full_queue_and_too_many_requests_are_429() -> None:
    encoder = Slow()
    with live(None, encoder, queue=8) as server:
        assert crowd(server, encoder, 20, 12) == [200] * 8 + [429] * 12
        assert server.post("/v1/embeddings", {"input": "after"}).status == 200
        assert b'binderclip_queue{lane="texts"} 0.0' in server.get("/metrics").body
    with live(None, encoder, max_requests=3) as server:
        assert crowd(server, encoder, 9, 6) == [200] * 3 + [429] * 6


def test_a_request_over_time_is_ended_and_healthz_tells_of_a_stuck_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binderclip.search.serving.state._PATIENCE", 1.0)
    encoder = Slow()
    with live(None, encoder, timeout=2.0) as server:
        assert server.get("/healthz").status == 200
        encoder.go.clear()
        answer = server.post("/v1/embeddings", {"input": "slow"})
        assert (answer.status, answer.error["code"]) == (503, "timeout")
        server.app.app.state.server._checked = (0.0, "")
        sick = server.get("/healthz")
        assert (sick.status, sick.error["code"]) == (503, "unhealthy")
        encoder.go.set()
        server.app.app.state.server._checked = (0.0, "")
        assert server.get("/healthz").status == 200


def test_slow_clients_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_HEADERS", 1.0)
    with live(None, FakeEncoder(), timeout=1.0) as server:
        get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: "
        post = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for head in (b"", get, post + b"Content-Length: 50\r\n\r\n{"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as link:
                link.sendall(head)
                start, told = time.monotonic(), b""
                while part := link.recv(4096):
                    told += part
                assert (b" 408 " in told) == (b"Length" in head)
                assert time.monotonic() - start < 5
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for _ in range(3):  # a quick client keeps its connection
            link.request("GET", "/v1/models")
            assert link.getresponse().read()
            time.sleep(0.25)
        link.close()


def test_logs_name_requests_and_never_what_was_asked(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "binderclip.serve"):
        logging.getLogger("binderclip.serve").propagate = True
        answer = server.get("/v1/search?q=secretword", headers={"X-Request-ID": "my-id.7"})
        assert answer.headers["x-request-id"] == "my-id.7"
        odd = server.get("/v1/models", headers={"X-Request-ID": "a b\tc"})
        assert len(odd.headers["x-request-id"]) == 32
        until = time.monotonic() + 5
        while len(caplog.records) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    lines = [json.loads(_JsonLines().format(record)) for record in caplog.records if record.name == "binderclip.serve"]
    first = lines[0]
    assert (first["event"], first["request_id"], first["path"], first["status"]) == (
        "request",
        "my-id.7",
        "/v1/search",
        200,
    )
    assert first["ms"] > 0
    assert "secretword" not in json.dumps(lines)


def test_models_health_and_metrics(server: Live) -> None:
    (model,) = server.get("/v1/models").json["data"]
    assert (model["id"], model["object"], model["dim"], model["index"]["files"]) == ("fake", "model", 192, 30)
    assert server.get("/v1/models/fake").json["id"] == "fake"
    assert server.get("/v1/models/other").status == 404
    assert (server.get("/healthz").json, server.get("/readyz").json) == ({"status": "ok"}, {"status": "ready"})
    server.post("/v1/embeddings", {"input": "counted"})
    text = server.get("/metrics").body.decode()
    assert 'binderclip_requests_total{method="POST",route="/v1/embeddings",status="200"}' in text
    assert 'binderclip_batch_size_count{lane="texts"}' in text
    assert "process_resident_memory_bytes" in text


def test_the_description_is_whole_and_promises_what_is_sent(server: Live) -> None:
    told = server.get("/openapi.json").json
    wanted = {"/v1/embeddings", "/v1/classify", "/v1/search", "/v1/search/upload", "/v1/models", "/healthz", "/readyz"}
    assert wanted <= set(told["paths"])
    assert "422" not in json.dumps(told)
    assert "/assets/{name}" not in told["paths"]
    refs = {part.split('"')[0] for part in json.dumps(told).split("#/components/schemas/")[1:]}
    assert refs <= set(told["components"]["schemas"])


HOSTILE: list[tuple[str, str, bytes]] = [
    ("POST", "/v1/embeddings", b""),
    ("POST", "/v1/embeddings", b"{"),
    ("POST", "/v1/embeddings", b"[" * 100_000),
    ("POST", "/v1/embeddings", b'{"input":' + b"9" * 10_000 + b"}"),
    ("POST", "/v1/embeddings", b'{"input":"\\ud800 half a letter"}'),
    ("POST", "/v1/embeddings", b'{"input":"a\\u0000b"}'),
    ("POST", "/v1/embeddings", b"\xff\xfe{}"),
    ("POST", "/v1/embeddings", b'{"input":"","model":""}'),
    ("POST", "/v1/classify", b'{"input":"AAAA","labels":["\\ud800","b"]}'),
    ("POST", "/v1/search", b'{"query":"a","min_score":NaN}'),
    ("POST", "/v1/search", b'{"query":{"text":"a","weight":1e400}}'),
    ("POST", "/v1/search", b'{"query":"a","offset":99999999999999999999999}'),
    ("POST", "/v1/search", b'{"query":"a","where":"' + b"(" * 3000 + b'"}'),
    ("POST", "/v1/search", b'{"query":"a","where":"path~\\ud800"}'),
    ("POST", "/v1/search", b'{"where":"size>1e999"}'),
    ("POST", "/v1/search", b'{"where":"width>' + b"9" * 400 + b'"}'),
    ("POST", "/v1/search/upload", b"--x--"),
    ("GET", "/v1/search?q=%ff%fe&limit=abc", b""),
    ("GET", "/v1/files/%ff", b""),
    ("GET", "/%", b""),
    ("GET", "/v1/models/%2e%2e%2f", b""),
    ("DELETE", "/v1/embeddings", b""),
    ("HEAD", "/v1/search", b""),
    ("BREW", "/", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), HOSTILE, ids=[f"{i}" for i in range(len(HOSTILE))])
def test_hostile_requests_are_never_a_500(server: Live, method: str, path: str, body: bytes) -> None:
    kind = "multipart/form-data; boundary=x" if path.endswith("upload") else "application/json"
    answer = server.ask(method, path, data=body, headers={"Content-Type": kind})
    assert answer.status < 500
    if answer.status >= 400 and method != "HEAD":
        assert answer.error["message"]


def test_random_json_is_never_a_500(server: Live) -> None:
    rng = random.Random(0)
    words = [
        "input",
        "query",
        "plus",
        "labels",
        "text",
        "image",
        "id",
        "weight",
        "where",
        "limit",
        "a",
        "data:image/png;base64,",
        "",
    ]

    def value(depth: int) -> object:
        kind = rng.randrange(8 if depth < 3 else 5)
        if kind < 2:
            return rng.choice(words)
        if kind < 5:
            return rng.choice([None, True, -1, 0, 7, 1e308, 10**20, "\ud800", "\x00", "é" * 50, "A" * 200])
        if kind < 6:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(words): value(depth + 1) for _ in range(rng.randrange(5))}

    for i in range(300):
        path = ("/v1/embeddings", "/v1/search", "/v1/classify")[i % 3]
        assert server.post(path, value(0)).status < 500
