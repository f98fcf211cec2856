"""Sounds as float32 arrays [N] in -1..1: tones, chirps, clicks, noises, and mixtures with their stems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import Draws
from binderclip.errors import InputError

__all__ = ["NOISES", "Mixture", "chirp", "clicks", "mix", "noise", "plant", "tone"]

Samples = NDArray[np.float32]

#: Name -> exponent a of the power spectrum 1 / f^a.
NOISES = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0}
RATE = 16_000


@dataclass(frozen=True)
class Mixture:
    """Sounds together.

    Args:
        samples: the sum of the stems [N], at most 1.
        stems: each as loud as it is in the mixture [K, N].
        names: of the stems.
        starts: first sample of each stem that was planted, 0 of the others.
        rate: samples a second.
    """

    samples: Samples
    stems: NDArray[np.float32]
    names: tuple[str, ...]
    starts: tuple[int, ...]
    rate: int


def tone(
    frequency: float, seconds: float = 1.0, *, rate: int = RATE, harmonics: Sequence[float] = (1.0,), level: float = 0.5
) -> Samples:
    """A steady tone: sum_k h_k sin(2 pi k f t), scaled so that its peak is `level` at most.

    Harmonics of rate / 2 and over are left out.

    Args:
        frequency: f in Hz.
        seconds: its length.
        rate: samples a second.
        harmonics: h_1, h_2, ...
        level: in 0..1.

    Raises:
        InputError: a frequency that the rate cannot carry, or no length.
    """
    _check(seconds, rate, frequency)
    t = _times(seconds, rate)
    kept = [(k, h) for k, h in enumerate(harmonics, 1) if k * frequency < rate / 2]
    total = sum((h * np.sin(2 * math.pi * k * frequency * t) for k, h in kept), np.zeros_like(t))
    return (level * total / max(sum(abs(h) for _, h in kept), 1e-12)).astype(np.float32)


def chirp(start: float, end: float, seconds: float = 1.0, *, rate: int = RATE, level: float = 0.5) -> Samples:
    """A tone that rises or falls evenly: frequency f(t) = start + (end - start) t / seconds in Hz.

    Raises:
        InputError: a frequency that the rate cannot carry, or no length.
    """
    _check(seconds, rate, start, end)
    t = _times(seconds, rate)
    phase = 2 * math.pi * (start * t + (end - start) * t * t / (2 * seconds))
    return (level * np.sin(phase)).astype(np.float32)


def clicks(
    times: Sequence[float], seconds: float = 1.0, *, rate: int = RATE, frequency: float = 2000.0, level: float = 0.5
) -> Samples:
    """A click at each time in seconds: a tone that begins at once and fades by e every 5 ms.

    Raises:
        InputError: a time outside of the sound, a frequency that the rate cannot carry, or no length.
    """
    _check(seconds, rate, frequency)
    if any(not 0 <= time < seconds for time in times):
        raise InputError(f"clicks at {list(times)} in {seconds} s: all lie within the sound")
    out = np.zeros(round(seconds * rate))
    for time in times:
        first = math.ceil(time * rate)
        t = np.arange(len(out) - first) / rate
        out[first:] += level * np.exp(-t / 0.005) * np.cos(2 * math.pi * frequency * t)
    return np.clip(out, -1, 1).astype(np.float32)


def noise(
    seconds: float = 1.0, colour: str = "white", *, rate: int = RATE, level: float = 0.1, seed: int = 0, key: str = ""
) -> Samples:
    """Noise of power spectrum 1 / f^a between 20 Hz and rate / 2, scaled so that its root mean square is `level`.

    Args:
        seconds: its length.
        colour: "white" a = 0, "pink" 1, "brown" 2, "blue" -1.
        rate: samples a second.
        level: root mean square; it is clipped at 1.
        seed: of the draws.
        key: which noise of that seed.

    Raises:
        InputError: an unknown colour, or no length.
    """
    _check(seconds, rate)
    if colour not in NOISES:
        raise InputError(f"no noise {colour!r}: use one of {', '.join(NOISES)}")
    count = round(seconds * rate)
    draws = Draws(seed, f"mediakit/noise/{key}")
    u, v = draws.array("u", count), draws.array("v", count)
    white = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * math.pi * v)  # Box and Muller
    frequencies = np.fft.rfftfreq(count, 1 / rate)
    gain = np.where(frequencies >= 20, np.maximum(frequencies, 20) ** (-NOISES[colour] / 2), 0.0)
    shaped = np.fft.irfft(np.fft.rfft(white) * gain, count)
    shaped *= level / max(float(np.sqrt((shaped**2).mean())), 1e-12)
    return np.clip(shaped, -1, 1).astype(np.float32)


def mix(
    stems: Mapping[str, Samples],
    *,
    gains: Sequence[float] | None = None,
    rate: int = RATE,
    starts: Sequence[int] | None = None,
) -> Mixture:
    """The sum of sounds of one length; when it would pass 1, all are made quieter alike.

    Args:
        stems: name -> samples [N].
        gains: of each in decibels; 0 by default.
        rate: samples a second.
        starts: as the mixture's `starts`; 0 by default.

    Raises:
        InputError: no stems, stems of several lengths, or another number of gains.
    """
    lengths = {len(stem) for stem in stems.values()}
    gains = [0.0] * len(stems) if gains is None else gains
    if len(lengths) != 1 or len(gains) != len(stems):
        raise InputError(f"stems of {sorted(lengths)} samples, {len(gains)} gains: give one length and a gain a stem")
    scaled = np.stack(
        [10 ** (gain / 20) * stem.astype(np.float64) for gain, stem in zip(gains, stems.values(), strict=True)]
    )
    scaled /= max(1.0, float(np.abs(scaled.sum(axis=0)).max()))
    kept = scaled.astype(np.float32)
    total = kept.sum(axis=0, dtype=np.float64).clip(-1, 1).astype(np.float32)
    return Mixture(total, kept, tuple(stems), tuple(starts or [0] * len(stems)), rate)


def plant(
    event: Samples, background: Samples, *, decibels: float = 0.0, rate: int = RATE, seed: int = 0, key: str = ""
) -> Mixture:
    """An event at a drawn place of a longer background: stems "event", padded with silence, and "background".

    Args:
        event: [n].
        background: [N], N >= n.
        decibels: power of the event over that of the background under it.
        rate: samples a second.
        seed: of the draws.
        key: which mixture of that seed.

    Raises:
        InputError: the event is empty or longer than the background, or one of the two is silent there.
    """
    if not 0 < len(event) <= len(background):
        raise InputError(f"an event of {len(event)} samples in {len(background)}: it must fit, and not be empty")
    first = Draws(seed, f"mediakit/plant/{key}").integer("start", 0, len(background) - len(event))
    under = background[first : first + len(event)].astype(np.float64)
    powers = float((event.astype(np.float64) ** 2).mean()), float((under**2).mean())
    if min(powers) <= 0:
        raise InputError("the event or the background under it is silent: no gain makes their ratio right")
    padded = np.zeros(len(background), np.float32)
    padded[first : first + len(event)] = event
    gain = decibels - 10 * math.log10(powers[0] / powers[1])
    return mix({"event": padded, "background": background}, gains=[gain, 0.0], rate=rate, starts=[first, 0])


def _times(seconds: float, rate: int) -> NDArray[np.float64]:
    return np.arange(round(seconds * rate), dtype=np.float64) / rate


def _check(seconds: float, rate: int, *frequencies: float) -> None:
    if rate < 1 or round(seconds * rate) < 1:
        raise InputError(f"{seconds} s at {rate} Hz: a sound has at least one sample")
    if any(not 0 <= frequency < rate / 2 for frequency in frequencies):
        raise InputError(f"{frequencies} Hz at a rate of {rate}: frequencies lie under half the rate")
