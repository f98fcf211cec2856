"""Cosine to probability: the formula, and that it separates what a plain threshold cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from binderclip.engine import Calibration
from binderclip.errors import CheckpointError


def fitted(dim: int = 6) -> Calibration:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, dim)) * np.arange(1, dim + 1) + 0.3
    return Calibration(rows.mean(0).astype(np.float32), np.cov(rows.T).astype(np.float32), a=1.7, b=-5.0)


def test_is_the_formula() -> None:
    calibration = fitted()
    rng = np.random.default_rng(1)
    query, cosines = rng.normal(size=6), rng.normal(size=4)
    mu, sigma = calibration.mean.astype(float), calibration.covariance.astype(float)
    for cosine, got in zip(cosines, calibration.probability(query, cosines), strict=True):
        z = (cosine - sum(mu * query)) / np.sqrt(
            sum(query[i] * sigma[i, j] * query[j] for i in range(6) for j in range(6))
        )
        assert got == pytest.approx(1 / (1 + np.exp(-(1.7 * z - 5.0))), rel=1e-6)


def test_z_of_reference_pictures_is_standard() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(4000, 6)) * np.arange(1, 7) + 0.3
    calibration = Calibration(rows.mean(0).astype(np.float32), np.cov(rows.T).astype(np.float32), 1, 0)
    for query in np.eye(6):
        z = calibration.z(query, rows @ query)
        assert abs(z.mean()) < 1e-3
        assert z.std() == pytest.approx(1, abs=1e-3)


def test_extremes_do_not_overflow() -> None:
    flat = Calibration(np.zeros(2, np.float32), np.zeros((2, 2), np.float32), 1.0, 0.0)
    assert flat.probability([1, 0], [-1e9, 1e9]).tolist() == pytest.approx([0, 1])


def test_round_trip_and_damage(tmp_path: Path) -> None:
    calibration = fitted()
    (tmp_path / "config.json").write_text('{"name": "x"}')
    calibration.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["name"] == "x"
    again = Calibration.load(tmp_path, config)
    assert again is not None
    np.testing.assert_array_equal(again.covariance, calibration.covariance)
    assert (again.a, again.b) == (1.7, -5.0)
    assert Calibration.load(tmp_path, {}) is None
    (tmp_path / "calibration.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="calibrate the model again"):
        Calibration.load(tmp_path, config)
