"""What each stage does; ``tools/build_pocket_vit.py`` is the command."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pocket import figures, names, rows
from pocket.figures import Space
from pocket.inputs import Paths, is_test

from binderclip.data.hashing import hash64
from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Pair, Pairs, RowPairs
from binderclip.data.transforms import ViewTransforms
from binderclip.engine.encoder import Encoder
from binderclip.engine.torch_export import export_onnx
from binderclip.hub import load, native
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.mimicry import Mimicry
from binderclip.train.parts.teacher import cache_teacher
from binderclip.train.reading import augment_of
from binderclip.train.recipe import Recipe, read_yaml
from binderclip.train.validation import Validation

SIDE, PATCH = 96, 16
TABLES = ("tiny_imagenet", "cifar100", "cifar10", "imagenet1k_photos", "stamps")
#: Share of the rows drawn from each: the few large pictures are worth more than their number.
SHARES = (0.60, 0.12, 0.12, 0.10, 0.06)


def recipe(half: str) -> Recipe:
    """``first`` or ``second``, as it stands beside this file."""
    return Recipe.from_dict(read_yaml(Path(__file__).with_name(f"{half}.yaml")), f"pocket-vit {half}")


class Rows(RowPairs):
    """Rows in memory, so that they are shuffled as a whole: the tables are in the order of their classes."""

    def __init__(self, name: str, kept: list[Pair]) -> None:
        super().__init__(name)
        self.kept = kept

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.kept)

    def row(self, number: int) -> Pair:
        """One of them."""
        return self.kept[number]


def is_held(row_id: str) -> bool:
    """One training row in fifty, to watch the run by."""
    return hash64(0, f"held/{row_id}") % 50 == 0


def sources(args: argparse.Namespace) -> list[Rows]:
    """Training rows of each table with texts of what they show; never a test row, nor one of CIFAR-100's unseen classes."""
    paths = Paths(args.data, args.wheels or args.work, args.work)
    by_wnid = rows.label_texts(paths)
    unseen = {name.replace(" ", "_") for name in names.cifar100_names(paths)[1]}

    def told(pair: Pair) -> Pair | None:
        wnid, name = pair.metadata.get("wnid"), str(pair.label or "")
        if is_test(pair.id) or name in unseen:
            return None
        if wnid:
            return replace(pair, captions=tuple(by_wnid[wnid]), label=by_wnid[wnid][0])
        if pair.captions:
            return replace(pair, captions=(pair.caption, pair.caption.rstrip(".")))
        words = name.replace("_", " ")
        return replace(pair, captions=(words, f"a photo of a {words}", f"a picture of a {words}"), label=words)

    found = []
    for table in TABLES:
        kept = [row for pair in Pairs.open(args.data / f"{table}.parquet") if (row := told(pair)) is not None]
        found.append(Rows(table, kept))
    return found


