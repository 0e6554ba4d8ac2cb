"""Runtime: settings that change the speed but not the results, and are not hashed: device, processes, threads, micro-batch,
compile, activation checkpointing.

``torchrun`` starts several processes; each reads its rank from the environment. Torch is imported when first needed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svgbench import __version__
from svgbench.errors import BadInput, SvgbenchError, notify
from svgbench.machine.heartbeat import HEARTBEAT
from svgbench.machine.progress import Bar, open_bar
from svgbench.machine.ranks import ranks, timeout_minutes
from svgbench.machine.source import commit

if TYPE_CHECKING:
    import torch
    from torch import Tensor


LOST = ("gloo", "nccl", "pair closure", "closed by peer", "reset by peer")
"""Words of errors in a sum over ranks when another rank has died or does not answer."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Settings of the device and the processes of a run."""

    device: str = "auto"
    """``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:N``."""
    threads: int | None = None
    """CPU threads of torch; torch's default when None. Another number may change the last bits of a result."""
    workers: int | None = None
    """Threads that read and crop images during packing; one for each processor that this process may use when None."""
    micro_batch: int | None = None
    """Images in one forward and backward pass on one rank. None: the rank's full share of the batch on the CPU, what fits the device's
    memory on CUDA (``machine.memory``)."""
    compile: bool | None = None
    """Whether networks are compiled by ``torch.compile``; on CUDA only when None (see ``compiles``)."""
    quiet: bool = False
    """Shows no progress."""
    sharded: bool = False
    """Whether stage 2 divides its transformer among the ranks (``machine.sharding``); other stages ignore it."""
    note: Path | None = None
    """File to which progress is written, for another process to show, instead of a bar."""
    checkpoint_activations: bool = False
    """Whether the blocks of transformer and decoder are computed again in the backward pass, so that it needs less memory."""
    capture: bool = False
    """Whether the transformer's updates are captured in a CUDA graph (``machine.capture``); on one GPU."""

    @property
    def rank(self) -> int:
        """Index of this process among all processes of the run."""
        return ranks().rank

    @property
    def world(self) -> int:
        """Number of processes of the run."""
        return ranks().world

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    @property
    def torch_device(self) -> torch.device:
        """The device of this process. Raises BadInput when it is unknown or not available."""
        import torch

        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise BadInput(f"device '{self.device}' is not available: this machine has no CUDA device; use --device cpu.")
        if name == "cuda":
            return torch.device("cuda", ranks().local)
        try:
            return torch.device(name)
        except RuntimeError:
            raise BadInput(f"'{self.device}' is not a device; use auto, cpu, cuda or cuda:N.") from None

    @property
    def compiles(self) -> bool:
        """Whether networks are compiled: as ``compile`` says, else on CUDA."""
        return self.torch_device.type == "cuda" if self.compile is None else self.compile

    @property
    def cropping_threads(self) -> int:
        """``workers``, else the number of processors that this process may use."""
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(self.workers or cpus or 1, 1)

    def start(self) -> Runtime:
        """Sets threads and device and, under torchrun, joins the other processes (gloo on CPU, NCCL on GPUs)."""
        import torch

        device = self.torch_device
        if self.capture and (device.type != "cuda" or self.world > 1):
            raise BadInput("--capture needs one CUDA device, with one process; leave it out.")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.world > 1 and not torch.distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            limit = timedelta(minutes=timeout_minutes())
            try:
                torch.distributed.init_process_group(backend, timeout=limit)
            except (RuntimeError, ValueError) as error:  # torch raises network errors as RuntimeError
                raise SvgbenchError(
                    f"rank {self.rank} of {self.world} could not connect to the others ({str(error).splitlines()[0][:160]}); "
                    "see their messages, and run the same command again."
                ) from error
            HEARTBEAT.start(self.rank, self.world, limit.total_seconds())
        return self

    def stop(self) -> None:
        """Leaves the process group."""
        import torch

        if self.world > 1 and torch.distributed.is_initialized():
            HEARTBEAT.stop()
            torch.distributed.destroy_process_group()

    def barrier(self) -> None:
        """Waits until every rank has called this."""
        self.all_agree(True)

    def all_agree(self, fine: bool) -> bool:
        """Whether ``fine`` is True on every rank; synchronises the ranks on the CPU, without the GPUs."""
        if self.world == 1:
            return fine
        import torch

        answer = torch.tensor([1 if fine else 0], dtype=torch.int64)
        torch.distributed.all_reduce(answer, op=torch.distributed.ReduceOp.MIN)
        return bool(answer.item())

    def meet(self, fine: bool) -> bool:
        """``all_agree`` between stages, where one rank may work for hours while the others wait: it has no short timeout. When a rank's
        heartbeat stops, all ranks end (``heartbeat``)."""
        if self.world == 1:
            return fine
        import torch

        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7))
        assert not isinstance(group, int)  # every rank is in it
        answer = torch.tensor([1 if fine else 0], dtype=torch.int64)
        torch.distributed.all_reduce(answer, op=torch.distributed.ReduceOp.MIN, group=group)
        torch.distributed.destroy_process_group(group)
        return bool(answer.item())

    def raise_together(self, error: Exception | None, failed: str, *, patient: bool = False) -> None:
        """Raises ``error`` on this rank and, on ranks without one, an error that says what ``failed`` elsewhere. So no rank waits for one
        that has ended. ``patient``: a rank may work for hours before it calls this (``meet``)."""
        fine = self.meet(error is None) if patient else self.all_agree(error is None)
        if error is None and not fine:
            error = SvgbenchError(f"{failed} in another process, whose message names the reason.")
        if error is not None:
            raise error

    def all_reduce_(self, tensor: Tensor, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        """Replaces the tensor by its sum (maximum, minimum) over all ranks and returns it."""
        if self.world > 1:
            from torch.distributed import ReduceOp, all_reduce

            all_reduce(tensor, op={"sum": ReduceOp.SUM, "max": ReduceOp.MAX, "min": ReduceOp.MIN}[op])
        return tensor

    def broadcast_(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Replaces the tensor by that of rank ``source`` and returns it."""
        if self.world > 1:
            from torch.distributed import broadcast

            broadcast(tensor, src=source)
        return tensor

    def begin_sum_(self, tensor: Tensor) -> torch.distributed.Work:
        """Begins to replace the tensor [...] by its sum over all ranks; ``wait`` of the result ends it. Only with several ranks."""
        from torch.distributed import all_reduce

        work = all_reduce(tensor, async_op=True)
        assert work is not None  # this rank is in the group
        return work

    @contextlib.contextmanager
    def together(self, label: str) -> Iterator[None]:
        """Context for work of all ranks: when one of them dies, the others end with one sentence instead of torch's traceback."""
        try:
            yield
        except RuntimeError as error:
            import torch

            lost = isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in LOST)
            if self.world == 1 or not lost:
                raise
            raise SvgbenchError(
                f"{label}: rank {self.rank} lost the others ({str(error).splitlines()[0][:160]}); "
                "run the same command again, saved work is kept."
            ) from error

    def shard(self, count: int) -> range:
        """This rank's share of ``range(count)``: every ``world``-th index, starting at ``rank``."""
        return range(self.rank, count, self.world)

    def autocast(self, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[Any]:
        """Context in which matrix products run in this precision; it does nothing for fp32."""
        if precision == "fp32":
            return contextlib.nullcontext()
        import torch

        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def progress(self, label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Bar]:
        """A progress bar on standard error; silent when ``quiet`` and on other ranks. ``done``: units finished by an earlier run."""
        note = self.note if self.is_main else None
        with open_bar(label, total, unit=unit, done=done, silent=self.quiet or not self.is_main, note=note) as bar:
            yield bar

    def notify(self, sentence: str) -> None:
        """Writes a line to standard error on the main rank; also used for warnings, and not silenced by ``quiet``."""
        if self.is_main:
            notify(sentence)

    def describe(self) -> dict[str, Any]:
        """Host, device, threads and versions, for the manifest."""
        import numpy
        import torch

        device = self.torch_device
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
        return {
            "host": socket.gethostname(),
            "device": device.type,
            "device_name": device_name,
            "ranks": self.world,
            "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "svgbench": __version__,
            "commit": commit(),
        }
