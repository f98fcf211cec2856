"""Corruptions, compositional scoring and CLIPScore."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError, UnknownNameError
from binderclip.evaluate import probes
from binderclip.evaluate.corruption import EXTRA, KINDS, corrupt
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours


def scene(side: int = 96) -> Image.Image:
    """A picture with edges, colours and gradients."""
    y, x = np.mgrid[0:side, 0:side] / side
    red = 0.5 + 0.4 * np.sin(9 * x + 4 * y)
    green = ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.09) * 0.7 + 0.2 * y
    blue = ((np.floor(8 * x) + np.floor(8 * y)) % 2) * 0.5 + 0.2
    return Image.fromarray((np.stack([red, green, blue], axis=2).clip(0, 1) * 255).astype(np.uint8))


# -- corruptions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, *EXTRA])
def test_each_kind_is_graded_and_seeded(kind: str) -> None:
    image = scene()
    assert corrupt(image, kind, 0) is image
    one = corrupt(image, kind, 3, key="a")
    assert one.size == image.size
    assert one.tobytes() == corrupt(image, kind, 3, key="a").tobytes()
    assert one.tobytes() != image.tobytes()
    tiny = corrupt(image.resize((7, 5)), kind, 5, key="a")
    assert tiny.size == (7, 5)


def test_noise_differs_between_pictures_and_seeds() -> None:
    image = scene()
    seen = {corrupt(image, "gaussian_noise", 2, key=key, seed=s).tobytes() for key in "ab" for s in (0, 1)}
    assert len(seen) == 4


def test_harder_grades_change_more() -> None:
    image = scene()
    original = np.asarray(image, float)
    growing = 0
    for kind in KINDS:
        changes = [
            np.mean(
                [np.abs(np.asarray(corrupt(image, kind, s, key=str(k)), float) - original).mean() for k in range(3)]
            )
            for s in range(6)
        ]
        assert changes[0] == 0
        growing += bool((np.diff(changes) >= 0).all())
    assert growing >= 12, growing


def test_unknown_corruptions() -> None:
    with pytest.raises(UnknownNameError, match="no corruption is called 'rain'"):
        corrupt(scene(), "rain", 1)
    with pytest.raises(InputError, match="severity 6"):
        corrupt(scene(), "fog", 6)


def test_the_corruptions_probe_counts_by_hand() -> None:
    data, encoder = colours(2), ColourEncoder()
    probe = probes.load("corruptions", kinds=("contrast", "impulse_noise"), severities=(1, 5))
    report = probe.run(Vectors(encoder), Sets(data))
    W = Vectors(encoder).classes(data, "photos")
    y = np.repeat(range(6), 2)
    errors = []
    for kind in ("contrast", "impulse_noise"):
        for s in (1, 5):
            changed = [corrupt(Vectors(encoder).picture(item), kind, s, key=item.id) for item in data.items]
            errors.append((encoder.encode_image(changed) @ W.T).argmax(1) != y)
    assert report["mE"] == pytest.approx(np.mean(errors), abs=1e-12)
    assert report["error_contrast"] == pytest.approx(np.mean(errors[:2]), abs=1e-12)
    assert report["clean_acc1"] == 1.0
    assert report["relative_mE"] == pytest.approx(report["mE"])
    assert 0 < report["drift"] < 1
    assert report["flip_rate"] == pytest.approx(report["mE"])
    small = probes.load("corruptions", kinds=("fog",), severities=(1,), most=5).run(Vectors(encoder), Sets(data))
    assert small.metrics[0].n == 5
    bare = Dataset("v", tuple(replace(i, image=None) for i in data.items), data.classes)
    table = Vectors(encoder, images=Embeddings.from_arrays(bare.ids, np.ones((12, 8)), fingerprint="c0"))
    with pytest.raises(InputError, match="needs pictures"):
        probe.run(table, Sets(bare))


# -- compositional -------------------------------------------------------------------------------------------------------


def vectors_of(images: dict[str, list[float]], texts: dict[str, list[float]]) -> Vectors:
    class Table:
        name, fingerprint, logit_scale = "table", "t0", 10.0

        def encode_image(self, pictures: object) -> object:
            raise AssertionError("vectors are given")

        def encode_text(self, sentences: list[str]) -> np.ndarray:
            return np.array([texts.get(s, [0.1, 0.1, 1.0]) for s in sentences], np.float32)

    return Vectors(
        Table(), images=Embeddings.from_arrays(list(images), np.array(list(images.values())), fingerprint="t0")
    )


def test_winoground_scores() -> None:
    images = {"a0": [1, 0, 0], "a1": [0, 1, 0], "b0": [1, 0.9, 0], "b1": [1, 0.8, 0]}
    texts = {"A0": [1, 0, 0], "A1": [0, 1, 0], "B0": [1, 0, 0], "B1": [0.9, 0, 0]}
    items = tuple(Item(k, captions=(k.upper(),), group=k[0]) for k in images)
    report = probes.load("compositional").run(vectors_of(images, texts), Sets(Dataset("w", items)))
    # group a: all right; group b: picture b0 prefers B0, b1 prefers B0 as well
    assert [report[f"{part}_score"] for part in ("text", "image", "group")] == [0.5, 0.5, 0.5]
    assert [m.n for m in report.metrics[:3]] == [2, 2, 2]
    assert len(report.rows) == 4


def test_hard_negatives_and_ties() -> None:
    images = {"a": [1, 0, 0], "b": [1, 0, 0], "c": [1, 0, 0]}
    texts = {"yes": [1, 0, 0], "no": [0, 1, 0], "same": [1, 0, 0]}
    items = (
        Item("a", captions=("yes",), negatives=("no",), kind="swap"),
        Item("b", captions=("yes",), negatives=("same",), kind="swap"),
        Item("c", captions=("no",), negatives=("yes", "same"), kind="add"),
    )
    report = probes.load("compositional").run(vectors_of(images, texts), Sets(Dataset("s", items)))
    assert report["accuracy"] == pytest.approx(1 / 3)
    assert report["acc"] == pytest.approx(2 / 3)  # CLIP_benchmark: the tie counts
    assert report["accuracy_swap"] == 0.5
    assert report["accuracy_add"] == 0.0
    assert report["macro_accuracy"] == 0.25
    assert report["chance"] == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)
    assert report["longest_wins"] == pytest.approx(1 / 3)
    assert report.examples[0].id == "c"
    with pytest.raises(InputError, match="no hard negatives"):
        probes.load("compositional").run(vectors_of(images, texts), Sets(Dataset("s", (Item("a", captions=("yes",)),))))


def test_random_scores_give_chance() -> None:
    rng = np.random.default_rng(0)
    images = {f"{g}{i}": rng.normal(size=40).tolist() for g in range(600) for i in "ab"}
    texts = {key.upper(): rng.normal(size=40).tolist() for key in images}
    items = tuple(Item(k, captions=(k.upper(),), group=k[:-1]) for k in images)
    for key in texts:
        texts[key] = (np.array(texts[key]) / np.linalg.norm(texts[key])).tolist()
    report = probes.load("compositional").run(vectors_of(images, texts), Sets(Dataset("r", items)))
    assert report["text_score"] == pytest.approx(0.25, abs=0.06)
    assert report["image_score"] == pytest.approx(0.25, abs=0.06)
    assert report["group_score"] == pytest.approx(1 / 6, abs=0.05)


# -- CLIPScore -----------------------------------------------------------------------------------------------------------


def test_clipscore_of_candidates() -> None:
    images = {"a": [1, 0, 0], "b": [1, 0, 0], "c": [0, 1, 0]}
    prefix = "A photo depicts "
    texts = {prefix + "yes": [1, 0, 0], prefix + "half": [0.6, 0.8, 0], prefix + "against": [0, -1.0, 0]}
    items = (
        Item("a", candidate="yes", references=("yes", "half"), rating=3),
        Item("b", candidate="half", references=("yes",), rating=2),
        Item("c", candidate="against", references=("yes",), rating=1),
    )
    report = probes.load("clipscore").run(vectors_of(images, texts), Sets(Dataset("c", items)))
    assert [row["clipscore"] for row in report.rows] == pytest.approx([2.5, 1.5, 0.0], abs=1e-6)
    expected = [2 * 2.5 * 1 / 3.5, 2 * 1.5 * 0.6 / 2.1, 0.0]
    assert [row["ref_clipscore"] for row in report.rows] == pytest.approx(expected, abs=1e-6)
    assert report["clipscore"] == pytest.approx(4 / 3, abs=1e-6)
    assert report["clipscore_tau_b"] == pytest.approx(1.0)
    assert report.examples[0].id == "c"
    plain = probes.load("clipscore").run(
        vectors_of(images, texts), Sets(Dataset("c", (Item("a", captions=("yes", "half")),)))
    )
    assert plain.metrics[0].n == 2
    assert [m.name for m in plain.metrics] == ["clipscore"]
