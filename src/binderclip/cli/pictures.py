"""Pictures that a command is given: files, and all pictures below folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from binderclip.errors import InputError

__all__ = ["pictures_of"]


def pictures_of(paths: Sequence[str | Path]) -> list[str]:
    """Paths of the pictures, in order.

    Raises:
        InputError: a path is not there, or there is no picture.
    """
    from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES
    from binderclip.search.scan import scan

    found = scan(paths, IMAGE_SUFFIXES, OPTIONAL_SUFFIXES)
    for absent in found.absent:
        raise InputError(f"no such file or folder: {os.fsdecode(absent)}")
    if not found.files:
        raise InputError(f"no pictures in {', '.join(map(str, paths))}: name a picture, or a folder that holds some")
    return [os.fsdecode(file.path) for file in found.files]
