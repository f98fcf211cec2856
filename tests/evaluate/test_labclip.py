"""LABCLIP: oracles whose binding is known, the split, the loss by loops, the map inside a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import binderclip
from binderclip.data.embeddings import Embeddings
from binderclip.data.scenes import SceneSpec
from binderclip.errors import InputError
from binderclip.evaluate import probes
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.labclip import (
    LABCLIP,
    BindingProbe,
    Bound,
    binding_accuracy,
    bound_loss,
    bound_scenes,
    strict_accuracy,
)
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder

pytestmark = pytest.mark.system("labclip")

ATTRIBUTES = [f"a{i}" for i in range(8)]
OBJECTS = [f"o{i}" for i in range(8)]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def haar(D: int, seed: int) -> np.ndarray:
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
    return Q * np.sign(np.diag(R))


def oracle_scenes(count: int, seed: int) -> list[Bound]:
    """Two objects of different kinds with different attributes."""
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        a, o = rng.permutation(8)[:2], rng.permutation(8)[:2]
        out.append(Bound(str(i), tuple((ATTRIBUTES[x], OBJECTS[y]) for x, y in zip(a, o, strict=True))))
    return out


def codes(scenes: list[Bound], E_a: np.ndarray, E_o: np.ndarray, *, swap: bool = False) -> np.ndarray:
    """Normalised sums of outer(a, o): the ideal image."""
    rows = []
    for one in scenes:
        (a, o), (b, p) = one.pairs
        both = [(b, o), (a, p)] if swap else [(a, o), (b, p)]
        rows.append(sum(np.outer(E_a[int(x[1:])], E_o[int(y[1:])]).ravel() for x, y in both))
    return unit(np.array(rows))


def test_identity_is_clip() -> None:
    rng = np.random.default_rng(0)
    X, T = unit(rng.normal(size=(20, 12))), unit(rng.normal(size=(20, 12)))
    made = LABCLIP(epochs=0).fit(X, T, T[::-1])
    np.testing.assert_allclose(X @ made.transform(T).T, X @ T.T, atol=1e-6)
    clip = binderclip.load("pocket")
    D = clip.embed_dim
    still = LABCLIP(epochs=0).fit(np.eye(D, dtype=np.float32), np.eye(D, dtype=np.float32))
    words = ["a red cube", "a dog on a sofa"]
    with torch.no_grad():
        torch.testing.assert_close(still.apply(clip).encode_text(words), clip.encode_text(words), atol=1e-6, rtol=0)


def test_only_the_matrix_learns() -> None:
    rng = np.random.default_rng(0)
    X, T, W = (torch.from_numpy(unit(rng.normal(size=(6, 5)))) for _ in range(3))
    A = torch.eye(5, requires_grad=True)
    loss = bound_loss(A, X, T, W, scale=20.0)
    loss.backward()
    assert A.grad is not None
    assert A.grad.abs().min() > 0
    assert A.numel() == 25
    assert not any(side.requires_grad for side in (X, T, W))
    # by loops
    total = 0.0
    for i in range(6):
        over_texts = [20 * float(X[i] @ t) for t in (*T, *W)]
        over_images = [20 * float(x @ T[i]) for x in X]
        total += np.log(np.exp(over_texts).sum()) - over_texts[i] + np.log(np.exp(over_images).sum()) - over_images[i]
    assert float(loss.detach()) == pytest.approx(total / 12, abs=1e-5)


def test_a_rotation_is_undone() -> None:
    E, learn, test = np.eye(8), oracle_scenes(4096, 0), oracle_scenes(1000, 1)
    assert {p for s in test for p in s.pairs} <= {p for s in learn for p in s.pairs}
    x, x_test = codes(learn, E, E), codes(test, E, E)
    wrong, wrong_test = codes(learn, E, E, swap=True), codes(test, E, E, swap=True)
    before = [
        strict_accuracy(x_test, unit(x_test @ R.T), unit(wrong_test @ R.T)) for R in (haar(64, s) for s in range(20))
    ]
    assert abs(before[0] - 0.5) <= 0.15
    assert abs(np.mean(before) - 0.5) <= 0.04
    R = haar(64, 0)
    made = LABCLIP(lr=3e-3, epochs=25, batch=512).fit(x, unit(x @ R.T), unit(wrong @ R.T))
    assert made.score(x_test, unit(x_test @ R.T), unit(wrong_test @ R.T)) > 0.95


def test_pairs_never_seen() -> None:
    rng = np.random.default_rng(3)
    E_a, E_o = rng.normal(size=(8, 4)), rng.normal(size=(8, 4))
    scenes = oracle_scenes(9000, 2)
    away = {(ATTRIBUTES[i], OBJECTS[(3 * i + j) % 8]) for i in range(8) for j in (0,)}
    learn = [s for s in scenes if not away & set(s.pairs)]
    test = [s for s in scenes if away & set(s.pairs)]
    R = haar(16, 1)
    sides = [codes(learn, E_a, E_o), codes(learn, E_a, E_o) @ R.T, codes(learn, E_a, E_o, swap=True) @ R.T]
    made = LABCLIP(lr=3e-3, epochs=25).fit(*map(unit, sides))
    sides = [codes(test, E_a, E_o), codes(test, E_a, E_o) @ R.T, codes(test, E_a, E_o, swap=True) @ R.T]
    assert len(test) > 1000
    assert made.score(*map(unit, sides)) > 0.9


def test_a_bag_stays_a_bag() -> None:
    scenes = oracle_scenes(6000, 4)
    rows = np.zeros((len(scenes), 16))
    for row, one in zip(rows, scenes, strict=True):
        for a, o in one.pairs:
            row[int(a[1:])] += 1
            row[8 + int(o[1:])] += 1
    bag = unit(rows)  # the swapped text has the same vector
    assert strict_accuracy(bag, bag, bag) == 0
    made = LABCLIP(lr=3e-3, epochs=3).fit(bag, bag, bag)
    assert np.abs(made.A - np.eye(16)).max() > 1e-3
    assert made.score(bag, bag, bag) == 0
    hits = binding_accuracy(bag, scenes)
    accuracy = np.mean([h.mean() for h in hits.values()])
    assert 0.4 < accuracy <= 0.53
    # one that binds is far above the ceiling
    bound = binding_accuracy(codes(scenes, np.eye(8), np.eye(8)), scenes)
    assert np.mean([h.mean() for h in bound.values()]) > 0.95


def test_combinations_are_on_one_side() -> None:
    scenes = oracle_scenes(500, 5)
    twin = [Bound(f"t{s.id}", s.pairs[::-1]) for s in scenes]
    assert [s.key for s in scenes] == [s.key for s in twin]
    swapped = Bound("s", (("blue", "cube"), ("red", "ring")))
    assert swapped.key == Bound("t", (("red", "cube"), ("blue", "ring"))).key  # a bag cannot tell them apart
    # what is remembered of a combination is of no use: it is never both learnt from and measured on
    rng = np.random.default_rng(0)
    by_key = {key: rng.normal(size=40) for key in sorted({s.key for s in scenes})}
    X = unit(np.array([by_key[s.key] for s in scenes]))
    hits = binding_accuracy(np.concatenate([X, X]), scenes + twin)
    assert np.mean(np.concatenate(list(hits.values()))) < 0.3


def test_captions() -> None:
    one = Bound("x", (("red", "cube"), ("blue", "ring"), ("orange", "star")))
    said = one.captions()
    assert len(set(said)) == 6
    for word in ("cube", "ring", "star"):
        assert len({text.split().index(word) for text in said}) == 1
    assert any("an orange" in text for text in said)
    first = {Bound(str(i), (("red", "cube"), ("blue", "ring"))).captions()[0] for i in range(20)}
    assert first == {"a red cube and a blue ring", "a blue ring and a red cube"}
    a, b = Bound("1", (("red", "cube"), ("blue", "ring"))).captions()
    assert {a.replace("red", "?").replace("blue", "red").replace("?", "blue")} == {b}


def test_the_probe_on_scenes() -> None:
    scenes = bound_scenes(160, SceneSpec(objects=(2, 2), alike=0.0, size=16, colours=("red", "green", "blue", "yellow"),
                                         shapes=("circle", "square", "star"), textures=("plain",)))  # fmt: skip
    assert all(len({p[0] for p in s.pairs}) == len({p[1] for p in s.pairs}) == 2 for s in scenes)
    report = BindingProbe().run(ColourEncoder(), scenes)
    assert report["bag_ceiling"] == 0.5
    assert report["chance"] == 0.25
    assert report["cross_accuracy"] == 0.0  # a text is the mean of its colours: a bag
    assert report["cross_ties"] == 1.0
    assert report["retrieval_accuracy"] == 0.0
    assert report["text_binding"] < 0.7
    assert len(report.rows) == 160
    assert not report.rows[0]["correct"]
    with pytest.raises(InputError, match="2 objects each"):
        BindingProbe().run(ColourEncoder(), [Bound("a", (("red", "cube"),))])


def test_the_map_inside_a_model(tmp_path: Path) -> None:
    clip = binderclip.load("pocket")
    words = ["a red cube and a blue ring", "a dog", "the sea"]
    with torch.no_grad():
        T = clip.encode_text(words).numpy()
        A = np.random.default_rng(0).normal(size=(clip.embed_dim, clip.embed_dim)).astype(np.float32)
        made = LABCLIP()
        made.A = A
        twin = made.apply(clip)
        np.testing.assert_allclose(twin.encode_text(words).numpy(), made.transform(T), atol=1e-5)
        np.testing.assert_allclose(clip.encode_text(words).numpy(), T, atol=1e-6)  # the original is as it was
        from binderclip.hub import native

        again = native.load(native.save(twin, tmp_path / "mapped"))
        np.testing.assert_allclose(again.encode_text(words).numpy(), made.transform(T), atol=1e-5)


def test_the_best_epoch_is_kept() -> None:
    scenes = oracle_scenes(600, 6)
    E, R = np.eye(8), haar(64, 2)
    x, wrong = codes(scenes, E, E), codes(scenes, E, E, swap=True)
    sides = (x, unit(x @ R.T), unit(wrong @ R.T))
    held = tuple(side[:100] for side in sides)
    scores = [LABCLIP(lr=3e-2, epochs=n, seed=1).fit(*sides).score(*held) for n in range(1, 5)]
    kept = LABCLIP(lr=3e-2, epochs=4, seed=1).fit(*sides, validation=held).score(*held)
    assert kept == max(scores)
    learned = LABCLIP(epochs=1, scale="learned").fit(*sides)
    fixed = LABCLIP(epochs=1).fit(*sides)
    assert not np.array_equal(learned.A, fixed.A)


def test_bad_input() -> None:
    X = np.eye(4, dtype=np.float32)
    with pytest.raises(InputError, match=r"give \[n, D\] of each"):
        LABCLIP().fit(X, X[:3])
    with pytest.raises(InputError, match="identity or random"):
        LABCLIP(init="zeros")
    with pytest.raises(InputError, match="call fit first"):
        LABCLIP().transform(X)
    with pytest.raises(InputError, match="too few scenes"):
        binding_accuracy(X[:1], [Bound("a", (("red", "cube"), ("blue", "ring")))])
    with pytest.raises(InputError, match="never have 3"):
        bound_scenes(1, SceneSpec(objects=(1, 2)), 3)


def test_the_probe_on_hard_negatives_of_ones_own() -> None:
    scenes = oracle_scenes(700, 8)
    E, R = np.eye(8), haar(64, 3)
    x, wrong = codes(scenes, E, E), codes(scenes, E, E, swap=True)
    known = {}
    for one, t, w in zip(scenes, unit(x @ R.T), unit(wrong @ R.T), strict=True):
        (a, o), (b, p) = one.pairs
        known[f"{a} {o} and {b} {p}"], known[f"{b} {o} and {a} {p}"] = t, w

    class Table:
        name, fingerprint, logit_scale = "table", "t", 100.0

        def encode_image(self, images: object) -> np.ndarray:
            raise AssertionError("vectors are given")

        def encode_text(self, texts: list[str]) -> np.ndarray:
            return np.array([known[text] for text in texts])

    items = tuple(
        Item(s.id, captions=(f"{a} {o} and {b} {p}",), negatives=(f"{b} {o} and {a} {p}",))
        for s in scenes
        for (a, o), (b, p) in [s.pairs]
    )
    data = Dataset("d", (*items, Item("bare", captions=("nothing",))))
    given = Embeddings.from_arrays([*(s.id for s in scenes), "bare"], np.concatenate([x, x[:1]]), fingerprint="t")
    report = probes.load("binding", lr=3e-3, epochs=60, batch=128).run(Vectors(Table(), images=given), Sets(data))
    assert report["accuracy_clip"] < 0.65
    assert report["accuracy_labclip"] > 0.9
    assert report["gain"] == pytest.approx(report["accuracy_labclip"] - report["accuracy_clip"])
    assert report["recall1_labclip"] >= report["recall1_clip"]
    assert len(report.rows) == report.metrics[0].n < 200
    with pytest.raises(InputError, match="no hard negatives"):
        probes.load("binding").run(Vectors(Table(), images=given), Sets(Dataset("d", data.items[-1:])))
