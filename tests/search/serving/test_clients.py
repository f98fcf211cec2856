"""The real clients get the offline vectors. They live in an environment of their own: BINDERCLIP_CLIENTS_PYTHON names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from binderclip import Encoder

from . import clients
from .kit import Live, live

# Read here: a fixture of all tests takes such variables away.
PYTHON = os.environ.get("BINDERCLIP_CLIENTS_PYTHON", sys.executable)
MODULES = {
    "openai": "openai",
    "langchain_openai": "langchain_openai",
    "llama_index": "llama_index.embeddings.openai_like",
    "token_ids": "langchain_openai",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("pocket", threads=1)


@pytest.fixture(scope="module")
def pocket(encoder: Encoder) -> Iterator[Live]:
    with live(None, encoder, api_keys=("any-key-1",)) as server:
        yield server


def ask(server: Live, client: str) -> object:
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({MODULES[client]!r}) is None)"
    if subprocess.run([PYTHON, "-c", find], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip(f"{PYTHON} has no {MODULES[client]}: install it, or name a Python by BINDERCLIP_CLIENTS_PYTHON")
    script = Path(str(clients.__file__))
    done = subprocess.run(
        [PYTHON, script, server.url, client], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("client", ["openai", "langchain_openai", "llama_index"])
def test_a_client_gets_the_offline_vectors(pocket: Live, encoder: Encoder, client: str) -> None:
    np.testing.assert_allclose(np.float32(ask(pocket, client)), encoder.encode_text(clients.TEXTS), atol=2e-6)


def test_token_ids_are_told_the_option_that_langchain_needs(pocket: Live) -> None:
    assert "check_embedding_ctx_length=False" in str(ask(pocket, "token_ids"))


def test_the_documentation_shows_these_snippets() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    shown = " ".join(page.split())
    script = (
        Path(str(clients.__file__)).read_text(encoding="utf-8").replace('f"{url}/v1"', '"http://127.0.0.1:8000/v1"')
    )
    for start in ("client = OpenAI(", "embeddings = OpenAIEmbeddings(", "embedding = OpenAILikeEmbedding("):
        call = (
            script[script.index(start) :]
            .split("\n\n")[0]
            .split("    return")[0]
            .split("    answer")[0]
            .split("    assert")[0]
        )
        assert " ".join(call.split()) in shown
