"""Augmentations: each operation against a slow formula, each draw against its range, boxes against masks."""

from __future__ import annotations

import colorsys
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.scenes import SceneSpec, scene
from binderclip.data.scenes.drawing import box_of
from binderclip.data.stream import Stream
from binderclip.data.transforms import (
    OPERATIONS,
    Augment,
    CropBox,
    RandAugment,
    View,
    ViewTransforms,
    apply,
    draw_crop,
    load_views,
    matrix_of,
    moved_boxes,
    moved_map,
    multi_crop,
    preset,
)
from binderclip.errors import InputError, MediaError, UnknownNameError
from binderclip.model.preprocess import Preprocess

Bytes = NDArray[np.uint8]
ROWS = 2000


def picture(height: int = 12, width: int = 12, seed: int = 0) -> Image.Image:
    values = Draws(seed, "picture").array("pixels", height, width, 3)
    return Image.fromarray((values * 256).astype(np.uint8))


def pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image).astype(float)


def luma(image: Image.Image) -> NDArray[np.float64]:
    """ITU-R 601, rounded as Pillow does."""
    return np.floor(pixels(image) @ [0.299, 0.587, 0.114] + 0.5)


def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """3 x 3 with 5 in the middle and 1 around, over 13; the rim stays."""
    out = x.copy()
    for i in range(1, x.shape[0] - 1):
        for j in range(1, x.shape[1] - 1):
            out[i, j] = (x[i - 1 : i + 2, j - 1 : j + 2].sum(axis=(0, 1)) + 4 * x[i, j]) / 13
    return out


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.3, 1.9])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_blends(name: str, factor: float) -> None:
    image = picture()
    x = pixels(image)
    base = {
        "brightness": np.zeros_like(x),
        "contrast": np.full_like(x, round(luma(image).mean())),
        "saturation": np.repeat(luma(image)[..., None], 3, 2),
        "sharpness": smooth(x),
    }[name]
    wanted = np.clip(base + factor * (x - base), 0, 255)
    found = pixels(apply(image, name, factor))
    assert np.abs(found - wanted).max() <= 2  # the baseline and the blend are both of whole numbers
    if factor == 1:
        assert np.array_equal(found, x)


@pytest.mark.parametrize("turn", [-0.3, 0.1, 0.5])
def test_hue_against_colorsys(turn: float) -> None:
    image = picture(6, 6)
    found = pixels(apply(image, "hue", turn))
    for i in range(6):
        for j in range(6):
            h, s, v = colorsys.rgb_to_hsv(*(pixels(image)[i, j] / 255))
            wanted = np.multiply(colorsys.hsv_to_rgb((h + turn) % 1, s, v), 255)
            assert np.abs(found[i, j] - wanted).max() <= 0.51


def test_grey_and_blur() -> None:
    image = picture(24, 24)
    assert np.abs(pixels(apply(image, "grey", 1)) - luma(image)[..., None]).max() <= 1
    point = Image.new("RGB", (41, 41))
    point.paste((255, 255, 255), (15, 15, 26, 26))
    sigma = 2.0
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    kernel /= kernel.sum()
    wanted = np.zeros((41, 41))
    line = np.convolve((np.abs(np.arange(41) - 20) <= 5).astype(float), kernel, "same")
    wanted = 255 * np.outer(line, line)
    assert np.abs(pixels(apply(point, "blur", sigma))[..., 0] - wanted).max() < 6  # Pillow's is three box filters


