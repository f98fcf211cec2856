"""A frozen teacher beside the student: it sees the student's own pixels, or its vectors are read from a folder.

Distillation of features needs both to have seen the same picture (CLIP-KD, Yang et al. 2023, arXiv 2307.12732), so the
pixels of the student's view, crop and colours and all, are taken back to [0, 1] and resized to what the teacher was made
for. Nothing is cut off once more (the teacher's ``crop_pct`` is left out), and a student of 32 pixels has a teacher that
looks at 32 enlarged pixels. Views that come again (``data.cycle``, or no augmentation) need the teacher once: its vectors
are kept under what made them, the teacher's fingerprint and the views' recipe, and vectors of anything else are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.data.embeddings import Embeddings
from binderclip.data.files import write_whole
from binderclip.data.pairs import Pair, Pairs
from binderclip.errors import InputError, MediaError
from binderclip.hub import load
from binderclip.model.clip import CLIP
from binderclip.model.functions import frozen_copy, preprocess_tensor
from binderclip.model.preprocess import Preprocess
from binderclip.train.base import Objective
from binderclip.train.reading import Reader, augment_of

__all__ = ["FrozenTeacher", "fingerprint", "keep_vectors", "refit", "views_key"]

_BATCH = 64
_SIDES = {"img": "images", "text": "texts"}


def fingerprint(clip: CLIP) -> str:
    """16 hexadecimal digits of every weight in the order of names, the preprocess and the tokenizer."""
    digest = hashlib.sha256()
    for key, tensor in sorted(clip.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    preprocess = None if clip.preprocess is None else clip.preprocess.to_dict()
    tokenizer = None if clip.tokenizer is None else clip.tokenizer.config
    digest.update(json.dumps([preprocess, tokenizer], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def refit(pixels: Tensor, own: Preprocess, other: Preprocess) -> Tensor:
    """Pixels ``[N, 3, S, S]`` normalised for one tower as another wants them ``[N, 3, S', S']``, nothing cut off."""
    mean, std = (torch.tensor(part, dtype=pixels.dtype, device=pixels.device) for part in (own.mean, own.std))
    shown = (pixels * std[:, None, None] + mean[:, None, None]).clamp(0, 1)
    return preprocess_tensor(replace(other, crop_pct=1.0), shown)


def views_key(student: Preprocess, recipe: Mapping[str, Any], size: int | None) -> str:
    """8 hexadecimal digits of what decides on the pixels that a teacher sees of a row.

    Raises:
        InputError: views that never come again, or of several sizes.
    """
    data, sizes = recipe.get("data", {}), {phase.get("image_size") for phase in recipe.get("phases", ())}
    drawn = None
    if data.get("augment") not in (None, "none"):
        if data.get("cycle") is None:
            raise InputError("kept teacher vectors need views that come again: set data.cycle=10, or data.augment=none")
        drawn = [data["augment"], data["cycle"], recipe.get("seed", 0)]
    if sizes - {None, student.size}:
        raise InputError("kept teacher vectors are of one image size: leave out phases' image_size, or the cache")
    text = json.dumps([student.to_dict(), drawn, size], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class FrozenTeacher:
    """A frozen CLIP, or its vectors. No ``nn.Module``: it is in no state dict, no optimiser and no export.

    Args:
        source: name or path of a model, or a CLIP, which is copied.
        size: side in pixels at which it looks; None takes its own.
        cache: folder of vectors by `keep_vectors`, made there from ``recipe["data"]`` when it is missing.
    """

    def __init__(self, source: str | Path | CLIP, *, size: int | None = None, cache: str | Path | None = None) -> None:
        self.source, self.size = source, size
        self.cache = None if cache is None else Path(cache)
        self.clip: CLIP | None = None
        self.vectors: dict[str, Embeddings] = {}
        self.cycle: int | None = None
        self.embed_dim, self.scale, self.fingerprint = 0, 1.0, ""

    def prepare(self, student: CLIP, recipe: Mapping[str, Any]) -> None:
        """Load what is needed; the student's device and dtype are taken over.

        Raises:
            InputError: a folder of vectors that something else made.
        """
        clip = frozen_copy(self.source) if isinstance(self.source, CLIP) else load(self.source).requires_grad_(False)
        assert clip.preprocess is not None
        assert student.preprocess is not None
        if self.size is not None:
            clip.preprocess = replace(clip.preprocess, size=self.size)
        self.embed_dim, self.scale, self.fingerprint = clip.embed_dim, float(clip.scale.detach()), fingerprint(clip)
        self._student = student.preprocess
        self.clip = clip.eval().to(student.device, student.logit_scale.dtype)
        if self.cache is not None:
            self._open(self.cache, student, recipe)

    def _open(self, folder: Path, student: CLIP, recipe: Mapping[str, Any]) -> None:
        key = views_key(self._student, recipe, self.size)
        self.cycle = recipe.get("data", {}).get("cycle")
        if not (folder / _SIDES["text"] / "info.json").is_file():  # written last
            if not (dist.is_initialized() and dist.get_rank()):
                from binderclip.train.assemble import open_data

                keep_vectors(self, student, open_data(recipe["data"]), recipe, folder)
            if dist.is_initialized():
                dist.barrier()
        for kind, side in _SIDES.items():
            table = Embeddings.from_folder(folder / side, kind=kind, id_column="key")
            wanted = f"{self.fingerprint}-{key}" if kind == "img" else self.fingerprint
            if table.fingerprint != wanted:
                raise InputError(
                    f"the vectors in {folder / side} are of another teacher or of other views ({table.fingerprint}, not "
                    f"{wanted}): delete the folder to have them made again"
                )
            self.vectors[kind] = table
        self.clip = None

    def fields(self, pair: Pair, epoch: int, name: str = "teacher_image") -> dict[str, NDArray[Any]]:
        """The kept vector of a row's view in an epoch, for ``Objective.fields``; nothing where the teacher is live.

        Raises:
            InputError: that row has none.
        """
        return {name: self.vectors["img"].vector(_key(pair, epoch, self.cycle))} if self.vectors else {}

    @torch.no_grad()
    def image(self, pixels: Tensor) -> Tensor:
        """Unit vectors ``[N, D]`` of the student's pixels."""
        assert self.clip is not None
        assert self.clip.preprocess is not None
        self.clip.to(pixels.device)
        return self.clip.encode_image(refit(pixels, self._student, self.clip.preprocess))

    @torch.no_grad()
    def text(self, texts: list[str], like: Tensor) -> Tensor:
        """Unit vectors ``[N, D]`` of texts, on the device and in the dtype of another tensor.

        Raises:
            InputError: a text whose vector was not kept.
        """
        if self.vectors:
            rows = np.stack([self.vectors["text"].vector(text) for text in texts])
            return torch.from_numpy(rows).to(like.device, like.dtype)
        assert self.clip is not None
        return self.clip.to(like.device).encode_text(texts).to(like.dtype)


