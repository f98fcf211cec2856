"""Sites: how a method reaches into a tower without editing it.

``tower(x, at={site: function})`` passes what flows at a site through a function, so that prompts, prefixes, token
subsets, attention biases and recorders need no edit to a tower:

    ============== ======================================== =======================================
    site           what the function is given               where
    ============== ======================================== =======================================
    embed.out      State, positions added                   before the tower's first norm
    blocks.3.in    State                                    before block 3
    blocks.3.attn  AttentionState: q, k, v, bias            inside block 3, after rotary positions
    blocks.3.out   State                                    after block 3
    pool.in        State                                    before the final norm and projection
    pool.attn      AttentionState                           inside a pooling attention, where there is one
    ============== ======================================== =======================================

A function returns what it was given, changed or not. Several functions at one site are applied in the order given.
``at`` is an argument and never kept on the module: two methods or two threads cannot collide. Without ``at``, and with
functions that only look, attention is the fused kernel and the output is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from binderclip.errors import NeedsPartError
from binderclip.model.base import At, SiteFunction, State, Tokens

__all__ = ["Sites", "recorder", "run_blocks", "site_names"]


class Sites:
    """The functions of one call, checked against the sites a tower has.

    Args:
        at: site name to a function or a sequence of functions.
        known: the tower's site names.

    Raises:
        NeedsPartError: a name the tower does not have.
    """

    def __init__(self, at: At | None, known: Sequence[str]) -> None:
        at = at or {}
        for name in at:
            if name not in known:
                raise NeedsPartError(f"this tower has no site {name!r}; its sites are {_short(known)}")
        self._functions = {name: (f,) if callable(f) else tuple(f) for name, f in at.items()}

    def __call__(self, name: str, value: Any) -> Any:
        """Apply the functions at a site in order."""
        for function in self._functions.get(name, ()):
            value = function(value)
        return value

    def at(self, name: str) -> SiteFunction | None:
        """The functions of a site as one, or ``None`` where there are none."""
        return (lambda value: self(name, value)) if self._functions.get(name) else None


def _short(names: Sequence[str]) -> str:
    """``blocks.0.in .. blocks.11.in`` instead of twelve names."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        head, _, tail = name.partition(".")
        number, _, end = tail.partition(".")
        groups.setdefault((head, end) if number.isdigit() else (name, ""), []).append(name)
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]} .. {group[-1]}" for group in groups.values())


def site_names(depth: int, *, attention: bool = True, pool_attention: bool = False) -> tuple[str, ...]:
    """Site names of a tower with ``depth`` blocks, in the order they are passed."""
    inner = ("in", "attn", "out") if attention else ("in", "out")
    blocks = tuple(f"blocks.{i}.{place}" for i in range(depth) for place in inner)
    return ("embed.out", *blocks, "pool.in", *(("pool.attn",) if pool_attention else ()))


class _Staged(Protocol):
    """The stages that ``run_blocks`` calls."""

    blocks: nn.ModuleList

    @property
    def sites(self) -> tuple[str, ...]: ...

    def enter(self, state: State) -> State: ...

    def pool(self, state: State, attn: SiteFunction | None = None) -> Tokens: ...


def run_blocks(tower: _Staged, state: State, at: At | None = None) -> Tokens:
    """From the embedded tokens to ``Tokens``: the loop that every transformer tower runs."""
    sites = Sites(at, tower.sites)
    state = tower.enter(sites("embed.out", state))
    for i, block in enumerate(tower.blocks):
        state = sites(f"blocks.{i}.in", state)
        state = block(state, sites.at(f"blocks.{i}.attn"))
        state = sites(f"blocks.{i}.out", state)
    return tower.pool(sites("pool.in", state), sites.at("pool.attn"))


def recorder(into: dict[str, Any], name: str) -> SiteFunction:
    """A site function that keeps what passes as ``into[name]`` and changes nothing."""

    def keep(value: Any) -> Any:
        into[name] = value
        return value

    return keep
