"""GDA against closed forms, scikit-learn's discriminant analysis and a hand example."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from binderclip.adapt.gda import GDA, ks_precision, linear_rule, merge_moments, mixture
from binderclip.adapt.parts import softmax, unit
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.errors import InputError

from .conformance import NAMES, Kit

pytestmark = pytest.mark.system("gda")


class Texts:
    """A model of D dimensions whose class vectors are drawn from the names."""

    logit_scale = 20.0

    def __init__(self, D: int) -> None:
        self.D = D

    def encode_image(self, images: Any) -> Any:
        raise AssertionError("vectors are never encoded again")

    def encode_text(self, texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(sum(text.encode())).normal(size=self.D) for text in texts]
        return unit(np.array(rows)).astype(np.float32)


def clouds(C: int, n: int, D: int, spread: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around C drawn means with one covariance that is far from round."""
    rng = np.random.default_rng(seed)
    means, shape = np.random.default_rng(99).normal(size=(C, D)), np.linspace(0.2, 2.0, D)
    y = np.repeat(np.arange(C), n)
    return unit(means[y] + spread * shape * rng.normal(size=(C * n, D))).astype(np.float32), y


def names(C: int) -> list[str]:
    return [f"class {chr(97 + k)}" for k in range(C)]


def test_alpha_zero_is_zero_shot() -> None:
    (X, y), (Q, _) = clouds(5, 8, 16), clouds(5, 40, 16, seed=1)
    plain = ZeroShot(Texts(16), names(5)).fit()
    for alpha in (0.0, 1e-12):
        made = GDA(Texts(16), names(5), alpha=alpha).fit(X, y)
        assert np.array_equal(made.predict(Q), plain.predict(Q))
    assert np.array_equal(
        GDA(Texts(16), names(5), alpha=0.0).fit(X, y).decision_function(Q), plain.decision_function(Q)
    )


def test_is_linear_discriminant_analysis() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    (X, y), (Q, _) = clouds(6, 200, 20, spread=1.2), clouds(6, 500, 20, spread=1.2, seed=1)
    made = GDA(Texts(20), names(6), covariance="empirical").fit(X, y)
    ours = (Q @ made.w_ + made.b_).argmax(1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(6, 1 / 6)).fit(X.astype(np.float64), y).predict(Q)
    assert 0.5 < (theirs == np.repeat(np.arange(6), 500)).mean() < 0.999  # it is no empty question
    assert (ours == theirs).mean() >= 0.999


def test_kubokawa_srivastava() -> None:
    S = np.diag([1.0, 2.0, 3.0, 4.0, 0.0])  # trace 10, n = 11: D / (10 * s + 10)
    assert np.allclose(ks_precision(S, 11), np.diag([5 / 20, 5 / 30, 5 / 40, 5 / 50, 5 / 10]), atol=1e-6)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    assert np.allclose(ks_precision(Q @ S @ Q.T, 11), Q @ ks_precision(S, 11) @ Q.T, atol=1e-6)
    # from rows, by loops: N = 4 rows of C = 2 classes in D = 512
    f, y = unit(np.random.default_rng(1).normal(size=(4, 512))), np.array([0, 0, 1, 1])
    _, _, scatter = merge_moments(np.zeros(2), np.zeros((2, 512)), np.zeros((512, 512)), f, y)
    slow = sum(np.outer(row - f[y == k].mean(0), row - f[y == k].mean(0)) for row, k in zip(f, y, strict=True))
    assert np.allclose(scatter, slow, atol=1e-12)
    assert np.linalg.matrix_rank(scatter, tol=1e-9) == 2
    P = ks_precision(scatter / 3, 4)
    assert np.isfinite(P).all()
    assert np.abs(P).max() > 1
    # one row a class: no scatter, precision exactly zero, and the answer is zero-shot's
    _, _, nothing = merge_moments(np.zeros(2), np.zeros((2, 512)), np.zeros((512, 512)), f[:2], np.array([0, 1]))
    assert np.array_equal(ks_precision(nothing / 1, 2), np.zeros((512, 512)))
    with pytest.warns(UserWarning, match=r"zero-shot's"):
        made = GDA(Texts(512), names(2)).fit(f[:2], [0, 1])
    assert np.array_equal(made.decision_function(f), ZeroShot(Texts(512), names(2)).fit().decision_function(f))


def test_rule_by_hand() -> None:
    mu, P = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.5], [0.5, 1.0]])
    w, b = linear_rule(mu, P, np.log([0.25, 0.75]))
    for c in range(2):
        assert np.allclose(w[:, c], P @ mu[c])
        assert b[c] == pytest.approx(np.log([0.25, 0.75][c]) - 0.5 * mu[c] @ P @ mu[c])
    # Bayes' rule: differences of log posteriors of two Gaussians
    f = np.array([0.3, 0.4])
    logs = [np.log(p) - 0.5 * (f - m) @ P @ (f - m) for p, m in zip([0.25, 0.75], mu, strict=True)]
    assert (f @ w + b)[0] - (f @ w + b)[1] == pytest.approx(logs[0] - logs[1])


