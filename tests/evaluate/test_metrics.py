"""Every metric against scikit-learn, scipy or a slow loop, to 1e-8."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from binderclip.errors import InputError
from binderclip.evaluate.metrics import calibration, captions, classification, geometry, ranking, retrieval, statistics
from tests.evaluate.compare_torchmetrics import GOLDEN, arrays

CLOSE = {"abs": 1e-8, "rel": 1e-8}


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def labelled() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 400)
    y[y == 4] = 5  # a class that never occurs
    scores = rng.normal(size=(400, 6))
    scores[np.arange(400), y] += 1.0
    return scores, y


# -- classification ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn(labelled: tuple[np.ndarray, np.ndarray], k: int) -> None:
    scores, y = labelled
    expected = sk.top_k_accuracy_score(y, scores, k=k, labels=range(6))
    assert classification.top_k_accuracy(scores, y, k) == pytest.approx(expected, **CLOSE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_class_figures_equal_scikit_learn(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    scores, y = labelled
    predicted = scores.argmax(1)
    counts = classification.confusion(y, predicted, 6)
    assert (counts == sk.confusion_matrix(y, predicted, labels=range(6))).all()
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, predicted, labels=range(6), zero_division=0)
    table = classification.per_class(counts)
    np.testing.assert_allclose(table["precision"], precision, atol=1e-12)
    np.testing.assert_allclose(table["recall"], recall, atol=1e-12)
    np.testing.assert_allclose(table["f1"], f1, atol=1e-12)
    assert (table["support"] == support).all()
    assert classification.accuracy(y, predicted) == pytest.approx(sk.accuracy_score(y, predicted), **CLOSE)
    expected = sk.balanced_accuracy_score(y, predicted)
    assert classification.balanced_accuracy(y, predicted, 6) == pytest.approx(expected, **CLOSE)
    expected = sk.f1_score(y, predicted, average="macro", zero_division=0)
    assert classification.macro_f1(y, predicted, 6) == pytest.approx(expected, **CLOSE)


def test_a_tie_is_not_correct() -> None:
    flat = np.zeros((3, 4))
    assert classification.top_k_accuracy(flat, [0, 1, 2], 1) == 0.0
    assert classification.top_k_accuracy(flat, [0, 1, 2], 4) == 1.0
    assert math.isnan(classification.top_k_accuracy(flat, [0, 1, 2], 5))


def test_margins_by_loop(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    scores, y = labelled
    slow = [row[t] - max(v for k, v in enumerate(row) if k != t) for row, t in zip(scores, y, strict=True)]
    np.testing.assert_allclose(classification.margins(scores, y), slow, atol=1e-12)


def test_labels_out_of_range() -> None:
    with pytest.raises(InputError, match="label 4 is out of range: there are 4 classes"):
        classification.true_ranks(np.zeros((2, 4)), [0, 4])
    with pytest.raises(InputError, match="no labelled rows"):
        classification.confusion([], [], 3)


# -- ranking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [8, 1])
def test_auroc_and_ap_equal_scikit_learn(rounded: int) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + positive, rounded)  # one digit: many ties
    assert ranking.auroc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores), **CLOSE)
    expected = sk.average_precision_score(positive, scores)
    assert ranking.average_precision(scores, positive) == pytest.approx(expected, **CLOSE)


def test_map_leaves_out_empty_classes() -> None:
    rng = np.random.default_rng(2)
    targets = rng.random((80, 5)) < 0.3
    targets[:, 3] = False
    scores = rng.normal(size=(80, 5))
    value, each = ranking.mean_average_precision(scores, targets)
    kept = [0, 1, 2, 4]
    assert value == pytest.approx(sk.average_precision_score(targets[:, kept], scores[:, kept]), **CLOSE)
    assert np.isnan(each[3])


def test_out_of_distribution_figures() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=4000), rng.normal(size=4000)
    assert ranking.auroc(np.r_[a, b], np.r_[np.ones(4000), np.zeros(4000)]) == pytest.approx(0.5, abs=0.03)
    assert ranking.fpr_at_tpr(a, b) == pytest.approx(0.95, abs=0.02)
    assert ranking.fpr_at_tpr(a + 100, b) == 0.0
    threshold = np.percentile(a, 5, method="lower")
    assert ranking.fpr_at_tpr(a, b) == (b >= threshold).mean()
    assert (a >= threshold).mean() >= 0.95
    mask = np.r_[np.ones(4000), np.zeros(4000)]
    assert ranking.auroc(np.exp(np.r_[a, b]), mask) == ranking.auroc(np.r_[a, b], mask)
    with pytest.raises(InputError, match="only one kind"):
        ranking.auroc([1.0, 2.0], [True, True])


# -- retrieval -----------------------------------------------------------------------------------------------------------


def clip_benchmark_hits(scores: np.ndarray, positives: np.ndarray, k: int) -> np.ndarray:
    """CLIP_benchmark's formula, from its description: found positives among the top k over all positives, above 0."""
    out = []
    for row, right in zip(scores, positives, strict=True):
        top = np.argsort(-row, kind="stable")[:k]
        out.append(right[top].sum() / right.sum() > 0)
    return np.array(out)


