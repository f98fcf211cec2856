"""Openness: growth against computing anew, adversarial names by loops, REPE by hand."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data.hashing import Draws
from binderclip.data.templates import class_vectors
from binderclip.errors import InputError
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.geometry import alignment
from binderclip.evaluate.probes.openness import REPE, Openness, adversarial_names, captions_near, grow
from binderclip.evaluate.vectors import Vectors
from binderclip.figures import draw
from tests.evaluate.helpers import ColourEncoder, colours

pytestmark = pytest.mark.system("openness")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def planted(n: int = 400, C: int = 12, D: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    W = unit(rng.normal(size=(C, D)))
    y = rng.integers(0, C, n)
    X = unit(W[y] + 0.5 * rng.normal(size=(n, D)))
    return X, W, y, [np.arange(0, 3), np.arange(3, 5), np.arange(5, 9), np.arange(9, 12)]


def test_one_vocabulary() -> None:
    X, W, y, _ = planted()
    grown = grow(X @ W.T, y, [np.arange(12)], trials=2)
    assert grown.acc_e[0, 0] == grown.acc_c[0]
    assert np.isnan(grown.acc_s).all()
    data = colours(3)
    report = Openness(groups={"all": data.classes}).run(Vectors(ColourEncoder(noise=0.3)), Sets(data))
    assert report["acc_e"] == report["acc_c"]
    assert np.isnan(report["acc_s"])
    assert report.charts == ()


def test_stability_never_rises() -> None:
    X, W, y, groups = planted()
    grown = grow(X @ W.T, y, groups)
    assert len(grown.correct) == 12
    for (g, _), right in grown.correct.items():
        own = np.isin(y, groups[g])
        steps = np.diff(right[own].astype(int), axis=1)
        assert (steps <= 0).all()
        assert (steps < 0).any()
    assert (np.diff(grown.curve_s) <= 0).all()


def test_from_scratch() -> None:
    X, W, y, groups = planted()
    S = X @ W.T
    grown = grow(S, y, groups, trials=3, seed=7)
    for g in range(4):
        alone = [S[i, y[i]] > max(S[i, k] for k in groups[g] if k != y[i]) for i in range(len(y)) if y[i] in groups[g]]
        assert grown.acc_c[g] == np.mean(alone)
        for trial in range(3):
            order = [g, *Draws(7, f"{g}/{trial}").shuffled("order", [k for k in range(4) if k != g])]
            extend, stable = [], []
            for j in range(4):
                names = np.concatenate([groups[k] for k in order[: j + 1]])
                hits = {
                    i: S[i, y[i]] > max(S[i, k] for k in names if k != y[i]) for i in range(len(y)) if y[i] in names
                }
                extend.append(np.mean(list(hits.values())))
                by_class = [np.mean([hits[i] for i in hits if y[i] == k]) for k in groups[g]]
                stable.append(np.mean(by_class))
            assert grown.acc_e[g, trial] == np.mean(extend)
            assert grown.acc_s[g, trial] == np.mean(stable[1:])


def test_margins_fall_and_alignment_stays() -> None:
    X, W, y, groups = planted()
    grown = grow(X @ W.T, y, groups)
    assert (np.diff(grown.margins, axis=1) <= 0).all()
    assert (np.diff(np.median(grown.margins, axis=0)) <= 0).all()
    assert np.median(grown.margins[:, -1]) < np.median(grown.margins[:, 0])
    # the true pair's distance has no part in it: the same texts, whatever joins
    one = grow(X @ W.T, y, [np.arange(12)])
    np.testing.assert_array_equal(alignment(X, W[y]), alignment(X, W[np.array(y)]))
    np.testing.assert_array_equal(one.margins[:, 0], grown.margins[:, -1])  # all names joined: the same in the end


def test_adversarial_names() -> None:
    X, W, y, _ = planted()
    rng = np.random.default_rng(1)
    nouns = [f"noun {i % 10}{i}" for i in range(50)]
    V = unit(rng.normal(size=(50, 8)))
    found, union = adversarial_names(X, y, W, nouns, V, top=50)
    wanted = []
    for name, v in zip(nouns, V, strict=True):
        hits = [
            float(x @ W[k]) > max([float(x @ v)] + [float(x @ w) for c, w in enumerate(W) if c != k])
            for x, k in zip(X, y, strict=True)
        ]
        wanted.append((np.mean(hits), name))
    assert [(value, name) for name, value in found] == sorted(wanted)
    hits = [float(x @ W[k]) > max(float(x @ w) for w in (*V, *np.delete(W, k, 0))) for x, k in zip(X, y, strict=True)]
    assert union == np.mean(hits)
    # the own text of a class once more: every one of its items ties, and a tie is wrong
    (_, with_own), *_ = adversarial_names(X, y, W, ["again"], W[3:4], top=1)[0]
    before = np.array([(X[i] @ W.T).argmax() == y[i] for i in range(len(y))])
    others = (X @ W[3]) > (X * W[y]).sum(1)
    assert with_own == pytest.approx(np.mean(before & (y != 3) & ~others), abs=1e-12)
    with pytest.raises(InputError, match="at least one"):
        adversarial_names(X, y, W, [], V[:0])


def test_repe() -> None:
    encoder, names = ColourEncoder(noise=0.4), ["red", "blue", "green"]
    bank = {name: [f"a {name} thing {i}" for i in range(30)] + ["something else"] for name in names}

    def find(query: str, count: int) -> list[str]:
        return bank[query.split()[-1]][::-1][:count]

    for templates in ("plain", "photos"):
        plain = class_vectors(encoder, names, templates)
        np.testing.assert_allclose(REPE(find, lam=0).texts(encoder, names, templates), plain, atol=1e-6)
    # by hand, two templates, five captions that mention the class
    repe = REPE(find, lam=0.25, n=5).texts(encoder, names, ("a {}.", "the {}"))
    for row, name in zip(repe, names, strict=True):
        r = encoder.encode_text([f"a {name} thing {i}" for i in range(29, 24, -1)]).mean(0)
        both = [unit(0.75 * y + 0.25 * r) for y in encoder.encode_text([f"a {name}.", f"the {name}"])]
        np.testing.assert_allclose(row, unit(np.mean(both, axis=0)), atol=1e-6)
    # r = y: nothing changes at any lambda, nor where no caption mentions the class
    same = REPE(lambda query, count: [query.split()[-1]], lam=0.7).texts(encoder, names, "plain")
    np.testing.assert_allclose(same, class_vectors(encoder, names, "plain"), atol=1e-6)
    none = REPE(lambda query, count: ["a stone"], lam=0.7).texts(encoder, names, "plain")
    np.testing.assert_allclose(none, class_vectors(encoder, names, "plain"), atol=1e-6)
    raw = REPE(find, lam=0.5, renormalize=False).texts(encoder, names, "plain")
    norms = np.linalg.norm(raw, axis=1)
    assert (norms <= 1 + 1e-6).all()
    assert (norms < 0.99).any()
    with pytest.raises(InputError, match="0 to 1"):
        REPE(find, lam=1.5)


def test_captions_of_near_pictures() -> None:
    encoder, data = ColourEncoder(), colours(2)
    captions = [item.id for item in data.items]
    find = captions_near(encoder, encoder.encode_image([item.image for item in data.items]), captions)
    assert {text.split("/")[0] for text in find("a blue thing", 2)} == {"blue"}
    assert len(find("a blue thing", 5)) == 5


def test_the_probe() -> None:
    data = colours(6)
    groups = {"warm": ("red", "yellow"), "cold": ("blue", "green", "violet"), "again": ("Red", "grey")}
    report = Openness(groups=groups, nouns=("violet", "stone", "the red blue", "cloud"), top=2).run(
        Vectors(ColourEncoder(noise=0.3)), Sets(data)
    )
    assert report["acc_c"] >= report["acc_s"]
    assert report["drop_s"] == pytest.approx(report["acc_c"] - report["acc_s"])
    assert report["margin_alone"] >= report["margin_open"]
    assert report["adversarial_worst"] <= report["adversarial_before"]
    assert report["adversarial_top2_together"] <= report["adversarial_worst"]
    assert any("again: 1 names are in an earlier group" in note for note in report.notes)
    assert len(report.rows) == 36
    assert "extensibility" in draw(report.charts[0])
    for row in report.rows:
        assert row["correct_alone"] >= row["correct_open"]
    drawn = Openness().run(Vectors(ColourEncoder(noise=0.3)), Sets(data))
    assert "2 vocabularies were drawn" in drawn.notes[0]


def test_bad_input() -> None:
    data = colours(2)
    with pytest.raises(InputError, match="which is no class"):
        Openness(groups={"a": ("red", "mauve")}).run(Vectors(ColourEncoder()), Sets(data))
    with pytest.raises(InputError, match="at least one trial"):
        Openness(trials=0).run(Vectors(ColourEncoder()), Sets(data))
