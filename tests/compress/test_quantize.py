"""int8: what is compared is counted right, what loses too much is not written, and pocket passes on real pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.compress.quantize import Checks, Limits, _overlap, _top, compare, quantize
from binderclip.data.scenes import SceneSpec, scene
from binderclip.engine.encoder import Encoder
from binderclip.errors import CheckpointError, InputError
from binderclip.hub import load

FINE = Checks(100, 0.99, 0.97, 0.99, 0.96, 100, 80.0, 79.6)


def scenes(count: int) -> tuple[list[Image.Image], list[str]]:
    spec = SceneSpec(size=48, objects=(1, 1), alike=0, textures=("plain",))
    made = [scene(i, spec) for i in range(count)]
    return [one.image for one in made], [" ".join(one.layout.things[0].kind) for one in made]


def test_overlap_by_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 8)).astype(np.float32)
    rough = rows + 0.3 * rng.standard_normal(rows.shape).astype(np.float32)
    itself = np.arange(12)

    def best(matrix: np.ndarray, i: int) -> set[int]:
        scores = sorted((-float(matrix[i] @ matrix[j]), j) for j in range(40) if j != i)
        return {j for _, j in scores[:10]}

    slow = np.mean([len(best(rows, i) & best(rough, i)) / 10 for i in itself])
    assert 0.3 < slow < 1
    assert _overlap(_top(rows[:12], rows, itself), _top(rough[:12], rough, itself)) == pytest.approx(slow)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"text_cosine": 0.979}, "mean cosine 0.979 under 0.98"),
        ({"overlap": 0.949}, "top-10 overlap 94.9 % under 95 %"),
        ({"accuracy_int8": 79.4}, "zero-shot accuracy 0.60 points lower, over 0.5"),
        ({"accuracy_int8": 81.0}, None),
        ({"accuracy": None, "accuracy_int8": None}, None),
    ],
)
def test_limits(change: dict, says: str | None) -> None:
    assert replace(FINE, **change).problems(Limits()) == ([] if says is None else [says])


def test_a_model_is_equal_to_itself() -> None:
    images, labels = scenes(24)
    encoder = Encoder("pocket", threads=1)
    same = compare(encoder, encoder, images, labels)
    assert (same.overlap, same.pictures, same.queries) == (1.0, 24, 100)
    assert same.accuracy == same.accuracy_int8
    assert same.image_cosine == pytest.approx(1, abs=1e-6)
    unlabelled = compare(encoder, encoder, images)
    assert (unlabelled.queries, unlabelled.accuracy) == (24, None)


def test_what_loses_too_much_is_not_written_unless_forced(tmp_path: Path) -> None:
    images, labels = scenes(48)
    impossible = Limits(cosine=1.1)
    with pytest.raises(CheckpointError, match=r"int8 loses too much \(mean cosine .* under 1.1"):
        quantize("pocket-vit", tmp_path / "out", images, labels, limits=impossible)
    assert not list(tmp_path.iterdir())
    checks = quantize("pocket-vit", tmp_path / "out", images, labels, limits=impossible, force=True)
    encoder, exact = Encoder(str(tmp_path / "out"), threads=1), Encoder("pocket-vit", threads=1)
    assert encoder.fingerprint != exact.fingerprint
    assert encoder.config["quantized"]["image"]["how"] == "dynamic"  # a transformer
    cosines = (encoder.encode_image(images) * exact.encode_image(images)).sum(1)
    assert 0.9 < cosines.min() < 1 - 1e-6  # it is int8, and near
    assert checks.pictures == 24
    assert checks.bytes_int8 < 0.8 * checks.bytes
    assert json.loads((tmp_path / "out" / "checks.json").read_text())["pictures"] == 24
    assert load(tmp_path / "out").name == "pocket-vit-int8"  # the float model goes along
    with pytest.raises(InputError, match="is there already"):
        quantize("pocket-vit", tmp_path / "out", images)


def test_refusals(tmp_path: Path) -> None:
    images, labels = scenes(8)
    with pytest.raises(InputError, match="8 pictures are too few: give 40 or more"):
        quantize("pocket", tmp_path / "out", images)
    with pytest.raises(InputError, match="8 labels for 7 pictures"):
        quantize("pocket", tmp_path / "out", images[:7], labels)


@pytest.mark.data
def test_pocket_in_int8_finds_what_pocket_finds(shared_data: Path, tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow.parquet").read_table(
        shared_data / "imagenet1k_photos.parquet", columns=["image"]
    )
    photos = [Image.open(io.BytesIO(row["image"])).convert("RGB").resize((224, 224)) for row in table.to_pylist()[::5]]
    checks = quantize("pocket", tmp_path / "out", photos, calibration=40)
    assert not checks.problems(Limits())
    assert Encoder(str(tmp_path / "out")).config["quantized"]["image"]["how"] == "static"