def test_recall_equals_the_reference_formula_without_ties() -> None:
    rng = np.random.default_rng(4)
    owner = np.repeat(np.arange(20), 3)
    X, Y = unit(rng, 20, 8), unit(rng, 60, 8)
    scores = Y @ X.T
    positives = owner[:, None] == np.arange(20)
    for one, right, found in (
        (scores, positives, retrieval.ranks_by_group(Y, X, owner, np.arange(20), chunk=7)),
        (scores.T, positives.T, retrieval.ranks_by_group(X, Y, np.arange(20), owner, chunk=7)),
    ):
        for k in (1, 5, 10):
            assert (found.hits(k) == clip_benchmark_hits(one, right, k)).all()
            assert (found.hits(k) == found.hits_with_ties(k)).all()
            slow = [r[np.argsort(-s)[:k]].sum() / r.sum() for s, r in zip(one, right, strict=True)]
            np.testing.assert_allclose(retrieval.true_recall(one, right, k), slow, atol=1e-12)
        best = [
            min(1 + sum(s[j] > s[i] for j in range(len(s)) if not r[j]) for i in np.flatnonzero(r))
            for s, r in zip(one, right, strict=True)
        ]
        assert (found.rank == best).all()
        assert found.mrr == pytest.approx(np.mean([1 / b for b in best]), **CLOSE)
        assert found.median_rank == np.median(best)


def test_ties_are_chance_not_luck() -> None:
    constant = retrieval.ranks(np.zeros((6, 6)), np.eye(6, dtype=bool))
    assert constant.hits(5).sum() == 0
    assert constant.hits(6).all()
    assert constant.hits_with_ties(1).all()
    assert constant.median_rank == 3.5


def test_identity_and_random_retrieval() -> None:
    rng = np.random.default_rng(5)
    X = unit(rng, 400, 16)
    assert retrieval.ranks_by_group(X, X, np.arange(400), np.arange(400)).hits(1).all()
    found = retrieval.ranks_by_group(unit(rng, 400, 16), X, np.arange(400), np.arange(400))
    assert found.hits(40).mean() == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / 400))
    with pytest.raises(InputError, match="1 queries have no right answer"):
        retrieval.ranks(np.zeros((1, 2)), np.zeros((1, 2), bool))


@pytest.mark.parametrize("digits", [8, 1])
def test_ndcg_equals_scikit_learn(digits: int) -> None:
    rng = np.random.default_rng(6)
    scores, gains = np.round(rng.normal(size=(30, 25)), digits), rng.integers(0, 3, (30, 25))
    for k in (1, 5, 10, 25):
        value = retrieval.ndcg(scores, gains, k).mean()
        assert value == pytest.approx(sk.ndcg_score(gains, scores, k=k), **CLOSE)


# -- calibration ---------------------------------------------------------------------------------------------------------


