"""Site functions of an objective beside those that a phase puts into the image tower."""

from __future__ import annotations

from dataclasses import replace

from binderclip.model.base import SiteFunction
from binderclip.train.base import TrainBatch

__all__ = ["with_site"]


def with_site(batch: TrainBatch, site: str, function: SiteFunction) -> TrainBatch:
    """The batch with one more function for a site of the image tower, behind those that the site has."""
    here = (batch.image_at or {}).get(site, ())
    functions = [*([here] if callable(here) else here), function]
    return replace(batch, image_at={**(batch.image_at or {}), site: functions})
