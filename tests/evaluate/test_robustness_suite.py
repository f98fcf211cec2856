"""The robustness suite: severities, temperature, effective robustness, oracles of shape, matches of patches."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.data.scenes.scene import scene
from binderclip.data.scenes.spec import SceneSpec
from binderclip.errors import InputError, UnknownNameError
from binderclip.evaluate.correspondence import flip_recall, match, patch_tokens, pck, recall
from binderclip.evaluate.corruption import EXTRA, KINDS, corrupt
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.depth import FLAT, SOLID, corrupt3d
from binderclip.evaluate.metrics.calibration import ece, fit_temperature, log_softmax, nll, softmax
from binderclip.evaluate.probes.robustness_suite import SIX, RobustnessSuite, effective
from binderclip.evaluate.robustness import (
    FACTORS,
    EffectiveRobustness,
    cue_conflict,
    factor,
    influence,
    lmm_accuracy,
    shape_bias,
)
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import COLOURS, ColourEncoder, colours

pytestmark = pytest.mark.system("robustness_suite")


def scenes(size: int, count: int = 50) -> list[tuple[Image.Image, np.ndarray]]:
    made = [scene(i, SceneSpec(size=size)) for i in range(count)]
    return [(one.image, len(one.objects) - one.depth) for one in made]


def changes(kind: str, pictures: list[tuple[Image.Image, np.ndarray]]) -> list[float]:
    """Mean squared change of each severity, over pictures."""
    out = []
    for severity in range(1, 6):
        total = 0.0
        for i, (image, depth) in enumerate(pictures):
            key = str(i)
            made = (
                corrupt3d(image, depth, kind, severity, key=key)
                if kind in SOLID + FLAT
                else corrupt(image, kind, severity, key=key)
            )
            total += float(((np.asarray(made, float) - np.asarray(image, float)) ** 2).mean())
        out.append(total / len(pictures))
    return out


def test_severities() -> None:
    pictures = scenes(32)
    image, depth = pictures[0]
    for kind in (*KINDS, *EXTRA, *SOLID, *FLAT):
        solid = kind in SOLID + FLAT

        def make(s: int, kind: str = kind, solid: bool = solid) -> bytes:
            made = corrupt3d(image, depth, kind, s, key="a") if solid else corrupt(image, kind, s, key="a")
            return made.tobytes()

        assert make(0) == image.tobytes()
        assert make(3) == make(3)
        # the reach of glass blur is in whole pixels: it is graded at the size it is drawn for
        steps = changes(kind, scenes(224) if kind == "glass_blur" else pictures)
        assert all(b >= a for a, b in pairwise(steps)), (kind, steps)
        assert steps[-1] > steps[0]


def test_depth_is_asked_for() -> None:
    image, depth = scenes(32, 1)[0]
    with pytest.raises(InputError, match="fog_3d needs a depth map"):
        corrupt3d(image, None, "fog_3d", 1)
    with pytest.raises(InputError, match="does not fit"):
        corrupt3d(image, depth[:5], "fog_3d", 1)
    with pytest.raises(UnknownNameError, match="no corruption is called 'rain'"):
        corrupt3d(image, depth, "rain", 1)
    with pytest.raises(InputError, match="out of range"):
        corrupt3d(image, depth, "low_light", 6)
    even = corrupt3d(image, np.zeros((32, 32)), "fog_3d", 5)
    assert even.tobytes() == image.tobytes()  # all of it near: no fog


def test_temperature() -> None:
    rng = np.random.default_rng(0)
    for k in range(20):
        y = rng.integers(0, 6, 200)
        logits = rng.normal(size=(200, 6)) * rng.uniform(0.5, 8) + 2.0 * np.eye(6)[y]
        fit = rng.random(200) < 0.5
        T = fit_temperature(logits[fit], y[fit])
        before, after = log_softmax(logits[fit]), log_softmax(logits[fit] / T)
        assert nll(after, y[fit]) <= nll(before, y[fit]) + 1e-12, k
        assert (softmax(logits / T).argmax(1) == softmax(logits).argmax(1)).all()
        right = logits.argmax(1) == y
        both = [ece(softmax(logits / t).max(1), right) for t in (1.0, T)]
        assert all(0 <= value <= 1 for value in both)  # it may rise: reported, never asserted
    report = RobustnessSuite(parts=("calibration",)).run(Vectors(ColourEncoder(noise=0.4)), Sets(colours(8)))
    assert {"calibration: ece_before", "calibration: ece_after", "calibration: nll_after"} <= {
        m.name for m in report.metrics
    }


def test_effective_robustness() -> None:
    def expit(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    xs = [-1.0, 0.2, 0.9, 2.0]
    line = EffectiveRobustness.fit([expit(x) for x in xs], [expit(0.7 * x - 0.5) for x in xs])
    assert (line.slope, line.intercept) == pytest.approx((0.7, -0.5), abs=1e-9)
    assert abs(line.rho(expit(1.3), expit(0.7 * 1.3 - 0.5))) < 1e-6
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.2, 0.95, 12), rng.uniform(0.1, 0.9, 12)
    line = EffectiveRobustness.fit(a, b)
    assert abs(np.mean(line.residuals)) < 1e-9
    assert abs(float(np.mean(line.rho(a, b)))) > 1e-4  # not in accuracy
    clipped = EffectiveRobustness.fit([0.0, 1.0], [0.0, 1.0], rows=50)
    assert clipped.beta(1.0, 50) == pytest.approx(0.99)
    with pytest.raises(InputError, match="at least two baselines"):
        EffectiveRobustness.fit([0.5], [0.5])


def test_shape_bias_of_oracles() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 16, 500)
    textures = (shapes + rng.integers(1, 16, 500)) % 16
    assert shape_bias(shapes, shapes, textures) == (1.0, 500)
    assert shape_bias(textures, shapes, textures) == (0.0, 500)
    value, m = shape_bias(rng.integers(0, 16, 500), shapes, textures)
    assert 20 < m < 120
    assert abs(value - 0.5) <= 3 * math.sqrt(0.25 / m)
    value, m = shape_bias(np.full(500, 99), shapes, textures)
    assert math.isnan(value)
    assert m == 0
    half = np.where(rng.random(500) < 0.5, shapes, textures)
    value, m = shape_bias(half, shapes, textures)
    assert m == 500
    assert abs(value - 0.5) <= 3 * math.sqrt(0.25 / 500)


def cut_out(colour: str, n: int) -> Image.Image:
    """A disk or a square of one colour on nothing."""
    grid = (np.indices((24, 24)) - 11.5 + n % 3) / 12
    inside = np.hypot(*grid) < 0.8 if n % 2 else np.abs(grid).max(axis=0) < 0.7
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = COLOURS[colour], 255 * inside
    return Image.fromarray(rgba)


def test_cue_conflicts() -> None:
    made = np.asarray(cue_conflict(cut_out("red", 1), cut_out("blue", 2), 96))
    assert made.shape == (96, 96, 3)
    np.testing.assert_array_equal(made[0, 0], 255)
    np.testing.assert_allclose(made[48, 48], COLOURS["blue"], atol=3)  # the filling of the other
    with pytest.raises(InputError, match="cut-outs"):
        cue_conflict(Image.new("RGB", (8, 8)), cut_out("blue", 2))
    names = ("red", "blue")
    items = [Item(f"{c}{n}", cut_out(c, n), (k,)) for k, c in enumerate(names) for n in range(6)]
    data = Dataset("cuts", tuple(items), names)
    report = RobustnessSuite(parts=("shape",)).run(Vectors(ColourEncoder()), Sets(data))
    assert report["shape: shape bias"] == 0.0  # this model sees nothing but colour
    assert report["shape: answered with a cue"] == 1.0


def test_factors() -> None:
    image = scenes(48, 1)[0][0]
    for name in FACTORS:
        made = factor(image, name, key="a")
        assert made.size == image.size
        assert made.tobytes() == factor(image, name, key="a").tobytes()
        assert made.tobytes() != image.tobytes()
    light = [float(np.asarray(factor(image, name)).mean()) for name in ("darker", "brighter")]
    assert light[0] < np.asarray(image).mean() < light[1]
    with pytest.raises(InputError, match="no factor 'odd'"):
        factor(image, "odd")


def test_an_image_with_itself() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(48, 16))
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    own = np.arange(48)
    assert recall(match(A, A), own, (6, 8)) == 1
    mirror = own.reshape(6, 8)[:, ::-1].ravel()
    assert flip_recall(A[None], A[None][:, mirror], (6, 8))[0] == 1
    assert recall(match(A, A[mirror]), own, (6, 8)) == 0
    assert recall(match(A, A[np.roll(own, 1)]), own, (6, 8), within=1.0) == pytest.approx(42 / 48)  # rows do not wrap
    # the ratio test, by loops
    B = A + 0.6 * rng.normal(size=A.shape)
    B /= np.linalg.norm(B, axis=1, keepdims=True)
    for i, j in enumerate(match(A, B, ratio=0.8)):
        away = sorted((float(np.linalg.norm(A[i] - b)), k) for k, b in enumerate(B))
        assert j == (away[0][1] if away[0][0] < 0.8 * away[1][0] else -1)
    assert pck([[0, 0], [5, 5]], [[0, 1], [5, 8]], [20, 10]) == 0.5
    with pytest.raises(InputError, match="no place"):
        recall(own, np.full(48, -1), (6, 8))


def test_tokens_of_a_transformer() -> None:
    from binderclip.evaluate.models import TorchEncoder
    from tests.train.kit import tiny_clip

    clip = tiny_clip()
    vectors = Vectors(TorchEncoder(clip))
    pictures = [vectors.picture(Item(str(i), image)) for i, (image, _) in enumerate(scenes(32, 3))]
    A, grid = patch_tokens(clip, pictures)
    assert A.shape[:2] == (3, grid[0] * grid[1])
    np.testing.assert_allclose(np.linalg.norm(A, axis=-1), 1)
    assert recall(match(A[0], A[0]), np.arange(A.shape[1]), grid) == 1


def test_the_suite_as_one_report(tmp_path: Path) -> None:
    small = {"kinds": ("fog", "contrast"), "severities": (1, 5), "factors": ("darker", "pose")}
    data = colours(6, captions=1)
    data = replace(data, items=tuple(replace(i, kind="pose, style" if n % 2 else "") for n, i in enumerate(data.items)))
    vectors = Vectors(ColourEncoder(noise=0.2))
    probe = RobustnessSuite(**small, cache=str(tmp_path / "kept"))
    report = probe.run(vectors, Sets(data, outliers=replace(data, name="o")))
    names = {m.name for m in report.metrics}
    assert {"ood: mcm_auroc", "retrieval: text_to_image_recall@1", "factors: darker", "corrupt2d: mean error"} <= names
    assert {"factors: annotated style", "corrupt3d: low_light", "corrupt2d: ece after the clean temperature"} <= names
    left = [note for note in report.notes if "left out" in note]
    assert [note.split(" ")[0] for note in left] == ["shape", "correspondence"]
    assert any("not 3-D" in note for note in report.notes)
    assert report["ood: mcm_auroc"] == pytest.approx(0.5)  # the same pictures on both sides
    assert 0 <= report.rows[0]["error_corrupt2d"] <= 1
    json.dumps(report.to_json(), allow_nan=False)
    calls = vectors.encoder.pictures
    again = probe.run(vectors, Sets(data, outliers=replace(data, name="o")))
    assert vectors.encoder.pictures == calls  # nothing is encoded twice
    assert again.to_json() == report.to_json()
    assert RobustnessSuite(**small).run(vectors, Sets(data))["corrupt2d: accuracy"] == report["corrupt2d: accuracy"]
    rho = effective([report], [(0.9, 0.6), (0.8, 0.4)])
    assert set(rho) == {"colours"}
    depth = tmp_path / "depth"
    depth.mkdir()
    for item in data.items:
        (depth / item.id.split("/")[0]).mkdir(exist_ok=True)
        np.save(depth / f"{item.id}.npy", np.tile(np.linspace(0, 1, 224), (224, 1)))
    solid = RobustnessSuite(parts=("corrupt3d",), severities=(5,), depth=str(depth), most=6)
    assert "corrupt3d: fog_3d" in {m.name for m in solid.run(vectors, Sets(data)).metrics}
    with pytest.raises(InputError, match="no part 'speed'"):
        RobustnessSuite(parts=("speed",)).run(vectors, Sets(data))
    with pytest.raises(InputError, match="allows none"):
        RobustnessSuite(parts=("shape",)).run(vectors, Sets(data))
    assert len(SIX) == 6


def test_influence_over_models() -> None:
    rng = np.random.default_rng(0)
    models = [
        {"parameters": 10 * (i + 1), "loss": "sigmoid" if i % 2 else "softmax", "score": i + rng.normal()}
        for i in range(20)
    ]
    table = {row["factor"]: row for row in influence(models, "score")}
    assert table["parameters"]["coef"] > 0.9
    assert table["parameters"]["n"] == 20
    assert table["loss=sigmoid"]["low"] < 0 < table["loss=sigmoid"]["high"]


def test_a_model_that_answers_in_words() -> None:
    answers = iter(["It is a polar bear.", "A bear", "no idea"])
    value, kept = lmm_accuracy(lambda image, question: next(answers), [0, 1, 2], [1, 0, 0], ["bear", "polar bear"])
    assert value == pytest.approx(2 / 3)
    assert kept[2] == "no idea"
