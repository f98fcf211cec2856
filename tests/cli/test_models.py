"""`binderclip models`: listing, showing, exporting and calibrating, and what it says of wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.cli.main import run

CONFIG = {
    "name": "tiny",
    "embed_dim": 8,
    "towers": {
        "image": {"kind": "vit", "image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "heads": 2},
        "text": {
            "kind": "text_transformer",
            "vocab_size": 49408,
            "context_length": 12,
            "width": 8,
            "layers": 1,
            "heads": 2,
            "factor": 2,
        },
    },
    "preprocess": {"size": 16},
    "tokenizer": {"kind": "clip_bpe", "context_length": 12},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch = pytest.importorskip("torch")
    from binderclip.hub.native import save
    from binderclip.model.build import build

    torch.manual_seed(0)
    return save(build(CONFIG), tmp_path / "tiny")


def test_ls(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "pocket"
    assert rows[0]["kind"] == "embedded"
    assert len(rows) > 100
    assert run(["models", "ls", "--cached", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["pocket", "pocket-vit"]
    assert run(["models", "ls", "no such thing"]) == 1


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "pocket"]) == 0
    card = capsys.readouterr().out
    for word in ("English", "not", "licen", "CIFAR-100"):
        assert word in card
    assert run(["models", "show", "RN50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repo"].startswith("timm/")
    assert run(["models", "show", "ViT-B-33"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert run(["models", "rm", "pocket"]) == 2
    assert "comes with the package" in capsys.readouterr().err


def test_pull_offline_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["models", "pull", "RN50"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_exported_model_searches_without_torch(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert run(["models", "export", str(saved), "--out", str(out), "--half", "--json"]) == 0
    assert max(json.loads(capsys.readouterr().out)["largest_difference"].values()) < 1e-4
    from binderclip import Encoder

    encoder = Encoder(str(out))
    assert type(encoder.towers).__name__ == "OnnxTowers"
    assert encoder.encode_text(["a dog"]).shape == (1, 8)


def test_calibrate_writes_beside_the_model(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("red", "green", "blue", "white", "black"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    assert run(["models", "calibrate", str(saved), str(tmp_path / "pictures"), "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert (fitted["pictures"], fitted["classes"]) == (25, 5)
    from binderclip import Encoder

    calibration = Encoder(str(saved)).calibration
    assert calibration is not None
    assert calibration.a == pytest.approx(fitted["a"])


def test_calibrate_refuses_what_it_cannot_do(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "calibrate", "pocket", str(tmp_path)]) == 2
    assert "no model folder of your own" in capsys.readouterr().err
    assert run(["models", "calibrate", str(saved), str(tmp_path / "none")]) == 2
    (tmp_path / "flat").mkdir()
    assert run(["models", "calibrate", str(saved), str(tmp_path / "flat")]) == 2
    assert "one folder per class" in capsys.readouterr().err
