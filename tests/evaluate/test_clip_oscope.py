"""CLIP-oscope: bags and planted biases as oracles, composed scenes, matching, mention order, the whole probe."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data.pairs import Pair
from binderclip.errors import InputError
from binderclip.evaluate import probes
from binderclip.evaluate.clip_oscope import MultiObjectProbe, first_bias
from binderclip.evaluate.composed import ComposedScenes, balanced, compose_scenes, shape_sprites
from binderclip.evaluate.data import Sets
from binderclip.evaluate.multi_object import keys_of, linear_heads, orders_of, retrieve, top_k
from binderclip.evaluate.object_matching import matching, mention_order
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours

pytestmark = pytest.mark.system("clip_oscope")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bank(names: int, width: int = 64, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(names, width)))


def test_a_bag_has_no_first_name() -> None:
    """40 names, all 9,880 sets of 3 in drawn orders: each position within 1/3 +- 3 standard errors."""
    E = bank(40)
    members = orders_of(40, 3, orders="random", most=10_000)
    assert len(members) == 9880
    found = retrieve(unit(E[members].sum(axis=1)), E, members)
    for positions, rows in ((found.best, np.ones(9880, bool)), (found.first, found.exact)):
        shares, error = found.shares(positions, rows), 3 * np.sqrt(1 / 3 * 2 / 3 / rows.sum())
        assert shares.sum() == pytest.approx(1)
        assert np.abs(shares - 1 / 3).max() < error
    # vocabulary order confounds: a name that is near to others sits at fixed places
    fixed = orders_of(40, 3, orders="vocabulary", most=10_000)
    assert (np.diff(fixed, axis=1) > 0).all()
    assert sorted(keys_of(fixed)) == sorted(keys_of(members))


def test_reversed_sentences_reverse_a_bags_histogram() -> None:
    E = bank(20, seed=3)
    members = orders_of(20, 4, most=500)
    X = unit(E[members].sum(axis=1))
    one, two = retrieve(X, E, members), retrieve(X, E, members[:, ::-1])
    for name in ("first", "best"):
        a, b = getattr(one, name), getattr(two, name)
        np.testing.assert_array_equal(one.shares(a), two.shares(b)[::-1])
    assert (one.exact == two.exact).all()


def test_a_planted_bias_stays_with_the_position() -> None:
    E = bank(40, seed=1)
    members = orders_of(40, 3, most=1500)
    for rows in (members, members[:, ::-1]):
        found = retrieve(unit(np.einsum("k,mkd->md", [0.5, 0.3, 0.2], E[rows])), E, rows)
        assert found.shares(found.first)[0] > 0.9
        assert found.shares(found.best)[0] > 0.9


def test_lists_against_a_loop() -> None:
    rng = np.random.default_rng(5)
    E, X = bank(30, 8, 2), unit(rng.normal(size=(200, 8)))
    members = np.stack([rng.permutation(30)[:4] for _ in range(200)])
    top, found = top_k(X, E, 4, chunk=64), retrieve(X, E, members)
    for m in range(200):
        scores = [float(X[m] @ e) for e in E]
        slow = sorted(range(30), key=lambda i: -scores[i])[:4]
        assert top[m].tolist() == slow
        own = members[m].tolist()
        hits = [i in own for i in slow]
        assert found.exact[m] == (set(slow) == set(own))
        assert found.first[m] == (own.index(slow[0]) if slow[0] in own else -1)
        assert found.best[m] == max(range(4), key=lambda j: scores[own[j]])
        assert found.precision[m] == pytest.approx(sum(hits) / 4)
        ap = sum(sum(hits[: i + 1]) / (i + 1) for i in range(4) if hits[i]) / 4
        gain = [1 / np.log2(i + 2) for i in range(4)]
        assert found.average_precision[m] == pytest.approx(ap)
        assert found.ndcg[m] == pytest.approx(sum(g for g, h in zip(gain, hits, strict=True) if h) / sum(gain))


def test_orders() -> None:
    every = orders_of(5, 3, orders="all")
    assert len(every) == 60
    assert len({tuple(row) for row in every}) == 60
    drawn = orders_of(50, 4, most=300, seed=2)
    assert len(set(keys_of(drawn))) == len(drawn) == 300
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    np.testing.assert_array_equal(drawn, orders_of(50, 4, most=300, seed=2))
    rows = balanced(7, 4, 21)
    for column in rows.T:
        assert np.bincount(column).tolist() == [3] * 7
    assert all(len(set(row)) == 4 for row in rows.tolist())
    with pytest.raises(InputError, match="random or all"):
        orders_of(5, 3, orders="sorted")
    with pytest.raises(InputError, match="enough names"):
        orders_of(2, 3)


def test_heads_learn_positions_where_there_are_any() -> None:
    """Blocks a position: all can be named. A bag: whose position it is cannot be known, at most about 1 in k."""
    members = balanced(8, 3, 1600, seed=4)
    eye = np.eye(8, dtype=np.float32)
    blocks = unit(np.concatenate([eye[members[:, j]] for j in range(3)], axis=1))
    right = linear_heads(blocks, members, 8, lr=2e-2, epochs=6)
    assert right.mean() > 0.95
    bag = linear_heads(unit(eye[members].sum(axis=1)), members, 8, lr=2e-2, epochs=6)
    assert 0.2 < bag.mean() < 0.45
    assert right.shape == bag.shape
    with pytest.raises(InputError, match="too few"):
        linear_heads(blocks[:1], members[:1], 8)


def texts_of(E: np.ndarray, names: Sequence[str]) -> Any:
    row = {name: E[i] for i, name in enumerate(names)}
    return lambda said: unit(np.array([sum(row[word] for word in text.split(" and ")) for text in said]))


def itm_oracle(width: int, noise: float, count: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pictures are area-weighted sums (2 : 1 : 1 : 1) of names, with noise as long as the sum times `noise`."""
    names = [f"n{i}" for i in range(20)]
    E, rng = bank(20, width, 7), np.random.default_rng(8)
    members = balanced(20, 4, count, 1)
    big = np.arange(count) % 4
    weights = np.where(np.arange(4) == big[:, None], 2.0, 1.0)
    X = np.einsum("nk,nkd->nd", weights, E[members])
    X = X + noise * np.linalg.norm(X, axis=1, keepdims=True) * unit(rng.normal(size=X.shape))
    orders = [[names[i] for i in row] for row in members]
    return matching(unit(X), orders, big.tolist(), names, texts_of(E, names), **options)


