"""Red Circle: marks, Sinkhorn, subtraction, ensembles, keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data.regions import draw_mark
from binderclip.errors import InputError
from binderclip.evaluate.models import vectors_of
from binderclip.evaluate.red_circle import (
    MarkProbe,
    RedCircle,
    Referring,
    find_keypoint,
    mark_shift,
    name_keypoints,
    sinkhorn,
)
from tests.evaluate.helpers import ColourEncoder

pytestmark = pytest.mark.system("red_circle")


def noise(width: int = 61, height: int = 47) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 200, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("outside", ["none", "blur", "grey"])
def test_pixels_that_stay(outside: str) -> None:
    image, box, width = noise(), (11.0, 7.0, 42.0, 39.0), 2
    before, after = np.asarray(image), np.asarray(draw_mark(image, box, width=width, outside=outside))
    changed = (before != after).any(axis=2)
    red = (after == (255, 0, 0)).all(axis=2)
    cx, cy, rx, ry = 26.5, 23.0, 15.5, 16.0
    beyond = other = 0
    for y in range(image.height):
        for x in range(image.width):
            u, v = x + 0.5 - cx, y + 0.5 - cy
            inner = (u / (rx - width)) ** 2 + (v / (ry - width)) ** 2 <= 1
            outer = (u / rx) ** 2 + (v / ry) ** 2 > 1
            assert not (inner and changed[y, x])
            assert red[y, x] == (not inner and not outer)
            beyond += outer and changed[y, x]
            other += outer
    assert (beyond == 0) if outside == "none" else (beyond > 0.9 * other)


def test_sinkhorn() -> None:
    rng = np.random.default_rng(1)
    for tau in (1.0, 30.0, 100.0) * 20:
        P = sinkhorn(tau * rng.uniform(0.2, 0.3, (7, 7)))
        np.testing.assert_allclose(P.sum(axis=0), 1, atol=1e-4)
        np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-4)
    order = rng.permutation(9)
    P = sinkhorn(10 * np.eye(9)[order])
    assert P.argmax(axis=1).tolist() == order.tolist()
    # two by two has a closed form: p = sqrt(ad) / (sqrt(ad) + sqrt(bc))
    a, b, c, d = np.exp([[0.3, 1.0, -0.5, 2.0]])[0]
    p = np.sqrt(a * d) / (np.sqrt(a * d) + np.sqrt(b * c))
    np.testing.assert_allclose(sinkhorn([[0.3, 1.0], [-0.5, 2.0]], tolerance=1e-12), [[p, 1 - p], [1 - p, p]])


class Planted:
    """The picture's vector is chosen by its mean: boxes that are cropped from plain halves."""

    name, fingerprint, logit_scale = "planted", "p", 1.0

    def __init__(self, by_level: dict[int, Sequence[float]], texts: dict[str, Sequence[float]]) -> None:
        self.by_level, self.known = by_level, texts

    def encode_image(self, images: Sequence[Any]) -> np.ndarray:
        levels = [round(float(np.asarray(image).mean())) for image in images]
        return np.array([self.by_level[min(self.by_level, key=lambda k: abs(k - v))] for v in levels], np.float32)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.known[text] for text in texts], np.float32)


def test_subtraction() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    image, boxes = Image.fromarray(pixels), [(0, 0, 20, 20), (20, 0, 40, 20)]
    t, n, u = np.eye(3)
    model = Planted({0: 0.6 * t + 0.8 * n, 200: 0.5 * t + 0.866 * u}, {"t": t, "v": u, "n1": n, "n2": n, "n3": n})
    scorer = RedCircle(model, shape="crop", subtract=2)
    plain = scorer.score(image, boxes, ["t", "v"])
    less = scorer.score(image, boxes, ["t", "v"], negatives=["n1", "n2", "n3"])
    np.testing.assert_allclose(plain[:, 0], [0.6, 0.5], atol=1e-6)
    np.testing.assert_allclose(less[:, 0], [-0.2, 0.5], atol=1e-6)
    # one constant a box: differences between texts stay
    np.testing.assert_allclose(less[:, 0] - less[:, 1], plain[:, 0] - plain[:, 1], atol=1e-12)
    assert plain[:, 0].argmax() != less[:, 0].argmax()
    assert (RedCircle(model, shape="crop", subtract=0).score(image, boxes, ["t"], ["n1"])[:, 0] == plain[:, 0]).all()


