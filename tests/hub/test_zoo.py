"""The table of published names, and the cache of downloads, without a network."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import (
    BinderclipError,
    CheckpointError,
    InputError,
    NeedsExtraError,
    OfflineError,
    UnknownNameError,
)
from binderclip.hub import cache, zoo


def test_the_table_holds_what_is_promised() -> None:
    rows = zoo.entries()
    names = [row.name for row in rows]
    assert len(names) == len(set(names)) >= 100
    openai = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    for name in openai:
        row = zoo.find(name)
        assert row.name.endswith("/openai")
        assert row.activation == "quick_gelu"
        assert row.licence == "MIT"
    for name in (
        "ViT-B-32/laion2b_s34b_b79k",
        "convnext_base_w/laion2b_s13b_b82k_augreg",
        "xlm-roberta-base-ViT-B-32",
        "ViT-SO400M-14-SigLIP-384",
        "ViT-B-16-SigLIP2/webli",
        "google/siglip2-base-patch16-224",
    ):
        row = zoo.find(name)
        assert row.repo.count("/") == 1
        assert 50 < row.params < 3000
    aliases = [alias.lower() for row in rows for alias in (row.name, *row.aliases)]
    assert len(aliases) == len(set(aliases))


def test_spellings_lead_to_one_row() -> None:
    assert zoo.find("vit-b/32") is zoo.find("ViT-B-32") is zoo.find("ViT-B-32/openai")
    assert zoo.find("timm/vit_base_patch32_clip_224.openai").name == "ViT-B-32/openai"
    quick = zoo.find("ViT-B-32-quickgelu/laion400m_e32")
    assert (quick.repo, quick.activation) == (zoo.find("ViT-B-32/laion400m_e32").repo, "quick_gelu")
    assert zoo.find("ViT-H-14-378-quickgelu/dfn5b").repo == "apple/DFN5B-CLIP-ViT-H-14-378"
    own = zoo.find("somebody/my-clip.v2")
    assert own.repo == "somebody/my-clip.v2"


@pytest.mark.parametrize(
    "name",
    [
        "coca_ViT-B-32/laion2b_s13b_b90k",
        "EVA02-L-14",
        "MobileCLIP-S1/datacompdr",
        "ViT-H-14-CLIPA/datacomp1b",
        "jinaai/jina-clip-v2",
    ],
)
def test_families_to_come(name: str) -> None:
    with pytest.raises(CheckpointError, match="not supported yet"):
        zoo.find(name)


@pytest.mark.parametrize(
    "name", ["ViT-Z", "vit_b_32", "/no/such/folder", "a/b/c", "", "RN5", "ViT-B-32/nothing like it"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        zoo.find(name)
    assert "\n" not in str(caught.value)


class FakeHub:
    """Stands for huggingface_hub: serves files from a table."""

    def __init__(self, files: dict[str, bytes], error: Exception | None = None, fail_at: str = "") -> None:
        self.files, self.error, self.fail_at = files, error, fail_at
        self.fetched: list[str] = []

    def list_repo_files(self, repo: str) -> list[str]:
        if self.error and not self.fail_at:
            raise self.error
        return list(self.files)

    def hf_hub_download(self, repo: str, name: str, local_dir: Path) -> str:
        if self.error and name == self.fail_at:
            raise self.error
        self.fetched.append(name)
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(self.files[name])
        return str(local_dir / name)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))

    def use(fake: FakeHub) -> FakeHub:
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", fake)
        return fake

    return use


FILES = {
    "open_clip_config.json": b"{}",
    "open_clip_model.safetensors": b"weights",
    "open_clip_pytorch_model.bin": b"the same again",
    "README.md": b"card",
    "picture.png": b"not needed",
}


def test_fetch_takes_what_is_needed_once(online: Any) -> None:
    fake = online(FakeHub(FILES))
    folder = cache.fetch("owner/model.x")
    assert sorted(fake.fetched) == ["README.md", "open_clip_config.json", "open_clip_model.safetensors"]
    assert cache.fetch("owner/model.x") == folder
    assert len(fake.fetched) == 3
    rows = list(cache.cached())
    assert [(row.repo, row.bytes) for row in rows] == [("owner/model.x", 13)]
    assert cache.remove("owner/model.x") == 13
    assert not list(cache.cached())
    with pytest.raises(UnknownNameError, match="not among the downloaded"):
        cache.remove("owner/model.x")


def test_a_broken_download_is_not_taken_for_a_model(online: Any) -> None:
    online(FakeHub(FILES, ConnectionError("reset"), fail_at="open_clip_model.safetensors"))
    with pytest.raises(OfflineError, match="check the network"):
        cache.fetch("owner/model")
    assert cache.location("owner/model") is None
    assert not list(cache.cached())
    online(FakeHub(FILES))
    assert (cache.fetch("owner/model") / "open_clip_model.safetensors").read_bytes() == b"weights"


def test_shards_are_fetched(online: Any) -> None:
    names = (
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )
    fake = online(FakeHub(dict.fromkeys(names, b"x")))
    cache.fetch("owner/large")
    assert sorted(fake.fetched) == sorted(names)


class RepositoryNotFoundError(Exception):
    pass


class GatedRepoError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RepositoryNotFoundError("404"), UnknownNameError, "no public model"),
        (GatedRepoError("401"), CheckpointError, "accept its terms"),
        (OSError(errno.ENOSPC, "full"), InputError, "BINDERCLIP_CACHE"),
        (TimeoutError("slow"), OfflineError, "TimeoutError"),
    ],
)
def test_failures_are_one_line(online: Any, error: Exception, kind: type[BinderclipError], message: str) -> None:
    online(FakeHub(FILES, error))
    with pytest.raises(kind, match=message) as caught:
        cache.fetch("owner/model")
    assert "\n" not in str(caught.value)


def test_a_page_without_weights(online: Any) -> None:
    online(FakeHub({"README.md": b""}))
    with pytest.raises(CheckpointError, match="no CLIP that is known"):
        cache.fetch("owner/data")


def test_offline_and_without_the_extra(online: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(NeedsExtraError, match=r"binderclip\[hf\]"):
        cache.fetch("owner/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
        cache.fetch("owner/model")


def test_importing_the_hub_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, binderclip.hub.cache; sys.exit(any(m in sys.modules for m in ('torch', 'huggingface_hub')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
