"""Fine-tuning on a user's folder, with a tiny model that was trained on nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.cli.main import run
from binderclip.data.pairs import Pairs
from binderclip.engine.encoder import Encoder
from binderclip.errors import InputError
from binderclip.hub import load, native
from binderclip.train.finetune import agreement, frozen_patterns
from binderclip.train.validation import Validation

from .kit import SCENES, tiny_clip

pytestmark = pytest.mark.system("finetune")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes that differ in colour, 16 pictures each, and a tiny model beside them."""
    rng = np.random.default_rng(0)
    for name, colour in (("red things", (200, 40, 40)), ("blue things", (40, 40, 200))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    native.save(tiny_clip(), tmp_path / "tiny")
    return tmp_path


def test_a_folder_of_folders_is_learnt_and_what_was_gained_is_told(folder: Path, capsys: Captured) -> None:
    out = folder / "run"
    command = ["finetune", str(folder / "data"), "-l", "folder-names", "-m", str(folder / "tiny"), "-o", str(out)]
    options = ["--epochs", "30", "--lr", "3e-3", "--tune", "image", "--start-share", "0.2", "--cpu"]
    assert run([*command, *options, "--retained", str(folder / "data"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    gained = {row["measure"]: row for row in facts["held_out"]}
    assert gained["class_loss"]["change"] < -0.1
    assert gained["accuracy"]["after"] == 1.0
    assert "retained_accuracy" in gained
    assert 0 <= facts["kept"]["same_word"] <= 1
    tuned, start = native.load(out / "model"), native.load(folder / "tiny")
    assert torch.equal(tuned.tower("text").get_parameter("positions"), start.tower("text").get_parameter("positions"))
    assert not torch.equal(
        tuned.tower("image").get_parameter("positions"), start.tower("image").get_parameter("positions")
    )
    # and the result is a model like any other
    assert Encoder(str(out / "model")).encode_image([next((folder / "data").rglob("*.png"))]).shape == (1, 8)
    assert run([*command, *options]) == 2
    assert "is finished: its model is" in capsys.readouterr().err


def test_a_table_of_captions_is_learnt(folder: Path, capsys: Captured) -> None:
    rows = ["path,caption"] + [
        f"{path.relative_to(folder)},a {path.parent.name}" for path in (folder / "data").rglob("*.png")
    ]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    command = ["finetune", str(folder), "-l", str(folder / "captions.csv"), "-m", str(folder / "tiny"), "--cpu"]
    assert run([*command, "-o", str(folder / "run"), "--epochs", "1", "--tune", "all"]) == 0
    said = capsys.readouterr()
    assert "rows to learn from" in said.err
    assert "kept:" in said.out
    assert "use it: binderclip index" in said.out


def test_when_nothing_is_gained_the_model_is_the_one_it_began_with(folder: Path, capsys: Captured) -> None:
    out = folder / "run"
    command = ["finetune", str(folder / "data"), "-l", "folder-names", "-m", str(folder / "tiny"), "-o", str(out)]
    assert run([*command, "--epochs", "5", "--lr", "1e-12", "--cpu"]) == 0
    assert "nothing was gained" in capsys.readouterr().err
    a, b = native.load(out / "model").state_dict(), native.load(folder / "tiny").state_dict()
    assert max(float((v - b[k]).abs().max()) for k, v in a.items()) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing"),
        (["data", "--labels", "names.csv"], r"names\.csv"),
        (["data", "--tune", "none"], "use 'last', 'image' or 'all'"),
        (["data", "--holdout", "1"], "give a share"),
        (["data/red things"], "at least 8"),
        (["data", "--labels", "folder-names", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_cannot_be_tuned_on_is_one_line(
    folder: Path, arguments: list[str], message: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run(["finetune", *arguments, "-o", "run"]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert re.search(message, said), said
    assert not (folder / "run").exists()


def test_one_class_is_refused(folder: Path) -> None:
    (folder / "one").mkdir()
    (folder / "data" / "red things").rename(folder / "one" / "red things")
    from binderclip.train.finetune import finetune_job

    with pytest.raises(InputError, match=r"one class|at least two"):
        finetune_job(str(folder / "one"), labels="folder-names", model=str(folder / "tiny"))


def test_the_last_third_is_tuned_and_the_text_side_is_not() -> None:
    patterns = frozen_patterns(load("pocket"), "last")
    assert "text.*" in patterns
    early = {name for name in patterns if name.startswith("image.")}
    assert any(".0." in name or "stem" in name for name in early)
    assert not any("head" in name for name in early)
    names = [name for name, _ in load("pocket").named_parameters() if name.startswith("image.")]
    assert 0.4 < len(early) / len(names) < 0.9
    assert frozen_patterns(tiny_clip(), "all") == ()


def test_agreement_with_oneself_is_whole() -> None:
    clip = tiny_clip()
    held = Validation.of(Pairs.open(SCENES), clip, rows=8)
    found = agreement(clip, clip, held)
    assert found["same_word"] == 1.0
    assert found["cosine"] == pytest.approx(1.0, abs=1e-6)