def test_histogram_operations() -> None:
    image = picture(16, 16)
    x = pixels(image)
    assert np.array_equal(pixels(apply(image, "solarize", 100)), np.where(x < 100, x, 255 - x))
    assert np.array_equal(pixels(apply(image, "posterize", 3)), x // 32 * 32)
    dull = Image.fromarray((40 + x / 3).astype(np.uint8))
    y = pixels(dull)
    low, high = y.min(axis=(0, 1)), y.max(axis=(0, 1))
    assert np.abs(pixels(apply(dull, "autocontrast", 0)) - (y - low) * 255 / (high - low)).max() <= 1
    dull = Image.fromarray((40 + pixels(picture(64, 64)) / 3).astype(np.uint8))
    even = pixels(apply(dull, "equalize", 0))
    for channel in range(3):  # a level becomes the share of pixels below it, in steps that leave out the brightest
        values = pixels(dull)[..., channel]
        step = (values < values.max()).sum() // 255
        for level in np.unique(values):
            wanted = min(((values < level).sum() + step // 2) // step, 255)
            assert (even[..., channel][values == level] == wanted).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotate", 20.0), ("shear_x", 0.2), ("shear_y", -0.3), ("translate_x", 0.25), ("translate_y", 0.1)],
)
def test_moves_bring_points_where_the_matrix_says(name: str, value: float) -> None:
    y, x = np.mgrid[:64, :64] + 0.5
    for px, py in [(32.0, 32.0), (20.0, 40.0), (44.0, 24.0)]:
        spot = np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)
        image = Image.fromarray(np.repeat((255 * spot[..., None]).astype(np.uint8), 3, 2))
        moved = pixels(apply(image, name, value))[..., 0]
        inside = np.where(moved == 128, 0, moved)  # the fill
        centre = np.array([(inside * x).sum(), (inside * y).sum()]) / inside.sum()
        wanted = matrix_of(name, value, 64, 64) @ [px, py, 1]
        assert np.allclose(centre, wanted[:2], atol=0.35)


def test_matrices_in_closed_form() -> None:
    assert np.allclose(matrix_of("rotate", 90, 10, 10) @ [10, 5, 1], [5, 10, 1])  # to the right: east becomes south
    assert np.allclose(matrix_of("shear_x", 0.5, 10, 10) @ [5, 9, 1], [7, 9, 1])
    assert np.allclose(matrix_of("shear_y", 0.5, 10, 10) @ [9, 5, 1], [9, 7, 1])
    assert np.allclose(matrix_of("translate_x", 0.3, 10, 20) @ [1, 1, 1], [4, 1, 1])
    assert np.allclose(matrix_of("translate_y", 0.3, 10, 20) @ [1, 1, 1], [1, 7, 1])
    assert np.array_equal(matrix_of("hue", 0.3, 10, 10), np.eye(3))
    with pytest.raises(UnknownNameError, match="no operation 'spin'"):
        apply(picture(), "spin", 1)


def test_identity_parameters_change_no_pixel() -> None:
    image = picture(16, 16)
    whole = Augment(scale=(1, 1), ratio=(1, 1))
    view = whole.draw(Draws(0, "a"), "a", 16, 16, size=16, interpolation="bicubic")
    assert view.steps == ()
    assert np.array_equal(pixels(view(image)), pixels(image))
    for name in set(OPERATIONS) - {"autocontrast", "equalize"}:
        assert np.array_equal(pixels(apply(image, name, OPERATIONS[name](0.0, 1))), pixels(image)), name
    for name in ("hue", "blur"):
        assert np.array_equal(pixels(apply(image, name, 0.0)), pixels(image))
    part = View("b", 16, 16, CropBox(3, 5, 8, 8), 8)
    assert np.array_equal(pixels(part(image)), pixels(image)[3:11, 5:13])
    flipped = View("c", 16, 16, CropBox(3, 5, 8, 8), 8, flip=True)
    assert np.array_equal(pixels(flipped(image)), pixels(image)[3:11, 5:13][:, ::-1])


def test_crops_fill_their_ranges() -> None:
    crops = [draw_crop(Draws(0, str(i)), 400, 300, (0.2, 0.8), (0.5, 2.0)) for i in range(ROWS)]
    assert all(c.top >= 0 and c.left >= 0 and c.top + c.height <= 300 and c.left + c.width <= 400 for c in crops)
    area = np.array([c.height * c.width for c in crops]) / 120000
    shape = np.array([c.width / c.height for c in crops])
    assert area.min() >= 0.195
    assert area.max() <= 0.805
    assert shape.min() >= 0.49
    assert shape.max() <= 2.02
    # Where every draw fits (a wide picture, small crops), the law is exact: even area, even log of the shape.
    small = [draw_crop(Draws(1, str(i)), 1000, 1000, (0.1, 0.4), (0.5, 2.0)) for i in range(ROWS)]
    area = np.sort([(c.height * c.width / 1e6 - 0.1) / 0.3 for c in small])
    logs = np.sort([(math.log(c.width / c.height) / math.log(2) + 1) / 2 for c in small])
    tops = np.sort([c.top / (1000 - c.height) for c in small])
    even = (np.arange(ROWS) + 0.5) / ROWS
    for values in (area, logs, tops):  # Kolmogorov: 1.63 / sqrt(n) is passed by chance once in a hundred
        assert np.abs(values - even).max() < 1.63 / math.sqrt(ROWS) + 0.002


def test_a_strip_gets_its_middle() -> None:
    assert draw_crop(Draws(0, "a"), 1000, 10, (0.9, 1.0), (3 / 4, 4 / 3)) == CropBox(0, 493, 10, 13)
    assert draw_crop(Draws(0, "a"), 10, 1000, (0.9, 1.0), (3 / 4, 4 / 3)) == CropBox(493, 0, 13, 10)
    assert draw_crop(Draws(0, "a"), 1, 1, (0.5, 1.0), (3 / 4, 4 / 3)) == CropBox(0, 0, 1, 1)


def test_mocov2_draws_what_it_states() -> None:
    transforms = ViewTransforms({"a": "mocov2"}, seed=3)
    views = [transforms.draw(str(i), 0, 100, 100, Preprocess(size=32))[0] for i in range(ROWS)]
    steps = [dict(view.steps) for view in views]
    for name, share in {"brightness": 0.8, "hue": 0.8, "grey": 0.2, "blur": 0.5}.items():
        found = np.mean([name in step for step in steps])
        assert found == pytest.approx(share, abs=3.3 * math.sqrt(share * (1 - share) / ROWS)), name
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.037)
    for name, low, high in [("brightness", 0.6, 1.4), ("saturation", 0.6, 1.4), ("hue", -0.1, 0.1), ("blur", 0.1, 2.0)]:
        values = np.array([step[name] for step in steps if name in step])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() < high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    first = [view.steps[0][0] for view in views if len(view.steps) >= 4]
    for name in ("brightness", "contrast", "saturation", "hue"):  # the order is drawn too
        assert first.count(name) / len(first) == pytest.approx(0.25, abs=0.04)


