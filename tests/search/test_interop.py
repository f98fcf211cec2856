"""clip-retrieval's layout: parts that are whole, runs that go on, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError
from binderclip.search import interop
from binderclip.search.index import LocalIndex
from binderclip.search.interop import embed_files, export_index
from binderclip.search.scan import scan

from .helpers import FakeEncoder, dump


@pytest.mark.parametrize("parquet", [True, False])
def test_there_and_back(tmp_path: Path, photos: Path, encoder: FakeEncoder, parquet: bool) -> None:
    if parquet:
        pytest.importorskip("pyarrow")
    (photos / "bad.png").write_bytes(b"bad")
    files, out = scan([photos], {".png"}).files, tmp_path / "out"
    done = embed_files(files, encoder, out, part=8, batch=4, parquet=parquet)
    assert (done.written, done.parts, len(done.bad)) == (30, 4, 1)
    assert np.load(out / "img_emb" / "img_emb_0.npy").dtype == np.float16
    table = Embeddings.from_folder(out)
    good = [str(path) for path in sorted(photos.rglob("*.png")) if path.name != "bad.png"]
    assert list(table.ids) == good
    np.testing.assert_allclose(table.matrix, encoder.encode_image(good), atol=2e-3)
    assert table.fingerprint == encoder.fingerprint


def test_a_stopped_run_goes_on(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    files, whole, out = scan([photos], {".png"}).files, tmp_path / "whole", tmp_path / "out"
    embed_files(files, FakeEncoder(), whole, part=8, batch=4)
    real, count = interop.write_whole, [0]
    for stop in range(1, 10):

        def failing(path: Path, data: bytes, stop: int = stop) -> None:
            count[0] += 1
            if count[0] == stop:
                raise OSError(28, "No space left on device")
            real(path, data)

        count[0] = 0
        folder = out / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(interop, "write_whole", failing)
            with pytest.raises(InputError, match="No space left"):
                embed_files(files, FakeEncoder(), folder, part=8, batch=4)
        encoder = FakeEncoder()
        embed_files(files, encoder, folder, part=8, batch=4)
        mine, theirs = Embeddings.from_folder(folder), Embeddings.from_folder(whole)
        assert mine.ids == theirs.ids
        np.testing.assert_array_equal(mine.matrix, theirs.matrix)
        assert embed_files(files, encoder, folder).kept == 30


def test_another_models_folder_is_refused(tmp_path: Path, photos: Path) -> None:
    files = scan([photos], {".png"}).files
    embed_files(files, FakeEncoder("one"), tmp_path / "out", parquet=False)
    with pytest.raises(InputError, match="choose another -o"):
        embed_files(files, FakeEncoder("two"), tmp_path / "out")


def test_an_index_is_exported(tmp_path: Path, photos: Path, encoder: FakeEncoder) -> None:
    with LocalIndex(tmp_path / "db", encoder) as index:
        index.add([photos])
        rows, vectors = index.vectors()
        assert export_index(rows, vectors, encoder, tmp_path / "out", part=7) == 30
        table = Embeddings.from_folder(tmp_path / "out")
        mine = Embeddings.from_index(index, label=lambda row: Path(row.path).parent.name)
    assert table.ids == mine.ids
    np.testing.assert_allclose(table.matrix, mine.matrix, atol=1e-3)
    assert set(mine.labels.tolist()) == {"day0", "day1", "day2"}  # type: ignore[union-attr]
    assert json.loads((tmp_path / "out" / "info.json").read_text())["dim"] == encoder.dim


def test_lance_there_and_back(tmp_path: Path, photos: Path, encoder: FakeEncoder) -> None:
    pytest.importorskip("lancedb")
    from binderclip.search.base import Index
    from binderclip.search.lance import LanceIndex

    with LocalIndex(tmp_path / "db", encoder) as index, LocalIndex(tmp_path / "db2", encoder) as back:
        index.add([photos])
        table = LanceIndex(str(tmp_path / "lance"))
        assert table.fill_from(index) == 30
        with Index.open(f"lance:{tmp_path / 'lance'}", encoder) as there:
            for where in (None, "name~blue or name~red1"):
                for mine, other in zip(
                    index.search("red blue", 6, where=where), there.search("red blue", 6, where=where), strict=True
                ):
                    assert mine.row == other.row
                    assert mine.score == pytest.approx(other.score, abs=1e-6)
            assert list(there.rows()) == list(index.rows())
            np.testing.assert_array_equal(there.vectors()[1], index.vectors()[1])
        assert table.copy_into(back) == 30
        assert back.add([photos]).unchanged == 30
    assert dump(tmp_path / "db2") == dump(tmp_path / "db")
