"""Clips and sounds: what they claim is found again by simple means."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.mediakit import (
    MOTIONS,
    NOISES,
    Clip,
    chirp,
    clicks,
    degrade_tape,
    film,
    mix,
    montage,
    noise,
    pan,
    periodic,
    plant,
    still,
    tone,
    zoom,
)
from binderclip.errors import InputError

RATE = 16_000


def differences(clip: Clip) -> NDArray[np.float64]:
    """Mean absolute difference of each frame to the one before it [T - 1]."""
    found: NDArray[np.float64] = np.abs(np.diff(clip.frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    return found


def test_film_sees_the_window() -> None:
    image = Image.fromarray((Draws(0, "x").array("p", 20, 30, 3) * 256).astype(np.uint8))
    straight = film(image, np.array([[10.0, 9.0, 8.0, 0.0]]), 8)
    assert np.array_equal(straight[0], np.asarray(image)[5:13, 6:14])
    turned = film(image, np.array([[10.0, 9.0, 8.0, math.pi / 2]]), 8)
    assert np.abs(turned[0].astype(int) - np.rot90(np.asarray(image)[5:13, 6:14]).astype(int)).max() <= 1
    outside = film(image, np.array([[-10.0, 9.0, 8.0, 0.0]]), 8)
    assert not outside.any()
    large = Image.new("RGB", (400, 400), (10, 90, 200))
    assert (film(large, np.array([[200.0, 200.0, 320.0, 0.3]]), 16) == (10, 90, 200)).all()


def test_a_pan_moves_as_its_path_says() -> None:
    y, x = np.mgrid[:128, :160]
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))  # a pixel's colour is where it is
    clip = pan(image, frames=9, size=16, key="a")
    for t in range(9):
        middle = clip.frames[t, 6:10, 6:10, :2].astype(float).mean(axis=(0, 1))
        assert np.allclose(middle + 0.5, clip.path[t, :2], atol=0.6)
    assert np.allclose(np.diff(clip.path, axis=0), np.diff(clip.path, axis=0)[0])
    assert clip.frames.max(axis=-1).min() > 0  # no black rim
    assert clip.period == 0
    assert clip.count == 0


def test_a_zoom_changes_by_the_same_factor() -> None:
    y, x = np.mgrid[:200, :200]
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    ways = []
    for key in map(str, range(40)):
        clip = zoom(image, frames=8, size=20, key=key)
        spread = clip.frames[:, 10, -1, 0].astype(float) - clip.frames[:, 10, 0, 0]
        assert np.allclose(spread, clip.path[:, 2] * 19 / 20, atol=2.5)
        factors = clip.path[1:, 2] / clip.path[:-1, 2]
        assert np.allclose(factors, factors[0])
        ways.append(bool(factors[0] > 1))
        whole = clip.path[0, 2] / clip.path[-1, 2]
        assert 1.5 <= max(whole, 1 / whole) <= 2.5
    assert 10 <= sum(ways) <= 30  # out as often as in


@pytest.mark.parametrize("kind", MOTIONS)
@pytest.mark.parametrize(("period", "count"), [(5, 4), (8, 3)])
def test_the_period_is_found_by_autocorrelation(kind: str, period: int, count: int) -> None:
    clip = periodic(still(2, size=64), period=period, count=count, kind=kind, idle=(4, 7), size=24)
    assert len(clip) == 11 + period * count
    assert clip.count == count
    assert np.flatnonzero(clip.periodic).tolist() == list(range(4, 4 + period * count))
    moving = clip.frames[clip.periodic].astype(float)
    means = [np.abs(moving[lag:] - moving[:-lag]).mean() for lag in range(1, len(moving) // 2 + 1)]
    assert int(np.argmin(means)) + 1 == period  # the first of the equal smallest
    assert means[period - 1] == 0
    assert min(means[: period - 1]) > 0.5
    assert (clip.frames[:4] == clip.frames[4]).all()
    assert (clip.frames[-7:] == clip.frames[4]).all()
    assert clip.frames.max(axis=-1).min() > 0


def test_drift_keeps_the_period_but_not_the_pixels() -> None:
    clip = periodic(still(1, size=64), period=6, count=5, kind="pan", idle=(0, 0), drift=0.1, size=24)
    moving = clip.frames.astype(float)
    means = np.array([np.abs(moving[lag:] - moving[:-lag]).mean() for lag in range(1, 10)])
    assert means[5] > 0
    assert int(np.argmin(means[2:])) + 3 == 6


def test_drawn_repetitions() -> None:
    image = still(0, size=32)
    clips = [periodic(image, size=8, key=str(i)) for i in range(40)]
    assert {clip.kind for clip in clips} == {f"periodic {kind}" for kind in MOTIONS}
    assert {clip.period for clip in clips} <= set(range(4, 17))
    assert len({clip.period for clip in clips}) > 8
    assert all(2 <= clip.count <= 10 and clip.count == int(clip.count) for clip in clips)
    assert all(clip.periodic.mean() >= 0.49 for clip in clips)


def test_cuts_are_where_frames_jump() -> None:
    clip = montage([still(i, size=64) for i in range(6)], names="abcdef", size=32, length=(6, 14))
    jumps = differences(clip)
    found = sorted(int(i) + 1 for i in np.argsort(jumps)[-5:])
    assert tuple(found) == clip.cuts
    assert [end - start for start, end in clip.shots] == [
        *np.diff([0, *clip.cuts]).tolist(),
        len(clip) - clip.cuts[-1],
    ]
    assert all(6 <= end - start <= 14 for start, end in clip.shots)
    assert clip.names == tuple("abcdef")
    alone = montage([still(0, size=64)], size=32, length=(6, 14))
    assert alone.cuts == ()
    assert np.array_equal(alone.frames, clip.frames[: clip.cuts[0]])  # later shots change nothing


def test_mistracking_shifts_rows_and_nothing_else() -> None:
    clip = pan(still(0, size=64), frames=12, size=32)
    tape = degrade_tape(clip.frames, artefacts=["mistracking"])
    assert np.array_equal(tape.clean, clip.frames)
    assert (tape.shifts != 0).any()
    for t in range(12):
        for row in range(32):
            assert np.array_equal(tape.frames[t, row], np.roll(clip.frames[t, row], tape.shifts[t, row], axis=0))


def test_tape_is_worse_where_it_says_so() -> None:
    clip = pan(still(0, size=64), frames=24, size=32)
    tape = degrade_tape(clip.frames, key="b")
    error = ((tape.frames.astype(float) - tape.clean) ** 2).mean(axis=(1, 2, 3))
    ranks = np.corrcoef(np.argsort(np.argsort(error)), np.argsort(np.argsort(tape.severity)))[0, 1]
    assert ranks > 0.9
    assert tape.severity.min() < 0.1
    assert tape.severity.max() > 0.9
    assert np.array_equal(degrade_tape(clip.frames, severity=0).frames, clip.frames)
    clean = degrade_tape(clip.frames, artefacts=[])
    assert np.array_equal(clean.frames, clip.frames)


def test_each_artefact_does_its_own() -> None:
    frames = np.full((16, 40, 40, 3), (200, 60, 40), np.uint8)
    chroma = degrade_tape(frames, artefacts=["chroma"])
    worst = int(chroma.severity.argmax())
    spread = np.ptp(chroma.frames[worst].astype(int), axis=-1)
    assert (spread == 0).any(axis=1).any()  # rows without colour
    level = chroma.severity[worst]
    assert np.median(spread) == pytest.approx(160 * (1 - 0.7 * level), abs=2)
    luma = chroma.frames[worst] @ [0.299, 0.587, 0.114]
    assert np.abs(luma - frames[0, 0, 0] @ [0.299, 0.587, 0.114]).max() < 1.5
    assert np.array_equal(degrade_tape(frames, artefacts=["waving"]).frames, frames)  # a plain row looks the same moved
    noisy = degrade_tape(frames, artefacts=["noise"])
    worst = int(noisy.severity.argmax())
    assert (noisy.frames[worst] == 255).all(axis=-1).sum() > 2
    green = noisy.frames[worst, ..., 1].astype(float)
    assert green[green < 150].std() == pytest.approx(12 * noisy.severity[worst], rel=0.15)
    x = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, None, :, None] * 6, (16, 40, 40, 3)).copy()
    waves = degrade_tape(x, artefacts=["waving"])
    assert np.array_equal(waves.frames[:, :, 10:30], x[:, :, 10:30])  # the middle stays
    assert (waves.frames != x).any()


def peak(samples: NDArray[np.float32], rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[int(spectrum.argmax())])


def test_tones_and_chirps() -> None:
    sound = tone(440, 0.5)
    assert sound.dtype == np.float32
    assert len(sound) == 8000
    assert np.abs(sound).max() == pytest.approx(0.5, abs=1e-3)
    assert peak(sound) == pytest.approx(440, abs=2)
    assert float((sound**2).mean()) == pytest.approx(0.125, rel=1e-3)
    rich = tone(200, 0.5, harmonics=(1, 0.5, 0.25))
    power = np.abs(np.fft.rfft(rich))[[100, 200, 300]]  # bins of 2 Hz
    assert np.allclose(power / power[0], [1, 0.5, 0.25], atol=1e-3)
    period = int(np.argmax([float(rich[lag:] @ rich[:-lag]) for lag in range(20, 200)])) + 20
    assert period == RATE // 200
    assert np.array_equal(tone(5000, 0.1, harmonics=(1, 1)), tone(5000, 0.1))  # 10 kHz does not fit into 16
    sweep = chirp(500, 3000, 1.0)
    for t in (0.2, 0.5, 0.8):
        first = int((t - 0.05) * RATE)
        assert peak(sweep[first : first + 1600]) == pytest.approx(500 + 2500 * t, abs=60)


def test_clicks_are_where_they_were_put() -> None:
    times = [0.1, 0.35, 0.7]
    sound = np.abs(clicks(times, 1.0))
    onsets = [i / RATE for i in range(1, RATE) if sound[i] > 0.4 and sound[max(i - 80, 0) : i].max() < 0.3]
    assert np.allclose(onsets, times, atol=1 / RATE)


@pytest.mark.parametrize("colour", NOISES)
def test_noise_has_its_slope(colour: str) -> None:
    sound = noise(4.0, colour, key="a")
    assert float(np.sqrt((sound.astype(float) ** 2).mean())) == pytest.approx(0.1, rel=0.02)
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / RATE)
    edges = np.geomspace(100, 6400, 7)
    bands = [power[(frequencies >= a) & (frequencies < b)].mean() for a, b in itertools.pairwise(edges)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(bands), 1)[0]
    assert slope == pytest.approx(-NOISES[colour], abs=0.12)
    assert not np.array_equal(sound, noise(4.0, colour, key="b"))


def test_a_mixture_is_the_sum_of_its_stems() -> None:
    mixed = mix({"tone": tone(440), "noise": noise(1.0)}, gains=[0, -6])
    assert np.allclose(mixed.samples, mixed.stems.sum(axis=0), atol=1e-7)
    assert np.array_equal(mixed.stems[0], tone(440))
    assert np.allclose(mixed.stems[1], noise(1.0) * 10 ** (-6 / 20), atol=1e-7)
    loud = mix({"a": tone(440, level=0.9), "b": tone(440, level=0.9)})
    assert np.abs(loud.samples).max() == pytest.approx(1.0)
    assert np.allclose(loud.stems[0], loud.stems[1])
    assert np.allclose(loud.samples, loud.stems.sum(axis=0), atol=1e-6)


def test_a_planted_event() -> None:
    event = tone(1000, 0.2)
    firsts = set()
    for key in "abcd":
        mixed = plant(event, noise(1.0, "pink"), decibels=6, key=key)
        first = mixed.starts[0]
        firsts.add(first)
        inside = slice(first, first + len(event))
        stem, under = mixed.stems[0, inside].astype(float), mixed.stems[1, inside].astype(float)
        assert 10 * math.log10((stem**2).mean() / (under**2).mean()) == pytest.approx(6, abs=1e-3)
        assert not mixed.stems[0, :first].any()
        assert not mixed.stems[0, first + len(event) :].any()
        found = int(np.argmax(np.convolve(mixed.samples, event[::-1], "valid")))
        assert abs(found - first) <= 16  # a period of the tone
    assert len(firsts) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: pan(still(0, size=32), frames=4, size=8, seed=seed).frames,
        lambda seed: zoom(still(0, size=32), frames=4, size=8, seed=seed).frames,
        lambda seed: periodic(still(0, size=32), size=8, period=4, count=2, seed=seed).frames,
        lambda seed: montage([still(0, size=32)] * 2, length=(3, 3), size=8, seed=seed).frames,
        lambda seed: degrade_tape(np.full((5, 16, 16, 3), 90, np.uint8), seed=seed).frames,
        lambda seed: noise(0.05, seed=seed),
        lambda seed: plant(tone(500, 0.01), noise(0.2), seed=seed).samples,
    ],
)
def test_the_same_seed_the_same_bits(make: Callable[[int], NDArray[Any]]) -> None:
    assert np.array_equal(make(1), make(1))
    assert make(1).shape != make(2).shape or not np.array_equal(make(1), make(2))


def test_what_is_refused() -> None:
    image = still(0, size=32)
    for call in (
        lambda: film(image, np.zeros((3, 3)), 8),
        lambda: film(image, np.zeros((3, 4)), 8),
        lambda: pan(image, frames=1),
        lambda: periodic(image, period=2),
        lambda: periodic(image, kind="wave"),
        lambda: periodic(image, drift=0.5),
        lambda: montage([]),
        lambda: montage([image], names=["a", "b"]),
        lambda: degrade_tape(np.zeros((2, 4, 4), np.uint8)),
        lambda: degrade_tape(np.zeros((2, 4, 4, 3), np.uint8), artefacts=["mould"]),
        lambda: tone(9000),
        lambda: tone(440, 0),
        lambda: clicks([2.0], 1.0),
        lambda: noise(1.0, "green"),
        lambda: mix({}),
        lambda: mix({"a": tone(440, 1.0), "b": tone(440, 2.0)}),
        lambda: plant(tone(440, 2.0), tone(440, 1.0)),
        lambda: plant(np.zeros(10, np.float32), tone(440, 1.0)),
    ):
        with pytest.raises(InputError):
            call()