def test_randaugment_is_the_papers() -> None:
    assert len(OPERATIONS) == 14
    policy = RandAugment(2, 9)
    steps = [step for i in range(ROWS) for step in policy.draw(Draws(0, str(i)))]
    names = [name for name, _ in steps]
    for name in OPERATIONS:
        assert names.count(name) / len(names) == pytest.approx(1 / 14, abs=3.5 * math.sqrt(13 / 14**2 / len(names)))
    values = {name: {round(v, 6) for n, v in steps if n == name} for name in OPERATIONS}
    assert values["rotate"] == {-27.0, 27.0}
    assert values["shear_x"] == {-0.27, 0.27}
    assert values["brightness"] == {0.19, 1.81}
    assert values["posterize"] == {4.0}
    assert values["solarize"] == {25.6}
    assert values["translate_y"] == {round(0.9 * 150 / 331, 6), round(-0.9 * 150 / 331, 6)}
    alone = RandAugment(5, 5, leave_out=tuple(set(OPERATIONS) - {"rotate"}))
    assert {name for name, _ in alone.draw(Draws(0, "a"))} == {"rotate"}


def test_replay_is_bit_exact() -> None:
    views: dict[str, Augment | str] = {"a": "slip", "b": Augment(randaugment=RandAugment()), "c": "slip"}
    image = picture(40, 60)
    first = ViewTransforms(views, seed=1)
    records = first.draw("row/7", 2, 60, 40, Preprocess(size=16))
    again = ViewTransforms({"c": "slip", "a": "slip", "b": views["b"]}, seed=1).draw(
        "row/7", 2, 60, 40, Preprocess(size=16)
    )
    assert records == (again[1], again[2], again[0])  # neither the order nor the neighbours of a view matter
    for record in records:
        back = View.from_dict(json.loads(json.dumps(record.to_dict())))
        assert back == record
        assert np.array_equal(pixels(back(image)), pixels(record(image)))
    others = [
        first.draw("row/7", 3, 60, 40, Preprocess(size=16)),
        first.draw("row/8", 2, 60, 40, Preprocess(size=16)),
        ViewTransforms(views, seed=2).draw("row/7", 2, 60, 40, Preprocess(size=16)),
    ]
    assert all(other[0] != records[0] for other in others)
    assert records[0].crop != records[2].crop


def test_a_cycle_repeats() -> None:
    transforms = ViewTransforms({"a": "clip"}, cycle=3)
    views = [transforms.draw("x", epoch, 50, 50, Preprocess(size=16)) for epoch in range(6)]
    assert views[:3] == views[3:]
    assert len({view[0].crop for view in views}) == 3


