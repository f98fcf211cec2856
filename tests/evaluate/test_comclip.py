"""ComCLIP: the parser, sub-pictures, weights, and what it falls back to."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

import binderclip
from binderclip.errors import InputError
from binderclip.evaluate.comclip import Choice, ComCLIP, Part, Rerank, choose, parse, show_only, svo
from tests.evaluate.helpers import COLOURS, ColourEncoder

pytestmark = pytest.mark.system("comclip")

LEFT, RIGHT = (2.0, 4.0, 14.0, 16.0), (18.0, 4.0, 30.0, 16.0)


def scene(left: str = "red", right: str = "blue") -> Image.Image:
    """Two plain squares on grey."""
    pixels = np.full((20, 32, 3), 128, np.uint8)
    pixels[4:16, 2:14], pixels[4:16, 18:30] = COLOURS[left], COLOURS[right]
    return Image.fromarray(pixels)


def exact(image: Image.Image) -> list[tuple[tuple[float, ...], str]]:
    return [(LEFT, "red square"), (RIGHT, "blue square")]


def cos(encoder: Any, image: Image.Image, text: str) -> float:
    return float(encoder.encode_image([image])[0].astype(float) @ encoder.encode_text([text])[0].astype(float))


def test_without_parts_it_is_clip() -> None:
    encoder, image = ColourEncoder(noise=0.3), scene()
    want = cos(encoder, image, "a red square and a blue square")
    none = ComCLIP(encoder, parser=lambda caption: [], regions=exact)
    assert none.score(image, "a red square and a blue square") == pytest.approx(want, abs=1e-6)
    for regions in (None, lambda image: [], lambda image: [(LEFT, "a violet thing")]):
        comclip = ComCLIP(encoder, regions=regions, match=0.999)
        assert comclip.score(image, "a red square and a blue square") == pytest.approx(want, abs=1e-6)
        shown = comclip.explain(image, "a red square and a blue square")
        assert [part.size for _, part, _ in shown] == [image.size] * 2
        assert sum(weight for *_, weight in shown) == pytest.approx(1, abs=1e-6)


def test_by_hand() -> None:
    encoder, image = ColourEncoder(), scene()
    caption = "a red square left of a blue square"
    comclip = ComCLIP(encoder, regions=exact, match="best")
    square = Image.new("RGB", (32, 32))
    vectors, words = [], ["red square", "blue square", "left of"]
    for boxes in ([LEFT], [RIGHT], [LEFT, RIGHT]):
        square = Image.new("RGB", (32, 32))
        square.paste(show_only(image, boxes), (0, 6))
        vectors.append(encoder.encode_image([square])[0].astype(float))
    s = np.maximum([v @ encoder.encode_text([w])[0] for v, w in zip(vectors, words, strict=True)], 0)
    whole = encoder.encode_image([image])[0].astype(float) + (s / s.sum()) @ np.array(vectors)
    t = encoder.encode_text([caption])[0].astype(float)
    assert comclip.score(image, caption) == pytest.approx(whole @ t / np.linalg.norm(whole) / np.linalg.norm(t))
    shown = comclip.explain(image, caption)
    assert [word for word, *_ in shown] == words
    np.testing.assert_allclose([weight for *_, weight in shown], s / s.sum(), atol=1e-9)


def test_weights_and_duplicates() -> None:
    encoder, image = ColourEncoder(), scene()
    for weights in ("sum", "softmax"):
        made = ComCLIP(encoder, regions=exact, match="best", weights=weights)
        shown = made.explain(image, "a red square, a blue square and a violet square")
        assert sum(weight for *_, weight in shown) == pytest.approx(1, abs=1e-6)
    once = ComCLIP(encoder, parser=lambda c: [Part("red square")], regions=exact, match="best")
    twice = ComCLIP(encoder, parser=lambda c: [Part("red square"), Part("red square")], regions=exact, match="best")
    assert twice.score(image, "a red square") == pytest.approx(once.score(image, "a red square"), abs=1e-6)
    assert len(twice.explain(image, "a red square")) == 1
    # v' of [a, a] without merging is that of [a]: the weights are halves
    made = ComCLIP(encoder)
    np.testing.assert_allclose(made._weights(np.array([0.3, 0.3])), [0.5, 0.5])
    np.testing.assert_allclose(made._weights(np.array([-0.3, 0.2, 0.6])), [0, 0.25, 0.75])
    np.testing.assert_allclose(made._weights(np.array([-0.3, -0.2])), [0.5, 0.5])  # nothing fits: all alike


def test_overlay() -> None:
    image = scene()
    before, after = np.asarray(image), np.asarray(show_only(image, [LEFT, RIGHT]))
    inside = np.zeros((20, 32), bool)
    inside[4:16, 2:14] = inside[4:16, 18:30] = True
    assert (after[inside] == before[inside]).all()
    assert (after[~inside] == 0).all()
    overlapping = np.asarray(show_only(image, [(0, 0, 10, 10), (5, 5, 40, 12)]))
    assert (overlapping[6, 6] == before[6, 6]).all()
    assert overlapping[15].max() == 0


def test_hundred_sentences() -> None:
    nouns = "chef dog king woman robot glass painter horse small_cat old_man".replace("_", "-").split()
    verbs = "lifts chases paints holds eats watched kicks pulling repairs sees".split()
    sentences = 0
    for i, (verb, noun) in enumerate(itertools.product(verbs, nouns)):
        other = nouns[(nouns.index(noun) + 1 + i % 9) % 10]
        assert parse(f"the {noun} {verb} the {other}") == svo(noun, verb, other)
        sentences += 1
    assert sentences == 100


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a red circle and a blue square", [Part("red circle"), Part("blue square")]),
        ("A man is riding a brown horse.", svo("man", "riding", "brown horse")),
        ("a red cross left of an orange star", svo("red cross", "left of", "orange star")),
        ("the man sits on the old chair", svo("man", "sits on", "old chair")),
        ("a picture of a dog", [Part("dog")]),
        ("two dogs, a cat and a dog", [Part("dogs"), Part("cat"), Part("dog")]),
        ("a dog and a dog", [Part("dog")]),
        ("", []),
    ],
)
def test_captions(caption: str, wanted: list[Part]) -> None:
    assert parse(caption) == wanted


def test_the_same_bits_in_any_batch() -> None:
    images = [scene("red", "blue"), scene("blue", "red"), scene("green", "violet").crop((0, 0, 25, 20))]
    captions = ["a red square and a blue square", "a square", "a violet square right of a green square"]
    encoder = binderclip.Encoder("pocket", threads=1)
    whole = ComCLIP(encoder, regions=exact).score_matrix(images, captions)
    for i in (2, 0):
        for j in (1, 2):
            assert ComCLIP(encoder, regions=exact).score(images[i], captions[j]) == whole[i, j]
    assert (ComCLIP(encoder, regions=exact).score_matrix(images[::-1], captions[::-1]) == whole[::-1, ::-1]).all()


def test_failures_are_counted() -> None:
    def broken(caption: str) -> list[Part]:
        if "blue" in caption:
            raise ValueError("no answer")
        return parse(caption)

    encoder, image = ColourEncoder(noise=0.2), scene()
    comclip = ComCLIP(encoder, parser=broken, regions=exact)
    assert comclip.score(image, "a blue square") == pytest.approx(cos(encoder, image, "a blue square"), abs=1e-6)
    comclip.score(image, "a red square")
    assert comclip.failures == 1
    report = choose(comclip, [Choice("1", image, "a red square", "a blue square")])
    assert report["failures"] == 1
    assert "fell back" in report.notes[0]

    def no_regions(image: Image.Image) -> list[Any]:
        raise OSError("no model")

    lost = ComCLIP(encoder, regions=no_regions)
    assert lost.score(image, "a red square") == pytest.approx(cos(encoder, image, "a red square"), abs=1e-6)
    assert lost.failures == 1


def test_choices_and_reranking() -> None:
    encoder = ColourEncoder(noise=0.05)
    rows = [
        Choice("caption", scene(), "a red square", "a violet square"),
        Choice("picture", scene(), "a red square", other=scene("green", "yellow")),
    ]
    report = choose(ComCLIP(encoder, regions=exact), rows)
    assert [m.name for m in report.metrics] == ["clip_accuracy", "accuracy", "gain", "failures"]
    assert report["gain"] == pytest.approx(report["accuracy"] - report["clip_accuracy"])
    assert len(report.rows) == 2
    images = [scene("green", "yellow"), scene("red", "red"), scene("red", "blue"), scene("grey", "grey")]
    asked = []

    def find(caption: str, k: int) -> list[Image.Image]:
        asked.append((caption, k))
        return images

    ranked = Rerank(find, ComCLIP(encoder), k=3)("a red square")
    assert asked == [("a red square", 3)]
    assert ranked[0][0] is images[1]
    assert [s for _, s in ranked] == sorted((s for _, s in ranked), reverse=True)
    assert len(ranked) == 3


def test_raw_vectors() -> None:
    clip = binderclip.load("pocket").requires_grad_(False)
    image, caption = scene(), "a red square and a blue square"
    raw = ComCLIP(clip, regions=exact, match="best", normalize_parts=False)
    v, parts = raw._image(image), raw.explain(image, caption)
    V = np.stack([raw._image(part) for _, part, _ in parts])
    assert np.linalg.norm(raw._text(caption)) != pytest.approx(1, abs=1e-2)
    s = np.maximum([row @ raw._text(word) for row, (word, *_) in zip(V, parts, strict=True)], 0)
    np.testing.assert_allclose([a for *_, a in parts], s / s.sum(), atol=1e-6)
    whole = v + (s / s.sum()) @ V
    t = raw._text(caption)
    want = whole @ t / np.linalg.norm(whole) / np.linalg.norm(t)
    assert raw.score(image, caption) == pytest.approx(want, abs=1e-6)
    with pytest.raises(InputError, match="needs a torch CLIP"):
        ComCLIP(ColourEncoder(), normalize_parts=False)
    with pytest.raises(InputError, match="use 'rules' or a function"):
        ComCLIP(ColourEncoder(), parser="spacy")
    with pytest.raises(InputError, match="nothing to choose from"):
        choose(ComCLIP(ColourEncoder()), [Choice("1", image, "a")])
