"""CLIPRerank: identities of the mixture, segment maxima against a loop, and what must not change a ranking."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.errors import InputError
from binderclip.video.cliprerank import AGGREGATES, cliprerank, order, per_video

pytestmark = pytest.mark.system("cliprerank")

Q, V, D = 4, 9, 16


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """base [Q, V], text [Q, D], frames [F, D] in no order, video of each; video 3 has one frame, video 5 none."""
    rng = np.random.default_rng(0)
    counts = [4, 7, 2, 1, 6, 0, 3, 5, 8]
    owner = np.repeat(np.arange(V), counts)
    frames = rng.normal(size=(len(owner), D)) * rng.uniform(0.5, 3, (len(owner), 1))
    mixed = rng.permutation(len(owner))
    return rng.uniform(-1, 1, (Q, V)), rng.normal(size=(Q, D)), frames[mixed], owner[mixed]


def loop(text: np.ndarray, frames: np.ndarray, owner: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """S and the best frames, one cosine after the other."""
    S, best = np.full((Q, V), -np.inf), np.full((Q, V), -1)
    for q in range(Q):
        for v in range(V):
            mine = [
                (float(text[q] @ frames[f] / np.linalg.norm(text[q]) / np.linalg.norm(frames[f])), f)
                for f in range(len(frames))
                if owner[f] == v
            ]
            if mine:
                mine.sort(key=lambda one: -one[0])
                some = {"max": mine[:1], "mean": mine, "top3": mine[:3]}[how]
                S[q, v], best[q, v] = sum(one[0] for one in some) / len(some), mine[0][1]
    return S, best


def test_the_ends_of_alpha(made: tuple[np.ndarray, ...]) -> None:
    base, text, frames, owner = made
    S, _ = per_video(text, frames, owner, V)
    for normalize in ("auto", "none", "minmax", "zscore"):
        np.testing.assert_array_equal(cliprerank(base, text, frames, owner, 1.0, normalize).scores, base)
        np.testing.assert_array_equal(cliprerank(base, text, frames, owner, 0.0, normalize).scores, S)
    np.testing.assert_array_equal(order(base, base), np.argsort(-base, axis=1, kind="stable"))


@pytest.mark.parametrize("how", AGGREGATES)
def test_segments_equal_a_loop(made: tuple[np.ndarray, ...], how: str) -> None:
    base, text, frames, owner = made
    expected, best = loop(text, frames, owner, how)
    S, found = per_video(text, frames, owner, V, how)
    np.testing.assert_allclose(S, expected, atol=1e-6)
    np.testing.assert_array_equal(found, best)
    assert np.isneginf(S[:, 5]).all()
    for alpha in (0.0, 0.4, 0.9):
        for normalize in ("none", "minmax", "zscore"):
            scores = cliprerank(base, text, frames, owner, alpha, normalize, how).scores
            assert not np.isnan(scores).any()
            assert (order(scores, base)[:, -1] == 5).all()
    ranks = order(cliprerank(base, text, frames, owner, 1.0).scores, base)
    np.testing.assert_array_equal(ranks, np.argsort(-base, axis=1, kind="stable"))


def test_the_mixture_by_hand() -> None:
    text, frames = np.eye(2)[:1], np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 2.0]])
    owner, cosines = [0, 1, 1], np.array([[0.6, 1.0]])
    got = cliprerank([[0.9, 0.1]], text, frames, owner, 0.4)  # cosines: nothing is scaled
    np.testing.assert_allclose(got.scores, 0.4 * np.array([[0.9, 0.1]]) + 0.6 * cosines, atol=1e-6)
    np.testing.assert_array_equal(got.best_frame, [[0, 1]])
    got = cliprerank([[30.0, 10.0]], text, frames, owner, 0.4)  # no cosines: both from 0 to 1
    np.testing.assert_allclose(got.scores, [[0.4, 0.6]], atol=1e-6)
    got = cliprerank([[5.0, 5.0]], text, frames, owner, 0.4)  # a constant row says nothing
    np.testing.assert_allclose(got.scores, [[0.0, 0.6]], atol=1e-6)
    got = cliprerank([[7.0, 3.0]], text, frames, owner, 0.5, "zscore")
    np.testing.assert_allclose(got.scores, [[0.0, 0.0]], atol=1e-6)


def test_more_frames(made: tuple[np.ndarray, ...]) -> None:
    base, text, frames, owner = made
    before = cliprerank(base, text, frames, owner)
    twice = cliprerank(base, text, np.concatenate([frames, frames]), np.concatenate([owner, owner]))
    np.testing.assert_allclose(twice.scores, before.scores, atol=1e-6)  # a product's last bit depends on its place
    np.testing.assert_array_equal(order(twice.scores, base), order(before.scores, base))
    has = before.best_frame >= 0
    np.testing.assert_array_equal(twice.best_frame[has] % len(frames), before.best_frame[has])
    S, _ = per_video(text, frames, owner, V)
    for v in range(V):  # a frame that points away from every query
        more, _ = per_video(text, np.concatenate([frames, -text.sum(0, keepdims=True)]), [*owner, v], V)
        assert (more >= S - 1e-6).all()
        has = [one for one in range(V) if one != 5]
        np.testing.assert_allclose(more[:, has], S[:, has], atol=1.0 if v in has else 1e-12)


def test_scale_of_the_base(made: tuple[np.ndarray, ...]) -> None:
    base, text, frames, owner = made
    plain = cliprerank(base, text, frames, owner, normalize="minmax").scores
    has = [v for v in range(V) if v != 5]
    for other in (7.3 * base, base + 11.0, 0.01 * base - 3.0):
        moved = cliprerank(other, text, frames, owner, normalize="minmax").scores
        assert np.abs(moved[:, has] - plain[:, has]).max() < 1e-6
    none = cliprerank(base, text, frames, owner, normalize="none").scores
    scaled = cliprerank(7.3 * base, text, frames, owner, normalize="none").scores
    assert np.abs(scaled[:, has] - none[:, has]).max() > 0.1


def test_only_the_best_of_the_first_stage(made: tuple[np.ndarray, ...]) -> None:
    base, text, frames, owner = made
    k = 4
    scores = cliprerank(base, text, frames, owner, 0.4, "minmax", top_k=k).scores
    first = np.argsort(-base, axis=1, kind="stable")
    S, _ = per_video(text, frames, owner, V)
    for q in range(Q):
        some = first[q, :k]
        with_frames = [v for v in some if v != 5]
        m, s = base[q, some], S[q, with_frames]
        fused = [
            0.4 * (base[q, v] - m.min()) / (m.max() - m.min()) + 0.6 * (S[q, v] - s.min()) / (s.max() - s.min())
            for v in with_frames
        ]
        np.testing.assert_allclose(scores[q, with_frames], fused, atol=1e-6)
        for place, v in enumerate(first[q, k:]):
            assert scores[q, v] == pytest.approx(min(fused) - 1 - place / V)
    ranked = order(scores, base)
    for q in range(Q):
        assert [v for v in ranked[q] if v in first[q, k:]] == list(first[q, k:])
    everything = cliprerank(base, text, frames, owner, top_k=V).scores
    np.testing.assert_array_equal(everything, cliprerank(base, text, frames, owner).scores)


def test_ties_keep_the_base_order() -> None:
    assert order([[1.0, 1.0, 2.0]], [[0.1, 0.9, 0.5]]).tolist() == [[2, 1, 0]]
    assert order([[-np.inf, -np.inf]], [[0.1, 0.9]]).tolist() == [[1, 0]]


def test_no_frames_at_all() -> None:
    got = cliprerank(np.zeros((2, 3)), np.eye(2), np.zeros((0, 2)), np.zeros(0))
    assert np.isneginf(got.scores).all()
    assert (got.best_frame == -1).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": np.eye(3)}, "give"), ({"video_of_frame": [0, 9]}, "outside 0 to 1"), ({"alpha": 1.5}, "0 to 1"),
        ({"normalize": "max"}, "choose of"), ({"aggregate": "min"}, "choose of"), ({"top_k": 0}, "1 or more"),
        ({"frames": np.eye(3)[:2]}, "one model"), ({"base": [[np.nan, 0.0]]}, "no numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(change: dict[str, object], says: str) -> None:
    good = {"base": [[0.1, 0.2]], "text": np.eye(2)[:1], "frames": np.eye(2), "video_of_frame": [0, 1]}
    with pytest.raises(InputError, match=says):
        cliprerank(**{**good, **change})  # type: ignore[arg-type]