def test_boxes_follow_the_masks_of_scenes() -> None:
    transforms = ViewTransforms({"a": Augment(scale=(0.3, 1.0), flip=0.5, size=96)})
    checked = flips = 0
    for number in range(30):
        made = scene(number, SceneSpec(size=64, textures=("plain",)))
        (view,) = transforms.draw(made.id, 0, 64, 64, Preprocess(size=96))
        masks = view.masks(made.masks)
        boxes = view.boxes(made.boxes)
        flips += view.flip
        for mask, whole, box in zip(masks, made.masks, boxes, strict=True):
            top, left, height, width = view.crop
            inside = np.zeros_like(whole)
            inside[top : top + height, left : left + width] = whole[top : top + height, left : left + width]
            if not inside.any():
                assert not mask.any()
                continue
            if (
                inside == whole
            ).all():  # all in view: the box is the mask's, its ends at the nearest line between pixels
                assert np.abs(np.array(box_of(mask)) - box).max() <= 0.5 + 1e-9
            # cut: the box of what is left lies in the box that was cut
            x0, y0, x1, y1 = box_of(mask)
            assert x0 >= box[0] - 0.5
            assert y0 >= box[1] - 0.5
            assert x1 <= box[2] + 0.5
            assert y1 <= box[3] + 0.5
            cut = view.boxes([box_of(inside)])[0]
            assert np.abs(np.array((x0, y0, x1, y1)) - cut).max() <= 0.5 + 1e-9
            checked += 1
    assert checked > 40
    assert 5 < flips < 25


def test_masks_are_what_the_pixels_show() -> None:
    made = scene(3, SceneSpec(size=64, textures=("plain",)))
    view = View("a", 64, 64, CropBox(10, 5, 40, 50), 32, True, (("rotate", 12.0), ("shear_x", 0.1)), "nearest")
    whole = np.asarray(made.masks.max(axis=0))  # [H, W]
    drawn = view(Image.fromarray(np.where(whole[..., None], 255, 0).astype(np.uint8).repeat(3, 2)))
    mask = view.masks(whole)
    seen = pixels(drawn)[..., 0] > 128
    assert (mask != seen).mean() < 0.06  # outlines
    assert mask.dtype == bool


def test_maps_between_views() -> None:
    y, x = np.mgrid[:20, :30] + 0.5
    plane = 2 * x + 3 * y
    a = View("a", 30, 20, CropBox(2, 4, 10, 15), 20)
    b = View("b", 30, 20, CropBox(4, 6, 6, 9), 12, flip=True)
    seen = a.map(plane, (20, 20))
    points = np.linalg.inv(b.matrix) @ [3.5, 7.5, 1]
    assert b.map(plane, (12, 12))[7, 3] == pytest.approx(2 * points[0] + 3 * points[1])
    through = a.map_to(b, seen, (12, 12))  # b lies within a, and a plane is kept by bilinear sampling
    assert np.allclose(through, b.map(plane, (12, 12)))
    assert np.allclose(a.to(b) @ b.to(a), np.eye(3))
    assert np.allclose(a.to(b) @ a.matrix, b.matrix)
    whole = View("c", 30, 20, CropBox(0, 0, 20, 30), 8)
    assert np.allclose(whole.map(plane[None, :4, :6], (4, 6)), plane[None, :4, :6])
    assert b.map_to(a, np.ones((3, 3)), (20, 20)).min() == 0  # where b saw nothing
    with pytest.raises(InputError, match="different pictures"):
        a.to(View("d", 31, 20, CropBox(0, 0, 20, 31), 8))


def test_moved_map_against_a_loop() -> None:
    values = Draws(0, "m").array("v", 5, 7)
    matrix = matrix_of("rotate", 25, 14, 10)
    back = np.linalg.inv(matrix)
    found = moved_map(values, matrix, (14, 10), (14, 10), (6, 8), outside=-1)
    for i in range(6):
        for j in range(8):
            u, v, _ = back @ [(j + 0.5) * 14 / 8, (i + 0.5) * 10 / 6, 1]
            if not (0 <= u < 14 and 0 <= v < 10):
                assert found[i, j] == -1
                continue
            cx, cy = u / 2 - 0.5, v / 2 - 0.5
            total = 0.0
            for r in range(int(np.floor(cy)), int(np.floor(cy)) + 2):
                for c in range(int(np.floor(cx)), int(np.floor(cx)) + 2):
                    weight = (1 - abs(cy - r)) * (1 - abs(cx - c))
                    total += weight * values[min(max(r, 0), 4), min(max(c, 0), 6)]
            assert found[i, j] == pytest.approx(total)
    with pytest.raises(InputError, match="at least 2 axes"):
        moved_map([1.0], matrix, (14, 10), (14, 10), (6, 8))


def test_moved_boxes() -> None:
    boxes = moved_boxes([[0, 0, 2, 4], [8, 8, 9, 9]], matrix_of("rotate", 90, 10, 10), 10, 10)
    assert np.allclose(boxes, [[6, 0, 10, 2], [1, 8, 2, 9]])
    gone = moved_boxes([[0, 0, 2, 4]], matrix_of("translate_x", 1.5, 10, 10), 10, 10)
    assert (gone[:, 2] - gone[:, 0]) * (gone[:, 3] - gone[:, 1]) == 0


