"""TorchScript archives: read to the bit, never run, never trusted."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError
from binderclip.hub.torchscript import is_torchscript, read_torchscript
from tests.compare.published import archive


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(3, 4),
        "a.turned": torch.randn(5, 2).T,
        "blocks.0.short": torch.randn(6).half(),
        "blocks.1.scalar": torch.tensor(2.5),
        "blocks.1.count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "brain": torch.randn(2, 2).bfloat16(),
    }


def test_every_tensor_to_the_bit(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = archive(state, tmp_path / "model.pt")
    assert is_torchscript(path)
    got = read_torchscript(path)
    assert set(got) == set(state)
    for name, tensor in state.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


def test_other_files_are_not_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert not is_torchscript(tmp_path / "text.pt")


def rewritten(path: Path, out: Path, description: bytes | None = None, drop: str = "") -> Path:
    """A copy of the archive with another description, or without some files."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if drop and drop in info.filename:
                continue
            body = old.read(info)
            if description is not None and info.filename.endswith("/data.pkl"):
                body = description
            new.writestr(info.filename, body)
    return out


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, ("was_run",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_call_in_the_description_is_refused_and_not_made(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump({"weights": _Evil()})
    path = rewritten(archive(state, tmp_path / "m.pt"), tmp_path / "evil.pt", buffer.getvalue())
    with pytest.raises(CheckpointError, match="not trusted"):
        read_torchscript(path)
    assert not (tmp_path / "was_run").exists()


def test_a_tensor_outside_its_storage_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = archive({"w": torch.zeros(5, 7)}, tmp_path / "m.pt")
    with zipfile.ZipFile(path) as file:
        name = next(n for n in file.namelist() if n.endswith("/data.pkl"))
        body = file.read(name)
    assert body.count(b"K\x05K\x07") >= 1  # the size (5, 7)
    wrong = rewritten(path, tmp_path / "wrong.pt", body.replace(b"K\x05K\x07", b"K\x55K\x07"))
    with pytest.raises(CheckpointError, match="outside its storage"):
        read_torchscript(wrong)


def test_truncated_or_partial(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = archive(state, tmp_path / "m.pt")
    half = tmp_path / "half.pt"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="fetch it again"):
        read_torchscript(half)
    with pytest.raises(CheckpointError, match="fetch it again"):
        read_torchscript(rewritten(path, tmp_path / "less.pt", drop="/data/0"))
    with pytest.raises(CheckpointError, match="no TorchScript archive"):
        read_torchscript(rewritten(path, tmp_path / "none.pt", drop="data.pkl"))
    with pytest.raises(CheckpointError):
        read_torchscript(rewritten(path, tmp_path / "cut.pt", b"\x80\x02}q\x00("))
    with pytest.raises(CheckpointError, match="no weights"):
        read_torchscript(rewritten(path, tmp_path / "bare.pt", pickle.dumps({}, 2)))
