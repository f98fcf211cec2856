"""`binderclip compress` and `binderclip tune` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from binderclip.cli.main import run
from binderclip.engine.encoder import Encoder
from binderclip.hub import native

from ..compress.test_quantize import scenes
from ..train.kit import tiny_clip


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    native.save(tiny_clip(), tmp_path / "tiny")
    return tmp_path


def test_export(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compress", "export", "tiny", "-o", "out", "--engine", "openvino", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert max(said["differences"].values()) < 1e-4
    assert run(["compress", "export", "tiny", "-o", "out"]) == 2
    assert "out is there already" in capsys.readouterr().err
    assert run(["compress", "export", "tiny", "-o", "half", "--half"]) == 0
    assert "image: off by" in capsys.readouterr().out


def test_quantize(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image, label, i in zip(*scenes(48), range(48), strict=True):
        (tiny / "photos" / label).mkdir(parents=True, exist_ok=True)
        image.save(tiny / "photos" / label / f"{i}.png")
    words = ["compress", "quantize", "pocket-vit", "photos", "-o", "int8", "--labels", "folder-names", "--force"]
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pictures"] == 24
    assert said["accuracy"] is not None
    words[words.index("int8")] = "again"
    assert run(words) == 0
    assert "zero-shot accuracy, int8" in capsys.readouterr().out
    assert run(["compress", "quantize", "pocket", "photos", "-o", "x", "--labels", "names.txt"]) == 2
    assert run(["compress", "quantize", "pocket", "nothing", "-o", "x"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not Path("x").exists()


def test_tune(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "tiny", "--seconds", "0.05", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "pictures/s" in shown.out
    assert "not kept" in shown.err
    assert Encoder("tiny").engine == "torch"
    assert run(["tune", "tiny", "--seconds", "0.05", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Encoder("tiny").engine == said["best"]["engine"]
    assert Path(said["kept_in"]).is_file()
    assert run(["tune", "tiny", "--forget"]) == 0
    assert Encoder("tiny").engine == "torch"
    assert run(["tune", "no-such"]) == 2


def test_every_heavy_command_takes_an_engine(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "photos").mkdir()
    scenes(1)[0][0].save(tiny / "photos" / "a.png")
    assert run(["index", "photos", "--db", "db", "--engine", "openvino"]) == 0
    for words in (
        ["index", "photos", "--db", "new"],
        ["search", "a dog", "--db", "db"],
        ["embed", "photos", "-o", "emb"],
        ["classify", "photos", "--labels", "cat,dog"],
        ["serve", "--db", "db", "--port", "0"],
    ):
        assert run([*words, "--engine", "abacus"]) == 2, words
        assert "'abacus' is no engine" in capsys.readouterr().err, words
    assert run(["search", "a dog", "--db", "db", "--engine", "onnx"]) == 0