@pytest.mark.parametrize("covariance", ["ks", "empirical", "oas"])
def test_a_shift_changes_nothing(covariance: str) -> None:
    """On the GDA part itself: `fit` would bring shifted rows back to length 1."""
    (X, y), (Q, _) = clouds(5, 12, 16, spread=1.0), clouds(5, 100, 16, spread=1.0, seed=1)
    found = []
    for shift in (0.0, np.random.default_rng(3).normal(size=16)):
        made = GDA(Texts(16), names(5), covariance=covariance).fit(X, y)
        f = X.astype(np.float64) + shift
        made._empty()
        made.counts_, made.means_, made.scatter_ = merge_moments(made.counts_, made.means_, made.scatter_, f, y)
        made._kept = [(f, y)]
        w, b = linear_rule(made.means_, made._precision(len(y)), np.zeros(5))
        found.append(((Q + shift) @ w + b).argmax(1))
    assert np.array_equal(found[0], found[1])


def test_order_and_chunks() -> None:
    (X, y), (Q, _) = clouds(5, 15, 24), clouds(5, 20, 24, seed=1)
    views = np.stack([X, clouds(5, 15, 24, seed=2)[0]], axis=1)  # two views of each row
    z = GDA(Texts(24), names(5)).fit(views, y).decision_function(Q)
    order = np.random.default_rng(0).permutation(len(X))
    assert np.abs(GDA(Texts(24), names(5)).fit(views[order], y[order]).decision_function(Q) - z).max() < 1e-4
    for rows in (order, np.arange(len(X))):  # in class order most chunks lack most classes
        parts = GDA(Texts(24), names(5))
        for chunk in np.array_split(rows, 5):
            parts.partial_fit(views[chunk], y[chunk])
        assert np.abs(parts.decision_function(Q) - z).max() < 1e-4
    first, rest = order[:40], order[40:]
    again = GDA(Texts(24), names(5)).load_state_dict(GDA(Texts(24), names(5)).fit(views[first], y[first]).state_dict())
    again.partial_fit(views[rest], y[rest])  # sums go on from a saved state
    both = GDA(Texts(24), names(5)).fit(views, y)
    assert np.abs(again.decision_function(Q) - both.decision_function(Q)).max() < 1e-4


def test_classes_come_month_by_month() -> None:
    (X, y), (Q, y_q) = clouds(5, 12, 24), clouds(5, 40, 24, seed=1)
    made = GDA(Texts(24), names(3)).fit(X[y < 3], y[y < 3])
    made.add_classes(names(5)[3:])
    assert np.array_equal(made.predict(Q), ZeroShot(Texts(24), names(5)).fit().predict(Q))  # no picture of them yet
    made.partial_fit(X[y >= 3], y[y >= 3])
    whole = GDA(Texts(24), names(5)).fit(X, y)
    assert np.abs(made.decision_function(Q) - whole.decision_function(Q)).max() < 1e-4
    assert made.score(Q, y_q) > 0.8


def test_views_are_samples_and_not_averaged() -> None:
    (X, y), (Q, _) = clouds(4, 6, 16), clouds(4, 20, 16, seed=1)
    views = np.stack([X, clouds(4, 6, 16, seed=2)[0], clouds(4, 6, 16, seed=3)[0]], axis=1)
    z = GDA(Texts(16), names(4)).fit(views, y).decision_function(Q)
    flat = GDA(Texts(16), names(4)).fit(views.reshape(-1, 16), np.repeat(y, 3)).decision_function(Q)
    assert np.array_equal(z, flat)
    mean = GDA(Texts(16), names(4)).fit(views.mean(1), y).decision_function(Q)
    assert np.abs(z - mean).max() > 0.1


def test_alpha_is_the_first_best_on_validation() -> None:
    kit = Kit()
    made = kit.fit(GDA, X_val=kit.Q, y_val=kit.y_q)
    z = kit.encoder.logit_scale * kit.Q.astype(np.float64) @ made.W_.T
    g = kit.Q.astype(np.float64) @ made.w_ + made.b_
    values = [((z + a * g).argmax(1) == kit.y_q).mean() for a in made.alphas]
    assert made.hyper_["alpha"] == made.alphas[int(np.argmax(values))]
    assert kit.fit(GDA).hyper_["alpha"] == 1.0


