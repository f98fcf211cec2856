"""Samples a second of the training loop against open_clip's own, same small ViT, batch, pictures and machine; and memory of
cached gradients. Both loops decode, augment, tokenize and train; steps are timed from the second on, the loops in turn.
"""

from __future__ import annotations

import contextlib
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import digest, flickr_captions, imagenet_photos, open_clip, record, shared_data

ROWS, BATCH, STEPS, REPEAT = 1280, 64, 14, 3
SIZE, WIDTH, LAYERS = 96, 192, 6


def main() -> None:
    """Measure and record; with ``--memory BATCH MICRO`` tell the peak memory of two steps, in a process of its own."""
    if "--memory" in sys.argv:
        at = sys.argv.index("--memory")
        print(peak(int(sys.argv[at + 1]), int(sys.argv[at + 2]) or None))
        return
    with tempfile.TemporaryDirectory() as place:
        table = write_rows(Path(place))
        figures: dict[str, Any] = {
            "texts_of_77": compare(table, 77, Path(place)),
            "texts_trimmed_on_both_sides": compare(table, 24, Path(place)),
        }
    figures["cached_gradients_peak_mb"] = {
        f"batch {batch}": {name: memory(batch, micro) for name, micro in (("pieces of 32", 32), ("whole", 0))}
        for batch in (64, 128, 256, 512)
    }
    record(
        "train_speed", figures, seed=0,
        data=digest(shared_data() / "flickr8k_captions.parquet", shared_data() / "imagenet1k_photos.parquet"),
        wanted="1.2x open_clip's loop; with text trimmed on both sides not under 1.0x; cached gradients' memory constant",
        notes=(
            f"ViT {SIZE} px patch 16, both towers {LAYERS} layers of width {WIDTH}; {ROWS} ImageNet photos with Flickr8k "
            f"captions, batch {BATCH}, fp32. open_clip with 2 loader processes, ours with 2 threads. Ours trims a batch's "
            "texts to its longest, exact in a causal tower; theirs pads to the context. Peak is of the whole process."
        ),
    )  # fmt: skip


def write_rows(place: Path) -> Path:
    """Pictures and their captions as both loops read them."""
    table = place / "rows.csv"
    with open(table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "title"])
        for i, (image, text) in enumerate(zip(imagenet_photos(ROWS), flickr_captions(ROWS), strict=True)):
            path = place / f"{i}.jpg"
            path.write_bytes(image)
            writer.writerow([str(path), text])
    return table


def config(context: int) -> dict[str, Any]:
    """Of the model, in open_clip's words."""
    heads = WIDTH // 32
    return {
        "embed_dim": 256,
        "vision_cfg": {"image_size": SIZE, "layers": LAYERS, "width": WIDTH, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": context, "vocab_size": 49408, "width": WIDTH, "heads": heads, "layers": LAYERS},
    }


def compare(table: Path, context: int, place: Path) -> dict[str, float]:
    """Samples a second of each, medians of turns."""
    rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
    for turn in range(REPEAT):
        rates["ours"].append(ours(table, context, place / f"run-{context}-{turn}"))
        rates["open_clip"].append(theirs(table, context, place))
    found = {name: statistics.median(values) for name, values in rates.items()}
    return found | {"ratio": found["ours"] / found["open_clip"]}


def rate(stamps: list[float]) -> float:
    """Samples a second from the second step on."""
    return BATCH * (len(stamps) - 2) / (stamps[-1] - stamps[1])


def ours(table: Path, context: int, folder: Path) -> float:
    """Our loop."""
    from binderclip.train.assemble import assemble
    from binderclip.train.loop import Run
    from binderclip.train.machine import Machine

    job = assemble(recipe(str(table), context))
    stamps: list[float] = []
    listener = lambda r: stamps.append(time.perf_counter()) if r["event"] == "step" else None  # noqa: E731
    Run(job, folder, machine=Machine(cpu=True), listener=listener).train()
    return rate(stamps)


def recipe(pairs: str, context: int, batch: int = BATCH, micro: int | None = None, steps: int = STEPS) -> Any:
    """The same model and settings as a recipe."""
    from binderclip.train.recipe import Recipe

    heads = WIDTH // 32
    image = {"kind": "vit", "image_size": SIZE, "patch_size": 16, "width": WIDTH, "layers": LAYERS, "heads": heads}
    text = {"kind": "text_transformer", "vocab_size": 49408, "context_length": context, "width": WIDTH}
    return Recipe.from_dict(
        {
            "model": {
                "embed_dim": 256,
                "towers": {"image": image, "text": {**text, "layers": LAYERS, "heads": heads}},
                "preprocess": {"size": SIZE},
                "tokenizer": {"kind": "clip_bpe", "context_length": context},
            },
            "data": {"pairs": pairs, "batch_size": batch, "augment": {"scale": [0.9, 1.0]}, "threads": 2},
            "objective": {"name": "contrastive"},
            "optimizer": {"lr": 5e-4, "weight_decay": 0.2},
            "phases": [{"steps": steps}],
            "micro_batch": micro,
            "checkpoint": {"every": 100000},
        }
    )


def theirs(table: Path, context: int, place: Path) -> float:
    """open_clip's loop, called as its own main does."""
    module = open_clip()
    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    name = f"small-{context}"
    (place / f"{name}.json").write_text(json.dumps(config(context)))
    module.add_model_config(place / f"{name}.json")
    arguments = ["--train-data", str(table), "--dataset-type", "csv", "--csv-separator", ",", "--model", name]
    arguments += ["--batch-size", str(BATCH), "--workers", "2", "--precision", "fp32", "--log-every-n-steps", "1000"]
    args = parse_args(arguments)
    args.device, args.distributed, args.rank, args.world_size, args.local_rank = "cpu", False, 0, 1, 0
    args.distill, args.wandb, args.tensorboard, args.save_logs, args.skip_scheduler = False, False, False, False, False
    model, train_transform, test_transform = module.create_model_and_transforms(name, device="cpu", output_dict=True)
    tokenizer = module.get_tokenizer(name, context_length=context)
    data = get_data(args, (train_transform, test_transform), epoch=0, tokenizer=tokenizer)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    plain = cosine_lr(optimizer, 5e-4, 0, 1000)
    stamps: list[float] = []

    def scheduler(step: int) -> Any:
        stamps.append(time.perf_counter())
        if len(stamps) > STEPS:
            raise StopIteration
        return plain(step)

    with contextlib.suppress(StopIteration, RuntimeError):
        train_one_epoch(model, data, module.ClipLoss(), 0, optimizer, None, scheduler, None, args)
    return rate(stamps)


def memory(batch: int, micro: int) -> float:
    """Peak megabytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_speed", "--memory", str(batch), str(micro)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak(batch: int, micro: int | None) -> float:
    """Peak megabytes of two steps on scenes."""
    from binderclip.train.assemble import assemble
    from binderclip.train.loop import Run
    from binderclip.train.machine import Machine

    job = assemble(recipe("scenes:2048?size=64&captions=1", 77, batch, micro, steps=2))
    with tempfile.TemporaryDirectory() as place:
        Run(job, Path(place), machine=Machine(cpu=True)).train()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
