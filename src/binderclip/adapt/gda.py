"""GDA, a Hard-to-Beat Baseline for Training-free CLIP-based Adaptation (Wang et al. 2024, arXiv 2402.04087).

Each class is a Gaussian in the embedding, all with one covariance; Bayes' rule then is a linear classifier in closed form,
which is added to the zero-shot logits. Nothing is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from binderclip.adapt.base import Adapter, Few
from binderclip.adapt.parts import PHOTO, Floats, Ints, grid, softmax, unit, zero_shot_logits
from binderclip.cards import Card
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["GDA", "ks_precision", "linear_rule", "merge_moments", "mixture"]

CARD = Card(
    slug="gda",
    name="GDA",
    title="A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation",
    arxiv="2402.04087",
    year=2024,
    room="adapt",
    provides="GDA",
    kind="Adapter",
    verb="fit",
    needs=("embeddings",),
    must_show={
        "alpha = 0 (or tiny) equals zero-shot predictions exactly": "tests/adapt/test_gda.py::test_alpha_zero_is_zero_shot",
        "empirical covariance: scikit-learn's LinearDiscriminantAnalysis(lsqr) on at least 99.9 % of samples": (
            "tests/adapt/test_gda.py::test_is_linear_discriminant_analysis"
        ),
        "KS estimator: a 5-dimensional hand example (1e-6); finite and not zero at N=4, C=2, D=512; zero at N=2, C=2": (
            "tests/adapt/test_gda.py::test_kubokawa_srivastava"
        ),
        "one constant added to all features leaves the argmax": "tests/adapt/test_gda.py::test_a_shift_changes_nothing",
        "shuffled rows and partial_fit in 5 chunks: logits within 1e-4": "tests/adapt/test_gda.py::test_order_and_chunks",
        "CIFAR-100: accuracy grows with K = 1, 2, 4, 8, 16 (3 seeds)": "bench:adapt_gda",
        "CIFAR-100, 16 shots: at least zero-shot + 3 points": "bench:adapt_gda",
        "CIFAR-100, 16 shots: at least Tip-Adapter": "bench:adapt_gda",
        "fit of 100 classes x 16 shots x 10 views at D = 512 under 5 s on 2 cores": "bench:adapt_gda",
    },
)

PRIORS = ("uniform", "frequency")
COVARIANCES = ("ks", "empirical", "class-mean", "ledoit-wolf", "oas")
_NO_SPREAD = 1e-12  # a trace below this, of unit vectors, is rounding


class GDA(Adapter):
    """``z = s f W^T + alpha (f w + b)``, ``w_c = P mu_c``, ``b_c = log pi_c - 1/2 mu_c^T P mu_c``, P the precision.

    Every view of a picture is a sample of its class. Without labels the Gaussians are those of a mixture that starts at
    the zero-shot answers. Where no class has two vectors there is no covariance, and the answer is zero-shot's.

    Args:
        encoder: see `Adapter`.
        classes: see `Adapter`.
        templates: sentences with ``{}`` for the name, or a named set.
        seed: of the views.
        alpha: weight of the Gaussians; None chooses it on the validation set, 1 without one.
        alphas: what is tried, in this order; the first of equals.
        prior: "uniform", or "frequency" of the classes.
        covariance: "ks" (Kubokawa and Srivastava, valid for fewer vectors than dimensions), "empirical", "class-mean" (the
            paper's for base-to-new: mean of the classes' own), "ledoit-wolf" or "oas" (both by scikit-learn).
        n_views: random views of a picture where pictures are encoded; 1 for the picture as the model crops it.
        k_new: neighbours that a class without pictures borrows (`for_classes`).
        text_copies: copies of its text vector beside them.
        em_steps: rounds of the mixture, when there are no labels.

    Example:
        >>> from binderclip import Encoder
        >>> f = np.eye(4, 384, dtype=np.float32)
        >>> GDA(Encoder("pocket"), ["cat", "dog"], alpha=1.0).fit(f, [0, 0, 1, 1]).decision_function(f).shape
        (4, 2)
    """

    learned = ("w_", "b_", "alpha_", "counts_", "means_", "scatter_")
    counts_: Floats
    means_: Floats
    scatter_: Floats

    def __init__(
        self,
        encoder: Any,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] = PHOTO,
        seed: int = 0,
        alpha: float | None = None,
        alphas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        prior: str = "uniform",
        covariance: str = "ks",
        n_views: int = 10,
        k_new: int = 64,
        text_copies: int = 16,
        em_steps: int = 10,
    ) -> None:
        super().__init__(encoder, classes, templates=templates, seed=seed)
        self.alpha, self.alphas, self.prior, self.covariance = alpha, alphas, prior, covariance
        self.n_views, self.k_new, self.text_copies, self.em_steps = n_views, k_new, text_copies, em_steps
        self._kept: list[tuple[Any, Ints]] = []  # features and classes, for `for_classes`: no part of the state

    def _fit(self, few: Few) -> None:
        self._empty()
        if few.y is None:
            self._unlabelled(few)
            return
        if few.U is not None:
            raise InputError(
                "GDA learns from labelled or from unlabelled pictures: give X and y, or X_unlabelled alone"
            )
        self._add(few)
        lost = np.flatnonzero(self.counts_ == 0)
        if len(lost):
            raise InputError(
                f"there is no picture of {self.classes[lost[0]]!r}: give every class one, or leave it to for_classes"
            )
        self._solve(few)

    def partial_fit(self, X: Any, y: Any = None, *, X_val: Any = None, y_val: Any = None) -> Self:
        """Learn from more pictures, by running sums: chunks give what one fit of all gives.

        Until every class has had a picture the answers are zero-shot's.

        Args:
            X: as for `fit`.
            y: as for `fit`.
            X_val: pictures to choose alpha on again.
            y_val: their classes.
        """
        few = self._few(X, y, None, X_val, y_val)
        if not hasattr(self, "counts_"):
            self._empty()
        self.history_ = []
        self._add(few)
        if (self.counts_ == 0).any():
            self.w_, self.b_, self.alpha_, self.hyper_ = np.zeros_like(self.W_.T), np.zeros(len(self.W_)), 0.0, {}
        else:
            self._solve(few)
        return self

    def add_classes(self, names: Sequence[str]) -> Self:
        """Further classes behind those there are; their pictures come by `partial_fit`, and until then see there."""
        self.classes = [*self.classes, *names]
        self._begin()
        if hasattr(self, "counts_"):
            C = len(self.classes) - len(self.counts_)
            self.counts_ = np.concatenate([self.counts_, np.zeros(C)])
            self.means_ = np.concatenate([self.means_, np.zeros((C, self.means_.shape[1]))])
            self.w_, self.b_, self.alpha_ = np.zeros_like(self.W_.T), np.zeros(len(self.W_)), 0.0
        return self

    def for_classes(self, names: Sequence[str]) -> GDA:
        """Classes that have no picture: each borrows the features nearest to its name; alpha is as it was chosen.

        ``mu`` is the mean of `k_new` features and `text_copies` copies of the text vector w, the precision the mean over
        classes of the KS precision of those features' covariance around w (the gap between pictures and texts is meant).

        Raises:
            InputError: the features are not at hand, because the state came from a file, or are fewer than two.
        """
        if not self._kept or self._rows < self.counts_.sum() - 0.5:
            raise InputError(
                "classes without pictures borrow the features of the fit, which a saved state lacks: fit again"
            )
        F = np.concatenate([part for part, _ in self._kept])
        k = min(int(self.k_new), len(F))
        if k < 2:
            raise InputError(
                "classes without pictures borrow features of the fit, and there is one: give more pictures"
            )
        made = self.clone().set_params(classes=names)
        made._begin()
        C, D = made.W_.shape
        mu, P = np.zeros((C, D)), np.zeros((D, D))
        for c, text in enumerate(made.W_):
            G = F[np.argsort(-(F @ text), kind="stable")[:k]].astype(np.float64)
            mu[c] = (G.sum(axis=0) + self.text_copies * text) / (k + self.text_copies)
            R = G - text
            P += ks_precision(R.T @ R / (k - 1), k) / C
        made._empty()
        made.w_, made.b_ = linear_rule(mu, P, np.full(C, -np.log(C)))
        made.alpha_, made.hyper_, made.history_, made._kept = self.alpha_, dict(self.hyper_), [], self._kept
        return made

    def _logits(self, f: Floats) -> Floats:
        return zero_shot_logits(f, self.W_, self.scale_) + float(self.alpha_) * (f @ self.w_ + self.b_)

    # -- within --------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        return sum(len(f) for f, _ in self._kept)

    def _empty(self) -> None:
        for name, value, known in (("covariance", self.covariance, COVARIANCES), ("prior", self.prior, PRIORS)):
            if value not in known:
                raise InputError(f"{name} is {value!r}: use one of {', '.join(known)}")
        C, D = self.W_.shape
        self.counts_, self.means_, self.scatter_ = np.zeros(C), np.zeros((C, D)), np.zeros((D, D))
        self._kept = []

    def _add(self, few: Few) -> None:
        X, y = few.labelled()
        f, marks = unit(X).reshape(-1, X.shape[2]), np.repeat(y, X.shape[1])  # every view is a sample
        self.counts_, self.means_, self.scatter_ = merge_moments(self.counts_, self.means_, self.scatter_, f, marks)
        self._kept.append((f.astype(np.float32), marks))

    def _solve(self, few: Few) -> None:
        N = self.counts_.sum()
        log_prior = (
            np.log(self.counts_ / N) if self.prior == "frequency" else np.full(len(self.counts_), -np.log(len(self.W_)))
        )
        if np.trace(self.scatter_) <= _NO_SPREAD * N:
            warnings.warn(
                "no class has two different vectors, so that the answers are zero-shot's: give views", stacklevel=3
            )
            self.w_, self.b_ = np.zeros_like(self.W_.T), np.zeros(len(self.W_))
        else:
            self.w_, self.b_ = linear_rule(self.means_, self._precision(int(N)), log_prior)
        self._choose(few)

    def _precision(self, N: int) -> Floats:
        """``P`` [D, D] of N vectors."""
        S = self.scatter_ / max(N - 1, 1)
        if self.covariance == "ks":
            return ks_precision(S, N)
        if self.covariance == "empirical":
            return _pinv(S, 2.0**-52)
        if self._rows < N:
            raise InputError(f"covariance={self.covariance!r} needs all features, and a saved state holds sums: use ks")
        f, y = np.concatenate([f for f, _ in self._kept]).astype(np.float64), np.concatenate([y for _, y in self._kept])
        r = f - self.means_[y]
        if self.covariance == "class-mean":
            weights = 1.0 / np.maximum(self.counts_ - 1, 1)[y] / max((self.counts_ > 1).sum(), 1)
            return _pinv((weights[:, None] * r).T @ r, 2.0**-23)  # the reference's cut-off: float32's default
        try:
            from sklearn.covariance import OAS, LedoitWolf
        except ImportError:
            raise NeedsExtraError(f"covariance={self.covariance!r}", "learn") from None
        model = LedoitWolf if self.covariance == "ledoit-wolf" else OAS
        out: Floats = model(assume_centered=True).fit(r).precision_
        return out

    def _choose(self, few: Few) -> None:
        self.alpha_ = 1.0 if self.alpha is None else float(self.alpha)
        if self.alpha is None and few.X_val is not None:
            z = zero_shot_logits(few.X_val, self.W_, self.scale_)
            g = few.X_val @ self.w_ + self.b_
            right = grid(lambda alpha: float(((z + alpha * g).argmax(axis=1) == few.y_val).mean()), alpha=self.alphas)
            self.alpha_ = float(right["alpha"])
        self.hyper_ = {"alpha": self.alpha_}

    def _unlabelled(self, few: Few) -> None:
        f = unit(few.X).reshape(-1, self.W_.shape[1]) if len(few.X) else few.U
        assert f is not None
        N, D = f.shape
        q, self.history_ = softmax(zero_shot_logits(f, self.W_, self.scale_)), []
        for _ in range(int(self.em_steps)):
            self.counts_, self.means_, self.scatter_ = mixture(f, q)
            P, log_prior = ks_precision(self.scatter_ / max(N - 1, 1), N), np.log(self.counts_ / N)
            self.w_, self.b_ = linear_rule(self.means_, P, log_prior)
            # no alpha takes up the factor D / (N - 1) here: without it responsibilities go flat and classes merge
            w, b = linear_rule(self.means_, P * max(N - 1, 1) / D, log_prior)
            new = softmax(f @ w + b)
            self.history_.append(float(np.abs(new - q).mean()))
            q = new
            if self.history_[-1] < 1e-4:
                break
        self._kept = [(f.astype(np.float32), q.argmax(axis=1))]
        self._choose(few)


def merge_moments(n: Floats, mean: Floats, scatter: Floats, f: Floats, y: Ints) -> tuple[Floats, Floats, Floats]:
    """Counts n ``[C]``, means ``[C, D]`` and scatter ``sum (f - mu_y)(f - mu_y)^T`` [D, D] after more rows f ``[N, D]``.

    By pairwise merging (Chan et al. 1979), so that chunks and their order change nothing but rounding.
    """
    more = np.bincount(y, minlength=len(n)).astype(np.float64)
    sums = np.zeros_like(mean)
    np.add.at(sums, y, f)
    own = sums / np.maximum(more, 1)[:, None]
    r, delta, total = f - own[y], own - mean, np.maximum(n + more, 1)
    scatter = scatter + r.T @ r + ((n * more / total)[:, None] * delta).T @ delta
    return n + more, mean + (more / total)[:, None] * delta, scatter


def ks_precision(S: Floats, n: int) -> Floats:
    """``D pinv((n - 1) S + tr(S) I)`` [D, D] of a covariance S of n rows (Kubokawa and Srivastava 2008).

    It exists for n < D. For many rows it is about D / (n - 1) times the inverse: alpha takes up the factor.
    """
    D = len(S)
    return D * _pinv((n - 1) * S + np.trace(S) * np.eye(D), 2.0**-52)


def linear_rule(mu: Floats, P: Floats, log_prior: Floats) -> tuple[Floats, Floats]:
    """``w`` [D, C] and ``b`` [C] of Gaussians with means mu ``[C, D]`` and one precision P ``[D, D]``."""
    w = P @ mu.T
    return w, log_prior - 0.5 * (mu.T * w).sum(axis=0)


def mixture(f: Floats, q: Floats) -> tuple[Floats, Floats, Floats]:
    """Counts, means and scatter of a mixture with responsibilities q ``[N, C]``, one covariance for all."""
    n = np.maximum(q.sum(axis=0), 1e-12)
    mu = q.T @ f / n[:, None]
    # sum_nc q (f - mu)(f - mu)^T, where each row of q sums to 1
    return n, mu, f.T @ f - (n[:, None] * mu).T @ mu


def _pinv(S: Floats, cut: float) -> Floats:
    """Of a symmetric matrix [D, D]; eigenvalues below `cut` D times the largest count as zero."""
    return np.asarray(np.linalg.pinv(S, rcond=len(S) * cut, hermitian=True), np.float64)
