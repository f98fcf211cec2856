"""One model on every engine: the same vectors, the same fingerprint; what was tuned is used, and only where it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.engine import tuned, tuning
from binderclip.engine.encoder import Encoder
from binderclip.engine.opening import exported, open_model
from binderclip.engine.tuned import Tuned, read_tuned, tuned_file, write_tuned
from binderclip.errors import InputError, NeedsExtraError, UnknownNameError
from binderclip.hub import load, native

from ..train.kit import tiny_clip

WORDS = ["a dog", "two red bicycles in the rain"]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A folder of weights without graphs."""
    native.save(tiny_clip(), tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_pocket_is_the_same_everywhere(engine: str) -> None:
    one, other = Encoder("pocket", threads=1, engine=engine), Encoder("pocket", threads=1)
    assert (one.engine, other.engine) == (engine, "onnx")
    assert one.fingerprint == other.fingerprint
    np.testing.assert_allclose(one.encode_text(WORDS), other.encode_text(WORDS), atol=2e-6)
    np.testing.assert_allclose(one.encode_image(pictures()), other.encode_image(pictures()), atol=2e-6)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_checkpoint_without_graphs_is_exported_once(tiny: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Encoder(tiny, threads=1)
    assert plain.engine == "torch"
    fast = Encoder(tiny, threads=1, engine=engine)
    assert fast.fingerprint == plain.fingerprint
    np.testing.assert_allclose(fast.encode_text(WORDS), plain.encode_text(WORDS), atol=2e-6)
    np.testing.assert_allclose(fast.encode_image(pictures()), plain.encode_image(pictures()), atol=2e-6)
    monkeypatch.setattr("binderclip.engine.torch_export.export_onnx", lambda *a, **k: pytest.fail("exported again"))
    place = exported(open_model(tiny))
    assert [path.name for path in place.parent.iterdir()] == [plain.fingerprint]  # nothing half made is left


def test_the_environment_names_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_ENGINE", "openvino")
    assert Encoder("pocket").engine == "openvino"
    assert Encoder("pocket", engine="onnx").engine == "onnx"
    monkeypatch.setenv("BINDERCLIP_ENGINE", "tpu")
    with pytest.raises(InputError, match="'tpu' is no engine: give one of auto, onnx, openvino, torch"):
        Encoder("pocket")


def test_what_was_tuned_is_used_on_this_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Encoder("pocket").fingerprint
    write_tuned("another", Tuned("torch", 1, 4))
    write_tuned(mark, Tuned("openvino", 1, 4))
    encoder = Encoder("pocket")
    assert (encoder.engine, encoder.batch) == ("openvino", 4)
    assert Encoder("pocket", engine="onnx").engine == "onnx"
    assert len(encoder.encode_image(pictures() * 3)) == 9  # in batches of four
    monkeypatch.setattr(tuned, "processor", lambda: "another processor")
    assert Encoder("pocket").engine == "onnx"
    monkeypatch.undo()


@pytest.mark.parametrize(
    "row",
    [
        "no row",
        {"engine": "abacus", "threads": 1, "batch": 1},
        {"engine": "onnx", "threads": "many", "batch": 1},
        {"engine": "onnx", "threads": 1, "batch": 0},
        {"engine": "onnx", "threads": True, "batch": 1},
    ],
)
def test_a_damaged_choice_is_no_choice(row: object) -> None:
    if isinstance(row, dict):
        row = row | {"processor": tuned.processor()}
    tuned_file().parent.mkdir(parents=True, exist_ok=True)
    tuned_file().write_text(json.dumps({"x": row}))
    assert read_tuned("x") == Tuned()
    tuned_file().write_text("[")
    assert read_tuned("x") == Tuned()
    write_tuned("x", Tuned("onnx"))
    assert read_tuned("x") == Tuned("onnx")
    write_tuned("x", None)
    assert read_tuned("x") == Tuned()


def test_measuring_tries_every_way_and_takes_the_fastest(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped: dict[str, str] = {}
    found = list(tuning.measure(tiny, seconds=0.01, batches=(1, 2), on_skipped=skipped.__setitem__))
    assert {speed.engine for speed in found} == {"onnx", "openvino", "torch"}
    assert not skipped
    assert min(min(speed.images, speed.text_ms) for speed in found) > 0
    best = tuning.best_of(
        [
            tuning.Speed("onnx", 2, 8, 100.0, 1),
            tuning.Speed("openvino", 4, 8, 101.0, 1),
            tuning.Speed("torch", 1, 1, 50.0, 1),
        ]
    )
    assert best == Tuned("onnx", 2, 8)  # as fast, on fewer cores

    def lame(name: str, **options: object) -> Encoder:
        if options["engine"] == "openvino":
            raise NeedsExtraError("the engine openvino", "fast")
        return Encoder(name, threads=1, engine=str(options["engine"]))

    monkeypatch.setattr(tuning, "Encoder", lame)
    found = list(tuning.measure(tiny, seconds=0.01, batches=(1,), on_skipped=skipped.__setitem__))
    assert {speed.engine for speed in found} == {"onnx", "torch"}
    assert "binderclip[fast]" in skipped["openvino"]
    monkeypatch.undo()
    with pytest.raises(UnknownNameError):
        list(tuning.measure("no-such-model"))


def test_the_tower_in_torch_may_be_changed_and_the_graph_is_not(tiny: str) -> None:
    """A changed model has another fingerprint, so that an old export never answers for it."""
    before = Encoder(tiny, engine="onnx").fingerprint
    clip = load(tiny)
    with torch.no_grad():
        next(clip.tower("image").parameters()).add_(0.1)
    clip.config.pop("probe", None)
    native.save(clip, tiny)
    after = Encoder(tiny, engine="onnx")
    assert after.fingerprint != before
    np.testing.assert_allclose(after.encode_image(pictures()), Encoder(tiny).encode_image(pictures()), atol=2e-6)
