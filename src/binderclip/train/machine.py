"""Device, precision and processes of a run, by accelerate: CPU, GPU, or several processes (``accelerate launch``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from binderclip.errors import InputError, NeedsExtraError

__all__ = ["Machine", "leave"]

T = TypeVar("T")


class Machine:
    """What the loop needs of the machine.

    Args:
        precision: fp32 or bf16.
        trackers: names that accelerate knows: tensorboard, wandb, ...
        folder: where trackers write.
        cpu: stay on the CPU where there is a GPU.

    Attributes:
        device: of this process.
        rank: of this process.
        world: how many there are.
        main: whether this process writes files.

    Raises:
        NeedsExtraError: accelerate is not installed.
        InputError: launched with sharded weights, whose checkpoints are not written yet.
    """

    def __init__(
        self, precision: str = "fp32", *, trackers: Sequence[str] = (), folder: Path | None = None, cpu: bool = False
    ) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError:
            raise NeedsExtraError("training", "train") from None
        # Buffers stay each process's own: a BatchNorm that is overwritten between two calls has no gradient.
        plain = DistributedDataParallelKwargs(broadcast_buffers=False)
        self._accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=list(trackers) or None,
            project_dir=folder,
            kwargs_handlers=[plain],
        )
        if str(self._accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED", "MEGATRON_LM")):
            raise InputError("sharded training is not supported yet: launch without FSDP or DeepSpeed")
        if trackers:
            self._accelerator.init_trackers("binderclip")
        self.tracked = bool(trackers)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.main: bool = self._accelerator.is_main_process

    def place(self, module: nn.Module) -> nn.Module:
        """The module on its device, wrapped for the processes and the precision."""
        placed: nn.Module = self._accelerator.prepare_model(module)
        return placed

    def backward(self, loss: Tensor) -> None:
        """Differentiate."""
        self._accelerator.backward(loss)

    def clip_norm(self, module: nn.Module, most: float) -> Tensor:
        """Scale gradients down to a norm; the norm before."""
        norm: Tensor = self._accelerator.clip_grad_norm_(module.parameters(), most)
        return norm

    def wait(self) -> None:
        """For all processes."""
        self._accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether any process says so, in all of them."""
        if self.world == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(int(flag), device=self.device), reduction="sum"))

    def told(self, number: int) -> int:
        """What the main process has, in all of them."""
        return self.gather(number)[0] if self.world > 1 else number

    def gather(self, value: T) -> list[T]:
        """A plain value of each process, in order of rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def track(self, record: Mapping[str, Any]) -> None:
        """To the trackers, where there are any."""
        if self.tracked:
            numbers = {k: v for k, v in record.items() if isinstance(v, float)}
            self._accelerator.log(numbers, step=int(record["step"]))


def leave() -> None:
    """The last line of a command that was launched as several processes: end this one; nothing where it is alone.

    A thread of torch's that still holds a tensor aborts the interpreter's own end now and then (pytorch issue
    190489), and a launcher would call a finished run a failure: what is to be said is said, and the process is gone.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
