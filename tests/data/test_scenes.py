"""Scenes: areas in closed form, masks against the layout, and captions against a reader of their words."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from binderclip.data.pairs import Pairs
from binderclip.data.scenes import Layout, SceneSpec, Thing, lay_out, render, scene
from binderclip.data.scenes.drawing import box_of, draw
from binderclip.data.scenes.shapes import SHAPES, coverage
from binderclip.data.scenes.spec import COLOURS, SIZES
from binderclip.data.scenes.statements import NUMBERS, Count, Exists, Noun, Relation
from binderclip.data.stream import Stream
from binderclip.errors import InputError

AREAS = {
    "circle": math.pi,
    "ring": 0.7 * math.pi,
    "square": 1.7**2,
    "diamond": 2 * 0.7,
    "triangle": 0.56 * 1.75**2,
    "star": 5 * 0.45 * math.sin(math.pi / 5),
    "hexagon": 4 * 0.87 * 0.75,  # a rectangle of half-sides 1 and 0.87, less its four corners
    "cross": 4 * 0.6 - 0.36,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.25])
def test_areas(shape: str, angle: float) -> None:
    found = coverage(shape, 0.5, 0.45, 0.3, angle, 120).sum() / (120 * 0.3) ** 2
    if shape in AREAS:
        assert found == pytest.approx(AREAS[shape], rel=0.015)
    assert 1.0 < found < math.pi + 0.01


def test_coverage_equals_a_loop_over_points() -> None:
    x, y, r, angle, side, fine = 0.4, 0.55, 0.3, 0.2, 12, 4
    slow = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            for a in range(fine):
                for b in range(fine):
                    px = ((column + (b + 0.5) / fine) / side - x) / r
                    py = ((row + (a + 0.5) / fine) / side - y) / r
                    u = math.cos(angle) * px + math.sin(angle) * py
                    v = math.cos(angle) * py - math.sin(angle) * px
                    slow[row, column] += bool(SHAPES["star"](np.array(u), np.array(v))) / fine**2
    assert np.allclose(coverage("star", x, y, r, angle, side), slow)


def test_a_scene_is_a_function_of_its_number() -> None:
    spec = SceneSpec(size=24)
    alone = scene(7, spec)
    for i in range(7):
        scene(i, spec)
    again = scene(7, spec)
    assert alone.layout == again.layout
    assert alone.captions == again.captions
    assert np.array_equal(np.asarray(alone.image), np.asarray(again.image))
    assert alone.layout != scene(8, spec).layout
    assert alone.layout != scene(7, replace(spec, seed=1)).layout
    assert alone.layout != scene(7, replace(spec, split="test")).layout
    # draws have names: asking for words and defects moves nothing
    spoilt = scene(7, replace(spec, words=1.0, defects=1.0)).layout
    assert spoilt.things == alone.layout.things
    assert spoilt.word is not None
    assert spoilt.defect


def test_masks_boxes_and_depth_agree_with_the_layout() -> None:
    for i in range(40):
        made = scene(i, SceneSpec(size=64, objects=(2, 5), overlap=0.4))
        masks, depth = made.masks, made.depth
        assert masks.shape == (len(made.objects), 64, 64)
        assert masks.sum(axis=0).max() <= 1  # a pixel shows one object
        for k, (thing, box) in enumerate(zip(made.objects, made.boxes, strict=True)):
            assert np.array_equal(depth == k + 1, masks[k])
            assert masks[k].sum() > 0.1 * made.drawing.whole[k].sum()
            assert (made.drawing.whole[k] & ~masks[k] & (depth < k + 1)).sum() == 0  # only what is in front hides
            x0, y0, x1, y1 = box_of(made.drawing.whole[k])
            assert abs((x0 + x1) / 128 - thing.x) < 0.08
            assert abs((y0 + y1) / 128 - thing.y) < 0.08
            rows, columns = np.nonzero(masks[k])
            assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            inside = np.asarray(made.image)[masks[k]].astype(float).mean(axis=0)
            assert np.abs(inside - COLOURS[thing.colour]).max() < 45


def test_objects_keep_apart_and_sizes_differ() -> None:
    for i in range(30):
        things = scene(i, SceneSpec(objects=(3, 4))).objects
        for a in things:
            assert SIZES[a.size] * 0.9 < a.r < SIZES[a.size] * 1.1
            for b in things:
                if a is not b:
                    assert math.hypot(a.x - b.x, a.y - b.y) >= a.r + b.r - 1e-9
    crowded = scene(0, SceneSpec(size=64, objects=(10, 10)))
    assert all(mask.sum() > 20 for mask in crowded.masks)


def test_held_out_combinations() -> None:
    for split in ("train", "test", "held-out"):
        spec = SceneSpec(split=split, held_out=0.15)
        kept = {f"{c} {s}" for c, s in spec.kinds(held_out=True)}
        assert 4 <= len(kept) <= 20
        for i in range(150):
            made = scene(i, spec)
            shown = {f"{thing.colour} {thing.shape}" for thing in made.objects}
            assert bool(shown & kept) == (split == "held-out")
            if split != "held-out":
                for foil in made.foils:
                    assert not any(kind in foil.false.text for kind in kept)
    assert SceneSpec(held_out=0.15).kinds(held_out=True) == SceneSpec(held_out=0.15, seed=9).kinds(held_out=True)
    with pytest.raises(InputError, match="no combination"):
        SceneSpec(split="held-out", held_out=0.0)


# -- a reader of captions that shares nothing with the grammar -------------------------------------------------------


def _count(words: str, things: tuple[Thing, ...]) -> int:
    last = words.split()[-1]
    names = (
        {name: name for name in (*SHAPES, "object")} | {f"{n}s": n for n in (*SHAPES, "object")} | {"crosses": "cross"}
    )
    shape = names[last]
    colour = next((w for w in words.split() if w in COLOURS), None)
    size = next((w for w in words.split() if w in SIZES), None)
    return sum((shape in ("object", t.shape)) and colour in (None, t.colour) and size in (None, t.size) for t in things)


def reads_true(text: str, layout: Layout) -> bool:
    text = re.sub(r"^(a picture of|an image with) | in a picture$", "", text)
    if " with the word " in text:
        text, _, word = text.partition(" with the word ")
        if layout.word is None or word.strip('"') != layout.word.text:
            return False
    if " on a " in text:
        text, _, ground = text.partition(" on a ")
        if ground != f"{layout.texture} {layout.ground} ground":
            return False
    for relation, ahead in {
        "left of": "b.x - a.x",
        "right of": "a.x - b.x",
        "above": "b.y - a.y",
        "below": "a.y - b.y",
    }.items():
        if f" {relation} " in text:
            first, second = (re.sub(r"^an? ", "", part) for part in text.split(f" {relation} "))
            pairs = [(a, b) for a in layout.things for b in layout.things if a is not b]
            gap = {"b.x - a.x": lambda a, b: b.x - a.x, "a.x - b.x": lambda a, b: a.x - b.x}
            gap |= {"b.y - a.y": lambda a, b: b.y - a.y, "a.y - b.y": lambda a, b: a.y - b.y}
            return any(_count(first, (a,)) and _count(second, (b,)) and gap[ahead](a, b) > 0.12 for a, b in pairs)
    for part in re.split(", | and ", text):
        article, _, words = part.partition(" ")
        found = _count(words, layout.things)
        if (article in ("a", "an") and not found) or (article in NUMBERS and found != NUMBERS.index(article)):
            return False
    return True


def test_captions_are_true_and_foils_are_not() -> None:
    kinds = set()
    for i in range(120):
        made = scene(i, SceneSpec(objects=(1, 5), words=0.3, captions=6))
        texts = [caption.text for caption in made.captions]
        assert len(set(texts)) == 6
        for caption in made.captions:
            assert caption.statement.holds(made.layout), caption.text
            assert reads_true(caption.text, made.layout), caption.text
        for foil in made.foils:
            kinds.add(foil.kind)
            assert foil.true.text != foil.false.text
            assert reads_true(foil.true.text, made.layout), foil
            assert not reads_true(foil.false.text, made.layout), foil
            assert reads_true(foil.false.text, foil.layout), foil
            assert not reads_true(foil.true.text, foil.layout), foil
    assert len(kinds) == 6


def test_a_foil_is_rendered_from_the_same_ground() -> None:
    made = next(s for s in (scene(i, SceneSpec(size=48, objects=(2, 3))) for i in range(50)) if s.foils)
    before, after = np.asarray(made.image, int), np.asarray(render(made.foils[0].layout, 48), int)
    untouched = ~(draw(made.layout, 48).whole.any(axis=0) | draw(made.foils[0].layout, 48).whole.any(axis=0))
    near = np.abs(before - after).max(axis=2)
    assert near.max() > 60
    assert (near[untouched] > 60).mean() < 0.1  # at most the soft edges of objects


def test_grammar_by_hand() -> None:
    red, blue = Thing("circle", "red", "small", 0.2, 0.5, 0.1), Thing("cross", "blue", "large", 0.7, 0.5, 0.2)
    layout = Layout((red, blue, replace(blue, y=0.9)))
    assert Count(Noun("cross", "blue"), 2).text == "two blue crosses"
    assert Count(Noun("cross"), 2).holds(layout)
    assert not Count(Noun(), 2).holds(layout)
    assert Exists(Noun("circle", "orange")).text == "an orange circle"
    left = Relation(Noun("circle"), "left of", Noun("cross"))
    assert left.text == "a circle left of a cross"
    assert left.holds(layout)
    assert not left.turned().holds(layout)
    front = Relation(Noun("cross"), "in front of", Noun("circle"))
    assert not front.holds(layout)  # they do not touch
    assert front.holds(Layout((red, replace(blue, x=0.4))))
    assert not front.holds(Layout((replace(blue, x=0.4), red)))


def test_defects_and_words_have_masks() -> None:
    kinds = set()
    for i in range(40):
        spec = SceneSpec(size=64, defects=1.0)
        made = scene(i, spec)
        kinds.add(made.layout.defect)
        clean = np.asarray(render(replace(made.layout, defect=""), 64), int)
        changed = np.abs(clean - np.asarray(made.image, int)).max(axis=2) > 0
        assert made.drawing.defect.any()
        assert not (changed & ~made.drawing.defect).any()
    assert kinds == {"scratch", "stain", "hole", "speckle"}
    written = scene(0, SceneSpec(size=64, words=1.0))
    assert written.drawing.word.sum() > 20
    assert not (written.masks.any(axis=0) & written.drawing.word).any()


def test_scenes_as_pairs() -> None:
    pairs = Pairs.open("scenes:40?size=16&objects=1-2&label=kind&shapes=circle,star&held_out=0")
    assert len(pairs) == 40
    row = next(iter(pairs))
    made = scene(0, pairs.spec)  # type: ignore[attr-defined]
    assert row.captions == tuple(c.text for c in made.captions)
    assert len(row.boxes) == len(row.masks) == row.metadata["count"]
    assert row.label in pairs.classes
    assert len(pairs.classes) == 16
    batch = next(iter(Stream(pairs, 8, need=("image", "caption", "label", "boxes"))))
    assert [image.size for image in batch.samples] == [(16, 16)] * 8
    assert Pairs.open("scenes:8?size=16", split="test").name == "scenes/test"


@pytest.mark.parametrize(
    "text", ["scenes:8?colour=red", "scenes:x", "scenes:8?objects=3-1", "scenes:8?shapes=blob", "scenes:8?split=no"]
)
def test_bad_specs_are_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Pairs.open(text)
    assert "\n" not in str(caught.value)


def test_layouts_do_not_change_between_versions() -> None:
    """Fixtures of other tests and records of benchmarks are made of these."""
    things = lay_out(SceneSpec(), 4).things
    assert [(t.phrase, round(t.x, 6), round(t.y, 6)) for t in things] == GOLDEN


GOLDEN = [
    ("medium cyan diamond", 0.270095, 0.231731),
    ("large red heart", 0.686219, 0.321182),
    ("medium cyan star", 0.340873, 0.784869),
    ("medium red cross", 0.754731, 0.693124),
]
