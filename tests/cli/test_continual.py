"""`binderclip continual run` on class folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.cli.main import run

pytestmark = pytest.mark.system("continual_clip")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue", "black")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            colour = np.zeros((32, 32, 3)) + (np.eye(3)[k] * 220 if k < 3 else 10)
            picture = (colour + rng.integers(0, 20, colour.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "red" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_folders(photos: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "run"
    assert run(["continual", "run", str(photos), "--increment", "2", "--json", "--out", str(out)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "1 pictures could not be read" in said.err
    assert len(found["R"]) == 2
    assert 4 <= sum(found["n"]) <= 8  # about a fifth, at least one of each class
    assert found["bytes"] == found["trainable"] == 0
    assert (out / "run.npz").is_file()
    assert run(["continual", "run", str(photos), "--increment", "2", "--kind", "task", "--test", str(photos)]) == 0
    shown = capsys.readouterr().out
    assert "zero-shot" in shown
    assert "forgetting" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "odd"], "use class or task"),
        (["--method", "gda"], "gda is no strategy"),
        (["--template", "no place"], "no templates are called"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, photos: Path, capsys: Captured) -> None:
    assert run(["continual", "run", str(photos), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_one_class(tmp_path: Path, photos: Path, capsys: Captured) -> None:
    assert run(["continual", "run", str(photos / "green")]) == 2
    assert run(["continual", "run", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
