"""Stage 6: every figure of the model on test rows, from the packaged files, printed and written as JSON.

Never run to choose a setting: those were chosen on training rows (``rows.keep_tuning``).
"""

from __future__ import annotations

import io
import json
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from binderclip.engine.calibration import Calibration
from binderclip.engine.encoder import Encoder
from binderclip.hub import native
from binderclip.model.clip import CLIP
from pocket import align, calibrate, card, figures, package
from pocket.figures import Encode, Space
from pocket.inputs import Paths, hash_order, is_test, save_json
from pocket.rows import concept_vectors
from pocket.synthetic import cut_outs, noun, pair, tint
from pocket.teacher import Lookup

GOALS = {
    "cifar10": 0.50, "cifar100": 0.50, "cifar100_unseen20": 0.45, "imagenet_photos_1000": 0.75, "stamps_recall5": 0.60,
    "parents_auroc": 0.85,
}  # fmt: skip
COLOURS = ("red", "yellow", "green", "blue", "purple")


def _cut_outs(paths: Paths, count: int) -> tuple[list[str], list[Image.Image]]:
    """Things and pictures of test stamps with short captions, each caption once, by digest."""
    by_caption = dict(cut_outs(paths, test=True))
    chosen = hash_order(list(by_caption))[:count]
    return [noun(c) for c in chosen], [by_caption[c] for c in chosen]


def two_objects(paths: Paths, encoder: Encoder, encode: Encode, count: int = 12) -> dict[str, float]:
    """Two cut-outs side by side, "A and B": is the page of A and B before three that exchange one or both?"""
    things, images = _cut_outs(paths, count)
    pairs = list(combinations(range(len(things)), 2))
    vectors = encoder.encode_image([pair(images[a], images[b]) for a, b in pairs])
    queries = encode([f"a {things[a]} and a {things[b]}" for a, b in pairs])
    scores = queries @ vectors.T  # [P, P]
    place = {pair: n for n, pair in enumerate(pairs)}
    rng, wins = np.random.default_rng(0), []
    for n, (a, b) in enumerate(pairs):
        others = [c for c in range(len(things)) if c not in (a, b)]
        for _ in range(4):
            c, d = rng.choice(others, 2, replace=False)
            rivals = [
                place[tuple(sorted((a, int(c))))],
                place[tuple(sorted((int(d), b)))],
                place[tuple(sorted((int(c), int(d))))],
            ]
            wins.append(scores[n, n] > scores[n, rivals].max())
    return {"accuracy": float(np.mean(wins)), "chance": 0.25, "queries": len(wins)}


def attributes(paths: Paths, encoder: Encoder, encode: Encode, count: int = 30) -> dict[str, float]:
    """One cut-out in five hues, "a red A": is the picture of that hue the best of the five?"""
    things, images = _cut_outs(paths, count)
    wins = []
    for thing, image in zip(things, images, strict=True):
        vectors = encoder.encode_image([tint(image, colour) for colour in COLOURS])
        scores = encode([f"a {colour} {thing}" for colour in COLOURS]) @ vectors.T  # [5, 5]
        wins += list(scores.argmax(1) == np.arange(len(COLOURS)))
    return {"accuracy": float(np.mean(wins)), "chance": 1 / len(COLOURS), "queries": len(wins)}


def pixels_agree(space: Space, encoder: Encoder, count: int = 24) -> float:
    """Smallest cosine between the graph on pictures and the head on cached features (fp16)."""
    rows = space.paths.table("imagenet1k_photos", ["id", "image"])[:count]
    got = encoder.encode_image([Image.open(io.BytesIO(r["image"])).convert("RGB") for r in rows])
    return float((got * space.images["imagenet1k_photos"][1][:count]).sum(1).min())


def _without_cifar10(paths: Paths, clip: CLIP) -> Space:
    """The model with the MLP that saw no picture of the ten names; the backbone's own training did see such."""
    other = package.assemble(
        paths, align.load_mlp(paths, "joint_without_cifar10"), clip.text, clip.image.head.concepts.detach()
    )
    return package.space_of(paths, other, ("cifar10",))


def main(paths: Paths) -> None:
    """Measure, print, write ``figures.json`` in the scratch folder and into the build record."""
    clip, look = native.load(paths.out), Lookup(paths)
    space = package.space_of(paths, clip)
    # The sentence encoder in the text tower's place, with the image side that was fitted to it.
    its = package.assemble(paths, align.load_mlp(paths, "align"), clip.text, concept_vectors(paths, look))
    teacher = Space(paths, package.space_of(paths, its).images, look)
    encoder = Encoder(str(paths.out))
    ours, theirs = figures.table(space, is_test), figures.table(teacher, is_test)
    # What the tower keeps is read on one image side, the one fitted to the sentence encoder.
    exchanged = figures.table(Space(paths, teacher.images, space.encode), is_test)
    keeps = {k: exchanged[k] / theirs[k] for k in theirs}
    mean_all, count_all = figures.parents(space, lambda _: True)
    out: dict[str, Any] = {
        "pocket": ours,
        "goals": GOALS,
        "sentence_encoder_as_text_tower": theirs,
        "text_tower_keeps": keeps,
        "text_tower_keeps_mean": float(np.mean(list(keeps.values()))),
        "cifar10_without_its_names": figures.cifar10(_without_cifar10(paths, clip), is_test),
        "parents": {"qualified": figures.parents(space, is_test)[1], "auroc_over_all_645": mean_all, "of": count_all},
        "stamps_recall5_reworded": {
            name: figures.stamps(each, is_test, form="can you find {} here")
            for name, each in (("pocket", space), ("sentence_encoder", teacher))
        },
        "two_objects": two_objects(paths, encoder, space.encode),
        "attributes": attributes(paths, encoder, space.encode),
        "calibration": calibrate.judge(space, Calibration.load(paths.out, dict(clip.config))),
        "pixels_against_cached_features_min_cosine": pixels_agree(space, encoder),
        "rows": {t: int(sum(map(is_test, ids))) for t, (ids, _) in space.images.items()},
    }
    save_json(paths.work / "figures.json", out)
    record = paths.out / "build_record.json"
    if record.is_file():
        save_json(record, json.loads(record.read_text(encoding="utf-8")) | {"figures": out})
    card.write(paths.out, out)
    for name, value in out.items():
        print(f"{name}: {_short(value)}", flush=True)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