def test_prior_by_frequency() -> None:
    (X, y), rows = clouds(2, 30, 12), np.r_[0:30, 30:40]
    even, odd = (GDA(Texts(12), names(2), prior=p).fit(X[rows], y[rows]) for p in ("uniform", "frequency"))
    assert np.allclose(odd.b_ - even.b_, np.log([0.75, 0.25]) - np.log(0.5))
    assert np.allclose(odd.w_, even.w_)


def test_other_covariances() -> None:
    from sklearn.covariance import OAS, LedoitWolf

    X, y = clouds(4, 10, 12)
    r = np.concatenate([X[y == c] - X[y == c].mean(0) for c in range(4)]).astype(np.float64)
    for name, model in (("oas", OAS), ("ledoit-wolf", LedoitWolf)):
        made = GDA(Texts(12), names(4), covariance=name).fit(X, y)
        P = model(assume_centered=True).fit(r).precision_
        assert np.allclose(made.w_, P @ made.means_.T, rtol=1e-4)
    made = GDA(Texts(12), names(4), covariance="class-mean").fit(X, y)
    S = np.mean([np.cov(X[y == c].astype(np.float64).T) for c in range(4)], axis=0)
    assert np.allclose(made.w_, np.linalg.pinv(S, rcond=12 * 2.0**-23) @ made.means_.T, rtol=1e-4)


def test_names_without_pictures_by_loops() -> None:
    (X, y), (Q, _) = clouds(4, 12, 12), clouds(4, 10, 12, seed=1)
    made = GDA(Texts(12), names(4), covariance="class-mean", k_new=8, text_copies=3, alpha=0.5).fit(X, y)
    other = made.for_classes(["first", "second", "third"])
    z, P, mus = other.decision_function(Q), np.zeros((12, 12)), []
    for w in other.W_:
        near = X[np.argsort(-(X @ w))[:8]].astype(np.float64)
        mus.append(np.mean([*near, w, w, w], axis=0))
        S = sum(np.outer(row - w, row - w) for row in near) / 7
        P += 12 * np.linalg.inv(7 * S + np.trace(S) * np.eye(12)) / 3
    for n in range(len(Q)):
        wanted = [
            20 * Q[n] @ w + 0.5 * (Q[n] @ P @ m - np.log(3) - 0.5 * m @ P @ m)
            for w, m in zip(other.W_, mus, strict=True)
        ]
        assert np.allclose(z[n], wanted, atol=1e-4)
    loaded = GDA(Texts(12), names(4)).load_state_dict(made.state_dict())
    with pytest.raises(InputError, match="fit again"):
        loaded.for_classes(["first", "second"])


def test_unlabelled_is_a_mixture() -> None:
    C, D = 4, 32
    texts = Texts(D)
    W = texts.encode_text([f"a photo of a {name}." for name in names(C)])
    rng = np.random.default_rng(5)
    y, gap = np.repeat(np.arange(C), 60), 1.6 / np.sqrt(D) * rng.normal(size=D)
    # pictures lie beside their text, all shifted alike: zero-shot errs where the clusters are plain
    X = unit(0.6 * W[y] + gap + 0.1 * rng.normal(size=(len(y), D))).astype(np.float32)
    assert ZeroShot(texts, names(C)).fit().score(X, y) < 0.85
    for made in (GDA(texts, names(C)).fit(X), GDA(texts, names(C)).fit(X_unlabelled=X)):
        assert made.score(X, y) > 0.95
        assert 1 <= len(made.history_) <= 10
        assert made.history_[-1] <= made.history_[0]
    q = softmax(rng.normal(size=(len(X), C)))
    n, mu, scatter = mixture(X.astype(np.float64), q)
    slow = sum(q[i, c] * np.outer(X[i] - mu[c], X[i] - mu[c]) for i in range(len(X)) for c in range(C))
    assert np.allclose(n, q.sum(0))
    assert np.allclose(scatter, slow, atol=1e-4)
    with pytest.raises(InputError, match="give X and y, or X_unlabelled alone"):
        GDA(texts, names(C)).fit(X, y, X_unlabelled=X)


def test_what_cannot_be() -> None:
    kit = Kit()
    with pytest.raises(InputError, match=r"no picture of 'grey'"):
        kit.fit(GDA, kit.y < 5)
    for wrong in ({"covariance": "full"}, {"prior": "mine"}):
        with pytest.raises(InputError, match="use one of"):
            GDA(kit.encoder, NAMES, **wrong).fit(kit.X, kit.y)
    with pytest.raises(InputError, match="nothing to learn from"):
        GDA(kit.encoder, NAMES).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = GDA(kit.encoder, NAMES, covariance="oas").load_state_dict(kit.fit(GDA).state_dict())
        with pytest.raises(InputError, match="a saved state holds sums"):
            made.partial_fit(kit.X, kit.y)