def test_matching_by_bags() -> None:
    first, last = itm_oracle(512, 0.0, 80)
    assert (first == 1).all()
    assert (last == 1).all()
    first, last = itm_oracle(32, 1.0, 600)
    assert first.mean() > 0.98
    assert first.mean() - last.mean() > 0.03
    assert last.mean() == pytest.approx(0.91, abs=0.04)
    # a bag does not hear order: the symmetric scenario 2 replaces a small name too
    again = itm_oracle(32, 1.0, 100, symmetric=True)
    assert again[0].mean() == itm_oracle(32, 1.0, 100)[0].mean()


def test_matching_against_a_loop() -> None:
    """A text model that hears order, every caption written out."""
    names = [f"n{i}" for i in range(6)]
    E, rng = bank(6, 8, 1), np.random.default_rng(2)

    def texts(said: Sequence[str]) -> np.ndarray:
        rows = [sum(E[names.index(w)] / (1 + j) for j, w in enumerate(text.split(" and "))) for text in said]
        return unit(np.array(rows))

    orders, big = [["n0", "n1", "n2"], ["n5", "n3", "n0"]], [1, 2]
    X = unit(rng.normal(size=(2, 8)))
    captions = {
        0: (["n1 and n0 and n2"], ["n0 and n2 and n1"], "n{} and n0 and n2", "n1 and n0 and n{}", "n{} and n2 and n1"),
        1: (["n0 and n3 and n5"], ["n5 and n3 and n0"], "n{} and n3 and n5", "n0 and n3 and n{}", "n{} and n3 and n0"),
    }
    for symmetric in (False, True):
        first, last = matching(X, orders, big, names, texts, symmetric=symmetric)
        for n, (one, two, wrong_1, wrong_2, wrong_symmetric) in captions.items():
            away = [i for i in range(6) if f"n{i}" not in orders[n]]
            for got, right, wrong in (
                (first, one, wrong_1),
                (last, two, wrong_symmetric if symmetric else wrong_2),
            ):
                s = X[n] @ texts(right)[0]
                assert got[n] == pytest.approx(np.mean([s > X[n] @ texts([wrong.format(i)])[0] for i in away]))
    few = matching(X, orders, big, names, texts, absent=1)
    assert set(np.concatenate(few)) <= {0.0, 1.0}


