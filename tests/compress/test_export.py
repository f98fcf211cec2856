"""Exports: parity with torch, whole or absent, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binderclip.compress import export as module
from binderclip.compress.export import export
from binderclip.engine.encoder import Encoder
from binderclip.errors import CheckpointError, InputError
from binderclip.hub import load
from binderclip.model.clip import CLIP

from ..engine.test_engines import WORDS, pictures
from ..train.kit import tiny_clip


@pytest.fixture
def clip() -> CLIP:
    return tiny_clip().eval()


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_folder_gives_what_torch_gives(clip: CLIP, engine: str, tmp_path: Path) -> None:
    done = export(clip, tmp_path / "out", engine=engine)
    assert set(done.differences) == {"image", "text"}
    assert max(done.differences.values()) < 1e-5
    encoder = Encoder(str(tmp_path / "out"), engine=engine)
    by_torch = clip.encode_image(pictures()).detach().numpy()
    np.testing.assert_allclose(encoder.encode_image(pictures()), by_torch, atol=1e-5)
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_half_is_half_and_torch_has_no_graphs(clip: CLIP, tmp_path: Path) -> None:
    full, half = export(clip, tmp_path / "full", engine="torch"), export(clip, tmp_path / "half", half=True)
    assert not list((tmp_path / "full").glob("*.onnx"))
    assert full.differences == {}
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert max(half.differences.values()) < 1e-5
    rounded = load(tmp_path / "half").encode_text(WORDS).detach().numpy()
    np.testing.assert_allclose(Encoder(str(tmp_path / "half")).encode_text(WORDS), rounded, atol=1e-5)


def test_a_tower_that_is_off_leaves_nothing(clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="is off by"):
        export(clip, tmp_path / "out", tolerance=0.0)
    monkeypatch.setattr(module, "native", None, raising=False)
    with pytest.raises(CheckpointError, match="OpenVINO's image tower is off by"):
        module._on_openvino(clip, export(clip, tmp_path / "fine").folder, -1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["fine"]


def test_refusals(clip: CLIP, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export(clip, tmp_path / "there")
    with pytest.raises(InputError, match="no engine to export for"):
        export(clip, tmp_path / "new", engine="tpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(clip, tmp_path / "file" / "new")