def keep_vectors(teacher: FrozenTeacher, student: CLIP, pairs: Pairs, recipe: Mapping[str, Any], folder: Path) -> None:
    """Write a prepared teacher's vectors of every row and turn, and of every caption, for its ``cache``.

    Args:
        teacher: prepared.
        student: whose views it sees.
        pairs: all rows; those that cannot be read are left out.
        recipe: ``data.augment``, ``data.cycle`` and ``seed`` decide on the views.
        folder: two tables in clip-retrieval's layout: ``images`` (ids ``ROW#TURN``) and ``texts`` (ids are the captions).
    """
    assert student.preprocess is not None
    assert student.tokenizer is not None
    data, seed = recipe.get("data", {}), recipe.get("seed", 0)
    key, cycle = views_key(student.preprocess, recipe, teacher.size), data.get("cycle")
    augment = augment_of(data.get("augment"))
    reader = Reader(
        pairs, Objective(), student.preprocess, student.tokenizer, 1, seed=seed, augment=augment, cycle=cycle, threads=0
    )
    ids: list[str] = []
    images: list[Tensor] = []
    captions: dict[str, None] = {}
    for turn in range(cycle or 1):
        samples = _samples(reader, pairs, turn)
        while part := list(islice(samples, _BATCH)):
            ids += [_key(pair, turn, cycle) for pair, _ in part]
            captions |= dict.fromkeys(text for pair, _ in part for text in pair.captions)
            pixels = torch.from_numpy(student.preprocess.normalize(np.stack([shown for _, shown in part])))
            images.append(teacher.image(pixels.to(student.device, student.logit_scale.dtype)).float().cpu())
    texts = list(captions)
    like = torch.zeros(0, device=student.device)
    vectors = [teacher.text(texts[i : i + _BATCH], like).cpu() for i in range(0, len(texts), _BATCH)]
    _write(folder / _SIDES["img"], "img", ids, images, f"{teacher.fingerprint}-{key}")
    _write(folder / _SIDES["text"], "text", texts, vectors, teacher.fingerprint)


def _samples(reader: Reader, pairs: Pairs, turn: int) -> Iterator[tuple[Pair, NDArray[np.uint8]]]:
    for pair in pairs:
        try:
            yield pair, reader.load(pair, turn).pixels[0]
        except MediaError:
            continue


def _key(pair: Pair, epoch: int, cycle: int | None) -> str:
    return f"{pair.id}#{0 if cycle is None else epoch % cycle}"


def _write(folder: Path, kind: str, ids: list[str], vectors: list[Tensor], made_by: str) -> None:
    stream = BytesIO()
    np.save(stream, F.normalize(torch.cat(vectors), dim=-1).numpy())
    lines = "".join(json.dumps({"key": key}) + "\n" for key in ids)
    for place in (folder / f"{kind}_emb", folder / "metadata"):
        place.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", stream.getvalue())
    write_whole(folder / "metadata" / "metadata_0.jsonl", lines.encode())
    write_whole(folder / "info.json", json.dumps({"fingerprint": made_by}).encode())