@pytest.mark.parametrize(("slots", "big", "scale"), [(4, 0, 2.0), (3, 2, 3.0), (5, None, 1.5), (4, 1, 1.0)])
def test_composed_scenes(slots: int, big: int | None, scale: float) -> None:
    scenes = compose_scenes(shape_sprites(12), 30, slots, big, scale)
    for number in range(0, 30, 7):
        pair = scenes.row(number)
        pixels = np.asarray(pair.image, int)
        ink = (np.abs(pixels - 200) > 8).any(axis=2)
        enlarged = number % slots if big is None else big
        assert pair.metadata["big"] == enlarged
        for slot, (x0, y0, x1, y1) in enumerate(pair.boxes):
            part = ink[int(y0) : int(y1), int(x0) : int(x1)]
            assert part.any(axis=0).mean() > 0.9  # the box is around what is seen
            assert part.any(axis=1).mean() > 0.9
            ink[int(y0) : int(y1), int(x0) : int(x1)] = False
            want = 224 / np.ceil(np.sqrt(slots)) / 3 * (scale if slot == enlarged else 1)
            assert max(x1 - x0, y1 - y0) == pytest.approx(want, abs=1)
        assert not ink.any()  # and nothing is outside
        assert pair.captions == (" and ".join(pair.metadata["order"]),)
        assert pair.metadata["order"] == [scenes.names[i] for i in scenes.members[number]]


def test_places_say_nothing_of_slots() -> None:
    scenes = ComposedScenes({name: Image.new("RGBA", (8, 8), "red") for name in "abcdef"}, 400, 4, 0, side=24)
    counts = np.zeros((4, 4))
    for pair in scenes:
        for slot, (x0, y0, _, _) in enumerate(pair.boxes):
            counts[slot, 2 * int(y0 >= 12) + int(x0 >= 12)] += 1
    assert np.abs(counts / 400 - 0.25).max() < 3 * np.sqrt(0.25 * 0.75 / 400)
    assert [one.size for one in scenes.bank()] == [(24, 24)] * 6
    assert list(scenes)[3].image.tobytes() == scenes.row(3).image.tobytes()  # type: ignore[union-attr]


def row(caption: str, names: Sequence[str], sizes: Sequence[float]) -> Pair:
    return Pair(
        caption, captions=(caption,), boxes=tuple((0.0, 0.0, s, 1.0) for s in sizes), metadata={"phrases": names}
    )


def test_mention_order() -> None:
    pairs = [
        row("a carrot beside a car and a dog", ["car", "dog"], [4, 1]),  # not "car" of "carrot"
        row("two hats, a small red circle, then a star", ["blue star", "small red circle"], [6, 2]),
        row("a cup", ["cup", "table"], [1, 2]),
        row("nothing", ["a", "b"], [1, 2]),
        row("a red star left of a blue star", ["big red star", "big blue star"], [1, 2]),  # whose star is not said
    ]
    found = mention_order(pairs)
    assert found.first_largest.tolist() == [True, False]
    assert found.chance.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(found.areas, [[0, 0.8], [1, 0.2], [0, 0.25], [1, 0.75]])
    with pytest.raises(InputError, match="no caption names two"):
        mention_order(pairs[2:])


