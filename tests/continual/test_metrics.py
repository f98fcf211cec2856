"""The worked matrix of the specification, and identities."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.continual.metrics import forgetting, fscil, step_accuracies, summary, zero_shot_degradation
from binderclip.errors import InputError

R = [[80, 40, 30], [70, 75, 35], [65, 72, 78]]
Z = [50, 45, 38]


def test_the_worked_matrix() -> None:
    found = summary(R, Z)
    expected = {
        "mtil_average": 60.5556,
        "mtil_last": 71.6667,
        "transfer": 36.25,
        "forgetting": 9,
        "backward_transfer": -9,
        "forward_transfer": -4,
        "tic_in_domain": 77.6667,
        "tic_backward": 69,
        "tic_forward": 35,
        "average_incremental": 74.7222,
        "last": 71.6667,
        "performance_drop": 8.3333,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert step_accuracies(R) == pytest.approx([80, 72.5, 71.6667], abs=1e-4)
    assert step_accuracies(R, [1, 3, 1])[1] == pytest.approx(73.75)


def test_a_frozen_model() -> None:
    found = summary([Z] * 3, Z)
    assert found["forgetting"] == found["backward_transfer"] == 0
    assert found["transfer"] == pytest.approx(np.mean(Z[1:]))
    assert found["mtil_average"] == found["mtil_last"] == pytest.approx(np.mean(Z))


def test_clamped_forgetting_is_never_negative() -> None:
    rising = [[10, 0], [20, 30]]
    assert forgetting(rising) == -10
    assert forgetting(rising, clamped=True) == 0


def test_what_is_not_known_is_not_zero() -> None:
    closed = np.array([[80, np.nan], [60, 70]])
    found = summary(closed)
    assert np.isnan(found["mtil_average"])
    assert np.isnan(found["transfer"])
    assert found["last"] == 65
    assert np.isnan(summary([[50.0]])["forgetting"])
    with pytest.raises(InputError, match="one row and one column a task"):
        summary([[1, 2]])


def test_sessions() -> None:
    assert fscil([60, 0], [30, 0]) == [
        {"base": 60, "new": 30, "harmonic": pytest.approx(40)},
        {"base": 0, "new": 0, "harmonic": 0},
    ]
    assert zero_shot_degradation([50, 40], [[50, 30], [45, 40]]).tolist() == [5, 2.5]
