"""/v1/search against the index itself, and the files that are handed out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.search.index import LocalIndex

from ..helpers import FakeEncoder, paint
from .kit import Live, data_address, live, picture

Library = tuple[Path, Path]


def names(answer: Any) -> list[str]:
    return [hit["name"] for hit in answer.json["data"]]


def test_a_text_finds_what_the_index_finds(server: Live, library: Library) -> None:
    with LocalIndex(library[1], FakeEncoder()) as index:
        expected = index.search("red", 24, fold=0.98)
    for answer in (server.get("/v1/search?q=red"), server.post("/v1/search", {"query": "red"})):
        assert answer.status == 200
        assert [hit["id"] for hit in answer.json["data"]] == [hit.row.content for hit in expected]
        assert [hit["score"] for hit in answer.json["data"]] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    first = answer.json["data"][0]
    assert first["path"].startswith("photos/day")
    assert (first["width"], first["height"], first["probability"]) == (48, 32, None)


def test_pages_join_without_gap_or_double(server: Live) -> None:
    body: dict[str, Any] = {"query": "red", "fold": None}
    whole = names(server.post("/v1/search", body | {"limit": 30}))
    assert len(whole) == 30
    joined, offset = [], 0
    while offset is not None:
        answer = server.post("/v1/search", body | {"limit": 7, "offset": offset})
        joined += names(answer)
        offset = answer.json["next_offset"]
    assert joined == whole


def test_pictures_plus_minus_and_weights(server: Live) -> None:
    red, blue = data_address(picture()), data_address(picture((30, 40, 220)))
    assert "blue" in names(server.post("/v1/search", {"query": blue}))[0]
    assert "red" in names(server.post("/v1/search", {"query": [{"image": red}]}))[0]
    both = {"query": "red", "plus": [{"text": "blue", "weight": 3}], "minus": "white", "fold": None}
    assert "blue" in names(server.post("/v1/search", both))[0]
    away = names(server.post("/v1/search", {"minus": ["red"], "fold": None, "limit": 24}))
    assert not any(name.startswith("red") for name in away)
    answer = server.post("/v1/search", {"query": "red", "minus": "red"})
    assert (answer.status, "cancel" in answer.error["message"]) == (400, True)


def test_similar_pictures_leave_out_the_one_asked_for(server: Live) -> None:
    first = server.get("/v1/search?q=green").json["data"][0]
    answer = server.post("/v1/search", {"query": [{"id": first["id"]}], "fold": None, "limit": 5})
    assert first["id"] not in [hit["id"] for hit in answer.json["data"]]
    assert all(name.startswith("green") for name in names(answer))
    # Near-duplicates of the picture are what is looked for: they are not folded under it and lost.
    folded = server.post("/v1/search", {"query": [{"id": first["id"]}], "limit": 3})
    assert names(folded)[0].startswith("green")
    assert server.post("/v1/search", {"query": [{"id": "0" * 32}]}).status == 404


def test_filters_and_browsing(server: Live) -> None:
    answer = server.post("/v1/search", {"where": "path~day1 and name~blue"})
    assert sorted(names(answer)) == ["blue1.png", "blue4.png"]
    assert answer.json["data"][0]["score"] is None
    assert all("day2" in hit["path"] for hit in server.get("/v1/search?q=red&where=path~day2").json["data"])
    bad = server.get("/v1/search?q=red&where=colour%3Dred")
    assert (bad.status, "no field" in bad.error["message"]) == (400, True)
    everything = [name for offset in (0, 20) for name in names(server.get(f"/v1/search?limit=20&offset={offset}"))]
    assert len(everything) == len(set(everything)) == 30


def test_upload(server: Live) -> None:
    edge = "xyzzy"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="../../etc/passwd"\r\n\r\n'.encode()
        + picture((30, 40, 220))
        + f'\r\n--{edge}\r\nContent-Disposition: form-data; name="limit"\r\n\r\n2\r\n--{edge}--\r\n'.encode()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    answer = server.ask("POST", "/v1/search/upload", data=body, headers=headers)
    assert names(answer)[0].startswith("blue")
    assert len(names(answer)) <= 2
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")  # 3.6 MB
    large = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
    large += out.getvalue() + f"\r\n--{edge}--\r\n".encode()
    assert server.ask("POST", "/v1/search/upload", data=large, headers=headers).status == 200
    assert server.post("/v1/search", {"query": data_address(out.getvalue())}).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"query": {"text": "a", "id": "b"}},
        {"query": {}},
        {"query": {"text": "a", "weight": 0}},
        {"query": "a", "limit": 0},
        {"query": "a", "limit": 201},
        {"query": "a", "offset": -1},
        {"query": "a", "nothing": 1},
        {"query": "a", "min_score": "auto"},
        {"query": {"image": "http://example.org/a.png"}},
        {"query": {"image": "file:///etc/passwd"}},
        {"query": {"image": "/etc/passwd"}},
        {"query": ["a"] * 33},
        {"query": "a", "where": "x" * 5000},
    ],
)
def test_what_cannot_be_searched_for(server: Live, body: object) -> None:
    answer = server.post("/v1/search", body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


def test_min_score(server: Live) -> None:
    scores = [hit["score"] for hit in server.post("/v1/search", {"query": "red", "min_score": 0.5}).json["data"]]
    assert scores
    assert min(scores) >= 0.5


def test_what_is_added_to_the_index_is_found_at_once(tmp_path: Path) -> None:
    paint(tmp_path / "p" / "red.png", (220, 30, 30))
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([tmp_path / "p"])
        with live(tmp_path / "db", FakeEncoder()) as server:
            assert names(server.get("/v1/search?q=blue")) == ["red.png"]
            paint(tmp_path / "p" / "blue.png", (30, 40, 220))
            index.add([tmp_path / "p"])
            assert names(server.get("/v1/search?q=blue"))[0] == "blue.png"


# -- files -----------------------------------------------------------------------------------------------------------------


def test_thumbnails_and_originals(server: Live, library: Library) -> None:
    hit = server.get("/v1/search?q=red").json["data"][0]
    small = server.get(hit["thumbnail"])
    assert (small.status, small.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(small.body)).size) <= 320
    for size in (320, 640, 1600):
        assert server.get(f"{hit['thumbnail']}?size={size}").status == 200
    assert server.get(hit["thumbnail"], headers={"If-None-Match": small.headers["etag"]}).status == 304
    whole = server.get(hit["url"])
    assert whole.body == (library[0].parent / hit["path"]).read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert "sandbox" in whole.headers["content-security-policy"]
    assert server.get(hit["thumbnail"] + "?size=5000").status == 400


@pytest.mark.parametrize(
    "key",
    [
        "0" * 32,
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//etc/passwd",
        "%00",
        "index.sqlite3",
        "'%20or%201=1--",
        "é" * 32,
        "0" * 31 + " ",
    ],
)
def test_only_ids_of_the_index_are_served(server: Live, key: str) -> None:
    from urllib.parse import quote

    for tail in ("", "/thumbnail"):
        answer = server.get(f"/v1/files/{quote(key, safe='%/')}{tail}")
        assert answer.status == 404
        assert b"root:" not in answer.body
    for path in (f"/assets/{quote(key, safe='%/')}", f"/{quote(key, safe='%/')}"):
        assert server.get(path).status == 404


def test_a_file_that_changed_or_became_a_link_is_not_served(tmp_path: Path) -> None:
    for name, colour in (("a", (220, 30, 30)), ("b", (30, 40, 220)), ("c", (30, 200, 40))):
        paint(tmp_path / "p" / f"{name}.png", colour)
    (tmp_path / "secret.png").write_bytes(picture((1, 2, 3)))
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([tmp_path / "p"])
    with live(tmp_path / "db", FakeEncoder()) as server:
        keys = {hit["name"]: hit["id"] for hit in server.get("/v1/search").json["data"]}
        os.replace(tmp_path / "secret.png", tmp_path / "p" / "a.png")
        (tmp_path / "p" / "b.png").unlink()
        (tmp_path / "p" / "b.png").symlink_to("/etc/passwd")
        (tmp_path / "p" / "c.png").unlink()
        for name in ("a.png", "b.png", "c.png"):
            for tail in ("", "/thumbnail"):
                assert server.get(f"/v1/files/{keys[name]}{tail}").status == 410


def test_what_the_owner_may_hide_and_show(library: Library) -> None:
    with live(library[1], FakeEncoder(), originals=False, full_paths=True, page=False) as server:
        hit = server.get("/v1/search?q=red").json["data"][0]
        assert hit["url"] is None
        assert hit["path"].startswith(str(library[0]))
        assert server.get(f"/v1/files/{hit['id']}").status == 403
        assert server.get(hit["thumbnail"]).status == 200
        assert server.get("/").status == 404


def test_a_video_has_its_frames_as_thumbnails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    path = paint(tmp_path / "p" / "a.png", (220, 30, 30))
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([tmp_path / "p"])
    # What is in question here is the way to the frame, not its decoding: a picture by a film's name will do.
    film = path.rename(path.with_suffix(".mp4"))
    with sqlite3.connect(tmp_path / "db" / "index.sqlite3") as link:
        link.execute("UPDATE files SET path=?, shown=?", (os.fsencode(film), str(film)))
    link.close()
    asked: list[float] = []

    def frame_at(stream: Any, time: float) -> Image.Image:
        asked.append(time)
        return Image.open(stream).convert("RGB")

    monkeypatch.setattr("binderclip.search.serving.library.frame_at", frame_at)
    with live(tmp_path / "db", FakeEncoder()) as server:
        key = server.get("/v1/search?q=red").json["data"][0]["id"]
        for _ in range(2):
            assert server.get(f"/v1/files/{key}/thumbnail?time=12.5").headers["content-type"] == "image/jpeg"
        assert asked == [12.5]
        assert server.get(f"/v1/files/{key}/thumbnail?time=nan").status == 400
        os.utime(film, ns=(1, 1))
        assert server.get(f"/v1/files/{key}/thumbnail?time=3").status == 410
