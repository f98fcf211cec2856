"""A media kit whose truth is known: clips filmed from still pictures, bad tape with its clean original, and sounds."""

from __future__ import annotations

from binderclip.data.mediakit.clip import Clip, film
from binderclip.data.mediakit.montage import montage, still
from binderclip.data.mediakit.moves import MOTIONS, pan, periodic, zoom
from binderclip.data.mediakit.sounds import NOISES, Mixture, chirp, clicks, mix, noise, plant, tone
from binderclip.data.mediakit.tape import ARTEFACTS, Tape, degrade_tape

__all__ = [
    "ARTEFACTS",
    "MOTIONS",
    "NOISES",
    "Clip",
    "Mixture",
    "Tape",
    "chirp",
    "clicks",
    "degrade_tape",
    "film",
    "mix",
    "montage",
    "noise",
    "pan",
    "periodic",
    "plant",
    "still",
    "tone",
    "zoom",
]
