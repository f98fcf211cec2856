"""The work behind `binderclip models calibrate`: pictures sorted into folders become a calibration beside a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.cli.console import warn
from binderclip.errors import InputError, MediaError

__all__ = ["calibrate_folder"]


def calibrate_folder(name: str, pictures: Path) -> dict[str, Any]:
    """Encode the pictures of each subfolder, fit, and write ``calibration.safetensors`` and the config.

    Raises:
        InputError: the model is no folder of the user's own, or the pictures are not sorted into folders.
    """
    from binderclip.data.media import IMAGE_SUFFIXES
    from binderclip.engine import Encoder
    from binderclip.engine.fitting import fit_calibration
    from binderclip.hub.embedded import checkpoint_folder, embedded_models

    folder = checkpoint_folder(name)
    if folder is None or name in embedded_models():
        raise InputError(f"{name} is no model folder of your own: save one first, or give its path")
    if not pictures.is_dir():
        raise InputError(f"no such folder: {pictures}")
    classes = sorted(path for path in pictures.iterdir() if path.is_dir() and not path.name.startswith("."))
    encoder = Encoder(name)
    vectors, owner = [], []
    for number, place in enumerate(classes):
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                try:
                    vectors.append(encoder.encode_image([path])[0])
                    owner.append(number)
                except MediaError as error:
                    warn(str(error))
    if not vectors:
        raise InputError(f"{pictures} holds no folders with pictures: sort some into one folder per class")
    queries = encoder.encode_text([place.name.replace("_", " ") for place in classes])
    fitted = fit_calibration(np.stack(vectors), np.array(owner), queries)
    fitted.save(folder)
    return {"model": os.fspath(folder), "pictures": len(vectors), "classes": len(classes), "a": fitted.a, "b": fitted.b}
