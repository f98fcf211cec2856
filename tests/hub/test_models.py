"""Rows for ``binderclip models``."""

from __future__ import annotations

from pathlib import Path

import pytest

from binderclip.errors import InputError, UnknownNameError
from binderclip.hub import models
from binderclip.hub.embedded import embedded_models
from tests.compare.published import folder


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def downloaded(tmp_path: Path, repo: str) -> Path:
    where = folder("rn50", tmp_path / "cache" / "models" / repo.replace("/", "--"))
    (where / ".complete").touch()
    return where


def test_list_shows_what_is_where(tmp_path: Path) -> None:
    everything = models.list_models()
    assert len(everything) >= 100
    assert {row.kind for row in everything} <= {"embedded", "online"}
    assert len(models.list_models(cached_only=True)) == len(embedded_models())
    where = downloaded(tmp_path, "timm/resnet50_clip.openai")
    other = downloaded(tmp_path, "somebody/their-clip")
    here = {row.name: row for row in models.list_models(cached_only=True) if row.kind == "cached"}
    assert set(here) == {"RN50/openai", "somebody/their-clip"}
    assert here["RN50/openai"].where == str(where)
    assert here["RN50/openai"].bytes == sum(p.stat().st_size for p in where.iterdir())
    assert here["somebody/their-clip"].where == str(other)
    assert all("siglip" in row.name.lower() for row in models.list_models("SigLIP"))
    assert here["RN50/openai"].to_dict()["params"] == 102


def test_show(tmp_path: Path) -> None:
    shown = models.show_model("RN50")
    assert (shown["name"], shown["repo"], shown["where"]) == ("RN50/openai", "timm/resnet50_clip.openai", "")
    downloaded(tmp_path, "timm/resnet50_clip.openai")
    assert models.show_model("RN50")["config"]["model_cfg"]["embed_dim"] == 16
    own = folder("vit_gelu", tmp_path / "mine")
    assert models.show_model(str(own))["kind"] == "folder"
    for name in embedded_models():
        assert models.show_model(name)["kind"] == "embedded"
    with pytest.raises(UnknownNameError, match="did you mean"):
        models.show_model("ViT-B-33")


def test_pull_and_remove(tmp_path: Path) -> None:
    where = downloaded(tmp_path, "timm/resnet50_clip.openai")
    assert models.pull_model("RN50") == where
    assert models.remove_model("RN50") > 0
    assert not where.exists()
    with pytest.raises(UnknownNameError, match="not among the downloaded"):
        models.remove_model("RN50")
    for name in embedded_models():
        assert models.pull_model(name).is_dir()
        with pytest.raises(InputError, match="comes with the package"):
            models.remove_model(name)
