"""Rewrites of captions: by a language model with examples in its prompt (LaCLIP, arXiv 2305.20088), or by rules.

A rewriter never sees the picture and can invent facts: keep the originals for filters and evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from binderclip.data.hashing import Draws
from binderclip.errors import InputError

__all__ = ["ARROW", "InContextRewriter", "Rewriter", "RuleRewriter"]

#: Between a caption and its rewrite in a prompt.
ARROW = "=>"
_INSTRUCTION = "Say each image caption again in other words, keeping what it tells:"

#: Prompts -> what a language model writes behind each; called with temperature, top_p and max_new_tokens.
Generate = Callable[..., Sequence[str]]


class Rewriter(Protocol):
    """Anything that says captions in other words."""

    def rewrite(self, texts: Sequence[str], n: int) -> list[list[str]]:
        """``n`` rewrites of each text."""
        ...


class InContextRewriter:
    """In-context learning: a few captions with their rewrites, then the caption, and a language model goes on.

    The prompt is an instruction, ``shots`` lines ``source => target`` and last ``caption =>``, each behind a blank line, so
    that the answer is on line ``2 (shots + 1)`` counted from 0. Examples are drawn for each caption and rewrite, by hashing.

    Args:
        generate: prompts -> completions; given ``temperature``, ``top_p`` and ``max_new_tokens`` by name.
        pairs: examples. (source, target) captions of one strategy (the paper: 16, by a chat model or a person); with
            ``captions`` rows of two or more captions of one image, of which two are drawn as source and target.
        shots: examples in a prompt.
        captions: what an example is.
        temperature: of sampling.
        top_p: of sampling.
        max_new_tokens: longest completion.
        window: tokens that the model sees; a prompt of more than ``window - 5`` is cut to ``window - 10`` and an arrow.
        encode: text to tokens for ``window``; None counts words and marks.
        decode: tokens to text; None joins them.
        seed: of the examples.

    Attributes:
        fallbacks: rewrites that came out empty, for which the original stands.

    Raises:
        InputError: fewer examples than shots, or an example without two texts.
    """

    def __init__(
        self,
        generate: Generate,
        pairs: Sequence[Sequence[str]],
        shots: int = 3,
        *,
        captions: bool = False,
        temperature: float = 0.9,
        top_p: float = 0.95,
        max_new_tokens: int = 77,
        window: int = 400,
        encode: Callable[[str], Sequence[Any]] | None = None,
        decode: Callable[[Sequence[Any]], str] | None = None,
        seed: int = 0,
    ) -> None:
        if len(pairs) < shots or any(isinstance(pair, str) or len(pair) < 2 for pair in pairs):
            raise InputError(f"{len(pairs)} examples for {shots} shots: give at least as many, of two captions each")
        self.generate, self.shots, self.captions, self.window, self.seed = generate, shots, captions, window, seed
        self.pairs = [tuple(_clean(text) for text in pair) for pair in pairs]
        self.options = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        self.encode = encode or (lambda text: re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text))
        self.decode = decode or "".join
        self.fallbacks = 0

    def prompt(self, text: str, number: int = 0) -> str:
        """The prompt for a caption; another number, other examples."""
        draws = Draws(self.seed, f"rewrite/{number}/{text}")
        lines = [_INSTRUCTION]
        for i, example in enumerate(draws.shuffled("examples", self.pairs)[: self.shots]):
            source, target = (draws.shuffled(f"captions {i}", example) if self.captions else example)[:2]
            lines.append(f"{source} {ARROW} {target}")
        whole = "\n\n".join([*lines, f"{_clean(text)} {ARROW}"])
        tokens = self.encode(whole)
        return whole if len(tokens) <= self.window - 5 else f"{self.decode(tokens[: self.window - 10])} {ARROW}"

    def parse(self, prompt: str, completion: str) -> str:
        """The rewrite in a completion, empty where there is none: the caption's own line, behind its arrow."""
        lines = (prompt + completion).split("\n")
        line = lines[2 * (self.shots + 1)] if len(lines) > 2 * (self.shots + 1) else ""
        return line.partition(ARROW)[2].strip()

    def rewrite(self, texts: Sequence[str], n: int) -> list[list[str]]:
        """``n`` rewrites of each text; all prompts in one call of ``generate``.

        Raises:
            InputError: another number of completions than of prompts.
        """
        prompts = [self.prompt(text, k) for text in texts for k in range(n)]
        completions = self.generate(prompts, **self.options) if prompts else []
        if len(completions) != len(prompts):
            raise InputError(f"{len(completions)} completions of {len(prompts)} prompts: generate must answer each")
        found: list[list[str]] = []
        for i, text in enumerate(texts):
            said = [self.parse(prompts[j], completions[j]) for j in range(i * n, i * n + n)]
            self.fallbacks += said.count("")
            found.append([one or text for one in said])
        return found


