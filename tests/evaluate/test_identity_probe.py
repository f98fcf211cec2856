"""The identity audit: chance, an oracle, scikit-learn, cloaks within their bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import binderclip
from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError
from binderclip.evaluate.cloak import cloak, jpeg
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.metrics.classification import true_ranks
from binderclip.evaluate.metrics.ranking import auroc
from binderclip.evaluate.metrics.verification import accept_threshold, equal_error, size_correlation, tar_at_far
from binderclip.evaluate.models import vectors_of
from binderclip.evaluate.probes.identity_probe import IdentityProbe, invented_names, poisoned_precision
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours

pytestmark = pytest.mark.system("identity_probe")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def table(X: np.ndarray, per: int, names: list[str] | None = None) -> tuple[Vectors, Sets]:
    """`per` pictures of each identity, known by their vectors alone."""
    C = len(X) // per
    items = tuple(Item(f"{i:05d}", labels=(i // per,)) for i in range(len(X)))
    data = Dataset("people", items, tuple(names or [f"person {k}" for k in range(C)]))
    encoder = ColourEncoder(fingerprint="x")
    return Vectors(encoder, images=Embeddings.from_arrays(data.ids, X, fingerprint="x")), Sets(data)


def test_random_vectors_are_chance() -> None:
    rng = np.random.default_rng(0)
    C, per = 40, 32
    X = unit(rng.normal(size=(C * per, 32)))
    vectors, sets = table(X, per)
    report = IdentityProbe(tests=("gallery", "verify"), counts=(10,)).run(vectors, sets)
    n = C * (per - 1)
    assert abs(report["rank1"] - 1 / C) <= 3 * np.sqrt(1 / C * (1 - 1 / C) / n)
    # by drawn pairs: 10,000 of each kind
    pairs = rng.integers(0, len(X), (10_000, 4))
    scores = np.concatenate([(X[pairs[:, 0]] * X[pairs[:, 1]]).sum(1), (X[pairs[:, 2]] * X[pairs[:, 3]]).sum(1)])
    kind = np.arange(20_000) < 10_000
    assert abs(auroc(scores, kind) - 0.5) <= 0.02
    assert abs(equal_error(scores, kind) - 0.5) <= 0.02
    genuine = next(m for m in report.metrics if m.name == "auc")
    assert genuine.n > 25_000  # 20 identities: 9,920 genuine pairs, 20,000 drawn impostor pairs
    assert abs(genuine.value - 0.5) <= 0.02
    assert abs(report["eer"] - 0.5) <= 0.02
    assert report["tar_at_far_0.01"] == pytest.approx(0.01, abs=0.006)


def test_an_oracle_knows_everybody() -> None:
    rng = np.random.default_rng(1)
    C, per = 120, 4
    centres = unit(rng.normal(size=(C, 64)))
    X = unit(np.repeat(centres, per, axis=0) + 0.03 * rng.normal(size=(C * per, 64)))
    vectors, sets = table(X, per)
    report = IdentityProbe(tests=("gallery", "verify", "index"), duplicate=1.1).run(vectors, sets)
    for name in ("rank1", "rank5", "rank1_of_means", "mAP", "rank1_C10", "rank1_C100", "dir_at_far_0.01"):
        assert report[name] == 1.0, name
    assert report["tar_at_far_0.001"] == 1.0
    assert report["auc"] == 1.0
    assert report["eer"] == 0.0
    assert report["index_p10_photo"] == pytest.approx(0.3)  # three others in the first ten
    assert report["index_leakage_photo"] == pytest.approx(0.3 - 3 / 479)
    assert any("no distractors" in note for note in report.notes)
    assert "person" not in str(report.to_json())  # ids only
    # the same pictures twice: left out
    doubled = IdentityProbe(tests=("gallery",)).run(*table(np.repeat(X[::2], 2, axis=0), 4))
    assert "240 near-duplicates" in doubled.notes[0]


def test_metrics_agree_with_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    kind = rng.random(10_000) < 0.3
    scores = np.round(rng.normal(size=10_000) + kind, 2)  # with ties
    false, true, _ = metrics.roc_curve(kind, scores, drop_intermediate=False)
    at = np.abs(false - (1 - true)).argmin()
    assert equal_error(scores, kind) == pytest.approx((false[at] + 1 - true[at]) / 2, abs=1e-9)
    for far in (1e-3, 1e-2, 0.1):
        assert tar_at_far(scores, kind, far) == pytest.approx(true[false <= far].max(), abs=1e-9)
    assert auroc(scores, kind) == pytest.approx(metrics.roc_auc_score(kind, scores), abs=1e-9)
    limit = accept_threshold(scores[~kind], 0.01)
    assert (scores[~kind] > limit).mean() <= 0.01
    assert (scores[~kind] >= limit).mean() > 0.01


def test_permuted_names_are_chance() -> None:
    rng = np.random.default_rng(3)
    C, per = 20, 6
    centres = unit(rng.normal(size=(C, 16)) + 1.0)  # clustered
    X = unit(np.repeat(centres, per, axis=0) + 0.3 * rng.normal(size=(C * per, 16)))
    y, scores = np.repeat(range(C), per), []
    for seed in range(50):
        W = centres[np.random.default_rng(seed).permutation(C)]
        scores.append(float((true_ranks(X @ W.T, y) < 1).mean()))
    error = np.std(scores, ddof=1) / np.sqrt(50)
    assert abs(np.mean(scores) - 1 / C) <= 3 * error
    assert (true_ranks(X @ centres.T, y) < 1).mean() > 0.5  # there is something to permute


def test_names_need_consent() -> None:
    data = colours(6)
    sets, probe = (
        Sets(data, outliers=colours(2, start=50, name="others")),
        IdentityProbe(tests=("name", "gallery", "index"), duplicate=0.9999, counts=(4,)),
    )
    sets = replace(
        sets, outliers=replace(sets.outliers, items=tuple(replace(i, id=f"o/{i.id}") for i in sets.outliers.items))
    )
    encoder = ColourEncoder(noise=0.1)
    closed = probe.run(Vectors(encoder), sets)
    assert encoder.sentences == 0
    assert any("consent=true" in note for note in closed.notes)
    opened = replace(probe, consent=True).run(Vectors(encoder), sets)
    assert opened["name_acc1_C4"] > 0.9  # the toy model knows these "names"
    assert opened["name_chance_C4"] == 0.25
    assert opened["invented_acc1_C4"] < 0.6
    assert opened["index_p10_name"] > 0.5
    assert opened["rank1"] > 0.6


def test_invented_names() -> None:
    names = invented_names(300)
    assert len(set(names)) == 300
    assert all(len(name.split()) == 2 for name in names)
    assert names[:10] == invented_names(10)


def test_groups() -> None:
    data = colours(6)
    items = tuple(replace(item, group="ab"[n % 2]) for n, item in enumerate(data.items))
    report = IdentityProbe(tests=("gallery",), duplicate=0.9999).run(
        Vectors(ColourEncoder(noise=0.1)), Sets(replace(data, items=items))
    )
    counts = {m.name: m.n for m in report.metrics}
    assert counts["rank1_a"] + counts["rank1_b"] == counts["rank1"]


def test_poisoned_captions() -> None:
    E = np.eye(3, dtype=np.float32)
    captions, owner = np.repeat(E[:2], 20, axis=0), [0] * 20 + [1] * 20
    assert poisoned_precision(captions, owner, E[0], 0, 1, 0.0) == 0.0
    assert poisoned_precision(captions, owner, E[0], 0, 1, 1.0) == 1.0
    assert 0.2 < poisoned_precision(captions, owner, E[0], 0, 1, 0.5, k=20) < 0.8


def test_sizes() -> None:
    assert size_correlation([1, 5, 9], [0.1, 0.3, 0.2]) == pytest.approx(0.5)
    assert size_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


@pytest.fixture(scope="module")
def clip() -> object:
    return binderclip.load("pocket").eval()


def photo(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((80, 60), Image.Resampling.BICUBIC)


def test_cloaks_keep_their_bound(clip: object) -> None:
    image = photo()
    vectors = vectors_of(clip)
    target = vectors.images([Item("t", photo(5))])[0]
    before = np.asarray(image, int)
    assert (np.asarray(cloak(clip, image, target, eps=0, steps=2), int) == before).all()
    made = cloak(clip, image, target, eps=8 / 255, steps=6, smooth=1.0, perceptual=lambda x, y: ((x - y) ** 2).mean())
    change = np.abs(np.asarray(made, int) - before) / 255
    assert change.max() <= 8 / 255 + 1e-7
    assert change.max() > 4 / 255
    near = [float(vectors.images([Item("o", one)])[0] @ target) for one in (image, made)]
    assert near[1] > near[0]
    assert made.size == jpeg(made).size == image.size
    assert all(p.grad is None for p in clip.parameters())
    with pytest.raises(InputError, match="0 or more"):
        cloak(clip, image, target, eps=-1)


def test_the_probe_cloaks(clip: object) -> None:
    items = tuple(
        Item(f"{k}/{n}", photo(k).rotate(4 * n, Image.Resampling.BICUBIC), (k,)) for k in range(3) for n in range(2)
    )
    data = Dataset("photos", items, ("a", "b", "c"))
    report = IdentityProbe(tests=("cloak",), steps=1, most=2, duplicate=1.1).run(vectors_of(clip), Sets(data))
    assert [m.name for m in report.metrics] == [
        f"cloak_{name}_rank1" for name in ("clean", "queries", "queries_jpeg75", "enrolled")
    ]
    plain = IdentityProbe(tests=("cloak",), duplicate=1.1).run(Vectors(ColourEncoder(noise=0.3)), Sets(colours(3)))
    assert any("need gradients" in note for note in plain.notes)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="more than 6 different pictures"):
        IdentityProbe(shots=6).run(Vectors(ColourEncoder(noise=0.3)), Sets(colours(6)))
    with pytest.raises(InputError, match="only one kind of pair"):
        equal_error([0.1, 0.2], [True, True])
