"""Every error that binderclip raises on purpose.

The tree, so that a caller knows what to catch before reading any code:

    BinderclipError                 (exit code 2 at the command line)
     ├── InputError (ValueError)    what was given cannot be used: a path, a query, an option
     │    ├── MediaError            one image, video or sound that cannot be decoded; counted, never fatal in a run
     │    └── CheckpointError       weights that are missing, truncated, of another layout, or not what they claim
     ├── UnknownNameError (KeyError) no model, method or table of that name
     ├── NeedsExtraError (ImportError) an optional dependency is not installed; the message names the install
     ├── NeedsPartError             a method asks a tower for what it does not have (patch tokens, attention, ...)
     ├── OfflineError (OSError)     a download was needed and the network did not answer
     └── IndexStateError            an index is locked, of a newer schema, or does not hold what was asked
          └── IndexLockedError      another process is writing to it

A message is one line and says what to do next.
"""

from __future__ import annotations

__all__ = [
    "BinderclipError",
    "CheckpointError",
    "IndexLockedError",
    "IndexStateError",
    "InputError",
    "MediaError",
    "NeedsExtraError",
    "NeedsPartError",
    "OfflineError",
    "UnknownNameError",
]


class BinderclipError(Exception):
    """Root of the tree: catch it to catch everything that binderclip raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print the repr of its message, quotes and all.
        return " ".join(str(part) for part in self.args)


class InputError(BinderclipError, ValueError):
    """What the user gave cannot be used: a path, a query, an option, a shape."""


class MediaError(InputError):
    """One image, video or sound that cannot be decoded. Runs report and count it, then go on."""


class CheckpointError(InputError):
    """Weights that are missing, truncated, of an unknown layout, or not what their config says."""


class UnknownNameError(BinderclipError, KeyError):
    """No model, method or table of that name."""


class NeedsExtraError(BinderclipError, ImportError):
    """An optional dependency is missing.

    Args:
        what: what the user asked for, in words ("loading a checkpoint as a module").
        extra: the extra that brings it, as in ``pip install 'binderclip[extra]'``.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'binderclip[{extra}]'")
        self.extra = extra


class NeedsPartError(BinderclipError):
    """A method asks a tower for a part that it does not have (patch tokens, attention, a pyramid)."""


class OfflineError(BinderclipError, OSError):
    """A file was needed from the network and could not be had."""


class IndexStateError(BinderclipError):
    """An index cannot do what was asked: newer schema, missing vectors, not an index."""


class IndexLockedError(IndexStateError):
    """Another process is writing to the index."""
