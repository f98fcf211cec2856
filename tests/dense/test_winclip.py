"""WinCLIP: windows are token subsets, means over them, memory and texts; what it finds is `bench:dense_winclip`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.cli.main import run
from binderclip.dense.winclip import WinCLIP, coverage, harmonic_to_patches, mean_to_patches, phrases, windows
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.build import build
from binderclip.model.clip import CLIP

from ..model.test_sites import shake
from ..train.kit import tiny_clip

#: The tiny model reads 32 tokens, and some of the phrases are longer.
pytestmark = [pytest.mark.system("winclip"), pytest.mark.filterwarnings("ignore:a text of")]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    made = tiny_clip().eval()
    shake(made.tower("image"), 5)
    return made


def picture(seed: int = 3) -> Tensor:
    return torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(seed))


def test_counts() -> None:
    assert [len(windows(15, 15, s)) for s in (2, 3)] == [196, 169]
    for s in (2, 3):
        found = coverage(15, 15, s)
        assert found[0, 0] == 1
        assert found[0, 7] == s
        assert found[7, 7] == s * s
        slow = torch.zeros(15, 15, dtype=torch.long)
        for y in range(16 - s):
            for x in range(16 - s):
                slow[y : y + s, x : x + s] += 1
        assert torch.equal(found, slow)
    normal, abnormal = phrases("bottle")
    assert (len(set(normal)), len(set(abnormal))) == (154, 88)
    assert "a jpeg corrupted photo of the bottle without flaw" in normal
    assert "a photo of a small damaged bottle" in abnormal
    assert not any(text.endswith(".") for text in normal + abnormal)


def test_one_window_is_the_picture(clip: CLIP) -> None:
    made = WinCLIP(clip, scales=(4,))
    found = made.window_embeddings(picture())[4]
    assert found.shape == (1, 1, 8)
    whole = made._whole(made._square(picture())[0])
    assert torch.allclose(found[0, 0], whole, atol=1e-5)


def test_a_window_by_hand(clip: CLIP) -> None:
    """Tokens of a window with the positions of the full grid, the class token before them, through the blocks."""
    made, tower = WinCLIP(clip, scales=(2,)), clip.tower("image")
    x, _ = made._square(picture())
    with torch.no_grad():
        state = tower.embed(x)  # type: ignore[operator]
        keep = torch.tensor([0, 1 + 5, 1 + 6, 1 + 9, 1 + 10])  # the window at row 1, column 1 of 4 x 4
        state = tower.enter(state.take(keep))  # type: ignore[operator]
        for block in tower.blocks:  # type: ignore[union-attr]
            state = block(state)
        expected = torch.nn.functional.normalize(tower.pool(state).pooled, dim=-1)[0]  # type: ignore[operator]
    assert torch.allclose(made.window_embeddings(picture())[2][1, 1], expected, atol=1e-5)
    small = WinCLIP(clip, scales=(2,), batch=2).window_embeddings(picture())[2]
    assert torch.allclose(small, made.window_embeddings(picture())[2], atol=1e-5)


def test_harmonic_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    for s in (2, 3):
        p = torch.rand((15 - s + 1) ** 2, generator=generator).double()
        harmonic, plain = harmonic_to_patches(p, 15, 15, s), mean_to_patches(p, 15, 15, s)
        assert (harmonic <= plain + 1e-12).all()
        at = windows(15, 15, s)
        for y, x in ((0, 0), (7, 3), (14, 14)):
            own = p[(at == 15 * y + x).any(1)]
            assert float(harmonic[y, x]) == pytest.approx(len(own) / float((1 / own).sum()))
            assert float(plain[y, x]) == pytest.approx(float(own.mean()))
        same = harmonic_to_patches(torch.full_like(p, 0.37), 15, 15, s)
        assert torch.allclose(same, torch.tensor(0.37).double(), atol=1e-6)
        p[40] = 1e-6
        assert (harmonic_to_patches(p, 15, 15, s).flatten()[at[40]] < 1e-5).all()


def test_memory_of_itself(clip: CLIP) -> None:
    made = WinCLIP(clip, scales=(2, 3)).fit([picture(1), picture()])
    found = made._look(picture())
    assert made.memory_map(found).max() < 1e-6
    other = made.memory_map(made._look(picture(9)))
    assert other.max() > 1e-4
    plain = WinCLIP(clip, scales=(2, 3))
    assert torch.allclose(made.segment(picture(), ["star"]), plain.segment(picture(), ["star"]) / 2, atol=1e-5)
    assert made.score(picture(), "star") == pytest.approx(plain.score(picture(), "star") / 2, abs=1e-5)
    assert made.fit().score(picture(), "star") == pytest.approx(plain.score(picture(), "star"))


def test_texts_exchanged(clip: CLIP) -> None:
    made = WinCLIP(clip)
    f = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    before = made.probability(f, "star")
    made._texts["star"] = made._texts["star"].flip(0)
    assert torch.allclose(made.probability(f, "star"), 1 - before, atol=1e-6)


def test_the_references_way(clip: CLIP) -> None:
    """Of normality: 1 - harmonic mean of 1 - p, scales averaged on reciprocals too; memory fused by 1 / (1/a + 1/b)."""
    made = WinCLIP(clip, scales=(2,), full=False, harmonic="normality", size=16)
    found = made._look(picture())
    p = made.probability(found[2], "star").flatten()
    slow = 1 - harmonic_to_patches(1 - p, 4, 4, 2)
    assert torch.allclose(made.text_map(found, found[2][0, 0], "star"), slow, atol=1e-6)
    fused = WinCLIP(clip, fuse="harmonic", size=16).fit([picture(1)])
    a = fused.text_map(fused._look(picture()), fused._whole(fused._square(picture())[0]), "star")
    b = fused.memory_map(fused._look(picture()))
    expected = 1 / (1 / a + 1 / b.clamp(min=1e-8))
    small = torch.nn.functional.interpolate(expected[None, None], size=(20, 28), mode="bilinear", align_corners=False)
    assert torch.allclose(fused.segment(picture(), ["star"]), small[0], atol=1e-5)


def test_maps_are_of_the_pictures_size_and_from_0_to_1(clip: CLIP) -> None:
    found = WinCLIP(clip).fit([picture(1)]).segment(picture(), ["star"])
    assert found.shape == (1, 20, 28)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_what_cannot_be(clip: CLIP) -> None:
    with pytest.raises(InputError, match="do not fit a grid of 4 x 4"):
        WinCLIP(clip, scales=(5,))
    with pytest.raises(InputError, match="give its name"):
        WinCLIP(clip).segment(picture(), ["a", "b"])
    with pytest.raises(InputError, match="use anomaly or normality"):
        WinCLIP(clip, harmonic="odd")  # type: ignore[arg-type]
    convolutional = build({"embed_dim": 8, "towers": {"image": {"kind": "efficientnet_lite"}}})
    with pytest.raises(NeedsPartError, match="needs patch tokens"):
        WinCLIP(convolutional)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--name", "nut"], "WinCLIP needs patch tokens"),
        (["EMPTY", "--name", "nut"], "no pictures in"),
        (["a.png", "--name", " "], "name the thing"),
        (["a.png", "--name", "nut", "--normal", "EMPTY"], "no pictures in"),
        (["a.png", "--name", "nut", "--method", "gda"], "gda finds no anomalies"),
    ],
)
def test_the_command_on_what_cannot_be(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("a.png")
    assert run(["dense", "anomaly", *arguments, "--model", "pocket"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "anomalies").exists()