def slow_ece(c: np.ndarray, a: np.ndarray, bins: int) -> tuple[float, float]:
    total, worst = 0.0, 0.0
    for b in range(bins):
        inside = (c > b / bins) & (c <= (b + 1) / bins)
        if inside.any():
            difference = abs(a[inside].mean() - c[inside].mean())
            total += inside.mean() * difference
            worst = max(worst, difference)
    return total, worst


def test_calibration_by_loops(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    scores, y = labelled
    p = calibration.softmax(scores)
    c, a = p.max(1), (p.argmax(1) == y).astype(float)
    slow = slow_ece(c, a, 15)
    assert calibration.ece(c, a) == pytest.approx(slow[0], **CLOSE)
    assert calibration.mce(c, a) == pytest.approx(slow[1], **CLOSE)
    order = np.argsort(c, kind="stable")
    parts = np.array_split(order, 15)
    slow_ace = sum(len(part) / len(c) * abs(a[part].mean() - c[part].mean()) for part in parts)
    assert calibration.ace(c, a) == pytest.approx(slow_ace, **CLOSE)
    each = [slow_ece(p[:, k], (y == k).astype(float), 15)[0] for k in range(6)]
    assert calibration.classwise_ece(p, y) == pytest.approx(np.mean(each), **CLOSE)
    assert calibration.nll(np.log(p), y) == pytest.approx(sk.log_loss(y, p, labels=range(6)), **CLOSE)
    one_hot = np.eye(6)[y]
    assert calibration.brier(p, y) == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), **CLOSE)


def test_perfect_and_hopeless_confidence() -> None:
    rng = np.random.default_rng(7)
    p = calibration.softmax(2 * rng.normal(size=(100_000, 4)))
    y = (rng.random((100_000, 1)) > np.cumsum(p, axis=1)).sum(1).clip(0, 3)
    c, a = p.max(1), p.argmax(1) == y
    assert calibration.ece(c, a) < 0.01
    assert calibration.ece(np.ones(50), np.r_[np.ones(20), np.zeros(30)]) == pytest.approx(0.6)
    curve = calibration.reliability([1.0, 1.0 / 15], [1, 0])
    assert curve.count[[0, 14]].tolist() == [1, 1]  # closed on the right


def test_temperature_is_the_minimum(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.optimize import minimize_scalar

    scores, y = labelled

    def loss(log_t: float) -> float:
        return calibration.nll(calibration.log_softmax(scores * 9 / np.exp(log_t)), y)

    T = calibration.fit_temperature(scores * 9, y)
    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert math.log(T) == pytest.approx(best.x, abs=1e-6)
    assert loss(math.log(T)) <= loss(0.0)
    separable = np.eye(3) * 5
    assert calibration.fit_temperature(separable, [0, 1, 2]) == pytest.approx(math.exp(-3))


# -- geometry ------------------------------------------------------------------------------------------------------------


def test_geometry_by_loops() -> None:
    rng = np.random.default_rng(8)
    X, Y = unit(rng, 40, 6), unit(rng, 40, 6)
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j]
    assert geometry.cone(X) == pytest.approx(np.mean([X[i] @ X[j] for i, j in pairs]), **CLOSE)
    slow = math.log(np.mean([math.exp(-2 * ((X[i] - X[j]) ** 2).sum()) for i, j in pairs]))
    assert geometry.uniformity(X, chunk=7) == pytest.approx(slow, **CLOSE)
    slow = math.log(np.mean([math.exp(-2 * ((X[i] - Y[j]) ** 2).sum()) for i, j in pairs]))
    assert geometry.cross_uniformity(X, Y, chunk=7) == pytest.approx(slow, **CLOSE)
    np.testing.assert_allclose(geometry.alignment(X, Y), 2 - 2 * (X * Y).sum(1), atol=1e-12)
    np.testing.assert_allclose(geometry.alignment(X, Y, 1.0), np.linalg.norm(X - Y, axis=1), atol=1e-12)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert geometry.uniformity(X @ turn) == pytest.approx(geometry.uniformity(X), abs=1e-10)


