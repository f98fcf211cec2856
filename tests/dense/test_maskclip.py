"""The room's protocol through its baseline: sizes, background, order of texts; and the command as a user has it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.cli.main import run
from binderclip.dense.drawing import colours, draw_labels
from binderclip.dense.maskclip import MaskCLIP
from binderclip.errors import InputError
from binderclip.model.clip import CLIP

from ..train.kit import tiny_clip

pytestmark = pytest.mark.system("maskclip")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return tiny_clip().eval()


def picture(width: int = 40, height: int = 28) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_scores_are_of_the_pictures_size_and_in_the_texts_order(clip: CLIP) -> None:
    made, texts = MaskCLIP(clip), ["red circle", "blue star", "square"]
    found = made.segment(picture(), texts)
    assert found.shape == (3, 28, 40)
    assert torch.allclose(made.segment(picture(), texts[::-1]), found.flip(0), atol=1e-5)
    assert found.abs().max() <= made.tau + 1e-4


def test_one_window_is_the_plain_path(clip: CLIP) -> None:
    made = MaskCLIP(clip, size=16, crop=64, stride=64)
    pixels, _ = made._pixels(picture(32, 16))
    W = made.text_vectors(["red circle", "star"])
    whole = torch.nn.functional.interpolate(made.scores(pixels, W), size=(16, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(made.segment(picture(32, 16), ["red circle", "star"]), whole[0], atol=1e-5)


def test_background(clip: CLIP) -> None:
    texts = ["red circle", "blue star"]
    plain = MaskCLIP(clip).labels(picture(), texts)
    assert plain.min() >= 0
    assert np.array_equal(plain, MaskCLIP(clip).segment(picture(), texts).argmax(0).numpy())
    assert (MaskCLIP(clip, threshold=1.01).labels(picture(), texts) == -1).all()
    words = MaskCLIP(clip, background=("green square", "Red Circle|disc"))
    assert words._others(texts) == ["green square", "Red Circle|disc"]
    assert MaskCLIP(clip, background=("green square", "red circle|disc"))._others(texts) == ["green square"]
    logits = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]], [[0.0, 3.0]]])
    assert words.decide(logits, 2).tolist() == [[0, -1]]


def test_a_tensor_and_a_file_are_the_same(clip: CLIP, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    x = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1) / 255
    a, b = (MaskCLIP(clip).segment(one, ["star", "ring"]) for one in (tmp_path / "a.png", x))
    assert torch.allclose(a, b, atol=1e-5)


def test_what_cannot_be(clip: CLIP) -> None:
    for wrong in ({"stride": 99}, {"size": -1}):
        with pytest.raises(InputError, match="give a stride of at most crop"):
            MaskCLIP(clip, **wrong)
    with pytest.raises(InputError, match="given twice"):
        MaskCLIP(clip).segment(picture(), ["a", "a"])


def test_the_drawing() -> None:
    labels = np.full((28, 40), -1)
    labels[:14] = 1
    drawn = draw_labels(picture(), labels, ["cat", "sofa"], side=80)
    assert drawn.size == (240, 56 + 20 + 48)
    assert np.abs(np.asarray(drawn)[10:20, 10:70].astype(int) - np.asarray(drawn)[40:50, 10:70]).mean() > 10
    assert len({tuple(c) for c in colours(40).tolist()}) == 40


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: Captured) -> None:
    from skimage import data

    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    target, labels = tmp_path / "out.png", tmp_path / "labels.png"
    common = ["segment", str(tmp_path / "cat.png"), "cat, car", "-o", str(target)]
    assert run([*common, "--labels", str(labels), "--json"]) == 0
    found = {row["text"]: row for row in json.loads(capsys.readouterr().out)["texts"]}
    assert found["cat"]["share"] > 0.5
    assert found["car"]["share"] < 0.1
    marks = np.asarray(Image.open(labels))
    assert marks.shape == data.chelsea().shape[:2]
    assert float((marks == 1).mean()) == pytest.approx(found["cat"]["share"], abs=1e-3)
    assert Image.open(target).width == 800
    assert (
        run(["segment", str(tmp_path / "cat.png"), "car", "-b", "cat", "-o", str(target)]) == 1
    )  # nothing of it there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "cat,,dog"], "name what to find"),
        (["x.png", "cat,dog", "-o", "x.jpg"], "is no name of a PNG"),
        (["x.png", "cat,dog", "--method", "gda"], "gda is no segmenter"),
        (["x.png", "cat", "--background", ""], "one text alone is everywhere"),
        (["EMPTY", "cat,dog"], "no pictures in"),
        (["text.png", "cat,dog", "-o", "EMPTY/a.png"], "text.png"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    picture().save(tmp_path / "x.png")
    assert run(["segment", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list((tmp_path / "EMPTY").iterdir())
