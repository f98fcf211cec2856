"""Few-shot classification on CIFAR-100 from cached embeddings: GDA beside its peers. `python -m benchmarks.adapt_gda`.

Shots are drawn from rows that are no test rows, in the order of hash64(seed, id) within their class; the next four of
each are the validation set (as many as shots, at most 4). The first run encodes (some ten minutes); vectors are kept in the
temporary folder and later runs of the same model encode nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import digest, record, seconds, shared_data
from binderclip import Encoder
from binderclip.adapt.encoding import augmented_views
from binderclip.cards import load_method
from binderclip.data.hashing import uniform

SHOTS, SEEDS, VIEWS, MOST = (1, 2, 4, 8, 16), (1, 2, 3), 10, 16


class Cache:
    """Vectors of CIFAR-100 rows: single ones by id, and ten views of the shots."""

    def __init__(self, model: str) -> None:
        rows = pq.read_table(shared_data() / "cifar100.parquet").to_pylist()
        self.encoder, self.classes = Encoder(model), sorted({row["name"] for row in rows})
        self.rows = {row["id"]: row for row in rows}
        number = {name: k for k, name in enumerate(self.classes)}
        self.label = {row["id"]: number[row["name"]] for row in rows}
        is_test = {key: int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 5 == 0 for key in self.rows}
        self.test = [key for key in self.rows if is_test[key]]
        pool = [key for key in self.rows if not is_test[key]]
        self.order = {seed: self._order(pool, seed) for seed in SEEDS}
        self.folder = Path(tempfile.gettempdir()) / f"binderclip-cifar100-{self.encoder.fingerprint}"
        self.folder.mkdir(exist_ok=True)
        shots = sorted({key for seed in SEEDS for key in self.shots(seed, MOST)})
        extra = {key for seed in SEEDS for key in self.validation(seed, MOST)}
        self.single = self._kept("single", sorted({*self.test, *shots, *extra}), 1)
        self.views = self._kept("views", shots, VIEWS)

    def _order(self, pool: list[str], seed: int) -> list[list[str]]:
        drawn = dict(zip(pool, uniform(seed, pool), strict=True))
        groups: list[list[str]] = [[] for _ in self.classes]
        for key in sorted(pool, key=drawn.__getitem__):
            groups[self.label[key]].append(key)
        return groups

    def shots(self, seed: int, k: int) -> list[str]:
        return [key for group in self.order[seed] for key in group[:k]]

    def validation(self, seed: int, k: int) -> list[str]:
        return [key for group in self.order[seed] for key in group[MOST : MOST + min(k, 4)]]

    def labels(self, keys: list[str]) -> Any:
        return np.array([self.label[key] for key in keys])

    def _kept(self, name: str, keys: list[str], views: int, part: int = 512) -> dict[str, Any]:
        """Encode in parts, each kept as soon as it is there: a run that is stopped goes on."""
        out: dict[str, Any] = {}
        for start in range(0, len(keys), part):
            some = keys[start : start + part]
            path = self.folder / f"{name}-{hashlib.sha256(chr(10).join(some).encode()).hexdigest()[:12]}.npy"
            if not path.is_file():
                images = [self.rows[key]["image"] for key in some]
                made = (
                    self.encoder.encode_image(images)
                    if views == 1
                    else augmented_views(self.encoder, images, some, views)
                )
                np.save(path, made)
                print(f"{name}: {start + len(some)} of {len(keys)}", file=sys.stderr, flush=True)
            out.update(zip(some, np.load(path, allow_pickle=False), strict=True))
        return out


class Texts:
    """The encoder of texts alone: a picture that is encoded again would raise."""

    def __init__(self, encoder: Encoder) -> None:
        self.logit_scale, self.fingerprint, self.pictures = encoder.logit_scale, encoder.fingerprint, 0
        self.inner, self.known = encoder, {}  # type: ignore[var-annotated]

    def encode_text(self, texts: Any) -> Any:
        key = tuple(texts)
        if key not in self.known:
            self.known[key] = self.inner.encode_text(texts)
        return self.known[key]

    def encode_image(self, images: Any) -> Any:
        self.pictures += len(images)
        raise AssertionError("a picture was encoded again")


#: Column -> method, arguments, whether it gets the ten views, whether it gets a validation set.
COLUMNS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "zero_shot": ("zero_shot", {}, False, True),
    "linear_probe": ("linear_probe", {}, False, True),
    "tip_adapter": ("tip_adapter", {}, True, True),
    "tip_adapter, no validation": ("tip_adapter", {}, True, False),
    "gda": ("gda", {}, True, True),
    "gda, no validation": ("gda", {}, True, False),
    "gda, one view": ("gda", {}, False, True),
}


def accuracies(cache: Cache, encoder: Any) -> dict[str, Any]:
    test, y_test = np.stack([cache.single[key] for key in cache.test]), cache.labels(cache.test)
    table: dict[str, Any] = {}
    for column, (slug, arguments, views, validated) in COLUMNS.items():
        method, row = load_method(slug), {}
        for k in SHOTS:
            found = []
            for seed in SEEDS:
                keys, aside = cache.shots(seed, k), cache.validation(seed, k)
                X = np.stack([(cache.views if views else cache.single)[key] for key in keys])
                V = np.stack([cache.single[key] for key in aside])
                made = method(encoder, cache.classes, seed=seed, **arguments)
                chosen = {"X_val": V, "y_val": cache.labels(aside)} if validated else {}
                made.fit(X, cache.labels(keys), **chosen)
                found.append(float(made.score(test, y_test)))
                print(column, k, seed, f"{found[-1]:.4f}", made.hyper_, file=sys.stderr, flush=True)
            row[k] = (statistics.mean(found), statistics.pstdev(found))
        table[column] = {name: [round(row[k][i], 4) for k in SHOTS] for i, name in enumerate(("mean", "deviation"))}
    return table


def beyond(cache: Cache, encoder: Any) -> dict[str, Any]:
    """Classes without a picture (the later half by label, named only), and 16 pictures a class without labels."""
    GDA, ZeroShot = load_method("gda"), load_method("zero_shot")
    test, y_test = np.stack([cache.single[key] for key in cache.test]), cache.labels(cache.test)
    half = len(cache.classes) // 2
    base, new, found = cache.classes[:half], cache.classes[half:], []
    for seed in SEEDS:
        keys, aside = cache.shots(seed, MOST), cache.validation(seed, MOST)
        y, y_val = cache.labels(keys), cache.labels(aside)
        X, V = np.stack([cache.views[key] for key in keys]), np.stack([cache.single[key] for key in aside])
        made = GDA(encoder, base, seed=seed, covariance="class-mean")
        made.fit(X[y < half], y[y < half], X_val=V[y_val < half], y_val=y_val[y_val < half])
        first, later = y_test < half, y_test >= half
        unlabelled = GDA(encoder, cache.classes, seed=seed).fit(np.stack([cache.single[key] for key in keys]))
        found.append(
            (
                made.score(test[first], y_test[first]),
                made.for_classes(new).score(test[later], y_test[later] - half),
                unlabelled.score(test, y_test),
            )
        )
    gda = [round(float(value), 4) for value in np.mean(found, axis=0)]
    plain = [
        ZeroShot(encoder, base).fit().score(test[first], y_test[first]),
        ZeroShot(encoder, new).fit().score(test[later], y_test[later] - half),
        ZeroShot(encoder, cache.classes).fit().score(test, y_test),
    ]
    names = ("base half, 16 shots", "new half, names only", "all, 16 pictures a class without labels")
    return {name: {"gda": a, "zero_shot": round(float(b), 4)} for name, a, b in zip(names, gda, plain, strict=True)}


def seen_or_not(cache: Cache, encoder: Any, k: int = 8) -> dict[str, float]:
    """Shots that the model was trained on against shots it never saw (test rows), judged on the same other test rows."""
    GDA, found = load_method("gda"), []
    for seed in SEEDS:
        groups = cache._order(cache.test, seed)
        unseen = [[key for group in groups for key in group[a:b]] for a, b in ((0, k), (k, k + 4), (k + 4, None))]
        row = []
        for shots, aside in ((cache.shots(seed, k), cache.validation(seed, k)), (unseen[0], unseen[1])):
            X, V, Q = (np.stack([cache.single[key] for key in keys]) for keys in (shots, aside, unseen[2]))
            made = GDA(encoder, cache.classes, seed=seed)
            made.fit(X, cache.labels(shots), X_val=V, y_val=cache.labels(aside))
            row.append(made.score(Q, cache.labels(unseen[2])))
        found.append(row)
    seen, new = np.mean(found, axis=0)
    return {"seen": round(float(seen), 4), "never seen": round(float(new), 4)}


def fit_seconds() -> float:
    """100 classes, 16 shots, 10 views, D = 512: random unit vectors around random class means."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(100, 1, 1, 512))
    X = (means + 0.5 * rng.normal(size=(100, 16, 10, 512))).reshape(1600, 10, 512)
    X = (X / np.linalg.norm(X, axis=-1, keepdims=True)).astype(np.float32)
    y, V = np.repeat(np.arange(100), 16), X[::4, 0]
    names = [f"class {k}" for k in range(100)]

    class Random:
        logit_scale = 20.0

        def encode_image(self, images: Any) -> Any:
            raise AssertionError

        def encode_text(self, texts: Any) -> Any:
            rows = np.random.default_rng(1).normal(size=(len(texts), 512)).astype(np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    GDA = load_method("gda")
    return statistics.median(seconds(lambda: GDA(Random(), names).fit(X, y, X_val=V, y_val=y[::4]), repeat=3))


def main() -> None:
    cache = Cache("pocket")
    if "--encode" in sys.argv:
        return
    texts = Texts(cache.encoder)
    table = accuracies(cache, texts)
    gda, tip, zero = (
        dict(zip(SHOTS, table[name]["mean"], strict=True)) for name in ("gda", "tip_adapter", "zero_shot")
    )
    record(
        "adapt_gda",
        {
            "accuracy at 1, 2, 4, 8, 16 shots": table,
            "base to new, and unlabelled": beyond(cache, texts),
            "gda, one view, 8 shots the model was trained on or not": seen_or_not(cache, texts),
            "gda grows with shots": all(gda[a] < gda[b] for a, b in itertools.pairwise(SHOTS)),
            "gda over zero-shot at 16 shots, points": round(100 * (gda[16] - zero[16]), 2),
            "gda over Tip-Adapter at 16 shots, points": round(100 * (gda[16] - tip[16]), 2),
            "seconds to fit 100 x 16 x 10 at D = 512": round(fit_seconds(), 2),
            "pictures encoded while fitting and scoring": texts.pictures,
            "test rows": len(cache.test),
        },
        wanted="accuracy grows with K = 1, 2, 4, 8, 16; at 16 shots at least zero-shot + 3 points and at least Tip-Adapter; "
        "fit of 100 classes x 16 shots x 10 views at D = 512 under 5 s",
        seed=SEEDS[0],
        data=digest(shared_data() / "cifar100.parquet"),
        notes="model pocket, one template, seeds 1 to 3 (mean and standard deviation); validation has min(K, 4) pictures a "
        "class. Shots of 80 of the 100 classes are rows that pocket was trained on; one figure says what that matters. "
        "Tip-Adapter and GDA get ten views of a shot, the "
        'linear probe the shot itself. Base to new uses covariance="class-mean".',
        methods=("gda", "tip_adapter", "linear_probe", "zero_shot"),
    )


if __name__ == "__main__":
    main()