def student() -> CLIP:
    """New image tower, pocket's text tower, scale and tokenizer."""
    pocket = load("pocket")
    config = {
        **pocket.config,
        "name": "pocket-vit",
        "towers": {
            "image": {
                "kind": "vit",
                "image_size": SIDE,
                "patch_size": PATCH,
                "width": 192,
                "layers": 8,
                "heads": 6,
                "activation": "quick_gelu",
            },
            "text": pocket.config["towers"]["text"],
        },
        "preprocess": {"size": SIDE, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    config.pop("probe", None)
    torch.manual_seed(0)
    clip = build(config)
    clip.tower("text").load_state_dict(pocket.tower("text").state_dict())
    with torch.no_grad():
        clip.logit_scale.copy_(pocket.logit_scale)
    return clip


def teacher(args: argparse.Namespace, half: str = "first") -> None:
    """Vectors of pocket for every view that the student will see in this half."""
    data, made = recipe(half).data, Encoder("pocket")
    augment = augment_of(data["augment"])
    assert augment is not None
    transforms = ViewTransforms({"view": augment}, seed=recipe(half).seed, cycle=data["cycle"])
    for table, source in zip(TABLES, sources(args), strict=True):
        done = 0

        def told(count: int, table: str = table) -> None:
            nonlocal done
            done += count
            print(f"{table}: {done} views", flush=True)

        cache_teacher(args.work / "teacher" / table, source, made, transforms, progress=told)


def teacher_again(args: argparse.Namespace) -> None:
    """The further turns of the second half."""
    teacher(args, "second")


def train(args: argparse.Namespace, half: str = "first") -> None:
    """A half's recipe, from where it stopped."""
    made = recipe(half)
    arguments = {k: v for k, v in made.objective.items() if k not in ("name", "vectors")}
    objective = Mimicry([str(args.work / "teacher" / table) for table in TABLES], **arguments)
    clip = student() if half == "first" else load(args.work / "first" / "model")
    every = sources(args)
    held = Rows("held", [pair for pair in every[0].kept if is_held(pair.id)])
    learnt = [Rows(source.name, [pair for pair in source.kept if not is_held(pair.id)]) for source in every]
    job = Job(made, clip, objective, MixedPairs(learnt, SHARES), Validation.of(held, clip, rows=None))
    run = Run(job, args.work / half, machine=Machine(cpu=not torch.cuda.is_available()), listener=_tell)
    run.train(until=args.until)


def train_again(args: argparse.Namespace) -> None:
    """The second half."""
    train(args, "second")


def _tell(record: dict[str, object]) -> None:
    if record["event"] != "step" or int(record["step"]) % 20 == 0:  # type: ignore[call-overload]
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}, flush=True)


def space(args: argparse.Namespace, clip: CLIP, tables: tuple[str, ...] = TABLES) -> Space:
    """Vectors of the test rows of each table, plain views at the tower's own size."""
    paths = Paths(args.data, args.wheels or args.work, args.work)
    images: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    clip.eval()
    for table in tables:
        tested = [pair for pair in Pairs.open(args.data / f"{table}.parquet") if is_test(pair.id)]
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(tested), 128):
                sources = [pair.image for pair in tested[start : start + 128]]
                vectors.append(clip.encode_image(sources).numpy())  # type: ignore[arg-type]
        images[table] = (np.array([pair.id for pair in tested]), np.concatenate(vectors))

    def encode(texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate(
                [clip.encode_text(list(texts[i : i + 256])).numpy() for i in range(0, len(texts), 256)]
            )

    return Space(paths, images, encode)


def measure(args: argparse.Namespace) -> None:
    """Every figure on test rows, of the finished model or of the average so far."""
    done = [args.work / half / "model" for half in ("second", "first")]
    clip = load(next(folder for folder in done if folder.is_dir()))
    if args.size:
        assert clip.preprocess is not None
        clip.preprocess = replace(clip.preprocess, size=args.size)
    found = figures.table(space(args, clip), is_test)
    (args.work / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def package(args: argparse.Namespace) -> None:
    """The folder inside the package: fp16 weights without the text tower, which is pocket's, and the image graph."""
    clip = load(args.work / "second" / "model").eval()
    figures_of = json.loads((args.work / "figures.json").read_text())
    clip.config = {**clip.config, "name": "pocket-vit", "shares": {"text": "pocket"}}
    clip.config.pop("probe", None)
    native.save(clip, args.out, dtype=torch.float16)
    stored = load(args.out).eval()
    difference = export_onnx(stored, args.out)
    weights = hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest()[:12]
    inputs = {f"{table}.parquet": _digest(args.data / f"{table}.parquet") for table in TABLES}
    record = {
        "command": "python tools/build_pocket_vit.py --data DIR --work SCRATCH",
        "recipes": {half: recipe(half).to_dict() for half in ("first", "second")},
        "inputs": inputs,
        "weights": weights,
        "graph_against_torch": difference,
        "figures": figures_of,
    }
    (args.out / "build_record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"package: {sum(p.stat().st_size for p in args.out.iterdir()) / 1e6:.1f} MB, {difference}", flush=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
