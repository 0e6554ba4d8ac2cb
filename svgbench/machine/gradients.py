"""Sums the gradients of an update over ranks, in flat buckets, while the last backward pass still runs.

A bucket is one flat tensor, made once; the gradients of its parameters are views of it. A task that marks the last backward pass of an
update (``Batch.reducing``) has each bucket sent when its last gradient has arrived, so that the transfer and the rest of the backward pass
run at the same time. The loop's ``apply`` sums what no task has marked. One process has no buckets.

Every rank sends the same buckets in the same order, also relative to other messages: all buckets of a marked pass are sent before it ends,
with zeros for missing gradients, and a pass is marked only when every rank has images. The order is that in which the main rank's buckets
were full in the first marked pass: the gradient of a layer that all blocks use arrives last, wherever the layer is defined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svgbench.machine.runtime import Runtime
from svgbench.machine.sharding import is_sharded

BUCKET_BYTES = 64 << 20
"""Size of a bucket: large enough for the full speed of a transfer, small enough that the last one is short."""
ALIGNMENT = 64
"""Each gradient in a bucket begins at a multiple of this many bytes, for vectorised kernels."""


class GradientSums:
    """The gradients of the parameters of all optimisers of a task, and their sums over all ranks."""

    def __init__(self, optimisers: Mapping[str, Optimizer], runtime: Runtime) -> None:
        self._runtime = runtime
        self._parameters: dict[str, list[nn.Parameter]] = {
            name: [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
            for name, optimiser in optimisers.items()
        }
        self._buckets: dict[str, list[_Bucket]] = {name: [] for name in optimisers}
        self._order: list[_Bucket] = []
        self._filled: list[_Bucket] = []
        self._ordered: set[str] = set()
        self._hooks = []
        if runtime.world > 1:
            for name, parameters in self._parameters.items():
                whole = [p for p in reversed(parameters) if not is_sharded(p)]  # backward sums the others
                self._buckets[name] = [_Bucket(each) for each in grouped(whole)]  # the last get their gradients first
                for bucket in self._buckets[name]:
                    for parameter in bucket.parameters:
                        self._hooks.append(parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket)))

    @contextlib.contextmanager
    def reducing(self, *names: str) -> Iterator[None]:
        """Context for the one backward pass that adds the last gradients of these optimisers; all their sums have begun when it ends."""
        self._order = [bucket for name in names for bucket in self._buckets[name]]
        for bucket in self._order:
            bucket.expect_all()
        self._filled = []
        try:
            yield
            self._send(self._order)
            for name in names:
                self._reorder(name)
        finally:
            self._order = []

    def _reorder(self, name: str) -> None:
        """Puts the buckets, after the first marked pass, in the order in which they were full on the main rank."""
        buckets = self._buckets[name]
        if name in self._ordered or len(buckets) < 2:
            return
        self._ordered.add(name)
        places = [self._filled.index(bucket) if bucket in self._filled else len(self._filled) for bucket in buckets]
        agreed = self._runtime.broadcast_(torch.tensor(places)).tolist()
        self._buckets[name] = [buckets[number] for number in sorted(range(len(buckets)), key=agreed.__getitem__)]

    def summed(self, name: str) -> list[nn.Parameter]:
        """The parameters of an optimiser, each with its gradient over the global batch, the same on every rank; zeros where there is
        none."""
        self._send(self._buckets[name])
        self._wait(self._buckets[name])
        for parameter in self._parameters[name]:
            if parameter.grad is None:  # without a bucket: in one process, or sharded
                parameter.grad = torch.zeros_like(parameter)
        return self._parameters[name]

    def end_update(self) -> None:
        """Drops sums that no step has used."""
        for buckets in self._buckets.values():
            for bucket in self._wait(buckets):
                for parameter in bucket.parameters:
                    parameter.grad = None

    def close(self) -> None:
        """Removes the hooks, and with them the buckets."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._buckets.clear()

    def _arrived(self, bucket: _Bucket, parameter: Tensor) -> None:
        """Called when a backward pass has added a gradient."""
        if bucket.sum is not None:
            raise RuntimeError("a backward pass reached parameters whose gradients are already being summed; mark only the last pass.")
        bucket.missing.discard(parameter)
        if not bucket.missing:
            bucket.adopt()
            bucket.expect_all()
            bucket.full = bucket in self._order
            self._filled.append(bucket)
            self._send(takewhile(lambda each: each.full, self._order))  # in the order of the buckets, on every rank

    def _send(self, buckets: Iterable[_Bucket]) -> None:
        for bucket in buckets:
            if bucket.sum is None:
                bucket.adopt()
                bucket.sum = self._runtime.begin_sum_(bucket.flat)

    @staticmethod
    def _wait(buckets: Iterable[_Bucket]) -> list[_Bucket]:
        """Waits for the sums that have begun; returns their buckets."""
        sent = []
        for bucket in buckets:
            if bucket.sum is not None:
                bucket.sum.wait()
                bucket.sum, bucket.full = None, False
                sent.append(bucket)
        return sent


class _Bucket:
    """One flat tensor, and the parameters whose gradients it holds."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        first = parameters[0]
        starts, size = [], 0
        for parameter in parameters:
            starts.append(size)
            size += -(-parameter.numel() * parameter.element_size() // ALIGNMENT) * ALIGNMENT // parameter.element_size()
        self.flat = torch.zeros(size, dtype=first.dtype, device=first.device)
        self._views = [_like(parameter, self.flat, start) for parameter, start in zip(parameters, starts, strict=True)]
        self.full = False
        """Whether the marked pass has added all gradients."""
        self.sum: torch.distributed.Work | None = None
        """The sum over ranks that has begun."""
        self.expect_all()

    def expect_all(self) -> None:
        """Waits for a gradient of every parameter."""
        self.missing: set[Tensor] = set(self.parameters)

    @torch.no_grad()
    def adopt(self) -> None:
        """Moves gradients that backward has made elsewhere into the flat tensor, with zeros for missing ones. Later passes add in place."""
        made, places = [], []
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.grad is view:
                continue
            if parameter.grad is None:
                view.zero_()
            else:
                made.append(parameter.grad)
                places.append(view)
            parameter.grad = view
        if made:
            torch._foreach_copy_(places, made)


def grouped(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Consecutive parameters of one dtype and device, of about ``BUCKET_BYTES``."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if group and (size >= BUCKET_BYTES or (parameter.dtype, parameter.device) != (group[0].dtype, group[0].device)):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if group:
        yield group


def _like(parameter: Tensor, flat: Tensor, start: int) -> Tensor:
    """A part of ``flat`` with the shape and the memory layout (channels_last) of the parameter."""
    return flat.as_strided(parameter.shape, torch.empty_like(parameter, device="meta").stride(), start)
