"""/v1/embeddings and /v1/classify against the encoder itself."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.media import open_image
from binderclip.data.templates import class_vectors

from ..helpers import FakeEncoder
from .kit import Live, data_address, live, picture, unpack


def offline(data: bytes) -> np.ndarray:
    encoder = FakeEncoder()
    return encoder.encode_pixels(encoder.pixels(open_image(data).image)[None])[0]


def test_one_text_in_openais_schema(server: Live) -> None:
    answer = server.post("/v1/embeddings", {"input": "red", "model": "fake"})
    assert answer.status == 200
    assert set(answer.json) == {"object", "data", "model", "usage"}
    assert (answer.json["object"], answer.json["model"]) == ("list", "fake")
    assert answer.json["usage"]["prompt_tokens"] == answer.json["usage"]["total_tokens"] > 0
    (one,) = answer.json["data"]
    assert (one["object"], one["index"]) == ("embedding", 0)
    np.testing.assert_array_equal(np.float32(one["embedding"]), FakeEncoder().encode_text(["red"])[0])


def test_a_list_keeps_its_order_and_base64_holds_the_same_bits(server: Live) -> None:
    texts = [f"text {i}" for i in range(70)]
    expected = FakeEncoder().encode_text(texts)
    plain = server.post("/v1/embeddings", {"input": texts}).json["data"]
    packed = server.post("/v1/embeddings", {"input": texts, "encoding_format": "base64"}).json["data"]
    assert [one["index"] for one in plain] == list(range(70))
    np.testing.assert_array_equal(np.float32([one["embedding"] for one in plain]), expected)
    np.testing.assert_array_equal([unpack(one["embedding"]) for one in packed], expected)


def test_a_data_address_is_a_picture_and_modality_decides(server: Live) -> None:
    red, blue = picture((220, 30, 30)), picture((30, 40, 220), kind="JPEG")
    address = data_address(red)
    mixed = server.post("/v1/embeddings", {"input": [address, "red", data_address(blue, "image/jpeg")]}).json
    rows = np.float32([one["embedding"] for one in mixed["data"]])
    np.testing.assert_array_equal(rows, [offline(red), FakeEncoder().encode_text(["red"])[0], offline(blue)])
    assert mixed["usage"]["images"] == 2
    bare = base64.b64encode(red).decode()
    named = server.post("/v1/embeddings", {"input": bare, "modality": "image"}).json["data"][0]["embedding"]
    np.testing.assert_array_equal(np.float32(named), offline(red))
    as_text = server.post("/v1/embeddings", {"input": address, "modality": "text"}).json["data"][0]["embedding"]
    np.testing.assert_array_equal(np.float32(as_text), FakeEncoder().encode_text([address])[0])


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_told_what_to_set(server: Live, tokens: list[object]) -> None:
    answer = server.post("/v1/embeddings", {"input": tokens})
    assert answer.status == 400
    assert "check_embedding_ctx_length=False" in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({}, 400, "input"),
        ({"input": ["a", None]}, 400, "input"),
        ({"input": "a", "model": "gpt"}, 404, "model"),
        ({"input": "a", "dimensions": 64}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "modality": "audio"}, 400, "modality"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": "a" * 40_000}, 400, None),
        ({"input": ["a", "data:image/png;base64,AAAA"]}, 400, "input[1]"),
        ({"input": "http://example.org/a.png", "modality": "image"}, 400, "input[0]"),
    ],
)
def test_what_cannot_be_used_names_its_field(server: Live, body: object, status: int, param: str | None) -> None:
    answer = server.post("/v1/embeddings", body)
    assert (answer.status, answer.error["param"]) == (status, param)


def test_an_address_in_a_text_is_a_text(server: Live) -> None:
    assert server.post("/v1/embeddings", {"input": "http://127.0.0.1/"}).status == 200


def test_many_clients_get_their_own_rows(server: Live) -> None:
    expected = {f"client {i}": FakeEncoder().encode_text([f"client {i}"])[0] for i in range(64)}

    def ask(text: str) -> np.ndarray:
        body = {"input": text, "encoding_format": "base64"}
        return unpack(server.post("/v1/embeddings", body).json["data"][0]["embedding"])

    with ThreadPoolExecutor(16) as pool:
        for text, row in zip(expected, pool.map(ask, expected), strict=True):
            np.testing.assert_array_equal(row, expected[text])


class Touchy(FakeEncoder):
    """Fails a whole batch with `poison` in it, as a model does."""

    def encode_text(self, texts: object) -> np.ndarray:
        if "poison" in texts:  # type: ignore[operator]
            raise RuntimeError("secret of the model")
        return super().encode_text(texts)  # type: ignore[arg-type]


def test_a_poisonous_request_fails_alone() -> None:
    with live(None, Touchy()) as server, ThreadPoolExecutor(12) as pool:
        texts = ["poison" if i % 7 == 3 else f"t{i}" for i in range(42)]
        answers = list(pool.map(lambda text: server.post("/v1/embeddings", {"input": text}), texts))
        assert [answer.status for answer in answers] == [500 if text == "poison" else 200 for text in texts]
        bad = answers[3]
        assert bad.error["type"] == "server_error"
        assert b"secret" not in bad.body


def test_classify_equals_the_formula(server: Live) -> None:
    labels = ["red", "green", "blue|white"]
    body = {"input": [data_address(picture()), data_address(picture((30, 40, 220)))], "labels": labels}
    data = server.post("/v1/classify", body | {"template": "plain"}).json["data"]
    weights = class_vectors(FakeEncoder(), labels, "plain")
    for one, colour in zip(data, [(220, 30, 30), (30, 40, 220)], strict=True):
        logits = 100.0 * (weights @ offline(picture(colour))).astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum()
        found = {c["label"]: c["probability"] for c in one["classes"]}
        np.testing.assert_allclose([found[label] for label in labels], chances, rtol=1e-6, atol=1e-12)
        scores = [c["score"] for c in one["classes"]]
        assert scores == sorted(scores, reverse=True)
    assert data[0]["classes"][0]["label"] == "red"
    short = server.post("/v1/classify", body | {"top": 1, "template": ["a {}.", "the {}"]}).json["data"]
    assert [len(one["classes"]) for one in short] == [1, 1]


def test_a_bad_picture_among_good_ones_fails_alone(server: Live) -> None:
    body = {"input": [data_address(picture()), "AAAA", data_address(picture())], "labels": ["red", "blue"]}
    data = server.post("/v1/classify", body).json["data"]
    assert ["error" in one for one in data] == [False, True, False]
    assert "picture" in data[1]["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": []},
        {"labels": ["a", "a"]},
        {"labels": ["a", " "]},
        {"template": "nothing"},
        {"template": ["no"]},
        {"template": []},
        {"labels": ["a|" * 30_000]},
    ],
)
def test_classify_refuses_bad_labels(server: Live, change: dict[str, object]) -> None:
    body = {"input": data_address(picture()), "labels": ["red", "blue"]} | change
    assert server.post("/v1/classify", body).status in (400, 404)


def test_the_embedded_model_gives_the_offline_vectors(tmp_path: Path) -> None:
    from binderclip import Encoder

    encoder = Encoder("pocket", threads=1)
    texts = ["a red bicycle in the rain", "dog", "a bowl of soup on a wooden table", "x"]
    photo = picture((90, 140, 60), (300, 200), "JPEG")
    with live(None, encoder) as server:
        assert server.get("/healthz").json == {"status": "ok"}
        found = server.post("/v1/embeddings", {"input": [*texts, data_address(photo)]}).json
        assert found["usage"]["prompt_tokens"] == sum(len(encoder.tokenizer.encode(text)) + 2 for text in texts)
        rows = np.float32([one["embedding"] for one in found["data"]])
        assert server.get("/v1/search?q=x").status == 404  # no index
    np.testing.assert_allclose(rows, [*encoder.encode_text(texts), *encoder.encode_image([photo])], atol=2e-6)
