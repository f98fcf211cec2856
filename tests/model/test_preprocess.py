"""The preprocess against open_clip's on real photos, and against slow formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import InputError
from binderclip.model.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "preprocess.npz"


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_equals_open_clip_to_one_level(name: str, mode: str) -> None:
    data = pytest.importorskip("skimage.data", reason="the extra `demo` brings the photos")
    photo = Image.fromarray(np.asarray(getattr(data, name)())[..., :3])
    photo = photo.crop((0, 0, photo.width - 7, photo.height - 2))
    golden = np.load(GOLDENS)[f"{name}/{mode}"].astype(int)
    ours = Preprocess(size=48, resize_mode=mode)(photo).astype(int)
    assert np.abs(ours - golden).max() <= 1


def test_normalize_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    out = Preprocess(size=4).normalize(pixels)
    assert (out.shape, out.dtype) == ((2, 3, 5, 4), np.float32)
    for n, c, y, x in np.ndindex(out.shape):
        wanted = (pixels[n, y, x, c] / 255 - OPENAI_MEAN[c]) / OPENAI_STD[c]
        assert abs(out[n, c, y, x] - wanted) < 1e-6


def test_shortest_keeps_the_centre() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste((255, 0, 0), (100, 0, 200, 100))
    assert (Preprocess(size=100)(image) == (255, 0, 0)).all()


def test_squash_keeps_both_ends_and_longest_adds_bars() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste((255, 255, 255), (0, 0, 150, 100))
    squashed = Preprocess(size=100, resize_mode="squash")(image)
    assert (squashed[:, 0] == 255).all()
    assert (squashed[:, -1] == 0).all()
    barred = Preprocess(size=100, resize_mode="longest", fill=7)(image)
    assert (barred[:33] == 7).all()
    assert (barred[67:] == 7).all()
    assert (barred[50, 0] == 255).all()


def test_crop_pct_cuts_the_border() -> None:
    image = Image.new("RGB", (100, 100), "black")
    image.paste((255, 255, 255), (10, 10, 90, 90))
    assert Preprocess(size=80, crop_pct=0.8).min_side == 100
    assert (Preprocess(size=80, crop_pct=0.8)(image) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (30000, 1), (1, 30000), (2, 500), (224, 224)])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_any_shape_becomes_a_square(size: tuple[int, int], mode: str) -> None:
    pixels = Preprocess(size=32, resize_mode=mode)(Image.new("RGB", size, (9, 9, 9)))
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


def test_travels_as_a_dict() -> None:
    one = Preprocess(size=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash")
    assert Preprocess.from_dict(one.to_dict()) == one


def test_wrong_settings() -> None:
    with pytest.raises(InputError, match="unknown interpolation"):
        Preprocess(interpolation="cubic")
    with pytest.raises(InputError, match="unknown resize mode"):
        Preprocess(resize_mode="crop")
    with pytest.raises(InputError, match="at least 1 pixel"):
        Preprocess(size=0)
    with pytest.raises(InputError, match="no field sizes"):
        Preprocess.from_dict({"sizes": 3})
