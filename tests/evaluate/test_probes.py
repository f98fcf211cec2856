"""The probes on a model that knows colours: each number against an oracle or a closed form, and what bad data are told."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError, UnknownNameError
from binderclip.evaluate import probes
from binderclip.evaluate.base import Probe, Report
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.linear import adamw, gradient, lbfgs
from binderclip.evaluate.metrics.calibration import softmax
from binderclip.evaluate.probes.knn import centroid_scores, neighbours, plain_votes, weighted_votes
from binderclip.evaluate.probes.linear_probe import GRID, sweep
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import COLOURS, ColourEncoder, colours


def measure(name: str, sets: Sets | Dataset, encoder: ColourEncoder | None = None, **options: object) -> Report:
    sets = sets if isinstance(sets, Sets) else Sets(sets)
    return probes.load(name, **options).run(Vectors(encoder or ColourEncoder(noise=0.3)), sets)


def test_every_probe_is_found_by_its_name() -> None:
    found = probes.names()
    assert len(found) >= 7
    for name in found:
        probe = probes.load(name)
        assert isinstance(probe, Probe)
        assert probes.name_of(probe) == name.replace("-", "_")
    with pytest.raises(UnknownNameError, match="did you mean zero-shot"):
        probes.load("zero-shots")


# -- zero-shot -----------------------------------------------------------------------------------------------------------


def test_zero_shot_equals_scikit_learn() -> None:
    data = colours(12)
    report = measure("zero-shot", data)
    y = np.repeat(range(6), 12)
    predicted = [list(COLOURS).index(row["prediction"]) for row in report.rows]
    assert 0.3 < report["acc1"] < 1
    assert report["acc1"] == pytest.approx(sk.accuracy_score(y, predicted), abs=1e-8)
    assert report["mean_per_class_recall"] == pytest.approx(sk.balanced_accuracy_score(y, predicted), abs=1e-8)
    assert report["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"), abs=1e-8)
    assert set(report.standard["metrics"]) == {"acc1", "acc5", "mean_per_class_recall"}
    assert all(m.low <= m.value <= m.high for m in report.metrics if m.low is not None)
    assert [m.n for m in report.metrics] == [72] * 4
    assert np.sum(report.charts[0]["counts"]) == 72
    assert all(row["label"] in COLOURS for row in report.rows)


def test_a_perfect_model_is_right_and_a_permutation_changes_nothing() -> None:
    data = colours(4)
    perfect = measure("zero-shot", data, ColourEncoder())
    assert perfect["acc1"] == 1.0
    assert perfect.examples == ()
    order = [3, 1, 5, 0, 2, 4]
    items = tuple(replace(item, labels=(order.index(item.labels[0]),)) for item in data.items)
    turned = Dataset(data.name, items, tuple(data.classes[k] for k in order))
    noisy = ColourEncoder(noise=0.3)
    one, other = measure("zero-shot", data, noisy), measure("zero-shot", turned, noisy)
    assert [row["prediction"] for row in one.rows] == [row["prediction"] for row in other.rows]


def test_templates_are_averaged() -> None:
    data, encoder = colours(2), ColourEncoder(noise=0.2)
    single = measure("zero-shot", data, encoder, templates="a photo of a {}.")
    raw = encoder.encode_text([f"a photo of a {c}." for c in data.classes])
    expected = softmax(20.0 * (Vectors(encoder).images(data.items) @ raw.T).astype(float)).max(1)
    np.testing.assert_allclose([row["confidence"] for row in single.rows], expected, atol=1e-6)
    many = measure("zero-shot", data, encoder, templates=("a photo of a {}.", "a drawing of the {}."))
    assert many.rows[0]["confidence"] != single.rows[0]["confidence"]


def test_few_classes_have_no_top_five() -> None:
    data = colours(2)
    two = Dataset("two", tuple(item for item in data.items if item.labels[0] < 2), data.classes[:2])
    assert math.isnan(measure("zero-shot", two)["acc5"])


def test_several_labels_give_mean_average_precision() -> None:
    data = colours(4)
    items = tuple(
        replace(i, labels=(*i.labels, 5)) if n % 3 == 0 and i.labels != (5,) else i for n, i in enumerate(data.items)
    )
    encoder = ColourEncoder(noise=0.3)
    report = measure("zero-shot", Dataset("many", items, data.classes), encoder)
    vectors = Vectors(encoder)
    scores = vectors.images(items) @ vectors.classes(data, "photos").T
    targets = np.array([[k in item.labels for k in range(6)] for item in items])
    expected = sk.average_precision_score(targets, scores, average="macro")
    assert report["mean_average_precision"] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Dataset("bare", (Item("a", b"x"),)), "bare has no labels"),
        (Dataset("one", (Item("a", b"x", (0,)),), ("red",)), "one class only"),
        (Dataset("numbers", (Item("a", b"x", (0,)),), ("0", "1"), named=False), "give the class names"),
    ],
)
def test_bad_data_is_one_clear_line(data: Dataset, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure("zero-shot", data)


def test_bad_names_and_labels() -> None:
    with pytest.raises(InputError, match="given twice: 'red'"):
        Dataset("twice", (), ("red", "blue", "red"))
    with pytest.raises(InputError, match="label 2 of 'a' is out of range: there are 2 class names, numbered 0 to 1"):
        Dataset("range", (Item("a", b"x", (2,)),), ("red", "blue"))
    with pytest.raises(InputError, match="the id 'a' comes twice"):
        Dataset("ids", (Item("a"), Item("a")))


# -- retrieval -----------------------------------------------------------------------------------------------------------


def test_retrieval_equals_a_slow_search() -> None:
    data, encoder = colours(5, captions=2), ColourEncoder(noise=0.05)
    report = measure("retrieval", data, encoder)
    vectors = Vectors(encoder)
    X = vectors.images(data.items)
    Y = vectors.texts([text for item in data.items for text in item.captions])
    S = Y @ X.T
    owner = np.repeat(range(30), 2)
    for k in (1, 5, 10):
        forward = np.mean([owner[t] in np.argsort(-S[t])[:k] for t in range(60)])
        backward = np.mean([i in owner[np.argsort(-S[:, i])[:k]] for i in range(30)])
        assert report[f"text_to_image_recall@{k}"] == pytest.approx(forward, abs=1e-8)
        assert report[f"image_to_text_recall@{k}"] == pytest.approx(backward, abs=1e-8)
        assert report[f"image_retrieval_recall@{k}"] == pytest.approx(forward, abs=1e-8)
        assert report[f"text_retrieval_recall@{k}"] == pytest.approx(backward, abs=1e-8)
    recalls = [m.value for m in report.metrics[:6]]
    assert report["rsum"] == pytest.approx(100 * sum(recalls))
    relevant = owner[:, None] == np.arange(30)
    assert report["text_to_image_ndcg@10"] == pytest.approx(sk.ndcg_score(relevant, S, k=10), abs=1e-8)
    assert report["image_to_text_ndcg@10"] == pytest.approx(sk.ndcg_score(relevant.T, S.T, k=10), abs=1e-8)
    assert len(report.rows) == 60


def test_ties_count_in_the_reference_key_only() -> None:
    data = colours(2)
    same = tuple(replace(item, captions=(f"a {data.classes[item.labels[0]]}",)) for item in data.items)
    blind = Embeddings.from_arrays([i.id for i in same], np.ones((12, 8)), fingerprint="c0")
    report = probes.load("retrieval").run(
        Vectors(ColourEncoder(), images=blind), Sets(Dataset("tied", same, data.classes))
    )
    assert report["text_to_image_recall@1"] == 0.0
    assert report["image_retrieval_recall@1"] == 1.0
    assert report["text_to_image_median_rank"] == 6.5


def test_retrieval_needs_captions() -> None:
    with pytest.raises(InputError, match="0 pictures with a caption"):
        measure("retrieval", colours(2))


# -- linear probe and neighbours -----------------------------------------------------------------------------------------


def test_linear_probe_is_scikit_learns_fit() -> None:
    train, test, encoder = colours(8, start=50, name="train"), colours(4), ColourEncoder(noise=0.2)
    report = measure("linear-probe", Sets(test, train), encoder, weight_decay=1e-3)
    vectors = Vectors(encoder)
    y = np.repeat(range(6), 8)
    model = LogisticRegression(C=1 / (1e-3 * 48), max_iter=1000).fit(vectors.images(train.items), y)
    expected = model.score(vectors.images(test.items), np.repeat(range(6), 4))
    assert report["acc1"] == pytest.approx(expected, abs=1e-8)
    assert report["weight_decay"] == 1e-3


def test_linear_probe_sweeps_on_validation_only() -> None:
    data = colours(10)
    easy = measure("linear-probe", data, ColourEncoder())
    assert easy["acc1"] == 1.0
    assert any("kept aside" in note for note in easy.notes)
    assert any("by the hash of their ids" in note for note in easy.notes)
    shots = measure("linear-probe", Sets(data, colours(6, start=50)), ColourEncoder(), shots=2, weight_decay=1e-4)
    assert "learnt from 12 rows" in shots.notes
    with pytest.raises(InputError, match="fewer than 7 shots"):
        measure("linear-probe", Sets(data, colours(6, start=50)), ColourEncoder(), shots=7)


def test_the_sweep_finds_the_best_in_fifteen_tries() -> None:
    calls = []

    def score(decay: float) -> float:
        calls.append(decay)
        return -abs(math.log10(decay) - math.log10(GRID[37]))

    best, tried = sweep(score)
    assert best == GRID[37]
    assert len(calls) == len(set(calls)) == len(tried) <= 15
    assert sweep(lambda decay: 0.0)[0] == GRID[0]  # ties: the first that was tried


def test_a_class_without_training_rows_is_never_predicted() -> None:
    rng = np.random.default_rng(0)
    B, y = rng.normal(size=(20, 4)), np.repeat([0, 2], 10)
    scores, _ = lbfgs(B, y, B, 1e-3, 3)
    assert (scores[:, 1] == -np.inf).all()
    assert (scores.argmax(1) == LogisticRegression(C=1 / (1e-3 * 20)).fit(B, y).predict(B)).all()


def test_adamw_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    B, y = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    W, b = adamw(B, y, 3, 0.02, batch=16, epochs=3, seed=4)
    same = np.random.default_rng(4)
    w = torch.nn.Parameter(torch.from_numpy(same.uniform(-1.0, 1.0, (3, 6)) / math.sqrt(5)))
    optimizer = torch.optim.AdamW([w], lr=0.1, weight_decay=0.02)
    x, target = torch.from_numpy(np.c_[B, np.ones(50)]), torch.from_numpy(y)
    step = 0
    for _ in range(3):
        order = same.permutation(50)
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 12))
            step += 1
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(x[rows] @ w.T, target[rows]).backward()
            optimizer.step()
    np.testing.assert_allclose(np.c_[W, b], w.detach().numpy(), atol=1e-8)
    assert gradient(np.c_[W, b], np.c_[B, np.ones(50)], y).shape == (3, 6)


def test_the_probe_learns_with_adamw_too() -> None:
    rng, y = np.random.default_rng(3), np.arange(800) % 4
    x = np.eye(4)[y] + 0.1 * rng.normal(size=(800, 4))  # four blobs, far apart: enough rows for ten epochs to do
    table = Embeddings.from_arrays([f"r{i}" for i in range(800)], x, labels=[f"class {k}" for k in y])
    sets = Sets(Dataset.from_embeddings(table))
    report = probes.load("linear-probe", solver="adamw", weight_decay=0.0).run(Vectors(None, images=table), sets)
    assert report["acc1"] == 1.0
    mixed = Embeddings.from_arrays(table.ids, x, labels=rng.permutation(table.labels))
    sets = Sets(Dataset.from_embeddings(mixed))
    chance = probes.load("linear-probe", weight_decay=1e-2).run(Vectors(None, images=mixed), sets)
    assert chance["acc1"] == pytest.approx(0.25, abs=3 * math.sqrt(0.1875 / chance.metrics[0].n))
    data = colours(10)
    with pytest.raises(InputError, match="no solver is called 'sgd'"):
        measure("linear-probe", data, ColourEncoder(), solver="sgd")


def test_knn_by_loops() -> None:
    rng = np.random.default_rng(1)
    B, X = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    B, X = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (B, X))
    y = rng.integers(0, 4, 50)
    near, cosines = neighbours(X, B, 7, chunk=6)
    votes, weights = plain_votes(y[near], 4), weighted_votes(y[near], cosines, 4)
    for i in range(20):
        order = sorted(range(50), key=lambda j: -float(X[i] @ B[j]))[:7]
        assert near[i].tolist() == order
        slow = [sum(math.exp(float(X[i] @ B[j]) / 0.07) for j in order if y[j] == c) for c in range(4)]
        np.testing.assert_allclose(weights[i] / weights[i].sum(), np.array(slow) / sum(slow), atol=1e-9)
        counts = [sum(y[j] == c for j in order) for c in range(4)]
        tied = [c for c in range(4) if counts[c] == max(counts)]
        nearest = next(int(y[j]) for j in order if y[j] in tied)
        assert votes[i].argmax() == nearest
    means = np.stack([B[y == c].mean(0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(centroid_scores(X, B, y, 4), X @ means.T, atol=1e-12)


def test_knn_leaves_the_item_itself_out() -> None:
    data, encoder = colours(3), ColourEncoder(noise=0.4)
    X = Vectors(encoder).images(data.items)
    alone, _ = neighbours(X, X, 1, own=np.arange(len(X)))
    assert (alone[:, 0] != np.arange(len(X))).all()
    assert (neighbours(X, X, 1)[0][:, 0] == np.arange(len(X))).all()
    report = measure("knn", Sets(data, data), encoder, k=2)
    y, near = np.repeat(range(6), 3), neighbours(X, X, 2, own=np.arange(18))[0]
    assert report["plain1_acc1"] == pytest.approx((y[near[:, 0]] == y).mean())
    assert measure("knn", Sets(data, data), ColourEncoder())["centroid_acc1"] == 1.0


# -- calibration, outliers, geometry -------------------------------------------------------------------------------------


def test_calibration_uses_the_models_own_scale() -> None:
    data, encoder = colours(12), ColourEncoder(noise=0.3)
    report = measure("calibration", data, encoder)
    vectors = Vectors(encoder)
    p = softmax(20.0 * (vectors.images(data.items) @ vectors.classes(data, "photos").T).astype(float))
    y = np.repeat(range(6), 12)
    assert report["nll"] == pytest.approx(sk.log_loss(y, p, labels=range(6)), abs=1e-8)
    assert report["brier"] == pytest.approx(((p - np.eye(6)[y]) ** 2).sum(1).mean(), abs=1e-8)
    c, a = p.max(1), p.argmax(1) == y
    bins = [(c > b / 15) & (c <= (b + 1) / 15) for b in range(15)]
    slow = sum(m.mean() * abs(a[m].mean() - c[m].mean()) for m in bins if m.any())
    assert report["ece"] == pytest.approx(slow, abs=1e-8)
    assert report["logit_scale"] == 20.0
    assert math.exp(-3) <= report["temperature"] <= math.exp(3)
    assert [chart["kind"] for chart in report.charts] == ["reliability"] * 3
    assert sum(report.charts[0]["count"]) == 72


def test_outliers_equal_scikit_learn() -> None:
    known = colours(8)
    inside = Dataset("in", tuple(i for i in known.items if i.labels[0] < 3), known.classes[:3])
    outside = Dataset("out", tuple(i for i in known.items if i.labels[0] >= 4), known.classes)
    encoder = ColourEncoder(noise=0.3)
    report = measure("ood", Sets(inside, outliers=outside), encoder, resamples=50)
    vectors = Vectors(encoder)
    W = vectors.classes(inside, "a photo of a {}")
    s = np.concatenate([vectors.images(part.items) @ W.T for part in (inside, outside)]).astype(float)
    positive = np.arange(len(s)) < len(inside)
    slow = {
        "mcm": softmax(s).max(1),
        "msp": softmax(20 * s).max(1),
        "max_logit": s.max(1),
        "energy": np.log(np.exp(20 * s).sum(1)),
    }
    for name, score in slow.items():
        assert report[f"{name}_auroc"] == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-8)
        assert report[f"{name}_aupr_in"] == pytest.approx(sk.average_precision_score(positive, score), abs=1e-8)
        assert report[f"{name}_aupr_out"] == pytest.approx(sk.average_precision_score(~positive, -score), abs=1e-8)
        threshold = np.percentile(score[positive], 5, method="lower")
        assert report[f"{name}_fpr95"] == pytest.approx((score[~positive] >= threshold).mean(), abs=1e-8)
    assert report["id_acc1"] == pytest.approx((s[:24].argmax(1) == np.repeat(range(3), 8)).mean())
    with pytest.raises(InputError, match="--outliers DIR"):
        measure("ood", inside, encoder)


def test_the_gap_of_known_sides() -> None:
    data = colours(10, captions=1)
    encoder = ColourEncoder(noise=0.1)
    report = measure("modality-gap", data, encoder)
    vectors = Vectors(encoder)
    X, Y = vectors.images(data.items), vectors.texts([item.captions[0] for item in data.items])
    assert report["gap"] == pytest.approx(np.linalg.norm(X.mean(0, float) - Y.mean(0, float)), abs=1e-8)
    assert report["alignment"] == pytest.approx(float((2 - 2 * (X * Y).sum(1)).mean()), abs=1e-6)
    assert report["separability"] <= 1
    assert len(report.charts[0]["series"]["pictures"]) == 60
    assert any("below 500" in note for note in report.notes)
    by_class = measure("modality-gap", colours(5), encoder)
    assert any("sentence of its class" in note for note in by_class.notes)
    same = Embeddings.from_arrays(data.ids, Y, fingerprint="c0")
    closed = probes.load("modality-gap").run(Vectors(encoder, images=same), Sets(data))
    assert closed["gap"] == pytest.approx(0, abs=1e-6)
    assert closed["alignment"] == pytest.approx(0, abs=1e-6)
