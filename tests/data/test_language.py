"""Language models as callables: a server of our own in OpenAI's form, its failures, and the stand-in without a model."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from binderclip.data.language import Endpoint, LocalModel
from binderclip.errors import InputError, NeedsExtraError, OfflineError


class Handler(BaseHTTPRequestHandler):
    """Answers in capitals; fails as often as it is told to."""

    seen: list[dict[str, Any]]
    failures: list[int]
    plain = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        code = self.failures.pop() if self.failures else 200
        chat = self.path.endswith("/chat/completions")
        text = (body["messages"][0]["content"] if chat else body["prompt"]).upper()
        choice = {"message": {"content": text}} if chat else {"text": text}
        data = b"<html>" if self.plain else json.dumps({"choices": [choice]} if code == 200 else {}).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    made = type("Made", (Handler,), {"seen": [], "failures": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), made) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", made
        running.shutdown()


def test_prompts_are_answered_in_their_order(
    server: tuple[str, type[Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    prompts = [f"text {i}" for i in range(9)]
    assert Endpoint(url, "m", seed=3)(prompts) == [f"TEXT {i}" for i in range(9)]
    assert Endpoint(url, "m", chat=False)(["a"]) == ["A"]
    first = handler.seen[0]
    assert (first["path"], first["model"], first["temperature"], first["top_p"], first["max_tokens"], first["seed"]) == (
        "/v1/chat/completions", "m", 0.9, 0.95, 77, 3,
    )  # fmt: skip
    assert first["key"] == "Bearer secret"


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(
    server: tuple[str, type[Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    handler.failures += [503, 429]
    assert Endpoint(url, "m")(["a"]) == ["A"]
    assert len(handler.seen) == 3
    handler.failures += [401]
    with pytest.raises(InputError, match=r"refuses \(401 Unauthorized\): check model and key"):
        Endpoint(url, "m")(["a"])
    handler.failures += [500] * 3
    with pytest.raises(OfflineError, match="does not answer"):
        Endpoint(url, "m")(["a"])


def test_what_is_no_language_model_is_one_line(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    handler.plain = True
    with pytest.raises(InputError, match="does not answer in JSON"):
        Endpoint(url, "m")(["a"])
    with pytest.raises(InputError, match="is no address of a server"):
        Endpoint("file:///etc/passwd", "m")
    with pytest.raises(OfflineError, match="start the server"):
        Endpoint("http://127.0.0.1:9", "m", tries=1)(["a"])


def test_a_local_model_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NeedsExtraError, match=r"binderclip\[hf\]"):
        LocalModel("x")


def test_a_local_model_writes_what_it_writes_alone(tmp_path: Path) -> None:
    """A tiny GPT-2 with random weights, saved in the hub's layout: prompts of unlike length in one batch, greedy."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel()
    rust.train_from_iterator(
        ["a red circle and a blue square"], trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="a")
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(fast), eos_token_id=None, **size)
    ).eval()
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    prompts = ["a red", "a blue square and a circle", "red"]
    found = LocalModel(tmp_path, temperature=0, max_new_tokens=5)(prompts)
    for prompt, text in zip(prompts, found, strict=True):
        ids = fast(prompt, return_tensors="pt")["input_ids"]
        for _ in range(5):  # the likeliest token, one at a time
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert text == fast.decode(ids[0, -5:], skip_special_tokens=True)
    drawn = LocalModel(tmp_path, seed=1, max_new_tokens=5)
    assert drawn(prompts) == drawn(prompts)
    with pytest.raises(InputError, match="is no language model that can be loaded"):
        LocalModel(tmp_path / "missing")
