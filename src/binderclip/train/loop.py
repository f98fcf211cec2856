"""The training loop: whatever the objective, model, data and machine.

A run is a folder: ``recipe.yaml``, ``start/`` (the weights it began with), ``log.jsonl``, ``checkpoints/``, ``best/``
and in the end ``model/`` (what the objective exports) and ``curves.html``. It can be stopped at any moment; taken up
again it goes on with the very next batch, and on a CPU at the same number of threads ends in the same bits as a run
that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.hub import native
from binderclip.model.clip import CLIP
from binderclip.model.functions import freeze, unfreeze
from binderclip.train.assemble import Job
from binderclip.train.base import Loss, TrainBatch, checked_parts
from binderclip.train.checkpoint import (
    latest,
    load_optimizer,
    load_state,
    optimizer_tensors,
    save_state,
)
from binderclip.train.logbook import Logbook
from binderclip.train.machine import Machine
from binderclip.train.optim import make_optimizer, set_rate
from binderclip.train.parts.dropping import drop_tokens
from binderclip.train.parts.ema import Ema, average
from binderclip.train.phases import Span
from binderclip.train.reading import Reader, augment_of
from binderclip.train.recipe import dump_yaml
from binderclip.train.step import Trainee, gradients
from binderclip.train.stopping import asked_to_stop

__all__ = ["Run"]

Record = dict[str, Any]
Listener = Callable[[Record], None]
Moments = tuple[Mapping[str, Tensor], Mapping[str, Any]]


class Run:
    """One training run.

    Args:
        job: what is trained on what.
        folder: of the run; made if missing. A run that it holds is gone on with.
        machine: device and processes; a single CPU or GPU by default.
        listener: is told every step, validation and checkpoint as the record that goes into the log.

    Attributes:
        step: steps done.
        steps: steps of the whole run.
        best: metric and step of the best validation, or None.
    """

    def __init__(
        self, job: Job, folder: Path, *, machine: Machine | None = None, listener: Listener = lambda record: None
    ) -> None:
        self.job, self.folder, self.listener = job, folder, listener
        self.machine = machine or Machine(job.recipe.precision)
        recipe = job.recipe
        self.recipe, self.clip, self.objective = recipe, job.clip, job.objective
        self.plan = recipe.plan()
        self.steps, self.step = self.plan.steps, 0
        self.best: tuple[float, int] | None = None
        self.worse = 0  # validations since the best
        self.log = Logbook(folder)
        self._prepare()

    def _prepare(self) -> None:
        recipe, clip = self.recipe, self.clip
        clip.train()
        for pattern in recipe.freeze:
            freeze(clip, pattern)
        for pattern in recipe.unfreeze:
            unfreeze(clip, pattern)
        torch.manual_seed(recipe.seed)  # heads begin alike in every process and run
        self.objective.setup(clip, recipe.to_dict())
        self.objective.train()
        self.trainee: nn.Module = self.machine.place(Trainee(clip, self.objective, touch=self.machine.world > 1))
        self.data_state: Mapping[str, Any] = {}
        momentum = recipe.average.get("ema")
        self.ema = None if momentum is None else Ema(clip, float(momentum))
        self._enter(self.plan.spans[0], {})
        self.data_state = self.reader.stream.state_dict()
        saved = latest(self.folder)
        if saved is not None:
            self._restore(saved)
        else:
            self._begin()

    # -- phases

    def _enter(self, span: Span, data_state: Mapping[str, Any], optimizer: Moments | None = None) -> None:
        """What changes with a phase: frozen parameters, the optimiser's groups, sizes, and with them the reader."""
        phase, recipe, clip = span.phase, self.recipe, self.clip
        assert clip.preprocess is not None
        assert clip.tokenizer is not None
        for pattern in phase.freeze:
            freeze(clip, pattern)
        for pattern in phase.unfreeze:
            unfreeze(clip, pattern)
        if not hasattr(self, "optimizer") or phase.freeze or phase.unfreeze or phase.reset_optimizer:
            options = {**recipe.optimizer, "lr": self.plan.lr}
            self.optimizer = make_optimizer({"clip": clip, "objective": self.objective}, **options)
            if optimizer is not None and not phase.reset_optimizer:
                load_optimizer(self.optimizer, *optimizer, missing_ok=True)
        data = recipe.data
        self.reader = Reader(
            self.job.pairs,
            self.objective,
            replace(clip.preprocess, size=phase.image_size or clip.preprocess.size),
            clip.tokenizer,
            max(span.batch_size // self.machine.world, 1),
            seed=recipe.seed,
            augment=augment_of(data.get("augment")),
            caption=data.get("caption", "random"),
            cycle=data.get("cycle"),
            threads=data.get("threads", 2),
            text_length=phase.text_length,
            text_how=phase.text_how,
            rank=self.machine.rank,
            world=self.machine.world,
        )
        if data_state:
            self.reader.stream.load_state_dict(data_state)
        keep = {} if phase.image_keep == 1.0 else {"embed.out": drop_tokens(phase.image_keep, phase.image_how)}
        self.image_at = keep or None

    # -- on disk

    def _begin(self) -> None:
        if self.machine.main:
            native.save(self.clip, self.folder / "start")
            write_whole(self.folder / "recipe.yaml", dump_yaml(self.recipe.to_dict()).encode())
            self.log.truncate(-1)
            self._validate()
        self.machine.wait()

    def _checkpoint(self) -> None:
        states = self.machine.gather(self.data_state)
        if not self.machine.main:
            return
        moments, facts = optimizer_tensors(self.optimizer)
        tensors = {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        for prefix, module in self._modules().items():
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        facts = {
            "step": self.step,
            "data": states,
            "best": self.best,
            "worse": self.worse,
            "optimizer": facts,
            "recipe": self.recipe.to_dict(),
        }
        save_state(self.folder, self.step, tensors, facts, keep=int(self.recipe.checkpoint.get("keep", 2)))
        self._tell({"event": "checkpoint", "step": self.step})

    def _restore(self, saved: Path) -> None:
        tensors, facts = load_state(saved)
        self.step = int(facts["step"])
        self.best = None if facts["best"] is None else (float(facts["best"][0]), int(facts["best"][1]))
        if len(facts["data"]) != self.machine.world:
            raise InputError(f"this run has {len(facts['data'])} processes, not {self.machine.world}: start as many")
        self.worse, self.data_state = int(facts["worse"]), facts["data"][self.machine.rank]
        for prefix, module in self._modules().items():
            own = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
            module.load_state_dict(own)
        moments = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
        reached, inside = self.plan.at(self.step)
        # A checkpoint behind a phase's last step belongs to that phase: the next one is entered by the loop.
        for span in self.plan.spans[1 : reached + (inside > 0)]:
            self._enter(span, {})
        self.reader.stream.load_state_dict(self.data_state)
        load_optimizer(self.optimizer, moments, facts["optimizer"])
        if self.machine.main:
            self.log.truncate(self.step)

    def _modules(self) -> dict[str, nn.Module]:
        return {"clip": self.clip, "objective": self.objective} | ({} if self.ema is None else {"ema": self.ema})

    # -- the loop

    def train(self, *, until: int | None = None) -> CLIP | None:
        """Go on to the end and give the result, which is also in ``model/``.

        Args:
            until: stop behind this many steps of the run, with a checkpoint, and give None.

        Raises:
            InputError: a loss that is no number: the last good weights are in a checkpoint, and the message names the batch.
        """
        stop = self.steps if until is None else min(until, self.steps)
        every = int(self.recipe.checkpoint.get("every", 500))
        written = self.step
        self.clock = time.perf_counter()
        with asked_to_stop() as asked:
            for batch, state in self._batches(stop):
                self.data_state = state
                self._one(batch)
                if self._validation_is_due():
                    self._validate()
                leave = self.machine.any(asked())
                if leave or self.step % every == 0:
                    self._checkpoint()
                    written = self.step
                if leave:
                    raise KeyboardInterrupt
        if self.step != written:
            self._checkpoint()
        return self._finish() if self.step == self.steps or self._stopped_early() else None

    def _batches(self, stop: int) -> Iterator[tuple[TrainBatch, Mapping[str, Any]]]:
        """Batches of the phases to come, each with the state of the stream behind it."""
        while self.step < stop and not self._stopped_early():
            index, inside = self.plan.at(self.step)
            span = self.plan.spans[index]
            if inside == 0 and index > 0:
                self._enter(span, self.data_state, optimizer_tensors(self.optimizer))
            batches = self.reader.batches()
            for batch, state in batches:
                yield batch, state
                if self.step >= min(span.stop, stop) or self._stopped_early():
                    break
            batches.close()

    def _one(self, batch: TrainBatch) -> None:
        """One step of the optimiser."""
        recipe, step = self.recipe, self.step
        batch = replace(batch.to(self.machine.device), image_at=self.image_at)
        self.objective.before_step(self.clip, step, self.steps)
        numbers: dict[str, float] = {}

        def check(loss: Loss) -> None:
            numbers.update(checked_parts(loss))
            if self.machine.any(not math.isfinite(numbers["loss"])):
                self._refuse(batch, f"the loss is {numbers['loss']}")

        gradients(
            self.trainee,
            batch,
            step,
            self.steps,
            seed=recipe.seed,
            micro_batch=recipe.micro_batch,
            backward=self.machine.backward,
            check=check,
        )
        if recipe.clip_norm is not None:
            norm = float(self.machine.clip_norm(self.trainee, recipe.clip_norm))
            numbers["gradient_norm"] = norm
            if not math.isfinite(norm):
                self._refuse(batch, f"the gradient's norm is {norm}")
        set_rate(self.optimizer, self.plan.factor(step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self.clip, step, self.steps)
        if self.ema is not None:
            self.ema.update(self.clip, step, self.steps)
        self.step += 1
        rate = self.plan.lr * self.plan.factor(step)
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now  # waiting for data included
        self._tell(
            {"event": "step", "step": self.step, **numbers, "lr": rate, "scale": float(self.clip.scale.detach())}
            | {"seconds": seconds, "rows": len(batch) * self.machine.world}
        )

    def _refuse(self, batch: TrainBatch, what: str) -> None:
        """Stop at a batch that spoils the weights, which are still good: keep them, and name the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        path = self.folder / "bad_batch.json"
        write_whole(path, json.dumps({"step": self.step, "ids": batch.index, "texts": batch.texts}).encode())
        self._checkpoint()  # behind that batch: a run that is taken up again passes over it
        raise InputError(
            f"{what} at step {self.step}: stopped, the weights before it are kept in {self.folder}; the rows "
            f"({', '.join(batch.index[:3])}, ...) are in {path}; lower optimizer.lr, set clip_norm, or mend the rows"
        )

    # -- validation and the end

    def _validation_is_due(self) -> bool:
        every = self.recipe.validate.get("every")
        return self.step == self.steps or (every is not None and self.step % int(every) == 0)

    def _validate(self) -> None:
        """Measure what is held out, and keep the best."""
        clip = self.clip if not self.step else self._averaged()
        if self.machine.main:
            record: Record = {"event": "validation", "step": self.step}
            for prefix, held in (("", self.job.validation), ("retained_", self.job.retained)):
                if held is not None:
                    record |= {f"{prefix}{name}": value for name, value in held.measure(clip).items()}
            if len(record) > 2:
                self._tell(record)
            self._judge(record, clip)
        self.worse = self.machine.told(self.worse)

    def _judge(self, record: Record, clip: CLIP) -> None:
        metric = self.recipe.validate.get("metric") or ("accuracy" if "accuracy" in record else "text_to_image")
        if metric not in record:
            return
        value = -float(record[metric]) if metric.endswith("loss") else float(record[metric])
        if self.best is None or value > self.best[0]:
            self.best, self.worse = (value, self.step), 0
            native.save(clip, self.folder / "best")
        else:
            self.worse += 1

    def _averaged(self) -> CLIP:
        if self.ema is None:
            return self.clip
        assert isinstance(self.ema.module, CLIP)
        return self.ema.module

    def _stopped_early(self) -> bool:
        patience = self.recipe.validate.get("patience")
        return patience is not None and self.worse >= int(patience)

    def _finish(self) -> CLIP:
        """The average of the weights where one is kept, the best where one is looked for, mixed with the start if asked."""
        clip = self._averaged()
        if self.recipe.validate.get("patience") is not None and (self.folder / "best").is_dir():
            clip = native.load(self.folder / "best")
        share = float(self.recipe.average.get("start", 0.0))
        if share:
            begun = native.load(self.folder / "start")
            clip.load_state_dict(average([begun.state_dict(), clip.state_dict()], [share, 1 - share]))
        result = self.objective.finish(clip.eval())
        if self.machine.main:
            native.save(result, self.folder / "model")
            self._tell({"event": "done", "step": self.step})
            self.log.write_curves()
        self.machine.wait()
        return result

    def _tell(self, record: Record) -> None:
        if self.machine.main:
            self.log.write(record)
            self.machine.track(record)
            self.listener(record)