def test_ensembles_and_order() -> None:
    image, boxes = noise(), [(2, 3, 20, 30), (30, 5, 58, 44), (10, 10, 50, 40)]
    encoder, texts = ColourEncoder(noise=0.3), ["red", "a blue thing"]
    one = RedCircle(encoder, outside=("none",)).score(image, boxes, texts)
    np.testing.assert_array_equal(RedCircle([encoder], outside=["none"]).score(image, boxes, texts), one)
    # by hand: tau cos of the marked picture, squeezed to a square
    marked = [draw_mark(image, box).resize((61, 61), Image.Resampling.BICUBIC) for box in boxes]
    np.testing.assert_allclose(one, 20 * encoder.encode_image(marked) @ encoder.encode_text(texts).T, atol=1e-5)
    turned = RedCircle(encoder).score(image, boxes[::-1], texts, ["green", "grey"])
    np.testing.assert_allclose(RedCircle(encoder).score(image, boxes, texts, ["green", "grey"]), turned[::-1])
    # variants and models are means
    parts = [RedCircle(encoder, outside=(how,)).score(image, boxes, texts) for how in ("none", "blur", "grey")]
    np.testing.assert_allclose(RedCircle(encoder).score(image, boxes, texts), np.mean(parts, axis=0))
    other = ColourEncoder(noise=0.6)
    both = RedCircle([encoder, other], outside=("none",)).score(image, boxes, texts)
    np.testing.assert_allclose(both, (one + RedCircle(other, outside=("none",)).score(image, boxes, texts)) / 2)


def test_a_torch_clip_is_taken_too() -> None:
    binderclip = pytest.importorskip("binderclip")
    clip = binderclip.load("pocket")
    clip.train()
    vectors = vectors_of(clip)
    photo = noise(40, 64)
    scores = RedCircle(clip, outside=("none",)).score(photo, [(3, 4, 30, 50)], ["a dog"])
    direct = RedCircle(binderclip.Encoder("pocket"), outside=("none",)).score(photo, [(3, 4, 30, 50)], ["a dog"])
    assert clip.training
    assert vectors.scale == pytest.approx(float(clip.scale.detach()))
    np.testing.assert_allclose(scores, direct, atol=0.05)


def scenes() -> list[Referring]:
    """Two plain halves; the crop tells them apart, the marked whole does not."""
    rows = []
    for i, (a, b) in enumerate([("red", "blue"), ("green", "violet"), ("blue", "green"), ("violet", "red")]):
        pixels = np.zeros((16, 32, 3), np.uint8)
        for k, word in enumerate((a, b)):
            pixels[:, 16 * k : 16 * k + 16] = {
                "red": (220, 30, 30), "blue": (30, 40, 220), "green": (30, 200, 40), "violet": (150, 20, 200)
            }[word]  # fmt: skip
        boxes = ((0.0, 0.0, 16.0, 16.0), (16.0, 0.0, 32.0, 16.0))
        rows += [Referring(f"{i}/{k}", Image.fromarray(pixels), boxes, (a, b)[k], k, str(i)) for k in (0, 1)]
    return rows


def test_the_probe_says_when_a_crop_wins() -> None:
    report = MarkProbe(shapes=("circle", "crop", "none"), colours=("red", "green"), paddings=(0.0, 0.1)).run(
        ColourEncoder(), scenes()
    )
    names = [m.name for m in report.metrics]
    assert names[:4] == ["accuracy_circle_red", "accuracy_circle_red_padding0.1", "accuracy_circle_green",
                         "accuracy_circle_green_padding0.1"]  # fmt: skip
    assert report["accuracy_crop"] == 1.0
    assert report["accuracy_none"] == 0.0  # all boxes tie
    assert report["chance"] == 0.5
    assert any("a crop beats every mark" in note for note in report.notes)
    assert all(m.low - 1e-9 <= m.value <= m.high + 1e-9 for m in report.metrics[:-1])
    assert len(report.rows) == 8 * (len(names) - 1)


def test_keypoints() -> None:
    pixels = np.full((60, 60, 3), 128, np.uint8)
    spots = {"red": (12, 12), "green": (46, 14), "blue": (30, 46)}
    for word, (x, y) in spots.items():
        pixels[y - 6 : y + 6, x - 6 : x + 6] = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}[
            word
        ]
    image, encoder = Image.fromarray(pixels), ColourEncoder()
    names = ["the blue spot", "the red spot", "the green spot"]
    found = name_keypoints(encoder, image, list(spots.values()), names, radius=0.03, marks=("crop",))
    assert found.tolist() == [1, 2, 0]
    x, y = find_keypoint(encoder, image, "the green spot", others=names[:2], radius=0.02, marks=("crop",))
    assert abs(x - 46) <= 6
    assert abs(y - 14) <= 6


def test_the_shift_of_a_mark() -> None:
    images = [noise(40, 40), noise(30, 44)]
    before, after = mark_shift(ColourEncoder(), images, [(5, 5, 30, 30)] * 2, ["red", "blue"])
    assert before.shape == after.shape == (2, 2)
    np.testing.assert_allclose(after.sum(axis=1), 1)
    assert (after[:, 0] > before[:, 0]).all()  # red ink in a colour model


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one model"):
        RedCircle([])
    scorer = RedCircle(ColourEncoder())
    with pytest.raises(InputError, match="no boxes to choose from"):
        scorer.score(noise(), [], ["a"])
    with pytest.raises(InputError, match="no pixel in a picture"):
        scorer.score(noise(), [(200, 200, 220, 220)], ["a"])
    with pytest.raises(InputError, match="give one name a point"):
        name_keypoints(ColourEncoder(), noise(), [(1, 2)], [])
    with pytest.raises(InputError, match="no expressions"):
        MarkProbe().run(ColourEncoder(), [])
