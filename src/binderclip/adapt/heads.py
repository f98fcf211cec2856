"""A fitted adapter as one safetensors file: the learnt arrays, and in its header a JSON of what they belong to."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.adapt.base import Adapter
from binderclip.cards import find, load_method
from binderclip.data.files import write_whole
from binderclip.errors import CheckpointError, InputError, NeedsExtraError, UnknownNameError

__all__ = ["Head", "adapter_class", "load_head", "options_of", "save_head"]

FORMAT = 1


@dataclass(frozen=True)
class Head:
    """What a file of a head holds.

    Args:
        method: slug of the method.
        classes: names of the classes.
        params: arguments of the method, but for encoder and classes.
        model: name of the model.
        fingerprint: of the model.
        state: the learnt arrays.
        figures: what was measured when it was made.
    """

    method: str
    classes: tuple[str, ...]
    params: Mapping[str, Any]
    model: str
    fingerprint: str
    state: Mapping[str, Any]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def adapter(self, encoder: Any) -> Adapter:
        """The adapter on a model.

        Raises:
            InputError: it is another model than the head was fitted on.
            CheckpointError: the arrays do not fit the method.
        """
        other = str(getattr(encoder, "fingerprint", ""))
        if self.fingerprint and other and other != self.fingerprint:
            raise InputError(
                f"this head was fitted on {self.model} of another state than the model at hand: fit it again"
            )
        method = adapter_class(self.method)
        known = {key: value for key, value in self.params.items() if key in inspect.signature(method).parameters}
        try:
            made = method(encoder, self.classes, **known).load_state_dict(self.state)
            if made._tried() != (2, len(made.W_)):
                raise ValueError("another number of classes")
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"the arrays of this head do not fit {self.method} ({error}): fit it again") from None
        return made


def adapter_class(slug: str) -> type[Adapter]:
    """The class of a method of this room.

    Raises:
        UnknownNameError: there is no such method.
        InputError: it is of another kind.
        NeedsExtraError: it runs in torch, which is not installed.
    """
    card = find(slug)
    if card.kind != "Adapter":
        raise InputError(f"{slug} is no adapter but a {card.kind}: see `binderclip methods list --room adapt`")
    try:
        made: type[Adapter] = load_method(slug)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NeedsExtraError(f"the method {slug}", "torch") from None
    return made


def options_of(method: type[Adapter]) -> dict[str, Any]:
    """Names and defaults of what a method can be told, as its constructor has them."""
    found = inspect.signature(method).parameters
    return {name: one.default for name, one in found.items() if name not in ("encoder", "classes", "templates", "seed")}


def save_head(path: Path, adapter: Adapter, method: str, figures: Mapping[str, Any] | None = None) -> None:
    """Write a fitted adapter; the file is whole at every moment.

    Args:
        path: of the file.
        adapter: fitted.
        method: its slug.
        figures: to keep beside it; plain JSON.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors.numpy import save

    params = {key: value for key, value in adapter.get_params().items() if key not in ("encoder", "classes")}
    about = {
        "format": FORMAT,
        "method": method,
        "classes": list(adapter.classes),
        "params": params,
        "model": str(getattr(adapter.encoder, "name", "")),
        "fingerprint": str(getattr(adapter.encoder, "fingerprint", "")),
        "figures": dict(figures or {}),
    }
    arrays = {name: np.array(value, order="C") for name, value in adapter.state_dict().items()}
    try:
        write_whole(path, save(arrays, metadata={"binderclip_head": json.dumps(about, ensure_ascii=False)}))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another --out") from None


def load_head(path: Path) -> Head:
    """Read what `save_head` wrote; nothing in it is run.

    Raises:
        CheckpointError: it is no such file, damaged, or of a method that is not here.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            about = json.loads((opened.metadata() or {}).get("binderclip_head", "null"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no head that can be read ({_short(error)}): name a file of `adapt fit`"
        ) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds no head of format {FORMAT}: name a file of `adapt fit --out`")
    try:
        params = {key: tuple(v) if isinstance(v, list) else v for key, v in about["params"].items()}
        classes = tuple(str(name) for name in about["classes"])
        facts = [str(about[key]) for key in ("method", "model", "fingerprint")]
        adapter_class(facts[0])
    except UnknownNameError:
        raise CheckpointError(f"{path} is of the method {about['method']!r}, which is not here: install it") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged (its header lacks {error}): fit the head again") from None
    return Head(facts[0], classes, params, facts[1], facts[2], state, about.get("figures", {}))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
