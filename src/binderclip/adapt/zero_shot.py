"""Zero-shot classification with prompt ensembling (Radford et al. 2021, arXiv 2103.00020, 3.1): what adapters start from."""

from __future__ import annotations

from collections.abc import Sequence

from binderclip.adapt.base import Adapter, Few
from binderclip.adapt.parts import Floats, zero_shot_logits
from binderclip.cards import Card

__all__ = ["ZeroShot"]

CARD = Card(
    slug="zero_shot",
    name="Zero-shot CLIP",
    title="Learning Transferable Visual Models From Natural Language Supervision",
    arxiv="2103.00020",
    year=2021,
    room="adapt",
    provides="ZeroShot",
    kind="Adapter",
    verb="fit",
    needs=("embeddings",),
    baseline=True,
    must_show={
        "an ensemble of one template is plain zero-shot": "tests/adapt/test_baselines.py::test_one_template_is_plain",
        "permuting templates changes nothing": "tests/adapt/test_baselines.py::test_templates_in_any_order",
    },
)


class ZeroShot(Adapter):
    """``z = s f W^T``: no training; ``fit()`` only encodes the class names.

    Args:
        encoder: see `Adapter`.
        classes: see `Adapter`.
        templates: sentences with ``{}`` for the name, or a named set.
        seed: without effect.

    Example:
        >>> from binderclip import Encoder
        >>> adapter = ZeroShot(Encoder("pocket"), ["cat", "dog"]).fit()
        >>> adapter.for_classes(["horse", "cow", "sheep"]).W_.shape[0]
        3
    """

    def _fit(self, few: Few) -> None:
        self.hyper_ = {}

    def _logits(self, f: Floats) -> Floats:
        return zero_shot_logits(f, self.W_, self.scale_)

    def for_classes(self, names: Sequence[str]) -> ZeroShot:
        """The same with other class names."""
        return self.clone().set_params(classes=names).fit()
