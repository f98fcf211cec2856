"""The parts of the robustness suite, one method each; they share pictures, texts and a cache of changed pictures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.embeddings import uniform
from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.errors import InputError, MediaError, NeedsPartError
from binderclip.evaluate.base import Metric, Probe, mean_of, plain, share
from binderclip.evaluate.correspondence import flip_recall, patch_tokens
from binderclip.evaluate.corruption import corrupt
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.depth import FLAT, SOLID, corrupt3d
from binderclip.evaluate.metrics.calibration import ece, fit_temperature, softmax
from binderclip.evaluate.probes.calibration import Calibration
from binderclip.evaluate.probes.ood import OOD
from binderclip.evaluate.probes.retrieval import Retrieval
from binderclip.evaluate.robustness import cue_conflict, factor, shape_bias
from binderclip.evaluate.store import code_digest
from binderclip.evaluate.vectors import Vectors

if TYPE_CHECKING:
    from binderclip.evaluate.probes.robustness_suite import RobustnessSuite

__all__ = ["Suite"]

Floats = NDArray[Any]
Ints = NDArray[np.int64]


class Suite:
    """One run: each part is a method that gives its numbers."""

    def __init__(self, probe: RobustnessSuite, vectors: Vectors, sets: Sets) -> None:
        self.probe, self.vectors, self.sets = probe, vectors, sets
        self.notes: list[str] = []
        self.charts: list[dict[str, Any]] = []
        self.wrong: dict[str, Floats] = {}  # part -> share of its pictures that were wrong, of each item
        self._few: tuple[Dataset, Ints] | None = None

    def rows(self) -> tuple[dict[str, Any], ...]:
        """One an item of the parts that change pictures, else of the data."""
        data = self._few[0] if self._few else self.sets.test
        table = {f"error_{name}": values for name, values in self.wrong.items() if len(values) == len(data)}
        return tuple(
            {"id": item.id, **{name: float(values[i]) for name, values in table.items()}}
            for i, item in enumerate(data.items)
        )

    def factors(self) -> list[Metric]:
        """Accuracy with a visual factor drawn in, or annotated, and its error ratio."""
        _, y = self._data()
        clean = self._right(self._clean(), y)
        numbers = [share("clean", clean)]
        wrong = []
        for name in self.probe.factors:
            X = self._changed(f"factor/{name}", lambda item, n=name: self._crop(item, factor, n))  # type: ignore[misc]
            right = self._right(X, y)
            wrong.append(~right)
            numbers += [share(name, right), self._ratio(name, right, clean)]
        every, labels = self.sets.test.labelled()
        kinds = {kind.strip() for item in every.items for kind in item.kind.split(",") if kind.strip()}
        if kinds:
            right = self._right(self.vectors.images(every.items), labels)
            for kind in sorted(kinds):
                mine = np.array([kind in [k.strip() for k in item.kind.split(",")] for item in every.items])
                numbers += [
                    share(f"annotated {kind}", right[mine]),
                    self._ratio(f"annotated {kind}", right[mine], right),
                ]
        self.wrong["factors"] = np.mean(wrong, axis=0)
        return numbers

    def shape(self) -> list[Metric]:
        """Shape bias on outlines of one class that are filled with another."""
        data, y = self._data()
        cuts = []
        for i, item in enumerate(data.items):
            image = _original(item)
            if "A" in image.getbands() or "transparency" in image.info:
                cuts.append((i, image.convert("RGBA")))
        if len({int(y[i]) for i, _ in cuts}) < 2:
            raise InputError("it needs cut-outs of two classes, pictures with a transparent ground")
        pictures, shapes, textures = [], [], []
        for i, image in cuts:
            others = [(j, other) for j, other in cuts if y[j] != y[i]]
            j, other = Draws(self.probe.seed, f"texture/{data.items[i].id}").choice("of", others)
            pictures.append(cue_conflict(image, other))
            shapes.append(int(y[i]))
            textures.append(int(y[j]))
        X = self.vectors.of_pictures([self.vectors.picture(Item(str(k), one)) for k, one in enumerate(pictures)])
        answers = (X @ self._texts().T).argmax(axis=1)
        value, m = shape_bias(answers, shapes, textures)
        if not m:
            return [plain("shape bias", value, len(cuts), "", "share"), plain("answered", 0, len(cuts))]
        cue = (answers == np.array(shapes)) | (answers == np.array(textures))
        return [
            share("shape bias", (answers == np.array(shapes))[cue], ""),
            share("answered with a cue", cue, ""),
        ]

    def calibration(self) -> list[Metric]:
        """Of `Calibration`: before and after a temperature."""
        return self._probe(
            Calibration(templates=self.probe.templates),
            ("ece", "nll", "acc1", "temperature", "nll_before", "nll_after", "ece_before", "ece_after", "logit_scale"),
        )

    def ood(self) -> list[Metric]:
        """Of `OOD`, where there are outliers."""
        return self._probe(
            OOD(templates=self.probe.templates), ("mcm_auroc", "mcm_fpr95", "msp_auroc", "msp_fpr95", "id_acc1")
        )

    def retrieval(self) -> list[Metric]:
        """Of `Retrieval`, where there are captions."""
        names = tuple(f"{way}_recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10))
        return self._probe(Retrieval(), names)

    def corrupt2d(self) -> list[Metric]:
        """Accuracy under flat corruptions."""
        return self._sweep(
            "corrupt2d",
            self.probe.kinds,
            lambda image, kind, s, key: corrupt(image, kind, s, key=key, seed=self.probe.seed),
        )

    def corrupt3d(self) -> list[Metric]:
        """Accuracy under corruptions that know depth; without depth, those of light and sensor."""
        folder = Path(self.probe.depth) if self.probe.depth else None
        if folder is None:
            self.notes.append(
                "corrupt3d: no depth maps, so light and sensor only, which are not 3-D; name a folder, as depth=DIR"
            )

        def change(image: Image.Image, kind: str, s: int, key: str) -> Image.Image:
            z = np.load(folder / f"{key}.npy", allow_pickle=False) if folder is not None and kind in SOLID else None
            return corrupt3d(image, z, kind, s, key=key, seed=self.probe.seed)

        try:
            return self._sweep("corrupt3d", (SOLID + FLAT) if folder is not None else FLAT, change)
        except OSError as error:
            raise InputError(f"a depth map cannot be read ({error})") from None

    def correspondence(self) -> list[Metric]:
        """Recall of patches in the mirror image."""
        clip = getattr(self.vectors.encoder, "clip", None)
        if clip is None:
            raise NeedsPartError(
                "it reads tokens inside the tower: run the suite on a torch CLIP, as of binderclip.load"
            )
        data, _ = self._data()
        pictures = [self.vectors.picture(item) for item in data.items[:100]]
        A, grid = patch_tokens(clip, pictures)
        B, _ = patch_tokens(clip, [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in pictures])
        # what tokens that know nothing would reach, over twenty draws
        R = np.random.default_rng(self.probe.seed).normal(size=(2, 20, *A.shape[1:]))
        R /= np.linalg.norm(R, axis=-1, keepdims=True)
        numbers = [plain("tokens", A.shape[1], len(pictures))]
        for name, within in (("mirror recall", 0.0), ("mirror recall within a patch", 1.5)):
            numbers.append(mean_of(name, flip_recall(A, B, grid, within=within), unit="share"))
            chance = float(flip_recall(R[0], R[1], grid, within=within).mean())
            numbers.append(plain(f"{name}, random tokens", chance, len(pictures), "", "share"))
        return numbers

    # -- what parts share ----------------------------------------------------------------------------------------

    def _probe(self, probe: Probe, wanted: Sequence[str]) -> list[Metric]:
        report = probe.run(self.vectors, self.sets)
        self.charts += [dict(chart) for chart in report.charts]
        known = {m.name: m for m in report.metrics}
        return [known[name] for name in wanted if name in known]

    def _data(self) -> tuple[Dataset, Ints]:
        if self._few is None:
            data, y = self.sets.test.labelled()
            u = uniform(self.probe.seed, data.ids)
            keep = u <= np.sort(u)[min(self.probe.most, len(data)) - 1]
            if not keep.all():
                self.notes.append(f"{keep.sum()} of {len(data)} pictures are changed, by the hash of their ids")
            self._few = data.select(keep), y[keep]
        return self._few

    def _texts(self) -> Floats:
        return self.vectors.classes(self.sets.test, self.probe.templates)

    def _clean(self) -> Floats:
        return self.vectors.images(self._data()[0].items)

    def _right(self, X: Floats, y: Ints) -> NDArray[np.bool_]:
        return np.asarray((X @ self._texts().T).argmax(axis=1) == y)

    def _ratio(self, name: str, right: Floats, clean: Floats) -> Metric:
        """``(1 - a_f) / (1 - a)``: over 1 where the factor hurts."""
        wrong = 1.0 - float(clean.mean())
        return plain(
            f"{name}, error ratio", (1.0 - float(right.mean())) / wrong if wrong else float("nan"), len(right), "lower"
        )

    def _crop(self, item: Item, change: Callable[..., Image.Image], name: str) -> Image.Image:
        return change(self.vectors.picture(item), name, item.id, self.probe.seed)

    def _sweep(
        self, part: str, kinds: Sequence[str], change: Callable[[Image.Image, str, int, str], Image.Image]
    ) -> list[Metric]:
        """Accuracy by kind and severity, and the calibration error before and after the clean temperature."""
        data, y = self._data()
        if not kinds or not self.probe.severities:
            raise InputError("name at least one kind of corruption and one severity")
        W, scale = self._texts(), self.vectors.scale
        clean = scale * (self._clean() @ W.T).astype(np.float64)
        fit = uniform(self.probe.seed, data.ids) < 0.5
        T = fit_temperature(clean[fit], y[fit]) if fit.any() else 1.0
        side = min(self.vectors.picture(data.items[0]).size)
        error = np.zeros((len(kinds), len(self.probe.severities), len(y)))
        logits = []
        for c, kind in enumerate(kinds):
            for k, severity in enumerate(self.probe.severities):
                X = self._changed(
                    f"{part}/{kind}/{severity}",
                    lambda item, kind=kind, severity=severity: self._corrupted(item, side, change, kind, severity),  # type: ignore[misc]
                )
                logits.append(scale * (X @ W.T).astype(np.float64))
                error[c, k] = logits[-1].argmax(axis=1) != y
        self.wrong[part] = error.mean(axis=(0, 1))
        right = clean.argmax(axis=1) == y
        numbers = [
            share("clean", right),
            mean_of("accuracy", 1.0 - self.wrong[part], unit="share"),
            mean_of("mean error", self.wrong[part], "lower", "share"),
            *(plain(kind, 1.0 - error[c].mean(), len(y), "higher", "share") for c, kind in enumerate(kinds)),
        ]
        for name, divisor in (("before", 1.0), ("after the clean temperature", T)):
            p = softmax(np.concatenate(logits) / divisor)
            hits = p.argmax(axis=1) == np.tile(y, len(logits))
            numbers.append(plain(f"ece {name}", ece(p.max(axis=1), hits), len(hits), "lower", "share"))
        series = {
            kind: [[0, float(right.mean())]]
            + [[s, 1 - float(error[c, k].mean())] for k, s in enumerate(self.probe.severities)]
            for c, kind in enumerate(kinds)
        }
        self.charts.append({"kind": "lines", "title": part, "x": "severity", "y": "accuracy", "series": series})
        return numbers

    def _corrupted(
        self,
        item: Item,
        side: int,
        change: Callable[[Image.Image, str, int, str], Image.Image],
        kind: str,
        severity: int,
    ) -> Image.Image:
        original = _original(item).convert("RGB")
        if min(original.size) < side and kind not in SOLID:
            return self.vectors.picture(Item(item.id, change(original, kind, severity, item.id)))
        return change(self.vectors.picture(item), kind, severity, item.id)

    def _changed(self, variant: str, make: Callable[[Item], Image.Image]) -> Floats:
        """Vectors of changed pictures of all items, from the cache where they are there."""
        items, step = self._data()[0].items, self.vectors.batch
        facts = f"{self.vectors.fingerprint}/{variant}/{self.probe.seed}/{self._data()[0].digest}/{code_digest()}"
        path = Path(self.probe.cache or ".") / f"{hashlib.sha256(facts.encode()).hexdigest()[:20]}.npy"
        keep = bool(self.probe.cache and self.vectors.fingerprint)
        if keep and path.is_file():
            return np.asarray(np.load(path, allow_pickle=False))
        parts = []
        for start in range(0, len(items), step):
            parts.append(self.vectors.of_pictures([make(item) for item in items[start : start + step]]))
            if self.vectors.on_progress is not None:
                self.vectors.on_progress(min(start + step, len(items)), len(items))
        X = np.concatenate(parts)
        if keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, X)
        return X


def _original(item: Item) -> Image.Image:
    """The picture as it is in its file, transparency and all."""
    if item.image is None:
        raise InputError(f"{item.id} has no picture, only a vector: this part changes pictures")
    if isinstance(item.image, Image.Image):
        return item.image
    try:
        image = Image.open(io.BytesIO(item.image) if isinstance(item.image, bytes) else item.image)
        image.load()
        return image
    except OSError:
        try:
            return open_image(item.image).image  # a format that Pillow alone does not read
        except MediaError as error:
            raise InputError(str(error)) from None
