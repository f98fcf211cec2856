"""The derived cache against an exact float32 scan; it may vanish or rot at any time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binderclip.search.cache import load_cache, quantize, scan_int8
from binderclip.search.index import LocalIndex
from binderclip.search.store import Entry
from binderclip.search.types import FloatArray
from binderclip.search.writer import Writer

from .helpers import FakeEncoder

N, D = 3000, 64


def make_rows(n: int = N, seed: int = 0) -> FloatArray:
    """Clustered unit rows, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, D))
    rows = (centres[rng.integers(0, 40, n)] + 0.7 * rng.standard_normal((n, D))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(folder: Path, rows: FloatArray, start: int = 0) -> None:
    with Writer(folder) as writer:
        model = writer.add_model("f", "m", D)
        names = [f"/p/{start + i:06d}.jpg".encode() for i in range(len(rows))]
        writer.commit(model, [Entry(n, 1, 1, n, 1, 1, None, row) for n, row in zip(names, rows, strict=True)])


class Dummy(FakeEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.fingerprint, self.dim = "f", D


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path, make_rows())
    return tmp_path


def answers(folder: Path, k: int = 10) -> list[list[tuple[str, float]]]:
    with LocalIndex(folder, Dummy()) as index:
        return [[(hit.path, hit.score) for hit in index.search(query, k)] for query in make_rows(20, seed=1)]


def cache_file(folder: Path) -> Path:
    (path,) = (folder / "cache").glob("*.i8")
    return path


def test_quantising_error_is_half_a_step() -> None:
    rows = make_rows(100)
    scales, quantized = quantize(rows)
    assert (np.abs(quantized * scales[:, None] - rows) <= scales[:, None] * 0.5001).all()


def test_scan_ranks_as_a_loop_over_integers() -> None:
    rows, query = make_rows(300), make_rows(1, seed=5)[0]
    _, q = quantize(rows)
    _, one = quantize(query[None])
    cosines = [
        float(
            np.dot(row.astype(int), one[0].astype(int))
            / np.sqrt((row.astype(int) ** 2).sum() * (one[0].astype(int) ** 2).sum())
        )
        for row in q
    ]
    oracle = sorted(range(300), key=lambda i: -cosines[i])[:25]
    found = scan_int8(q, query, 25)
    np.testing.assert_allclose([cosines[i] for i in found], [cosines[i] for i in oracle], atol=1e-5)
    assert len(scan_int8(q[:0], query, 5)) == 0
    assert len(scan_int8(q[:3], query, 5)) == 3


def test_scores_are_exact_and_recall_is_full(folder: Path) -> None:
    truth, queries = make_rows().astype(np.float16).astype(np.float32), make_rows(20, seed=1)
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    kept = 0
    for query, hits in zip(queries, answers(folder), strict=True):
        cosines = truth @ query
        best = np.argsort(-cosines, kind="stable")[:10]
        kept += len({f"/p/{i:06d}.jpg" for i in best} & {path for path, _ in hits})
        for path, score in hits:
            assert score == pytest.approx(float(cosines[int(path[3:9])]), abs=1e-6)
    assert kept >= 0.99 * 200


def test_same_answers_without_the_cache_and_with_a_rotten_one(folder: Path) -> None:
    first = answers(folder)
    path = cache_file(folder)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damages = {
        "gone": None,
        "empty": b"",
        "short": whole[:middle],
        "one bit": whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :],
        "header": b"x" * 128 + whole[128:],
        "zeros": whole[:4096] + bytes(len(whole) - 4096),
    }
    for what, data in damages.items():
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        assert answers(folder) == first, what
        assert cache_file(folder).read_bytes() == whole, what


def test_a_stale_cache_is_brought_up_to_date(folder: Path) -> None:
    answers(folder)
    stale = cache_file(folder).read_bytes()
    fill(folder, make_rows(50, seed=9), start=N)  # few: they are kept in memory only
    few = answers(folder)
    assert cache_file(folder).read_bytes() == stale
    cache_file(folder).unlink()
    assert answers(folder) == few
    fill(folder, make_rows(2000, seed=10), start=N + 50)  # many: the file is written again
    many = answers(folder)
    assert len(cache_file(folder).read_bytes()) > len(stale)
    cache_file(folder).unlink()
    assert answers(folder) == many != few


def test_an_open_index_sees_what_is_written_and_what_is_removed(folder: Path) -> None:
    query = make_rows(1, seed=77)[0]
    with LocalIndex(folder, Dummy()) as index:
        index.search(query, 3)
        fill(folder, query[None], start=N)
        assert index.search(query, 1)[0].path == f"/p/{N:06d}.jpg"
        with Writer(folder) as writer:
            writer.mark([f"/p/{N:06d}.jpg".encode()], missing=True)
        assert index.search(query, 1)[0].path != f"/p/{N:06d}.jpg"
        before = [hit.path for hit in index.search(query, 10)]
        with Writer(folder) as writer:
            writer.prune()
            assert len(load_cache(writer, writer.models()[0])) == N
        assert [hit.path for hit in index.search(query, 10)] == before


def test_many_missing_files_do_not_hide_the_rest(folder: Path) -> None:
    query = make_rows(1, seed=3)[0]
    with LocalIndex(folder, Dummy()) as index:
        order = index.search(query, N)
        with Writer(folder) as writer:
            writer.mark([hit.row.raw_path for hit in order[:2990]], missing=True)
        assert [hit.path for hit in index.search(query, 20)] == [hit.path for hit in order[2990:]]


def test_a_filter_is_exact(folder: Path) -> None:
    query = make_rows(1, seed=3)[0]
    with LocalIndex(folder, Dummy()) as index:
        every = [hit for hit in index.search(query, N) if hit.path.endswith("7.jpg")]
        assert index.search(query, 12, where="path~7.jpg") == every[:12]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answers(folder)
    cache_file(folder).unlink()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    assert answers(folder) == first
    assert list((folder / "cache").iterdir()) == []