def test_geometry_of_known_shapes() -> None:
    rng = np.random.default_rng(9)
    X = unit(rng, 1500, 512)
    assert -4.0 < geometry.uniformity(X) < -3.9
    assert geometry.uniformity(np.tile(X[:1], (5, 1))) == pytest.approx(0, abs=1e-12)
    assert geometry.gap(X, X) == 0
    assert geometry.gap(X, -X) == pytest.approx(2 * np.linalg.norm(X.mean(0)))
    assert geometry.effective_rank(np.eye(7)) == pytest.approx(7)
    assert geometry.effective_rank(np.ones((9, 3))) == pytest.approx(1, abs=1e-6)
    Z = unit(rng, 1500, 512) + 0.05
    moved, other = geometry.shift(X, Z, 1.0)
    assert geometry.gap(moved, other) < 0.1 * geometry.gap(X, Z)


# -- captions ------------------------------------------------------------------------------------------------------------


def test_clipscore() -> None:
    rng = np.random.default_rng(10)
    c, v = unit(rng, 5, 8), unit(rng, 5, 8)
    np.testing.assert_allclose(captions.clipscore(c, c), 2.5)
    np.testing.assert_allclose(captions.clipscore(c, -c), 0)
    references = [unit(rng, n + 1, 8) for n in range(5)]
    slow = []
    for i in range(5):
        a, b = 2.5 * max(c[i] @ v[i], 0), max(0.0, *(float(c[i] @ r) for r in references[i]))
        slow.append(2 * a * b / (a + b) if a + b else 0.0)
    np.testing.assert_allclose(captions.ref_clipscore(c, v, references), slow, atol=1e-12)
    assert captions.ref_clipscore(c[:1], -c[:1], [-c[:1]])[0] == 0.0


# -- statistics ----------------------------------------------------------------------------------------------------------


def test_statistics_equal_scipy() -> None:
    from scipy import stats

    for hits, n in ((0, 5), (3, 7), (40, 40), (555, 1000)):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert statistics.wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-8)
    rng = np.random.default_rng(11)
    p = np.r_[rng.random(20), rng.random(5) * 1e-3]
    np.testing.assert_allclose(statistics.benjamini_hochberg(p), stats.false_discovery_control(p), atol=1e-12)
    a, b = rng.integers(0, 5, 60), rng.integers(0, 4, 60)
    for variant in "bc":
        expected_tau = stats.kendalltau(a, b, variant=variant).statistic
        assert statistics.kendall_tau(a, b, variant) == pytest.approx(expected_tau, **CLOSE)
    assert math.isnan(statistics.kendall_tau([1, 1, 1], [1, 2, 3]))


def test_bootstrap_is_seeded_and_has_the_width_of_theory() -> None:
    rng = np.random.default_rng(12)
    values = rng.normal(size=900)
    low, high = statistics.bootstrap_mean(values)
    assert (low, high) == statistics.bootstrap_mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.12)
    by_rows = statistics.bootstrap(lambda rows: float(values[rows].mean()), 900, resamples=400)
    assert by_rows == pytest.approx((low, high), abs=0.02)


def test_equal_to_torchmetrics() -> None:
    """Its figures, kept in a file by `compare_torchmetrics.py`."""
    p, y = arrays()
    golden = json.loads(GOLDEN.read_text("utf-8"))
    c, a = p.max(1), p.argmax(1) == y
    assert calibration.ece(c, a) == pytest.approx(golden["ece"], abs=1e-8)
    assert calibration.mce(c, a) == pytest.approx(golden["mce"], abs=1e-8)
    hot = np.eye(5, dtype=bool)[y]
    assert retrieval.ranks(p, hot).mrr == pytest.approx(golden["mrr"], abs=1e-8)
    np.testing.assert_allclose(retrieval.ndcg(p[:20], hot[:20], 3), golden["ndcg"], atol=1e-8)


def test_sizes_are_inside_their_centred_interval() -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(size=(200, 50))  # the length of a mean that is nearly zero: every resample is longer

    def size(rows: np.ndarray) -> float:
        return float(np.linalg.norm(x[rows].mean(0)))

    value = size(np.arange(200))
    low, _ = statistics.bootstrap(size, 200, resamples=200)
    assert low > value
    low, high = statistics.bootstrap(size, 200, resamples=200, centred=True)
    assert low < value < high