def _clean(text: str) -> str:
    """On one line, without an arrow of its own."""
    return " ".join(text.replace(ARROW, "->").split())


# Words of plain captions and of synthetic scenes -> another word for the same.
_SYNONYMS = dict(
    pair.split(":")
    for pair in (
        "circle:disc circles:discs ring:hoop rings:hoops square:box squares:boxes diamond:rhombus diamonds:rhombi "
        "star:asterisk stars:asterisks cross:plus crosses:pluses crescent:moon crescents:moons red:crimson "
        "orange:amber yellow:golden green:emerald cyan:turquoise blue:azure purple:violet pink:rose small:little "
        "large:big two:2 three:3 four:4 five:5 picture:photo image:photo ground:background"
    ).split()
)
_ATTRIBUTES = frozenset("red orange yellow green cyan blue purple pink small medium large".split())
_TURNED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_VOICES = ("{} can be seen", "the picture shows {}", "shown is {}")


class RuleRewriter:
    """A rewriter without a language model, for small recipes and tests: short captions that list or relate things.

    Rewrite k of a text is made by rule k modulo 4: ``synonyms`` (each word that has one, with probability 1/2, at least
    one), ``order`` (the listed things in another order; a relation turned round), ``voice`` (a verb around it, active or
    passive) and ``drop`` (one colour or size left out). A text that a rule does not fit gets a voice.

    Args:
        seed: of what is drawn.

    Example:
        >>> RuleRewriter().rewrite(["a red circle above a blue star"], 2)[0][1]
        'a blue star below a red circle'
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.rules = (self.synonyms, self.order, self.voice, self.drop)

    def rewrite(self, texts: Sequence[str], n: int) -> list[list[str]]:
        """``n`` rewrites of each text."""
        return [[self._one(text, k) for k in range(n)] for text in texts]

    def _one(self, text: str, k: int) -> str:
        draws = Draws(self.seed, f"rules/{k}/{text}")
        said = self.rules[k % len(self.rules)](text, draws)
        return said if said != text else self.voice(text, draws)

    def synonyms(self, text: str, draws: Draws, share: float = 0.5) -> str:
        """Other words for some of the words."""
        pieces = re.split(r"(\w+)", text)
        known = [i for i, piece in enumerate(pieces) if piece in _SYNONYMS]
        if not known:
            return text
        always = draws.choice("word", known)
        for i in known:
            if i == always or draws.unit(f"swap {i}") < share:
                pieces[i] = _SYNONYMS[pieces[i]]
        return _articles("".join(pieces))

    def order(self, text: str, draws: Draws) -> str:
        """What is listed in another order, ``A above B`` as ``B below A``."""
        for relation, turned in _TURNED.items():
            first, found, second = text.partition(f" {relation} ")
            if found and first.startswith(("a ", "an ")):
                return f"{second} {turned} {first}"
        things = re.split(r", | and ", text)
        drawn = draws.shuffled("order", things)
        if drawn == things:
            drawn = things[1:] + things[:1]
        return things[0] if len(things) == 1 else ", ".join(drawn[:-1]) + " and " + drawn[-1]

    def voice(self, text: str, draws: Draws) -> str:
        """A verb around it."""
        return draws.choice("voice", _VOICES).format(text)

    def drop(self, text: str, draws: Draws) -> str:
        """One colour or size less."""
        pieces = text.split(" ")
        known = [i for i, piece in enumerate(pieces[:-1]) if piece in _ATTRIBUTES]
        if known:
            pieces.pop(draws.choice("drop", known))
        return _articles(" ".join(pieces))


def _articles(text: str) -> str:
    """``a`` and ``an`` as the next word wants."""
    return re.sub(r"\ban? (?=(\w))", lambda m: "an " if m[1] in "aeiou" else "a ", text)
