"""The read-only table of vectors, and parts of it that depend on ids alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.embeddings import Embeddings, hash64, natural_order, uniform
from binderclip.errors import InputError

RNG = np.random.default_rng(0)


def table(n: int = 1000, seed: int = 0) -> Embeddings:
    return Embeddings.from_arrays(
        [f"id{i}" for i in range(n)],
        np.random.default_rng(seed).standard_normal((n, 8)),
        labels=np.arange(n) % 3,
        keep_raw=True,
    )


def test_rows_are_unit_and_cannot_be_changed() -> None:
    t = table()
    np.testing.assert_allclose(np.linalg.norm(t.matrix, axis=1), 1, atol=1e-6)
    assert t.matrix.dtype == np.float32
    for array in (t.matrix, t.raw, t.labels):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        t.ids = ()  # type: ignore[misc]


def test_the_callers_array_is_left_alone() -> None:
    mine = RNG.standard_normal((3, 2)).astype(np.float32)
    before = mine.copy()
    Embeddings.from_arrays("abc", mine, labels=(labels := np.arange(3)))
    mine += 0
    labels += 0
    np.testing.assert_array_equal(mine, before)


def test_hash64_is_what_it_says() -> None:
    digest = hashlib.blake2b(b"photo", digest_size=8, key=b"7").digest()
    assert hash64(7, "photo") == int.from_bytes(digest, "big")
    assert uniform(7, ["photo"])[0] == hash64(7, "photo") / 2**64


def test_parts_depend_on_ids_alone() -> None:
    t = table()
    shuffled = t.select(RNG.permutation(len(t))[:600])
    parts, some = t.split({"train": 0.8, "test": 0.2}, seed=3), shuffled.split({"train": 0.8, "test": 0.2}, seed=3)
    assert set(parts["train"].ids) | set(parts["test"].ids) == set(t.ids)
    assert not set(parts["train"].ids) & set(parts["test"].ids)
    assert set(some["test"].ids) == set(parts["test"].ids) & set(shuffled.ids)
    assert abs(len(parts["test"]) - 200) < 4 * (1000 * 0.2 * 0.8) ** 0.5  # four standard deviations
    assert set(t.split({"test": 0.2}, seed=4)["test"].ids) != set(parts["test"].ids)
    for shares in ({"a": 0.7, "b": 0.4}, {"a": -0.1}):
        with pytest.raises(InputError):
            t.split(shares)


def test_select_by_id_position_and_mask() -> None:
    t = table(10)
    by_id, by_position = t.select(["id7", "id2"]), t.select(np.array([7, 2]))
    assert by_id.ids == by_position.ids == ("id7", "id2")
    np.testing.assert_array_equal(by_id.matrix, t.matrix[[7, 2]])
    np.testing.assert_array_equal(by_id.raw, t.raw[[7, 2]])  # type: ignore[index]
    assert t.labels is not None
    assert t.select(t.labels == 0).ids == ("id0", "id3", "id6", "id9")
    assert len(t.select([])) == 0
    with pytest.raises(InputError, match="id77"):
        t.select(["id77"])


def test_zip_joins_by_id() -> None:
    a, b = table(10), table(30, seed=1).select(np.arange(29, 4, -1))
    mine, other = a.zip(b)
    assert mine.ids == other.ids == ("id5", "id6", "id7", "id8", "id9")
    np.testing.assert_array_equal(other.vector("id6"), b.vector("id6"))


def test_what_does_not_fit_is_refused() -> None:
    good = np.ones((2, 3))
    with pytest.raises(InputError, match="more than once"):
        Embeddings.from_arrays(["a", "a"], good)
    with pytest.raises(InputError, match="fit"):
        Embeddings.from_arrays(["a"], good)
    with pytest.raises(InputError, match="labels"):
        Embeddings.from_arrays(["a", "b"], good, labels=[1])
    with pytest.raises(InputError, match=r"\[N, D\]"):
        Embeddings.from_arrays(["a", "b"], good[0])
    for lost in (0.0, np.nan):
        with pytest.raises(InputError, match="row 1"):
            Embeddings.from_arrays(["a", "b"], [[1.0, 2.0], [lost, lost]])
    with pytest.raises(InputError, match="no vector"):
        table(2).vector("x")


def test_a_folder_without_metadata_is_numbered(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    for part in (0, 2, 10):
        np.save(
            tmp_path / "img_emb" / f"img_emb_{part}.npy",
            np.full((2, 3), part + 1, np.float16) + np.eye(2, 3, dtype=np.float16),
        )
    t = Embeddings.from_folder(tmp_path)
    assert t.ids == tuple("012345")
    assert t.raw is not None
    assert t.raw[:, 2].tolist() == [1, 1, 3, 3, 11, 11]
    with pytest.raises(InputError, match="text_emb"):
        Embeddings.from_folder(tmp_path, kind="text")


def test_metadata_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.ones((2, 3), np.float16))
    (tmp_path / "metadata" / "metadata_0.jsonl").write_text('{"image_path": "a"}\n')
    with pytest.raises(InputError, match="make the part again"):
        Embeddings.from_folder(tmp_path)
    (tmp_path / "metadata" / "metadata_0.jsonl").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Embeddings.from_folder(tmp_path)


def test_natural_order() -> None:
    assert [p.name for p in natural_order([Path("a_10.npy"), Path("a_9.npy")])] == ["a_9.npy", "a_10.npy"]
