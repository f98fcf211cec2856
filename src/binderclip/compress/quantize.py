"""int8 graphs of a model by ONNX Runtime's quantiser, and the proof that they still find the same things.

Convolutional image towers: weights (a channel a scale) and activations, whose ranges are taken from calibration pictures;
the first few convolutions stay in float where that is needed.
Transformers: weights of matrix products, activations as they come (dynamic). What is compared, float against int8, is never
the calibration pictures: cosines; zero-shot accuracy on labelled pictures; the top 10 of 100 searches.

Source: ONNX Runtime's documentation of quantization; the thresholds are the project's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.compress.export import whole_folder
from binderclip.data.hashing import hash64
from binderclip.data.templates import class_vectors
from binderclip.engine.encoder import Encoder
from binderclip.engine.onnx import OnnxTowers
from binderclip.engine.opening import shared_towers
from binderclip.errors import CheckpointError, InputError, NeedsExtraError

__all__ = ["Checks", "Limits", "compare", "quantize"]

CALIBRATION, QUERIES, TOP = 128, 100, 10
#: Early convolutions that may stay in float, fewest first; and what the calibration pictures must do better than asked.
KEPT, MARGIN = (0, 5, 8, 12, 16, 24), 0.01
LEAST = 2 * TOP  # pictures to compare on, besides those of the calibration

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """What int8 must keep.

    Attributes:
        cosine: least mean cosine of pictures, and of texts, to the float model's.
        accuracy: most percentage points of zero-shot accuracy lost.
        overlap: least mean share of the float model's top 10 that is found.
    """

    cosine: float = 0.98
    accuracy: float = 0.5
    overlap: float = 0.95


@dataclass(frozen=True)
class Checks:
    """int8 against float on pictures that were not calibrated on.

    Attributes:
        pictures: how many.
        image_cosine: mean over pictures.
        image_cosine_least: of the worst.
        text_cosine: mean over texts.
        overlap: mean share of the top 10 of the searches.
        queries: how many searches.
        accuracy: zero-shot, of the float model, in percent; ``None`` without labels.
        accuracy_int8: of the int8 model.
        bytes: of the float model's weights and graphs.
        bytes_int8: of the int8 graphs.
    """

    pictures: int
    image_cosine: float
    image_cosine_least: float
    text_cosine: float
    overlap: float
    queries: int
    accuracy: float | None
    accuracy_int8: float | None
    bytes: int = 0
    bytes_int8: int = 0

    def problems(self, limits: Limits) -> list[str]:
        """What is below the limits, in words; empty where all is well."""
        found = []
        if min(self.image_cosine, self.text_cosine) < limits.cosine:
            found.append(f"mean cosine {min(self.image_cosine, self.text_cosine):.3f} under {limits.cosine:g}")
        if self.overlap < limits.overlap:
            found.append(f"top-{TOP} overlap {100 * self.overlap:.1f} % under {100 * limits.overlap:g} %")
        if self.accuracy is not None and self.accuracy_int8 is not None:
            lost = self.accuracy - self.accuracy_int8
            if lost > limits.accuracy:
                found.append(f"zero-shot accuracy {lost:.2f} points lower, over {limits.accuracy:g}")
        return found


def quantize(
    name: str,
    out: Path,
    pictures: Sequence[Any],
    labels: Sequence[str] | None = None,
    *,
    calibration: int = CALIBRATION,
    limits: Limits | None = None,
    force: bool = False,
) -> Checks:
    """Write a folder with int8 graphs of a model, once they have passed the comparison.

    Args:
        name: an embedded model, an exported folder, or any checkpoint (then torch and ``onnx`` export it first).
        out: a new folder; it holds the float weights too, so that ``binderclip.load`` and further work go on from it.
        pictures: paths or Pillow images; some calibrate, the others are compared.
        labels: their class names, for the comparison of accuracy.
        calibration: how many calibrate, at most half.
        limits: what must be kept.
        force: write it even though it does not.

    Raises:
        InputError: too few pictures, labels of another count, or the folder is there.
        NeedsExtraError: ``onnx`` is not installed.
        CheckpointError: the int8 model keeps less than it must; nothing is written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise NeedsExtraError("quantizing", "export") from None
    if labels is not None and len(labels) != len(pictures):
        raise InputError(f"{len(labels)} labels for {len(pictures)} pictures: give one for each, or none")
    limits = limits or Limits()
    exact = Encoder(name, engine="onnx")
    order = sorted(range(len(pictures)), key=lambda i: hash64(0, f"quantize/{i}"))
    count = min(calibration, len(order) // 2)
    if len(order) - count < LEAST:
        raise InputError(f"{len(pictures)} pictures are too few: give {2 * LEAST} or more, better some hundreds")
    held = [order[i] for i in range(count, len(order))]
    assert isinstance(exact.towers, OnnxTowers)
    with whole_folder(out) as work:
        _copy(exact.towers.folder, work)
        sample = exact.preprocess.normalize(np.stack([exact.pixels(_open(pictures[i])) for i in order[:count]]))
        graphs = {
            "image": _image_graph(exact.towers.graph("image"), work / "image.onnx", sample, limits.overlap),
            "text": _dynamic(exact.towers.graph("text"), work / "text.onnx"),
        }
        config = exact.config | {"name": f"{exact.config.get('name', name)}-int8", "quantized": graphs}
        (work / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        kept = None if labels is None else [labels[i] for i in held]
        checks = compare(exact, Encoder(str(work), engine="onnx"), [pictures[i] for i in held], kept)
        places = {exact.towers.folder, *shared_towers(exact.config).values()}
        sizes = [p.stat().st_size for place in places for p in place.glob("model.safetensors")]
        small = sum((work / f"{tower}.onnx").stat().st_size for tower in graphs)
        checks = replace(checks, bytes=sum(sizes), bytes_int8=small)
        problems = checks.problems(limits)
        if problems and not force:
            raise CheckpointError(
                f"int8 loses too much ({'; '.join(problems)}): give more pictures of the kind you search, or --force"
            )
        (work / "checks.json").write_text(json.dumps(asdict(checks), indent=1) + "\n", encoding="utf-8")
    return checks


def compare(exact: Encoder, rough: Encoder, pictures: Sequence[Any], labels: Sequence[str] | None = None) -> Checks:
    """Two encoders of one model on the same pictures.

    Searches: the sentences of the labels' names in turn until there are 100; without labels the first 100 pictures,
    each among the others.

    Args:
        exact: the model as it was.
        rough: as it is now.
        pictures: N paths or Pillow images.
        labels: their N class names.
    """
    a, b = exact.encode_image(pictures), rough.encode_image(pictures)  # [N, D]
    names = sorted(set(labels or ()))
    texts = _sentences(names or ["dog", "house", "red bicycle", "bowl of soup"])
    s, t = exact.encode_text(texts), rough.encode_text(texts)
    if names:
        queries, theirs, itself = s, t, None
    else:
        queries, theirs, itself = a[:QUERIES], b[:QUERIES], np.arange(min(QUERIES, len(a)))
    accuracy, accuracy_int8 = (
        (_accuracy(exact, a, names, labels), _accuracy(rough, b, names, labels)) if len(names) > 1 else (None, None)
    )
    cosines = (a * b).sum(1)
    return Checks(
        pictures=len(a),
        image_cosine=float(cosines.mean()),
        image_cosine_least=float(cosines.min()),
        text_cosine=float((s * t).sum(1).mean()),
        overlap=_overlap(_top(queries, a, itself), _top(theirs, b, itself)),
        queries=len(queries),
        accuracy=accuracy,
        accuracy_int8=accuracy_int8,
    )


def _accuracy(encoder: Encoder, rows: Floats, names: list[str], labels: Sequence[str] | None) -> float:
    """Zero-shot accuracy of rows [N, D], in percent."""
    truth = np.array([names.index(label) for label in labels or ()])
    return 100 * float(((rows @ class_vectors(encoder, names).T).argmax(1) == truth).mean())


def _sentences(names: Sequence[str]) -> list[str]:
    """At most 100 sentences, every name in one before any is in two."""
    from binderclip.data.templates import fill, templates

    sentences = [one for which in ("photos", "drawings", "scenes") for one in templates(which)]
    made = dict.fromkeys(fill(sentence, name.split("|")[0]) for sentence in sentences for name in names)
    return list(made)[:QUERIES]


def _top(queries: Floats, rows: Floats, itself: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Positions of the 10 best rows of each query, never the query itself."""
    scores = queries @ rows.T
    if itself is not None:
        scores[np.arange(len(itself)), itself] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, : min(TOP, len(rows) - 1)]


def _open(picture: Any) -> Any:
    from PIL import Image

    from binderclip.data.media import open_image

    return picture if isinstance(picture, Image.Image) else open_image(picture).image


def _copy(source: Path, target: Path) -> None:
    """All but graphs, records and cards, which speak of the float model."""
    for path in source.iterdir():
        if (
            path.is_file()
            and path.suffix != ".onnx"
            and path.name not in ("config.json", "build_record.json", "MODEL_CARD.md")
        ):
            shutil.copyfile(path, target / path.name)


def _folded(graph: Path, target: Path) -> Path:
    """The graph with its weights inside in float32 and batch norms folded, as the quantiser wants it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return target


def _image_graph(graph: Path, target: Path, sample: Floats, wanted: float) -> dict[str, Any]:
    """Static where convolutions do the work, else dynamic; says which, what stayed float, and the graph's digest.

    Early convolutions hurt most: as many of them stay in float as the calibration pictures need to find one another again,
    with a margin. Matrix products behind them stay so too: on `pocket` they cost 1.5 points of overlap and save no time.
    """
    import onnx

    folded = _folded(graph, target.with_suffix(".folded"))
    nodes = onnx.load(str(folded)).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    if len(convolutions) <= sum(node.op_type == "MatMul" for node in nodes):
        folded.unlink()
        return _dynamic(graph, target)
    exact, itself = _rows(folded, sample), np.arange(len(sample))
    kept = 0
    for kept in (k for k in KEPT if k < len(convolutions)):
        _static(folded, target, sample, convolutions[:kept])
        rough = _rows(target, sample)
        if _overlap(_top(exact, exact, itself), _top(rough, rough, itself)) >= wanted + MARGIN:
            break
    folded.unlink()
    return {"how": "static", "float": kept, "digest": _digest(target)}


def _static(graph: Path, target: Path, sample: Floats, exclude: Sequence[str]) -> None:
    """Convolutions and what is fused with them in int8, ranges from the sample [N, 3, H, W]."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Floats] = iter(sample)

        def get_next(self) -> dict[str, Floats] | None:
            row = next(self.left, None)
            return None if row is None else {"pixels": row[None]}

    with _quiet():
        quantize_static(
            str(graph),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Clip", "Add"],
            nodes_to_exclude=list(exclude),
        )


def _rows(graph: Path, sample: Floats) -> Floats:
    """Unit vectors [N, D] of pixels [N, 3, H, W] by a graph."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    found = [session.run(["embedding"], {"pixels": sample[i : i + 8]})[0] for i in range(0, len(sample), 8)]
    rows = np.concatenate(found)
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _overlap(theirs: NDArray[np.int64], ours: NDArray[np.int64]) -> float:
    """Mean share of each row's positions [Q, k] that the other has too."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(theirs, ours, strict=True)]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to prepare the graph, which it is."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _dynamic(graph: Path, target: Path) -> dict[str, Any]:
    """Weights of matrix products in int8, activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folded = _folded(graph, target.with_suffix(".folded"))
    with _quiet():
        quantize_dynamic(str(folded), str(target), weight_type=QuantType.QInt8, per_channel=True)
    folded.unlink()
    return {"how": "dynamic", "digest": _digest(target)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
