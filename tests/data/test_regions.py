"""Marks: areas in closed form, and which pixels change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.regions import KINDS, Region, Regions, draw_mark
from binderclip.data.scenes import SceneSpec
from binderclip.data.scenes.pairs import ScenePairs
from binderclip.errors import InputError, UnknownNameError

RED = (255, 0, 0)


def photo(width: int = 120, height: int = 100) -> Image.Image:
    values = Draws(0, "photo").array("pixels", height, width, 3)
    return Image.fromarray((values * 200 + 20).astype(np.uint8))  # no pixel is pure red


def changes(image: Image.Image, marked: Image.Image) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = (np.asarray(image) != np.asarray(marked)).any(axis=-1)
    return changed


def disc(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.bool_]:
    """Centres in the ellipse, one by one."""
    out = np.zeros((100, 120), bool)
    for i in range(100):
        for j in range(120):
            u, v = (j + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2), (i + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
            out[i, j] = u * u + v * v <= 1
    return out


def test_a_circle_changes_its_ring_and_nothing_else() -> None:
    image = photo()
    marked = draw_mark(image, (20, 10, 100, 90), width=3)
    changed = changes(image, marked)
    assert np.array_equal(changed, disc(20, 10, 100, 90) & ~disc(23, 13, 97, 87))
    assert changed.sum() == pytest.approx(math.pi * (40**2 - 37**2), rel=0.03)
    assert (np.asarray(marked)[changed] == RED).all()
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (20, 10, 100, 90)  # inscribed, touching the box


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_box_has_the_area_of_its_rim(width: int) -> None:
    image = photo()
    changed = changes(image, draw_mark(image, (10, 20, 70, 60), "box", width=width))
    assert changed.sum() == 60 * 40 - (60 - 2 * width) * (40 - 2 * width)
    assert changed[20 : 20 + width, 10:70].all()
    assert not changed[20 + width : 60 - width, 10 + width : 70 - width].any()


def test_default_widths() -> None:
    assert changes(photo(), draw_mark(photo(), (10, 10, 60, 60), "box"))[10:13, 30].tolist() == [True, True, False]
    large = Image.new("RGB", (1000, 220))
    assert (np.asarray(draw_mark(large, (0, 0, 200, 200), "box"))[:, 100, 0] == 255).sum() == 10  # 1000 / 200 a side
    tiny = Image.new("RGB", (20, 20))
    assert (np.asarray(draw_mark(tiny, (0, 0, 20, 20), "box"))[:, 10, 0] == 255).sum() == 2


def test_cross_and_arrow() -> None:
    image = photo()
    cross = changes(image, draw_mark(image, (20, 20, 90, 61), "cross", width=4))
    length = math.hypot(70, 41)
    for i in range(100):
        for j in range(120):
            x, y = j + 0.5 - 20, i + 0.5 - 20
            distances = (abs(41 * x - 70 * y) / length, abs(41 * x - 70 * (41 - y)) / length)
            assert cross[i, j] == (0 < x < 70 and 0 < y < 41 and min(distances) <= 2)
    # Two strips 4 wide, less the rhombus that they share, 4^2 / sin(angle between), and less what the box cuts off.
    shared = 16 / math.sin(2 * math.atan2(41, 70))
    assert cross.sum() == pytest.approx(2 * length * 4 - shared, rel=0.05)
    arrow = changes(image, draw_mark(image, (20, 20, 80, 80), "arrow", width=2))
    assert arrow[49, 49]
    assert not arrow[52:, :].any()
    assert not arrow[:, 52:].any()
    assert np.array_equal(arrow[:100, :100], arrow[:100, :100].T)


def test_contour_is_the_rim_of_the_mask() -> None:
    mask = disc(20, 20, 60, 60)
    mask[70:72, 70:72] = True
    image = photo()
    changed = changes(image, draw_mark(image, Region.of_mask(mask), "contour", width=2))
    slow = np.zeros_like(mask)
    for i in range(100):
        for j in range(120):
            near = (
                [
                    (a, b)
                    for a in range(-2, 3)
                    for b in range(-2, 3)
                    if abs(a) + abs(b) <= 2 and not mask[i + a - 100, j + b - 120]
                ]
                if 2 <= i < 98 and 2 <= j < 118
                else []
            )
            slow[i, j] = mask[i, j] and bool(near)
    assert np.array_equal(changed, slow)
    whole = draw_mark(image, Region.of_mask(np.ones((100, 120))), "contour", width=1)
    assert changes(image, whole).sum() == 2 * 120 + 2 * 100 - 4


@pytest.mark.parametrize("kind", ["blur", "grey", "colour"])
def test_all_but_the_region(kind: str) -> None:
    image = photo()
    for region, inside in [
        (Region((30, 20, 90, 70)), np.pad(np.ones((50, 60), bool), ((20, 30), (30, 30)))),
        (Region.of_mask(disc(30, 20, 90, 70)), disc(30, 20, 90, 70)),
    ]:
        marked = np.asarray(draw_mark(image, region, kind, colour=(0, 0, 9)))
        wanted = {
            "blur": np.asarray(image.filter(ImageFilter.GaussianBlur(15))),  # 15 % of 100
            "grey": np.asarray(image.convert("L").convert("RGB")),
            "colour": np.broadcast_to(np.array([0, 0, 9], np.uint8), (100, 120, 3)),
        }[kind]
        assert np.array_equal(marked[inside], np.asarray(image)[inside])
        assert np.array_equal(marked[~inside], wanted[~inside])


@pytest.mark.parametrize("outside", ["blur", "grey"])
@pytest.mark.parametrize("kind", ["circle", "box"])
def test_outside_of_an_outline(kind: str, outside: str) -> None:
    image = photo()
    marked = np.asarray(draw_mark(image, (20, 20, 90, 80), kind, outside=outside, width=2))
    plain = np.asarray(draw_mark(image, (20, 20, 90, 80), kind, width=2))
    inside = disc(20, 20, 90, 80) if kind == "circle" else np.pad(np.ones((60, 70), bool), ((20, 20), (20, 30)))
    assert np.array_equal(marked[inside], plain[inside])  # line and inner pixels
    assert (marked[~inside] != np.asarray(image)[~inside]).mean() > 0.9


def same(first: Image.Image, second: Image.Image | NDArray[np.uint8]) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_crop_and_none() -> None:
    image = photo()
    assert same(draw_mark(image, (10.2, 20.9, 30.0, 40.1), "crop"), np.asarray(image)[20:41, 10:30])
    assert same(draw_mark(image, (10, 20, 30, 40), "crop", padding=0.5), np.asarray(image)[10:50, 0:40])
    assert same(draw_mark(image, (-50, -50, 500, 500), "crop"), image)
    assert same(draw_mark(image, (10, 20, 30, 40), "none"), image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_picture_stays(kind: str) -> None:
    image = photo()
    before = np.array(image)
    first, second = draw_mark(image, (10, 10, 50, 50), kind), draw_mark(image, (10, 10, 50, 50), kind)
    assert same(image, before)
    assert same(first, second)
    small = draw_mark(image, (5.2, 5.2, 5.9, 5.9), kind)  # less than a pixel, centre inside
    assert small.mode == "RGB"
    half_out = draw_mark(image, (-20, -20, 20, 20), kind, width=2)
    assert half_out.size == (image.size if kind != "crop" else (20, 20))


def test_regions_of_scenes() -> None:
    pairs = ScenePairs(SceneSpec(rows=8, size=48))
    for number in range(8):
        row = pairs.row(number)
        regions = Regions.of(row)
        assert len(regions) == row.metadata["count"]
        assert regions.phrases == row.metadata["phrases"]
        assert regions.boxes.shape == (len(regions), 4)
        for region, mask in zip(regions, row.masks, strict=True):
            assert region.area == mask.sum()
            assert Region.of_mask(mask).box == region.box
        marked = regions.marks(row.image, "grey")  # type: ignore[arg-type]
        assert len(marked) == len(regions)
        only = Regions.of(Pair("a", masks=row.masks))
        assert np.array_equal(only.boxes, regions.boxes)
    assert len(Regions.of(next(iter(Pairs.open("scenes:1"))))) > 0
    assert len(Regions.of(Pair("nothing"))) == 0
    assert Regions.of(Pair("a", masks=(np.zeros((4, 4)),)))[0].area == 0
    assert Region((0, 0, 3, 4)).area == 12


def test_what_is_refused() -> None:
    image = photo()
    with pytest.raises(UnknownNameError, match="no mark 'ring'"):
        draw_mark(image, (0, 0, 5, 5), "ring")
    with pytest.raises(InputError, match="outside 'dark'"):
        draw_mark(image, (0, 0, 5, 5), outside="dark")
    with pytest.raises(InputError, match="at least 1 pixel"):
        draw_mark(image, (0, 0, 5, 5), width=0)
    for box in [(5, 5, 5, 9), (9, 5, 5, 9), (200, 5, 220, 9), (-9, -9, 0, 0)]:
        with pytest.raises(InputError, match="no pixel"):
            draw_mark(image, box)
    with pytest.raises(InputError, match="finite"):
        draw_mark(image, (0, 0, math.nan, 5))
    with pytest.raises(InputError, match="4 numbers"):
        draw_mark(image, (0, 0, 5))
    with pytest.raises(InputError, match="own pixels"):
        draw_mark(image, Region((0, 0, 5, 5), np.ones((5, 5), bool)), "blur")
    with pytest.raises(InputError, match="empty"):
        Region.of_mask(np.zeros((4, 4)))
    with pytest.raises(InputError, match="2 boxes, 1 masks"):
        Regions.of(Pair("a", boxes=((0, 0, 1, 1), (0, 0, 2, 2)), masks=(np.ones((4, 4)),)))