class Bag:
    """Texts are sums of names, weighted by position; pictures of a composed scene are sums by area, by their content."""

    name, fingerprint, logit_scale = "bag", "b", 100.0

    def __init__(self, scenes: ComposedScenes, weights: Sequence[float] = (1, 1, 1, 1)) -> None:
        self.E, self.names, self.weights = bank(len(scenes.names), 256), scenes.names, weights
        self.known = {one.tobytes(): self.E[k] for k, one in enumerate(scenes.bank())}
        for pair in scenes:
            areas = [float(pair.metadata["scale"]) if s == pair.metadata["big"] else 1.0 for s in range(scenes.slots)]
            rows = [self.E[self.names.index(name)] for name in pair.metadata["order"]]
            self.known[pair.image.tobytes()] = unit(np.einsum("k,kd->d", areas, rows))  # type: ignore[union-attr]

    def encode_image(self, images: Sequence[Any]) -> np.ndarray:
        return np.array([self.known[image.tobytes()] for image in images], np.float32)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            parts = [part.removeprefix("an ").removeprefix("a ") for part in text.split(" and ")]
            rows.append(sum(w * self.E[self.names.index(p)] for p, w in zip(parts, self.weights, strict=False)))
        return unit(np.array(rows)).astype(np.float32)


def test_the_whole_probe() -> None:
    scenes = compose_scenes(shape_sprites(12), 60, 4, None, 2.0)
    report = MultiObjectProbe(sentences=120, turns=6).run(Bag(scenes, (2.0, 1, 1, 1)), scenes, captions=scenes)
    assert report["tor_position_1"] > 0.9
    assert report["tor_exact"] > 0.9
    assert report["ior_big"] > 0.95
    assert report["itm_big_first"] == 1.0
    assert report["origin_chance"] == 0.25
    assert report["toc_position_1"] >= 0
    assert len(report.rows) == 60
    assert {m.name for m in report.metrics} >= {"tor_ndcg", "ioc_slot_4", "itm_difference", "origin_rank_correlation"}
    assert [chart["kind"] for chart in report.charts] == ["lines", "lines"]
    even = MultiObjectProbe(tests=("tor",), sentences=220, objects=3, orders="all").run(Bag(scenes), names=scenes.names)
    for j in range(3):  # all orders of every set: a bag is exactly flat
        assert even[f"tor_own_position_{j + 1}"] == pytest.approx(1 / 3)
    chart = first_bias({20: Bag(scenes, (3, 1, 1, 1)), 10: Bag(scenes)}, scenes.names, sentences=60)
    (first, low), (second, high) = chart["series"]["first position"]
    assert (first, second) == (10, 20)
    assert low < 0.6 < high


def test_bad_input() -> None:
    scenes = compose_scenes(shape_sprites(5), 6)
    for call, message in (
        (lambda: MultiObjectProbe(tests=("tot",)).run(Bag(scenes), scenes), "no test is called 'tot'"),
        (lambda: MultiObjectProbe().run(Bag(scenes)), "nothing to measure"),
        (lambda: MultiObjectProbe().run(Bag(scenes), names=["a", "b"]), "too few"),
        (lambda: compose_scenes(shape_sprites(3), 6, 4), "a sprite for every slot"),
        (lambda: compose_scenes(shape_sprites(5), 6, 4, 4), "a slot under 4"),
        (lambda: compose_scenes(shape_sprites(5), 6, 4, 0, 3.5), "a scale of 1 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert list(itertools.islice(shape_sprites(80), 2)) == ["red circle", "orange ring"]


def test_the_probe_on_ones_own_classes() -> None:
    encoder = ColourEncoder()
    report = probes.load("multi-object", scenes=24, sentences=30).run(Vectors(encoder), Sets(colours(2)))
    assert report.probe == "multi-object"
    assert report["ior_big"] > 0.5  # the mean colour is that of the larger square
    assert len(report.rows) == 24
    assert report["ior_chance"] == 0.25
    assert [m.name for m in report.metrics[:3]] == [f"tor_own_position_{j}" for j in (1, 2, 3)]
    with pytest.raises(InputError, match="this needs over 6"):
        probes.load("multi-object", slots=6).run(Vectors(encoder), Sets(colours(2)))
