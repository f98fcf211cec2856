"""What a run will cost, before it is begun: tokens and arithmetic by phase. Without torch until it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from binderclip.train.phases import Plan

__all__ = ["Cost", "block_flops", "cost", "price"]


@dataclass(frozen=True)
class Cost:
    """A row of the budget: one phase.

    Args:
        phase: its number, from 1.
        samples: image-text pairs.
        image_tokens: patch tokens an image that are kept; a class token is not counted.
        text_tokens: a text.
        share: of the run's sum of ``samples * image_tokens``.
        flops: of the blocks of both towers, forward; training takes about three times as many.
    """

    phase: int
    samples: int
    image_tokens: int
    text_tokens: int
    share: float
    flops: int


def block_flops(tokens: int, width: int, layers: int) -> int:
    """``layers (24 S w^2 + 4 S^2 w)``: S tokens through transformer blocks of width w, MLP ratio 4, forward.

    A multiply and an add are two.
    """
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def cost(
    run: Plan,
    *,
    image_size: int,
    patch_size: int,
    image_width: int,
    image_layers: int,
    text_length: int,
    text_width: int,
    text_layers: int,
    prefix: int = 0,
) -> list[Cost]:
    """The budget of a run, a row a phase (CLIPA-v2, arXiv 2306.15658, table of its H/14 recipe).

    Args:
        run: its plan.
        image_size: of phases that state none.
        patch_size: of the image tower.
        image_width: ``w`` of its blocks.
        image_layers: how many blocks.
        text_length: of phases that state none.
        text_width: ``w`` of the text tower's blocks.
        text_layers: how many.
        prefix: image tokens before the patches, never dropped (the class token).
    """
    from binderclip.train.parts.dropping import keep_count  # brings torch, which a plan does not need

    sizes = [span.phase.image_size or image_size for span in run.spans]
    tokens = [
        keep_count((s // patch_size) ** 2, span.phase.image_keep) for s, span in zip(sizes, run.spans, strict=True)
    ]
    everything = sum(span.samples * s for span, s in zip(run.spans, tokens, strict=True))
    rows = []
    for number, (span, s) in enumerate(zip(run.spans, tokens, strict=True), 1):
        length = span.phase.text_length or text_length
        each = block_flops(s + prefix, image_width, image_layers) + block_flops(length, text_width, text_layers)
        rows.append(Cost(number, span.samples, s, length, span.samples * s / everything, span.samples * each))
    return rows


def price(gpu_hours: float, rate: float) -> float:
    """What hours on accelerators cost at a rate an hour, in the rate's currency."""
    return gpu_hours * rate