def test_as_the_load_of_a_stream() -> None:
    pairs = Pairs.open("scenes:6?size=32")
    preprocess = Preprocess(size=16)
    transforms = ViewTransforms({"a": "slip", "b": "clip"}, seed=5)
    batches = list(Stream(pairs, 4, load=load_views(transforms, preprocess), epochs=1, threads=2))
    assert sum(len(batch) for batch in batches) == 6
    for batch in batches:
        for row, views in zip(batch.rows, batch.samples, strict=True):
            assert views.pixels.shape == (2, 3, 16, 16)
            assert views.pixels.dtype == np.float32
            assert [record.name for record in views.records] == ["a", "b"]
            again = load_views(transforms, preprocess)(row, 0)
            assert np.array_equal(again.pixels, views.pixels)
            seen = np.asarray(views.records[0](row.image), np.uint8)
            mean, std = np.array(preprocess.mean), np.array(preprocess.std)
            assert np.allclose(views.pixels[0], ((seen / 255 - mean) / std).transpose(2, 0, 1), atol=1e-5)


@pytest.mark.data
def test_views_of_photos_go_on_where_a_stream_stopped(shared_data: Path) -> None:
    pairs = Pairs.open(shared_data / "imagenet1k_photos.parquet")
    load = load_views(ViewTransforms({"a": "mocov2", "b": Augment(randaugment=RandAugment())}), Preprocess(size=32))

    def stream(threads: int) -> Stream:
        return Stream(pairs, 5, load=load, seed=1, threads=threads, buffer=16)

    first = stream(2)
    whole = [batch for batch, _ in zip(iter(first), range(4), strict=False)]
    stopped = stream(2)
    for _ in zip(range(2), iter(stopped), strict=False):
        pass
    later = stream(0)
    later.load_state_dict(stopped.state_dict())
    rest = [batch for _, batch in zip(range(2), iter(later), strict=False)]
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.ids == other.ids
        for a, b in zip(one.samples, other.samples, strict=True):
            assert a.records == b.records
            assert np.array_equal(a.pixels, b.pixels)


def test_multi_crop_gives_a_group_a_size() -> None:
    transforms = ViewTransforms(multi_crop(local=3, local_size=8))
    views = load_views(transforms, Preprocess(size=16))(Pair("x", image=picture(40, 50)), 0)
    assert [group.shape for group in views.groups] == [(2, 3, 16, 16), (3, 3, 8, 8)]
    areas = [record.crop.height * record.crop.width / 2000 for record in views.records]
    assert min(areas[:2]) > 0.38
    assert max(areas[2:]) < 0.42
    with pytest.raises(InputError, match="2 sizes"):
        _ = views.pixels


def test_a_smaller_decode_shows_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    y, x = np.mgrid[:512, :640]
    waves = np.stack([128 + 90 * np.sin(x / 60), 128 + 90 * np.sin(y / 70), 128 + 90 * np.sin((x + y) / 80)], -1)
    Image.fromarray(waves.astype(np.uint8)).save(path, quality=95)
    transforms = ViewTransforms({"a": Augment(scale=(0.5, 1))})
    row, preprocess = Pair("a", image=path), Preprocess(size=32)
    assert transforms.min_side(preprocess) == math.ceil(32 / math.sqrt(0.5))
    small, full = (load_views(transforms, preprocess, draft=draft)(row, 0) for draft in (True, False))
    assert small.records == full.records
    assert (small.records[0].width, small.records[0].height) == (640, 512)
    assert np.abs(small.pixels - full.pixels).max() < 0.15


def test_what_is_refused() -> None:
    for wrong in (
        {"scale": (0.5, 1.5)},
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
        {"jitter": (0, 0, 0, 0.7)},
    ):
        with pytest.raises(InputError):
            Augment(**wrong)
    with pytest.raises(InputError, match=r"M=11"):
        RandAugment(2, 11)
    with pytest.raises(InputError, match="leave_out"):
        RandAugment(2, 9, leave_out=("spin",))
    with pytest.raises(UnknownNameError, match="mocov2"):
        preset("moco")
    with pytest.raises(InputError, match="at least one view"):
        ViewTransforms({})
    with pytest.raises(InputError, match=r"View\.to_dict"):
        View.from_dict({"name": "a"})
    with pytest.raises(MediaError, match="no image"):
        load_views(ViewTransforms({"a": "clip"}), Preprocess())(Pair("x"), 0)
