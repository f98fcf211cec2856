"""The baselines against loops, closed forms and the library they lean on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from binderclip.adapt.encoding import augmented_views, rows_of
from binderclip.adapt.linear_probe import COARSE, LinearProbe, search
from binderclip.adapt.parts import class_weights, grid, grid_values, unit
from binderclip.adapt.tip_adapter import TipAdapter
from binderclip.adapt.zero_shot import ZeroShot
from binderclip.data.embeddings import Embeddings
from binderclip.data.pairs import Pairs
from binderclip.errors import InputError, MediaError
from tests.evaluate.helpers import ColourEncoder, picture, write_folder

from .conformance import NAMES, Kit


def test_one_template_is_plain() -> None:
    kit = Kit()
    z = ZeroShot(kit.encoder, NAMES, templates=("a photo of a {}.",)).fit().decision_function(kit.Q)
    wanted = kit.encoder.logit_scale * kit.Q @ kit.encoder.encode_text([f"a photo of a {name}." for name in NAMES]).T
    assert np.allclose(z, wanted, atol=1e-5)


def test_templates_in_any_order() -> None:
    kit = Kit()
    templates = ("a photo of a {}.", "a {} thing", "{}, {}")
    first = ZeroShot(kit.encoder, NAMES, templates=templates).fit().decision_function(kit.Q)
    for order in itertools.permutations(templates):
        again = ZeroShot(kit.encoder, NAMES, templates=order).fit().decision_function(kit.Q)
        assert np.allclose(again, first, atol=1e-5)
    # by hand: the mean of unit vectors, made unit again
    rows = np.mean([kit.encoder.encode_text([t.replace("{}", "red")])[0] for t in templates], axis=0)
    assert np.allclose(class_weights(kit.encoder, NAMES, templates)[0], rows / np.linalg.norm(rows), atol=1e-6)


def test_underscores_are_spaces() -> None:
    kit = Kit()
    a, b = (class_weights(kit.encoder, names) for names in (["red_thing", "blue"], ["red thing", "blue"]))
    assert np.array_equal(a, b)
    with pytest.raises(InputError, match="twice"):
        class_weights(kit.encoder, ["red_thing", "red thing"])


def test_grid_takes_the_first_best_and_the_first_axis_outside() -> None:
    seen = []

    def score(b: float, a: float) -> float:
        seen.append((b, a))
        return 1.0 if a + b == 3 else 0.0

    assert grid(score, b=[0, 1, 2], a=[1, 2]) == {"b": 1, "a": 2}
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert grid_values(7, 200)[:2] == [0.1, 0.1 + 6.9 / 200]
    assert grid_values(3, 20)[-1] == pytest.approx(0.1 + 19 * 2.9 / 20)


@pytest.mark.parametrize("keys", ["raw", "unit"])
def test_tip_adapter_by_loops(keys: str) -> None:
    kit, rng = Kit(), np.random.default_rng(0)
    views = kit.X[:, None] * rng.uniform(0.5, 2.0, (len(kit.X), 3, 1)) + 0.1 * rng.normal(size=(len(kit.X), 3, 8))
    made = TipAdapter(kit.encoder, NAMES, alpha=1.5, beta=4.0, keys=keys).fit(views, kit.y)
    z = made.decision_function(kit.Q)
    for n in (0, 7, 29):
        wanted = [kit.encoder.logit_scale * float(kit.Q[n] @ w) for w in made.W_]
        for row, label in zip(views, kit.y, strict=True):
            key = sum(v / (1 if keys == "raw" else np.linalg.norm(v)) for v in row)
            wanted[label] += 1.5 * np.exp(-4.0 * (1 - kit.Q[n] @ key / np.linalg.norm(key)))
        assert np.allclose(z[n], wanted, atol=1e-4)


def test_tip_adapter_without_its_cache() -> None:
    kit = Kit()
    z = TipAdapter(kit.encoder, NAMES, alpha=0.0).fit(kit.X, kit.y).decision_function(kit.Q)
    assert np.array_equal(z, ZeroShot(kit.encoder, NAMES).fit().decision_function(kit.Q))


def test_tip_search() -> None:
    kit = Kit()
    made = TipAdapter(kit.encoder, NAMES, scales=(5.0, 3.0)).fit(kit.X, kit.y, X_val=kit.Q, y_val=kit.y_q)
    best: tuple[float, Any] = (-1.0, None)
    for beta in grid_values(5.0, 200)[::1]:
        a = np.exp(-beta * (1 - kit.Q.astype(np.float64) @ made.keys_.T)) @ np.eye(6)[kit.y]
        z = kit.encoder.logit_scale * kit.Q @ made.W_.T
        for alpha in grid_values(3.0, 20):
            value = float(((z + alpha * a).argmax(1) == kit.y_q).mean())
            if value > best[0]:
                best = (value, {"beta": beta, "alpha": alpha})
    assert made.hyper_ == best[1]


def test_search_of_c() -> None:
    tried = []

    def score(C: float) -> float:
        tried.append(C)
        return -abs(np.log10(C) - 2.4)

    assert np.log10(search(score)) == pytest.approx(2.4, abs=0.02)
    assert tried[:7] == list(COARSE)
    assert tried[7:9] == [10.0, 1000.0]
    assert search(lambda C: 0.0) == COARSE[0] / 10  # all alike: the first of the list, then left and left again


def test_linear_probe_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    kit = Kit()
    made = LinearProbe(kit.encoder, NAMES, C=3.0).fit(kit.X, kit.y)
    theirs = LogisticRegression(C=3.0, max_iter=1000).fit(kit.X.astype(np.float64), kit.y)
    assert np.allclose(made.decision_function(kit.Q), theirs.decision_function(kit.Q), atol=1e-3)
    two = kit.y < 2
    pair = LinearProbe(kit.encoder, NAMES, C=3.0).fit(kit.X[two], kit.y[two])
    theirs.fit(kit.X[two].astype(np.float64), kit.y[two])
    assert np.allclose(pair.predict_proba(kit.Q)[:, :2], theirs.predict_proba(kit.Q), atol=1e-3)
    assert (pair.predict_proba(kit.Q)[:, 2:] == 0).all()
    with pytest.raises(InputError, match="one class"):
        LinearProbe(kit.encoder, NAMES).fit(kit.X[:4], kit.y[:4])
    chosen = LinearProbe(kit.encoder, NAMES).fit(kit.X, kit.y, X_val=kit.Q, y_val=kit.y_q)
    assert chosen.hyper_["C"] > 0


class Shapes(ColourEncoder):
    """Tells left from right, so that flips and crops show."""

    def encode_image(self, images: Any) -> np.ndarray:
        rows = [np.asarray(image.convert("RGB").resize((4, 2)), np.float64).reshape(-1) + 1 for image in images]
        return (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_views_depend_on_the_id_alone() -> None:
    rng, encoder = np.random.default_rng(0), Shapes()
    from PIL import Image

    images = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(5)]
    ids = list("abcde")
    views = augmented_views(encoder, images, ids, 6, seed=1)
    assert views.shape == (5, 6, 24)
    assert np.array_equal(augmented_views(encoder, images[::-1], ids[::-1], 6, seed=1)[::-1], views)
    assert np.array_equal(augmented_views(encoder, images[2:3], ids[2:3], 3, seed=1)[0], views[2, :3])
    assert not np.array_equal(augmented_views(encoder, images, ids, 6, seed=2), views)
    assert len(np.unique(views[0].round(6), axis=0)) >= 5
    assert np.allclose(rows_of(encoder, images, views=2).vectors.shape, (5, 2, 24))


def test_pairs_are_encoded_and_bad_rows_counted(tmp_path: Any) -> None:
    write_folder(tmp_path / "set", per_class=3)
    (tmp_path / "set" / "red" / "broken.png").write_bytes(b"no picture at all")
    encoder = ColourEncoder(noise=0.1)
    pairs = Pairs.open(tmp_path / "set", kind="classes")
    with pytest.warns(UserWarning, match=r"1 of 19 pictures were left out, the first: red.broken\.png"):
        made = TipAdapter(encoder, NAMES, n_views=1).fit(pairs)
    assert made.keys_.shape == (18, 8)
    assert encoder.pictures <= 18 + 16  # the batch with the bad one is gone through twice
    held = [picture(name, 900 + k) for k, name in enumerate(NAMES)]
    assert made.score(held, NAMES) > 0.6
    with pytest.raises(MediaError):
        made.predict([str(tmp_path / "set" / "red" / "broken.png")])
    foreign = Embeddings.from_arrays(["a"], np.ones((1, 8)), fingerprint="other")
    with pytest.raises(InputError, match="another model"):
        made.predict(foreign)


def test_unit_leaves_unit_rows_alone() -> None:
    rows = Kit().X.astype(np.float64)
    assert np.array_equal(unit(rows), rows)
    assert np.allclose(np.linalg.norm(unit(3.0 * rows), axis=1), 1.0)
