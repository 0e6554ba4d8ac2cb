"""Forward and backward pass of an update as one CUDA graph: the host issues one launch instead of thousands.

A graph replays the same kernels on the same memory. So the data of an update is copied into the inputs with which it was captured, the
gradients appear where they appeared then, and only passes of the same shapes are replayed; the last, smaller batch of a training is
computed as without a graph. The kernels and their order are those of the plain pass.

What is captured must not wait for the device, read host memory, or draw from a global generator. PyTorch refuses the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Plain passes before the capture, for compilation and for libraries that choose their kernels in their first calls."""

Result = TypeVar("Result")
Losses = Mapping[str, Tensor]


class Graphs(Protocol):
    """What a device does to capture and to replay."""

    def aside(self, work: Callable[[], Result]) -> Result:
        """Runs ``work`` where captures happen, between what was issued before and what follows."""

    def capture(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Records ``work`` without computing it. Returns its result, whose tensors have no values yet, and the function that computes
        them."""


class CudaGraphs:
    """CUDA graphs, through ``torch.cuda.graph``."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def aside(self, work: Callable[[], Result]) -> Result:
        """On a side stream, as PyTorch asks of passes before a capture. Both streams wait for each other, so memory of one stream is not
        reused while the other needs it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def capture(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """On the same side stream. Other threads (the feed's, NCCL's) may call CUDA meanwhile, hence the error mode."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        return result, graph.replay


class Captured:
    """A pass that is captured when it has been called ``WARM_UP`` times with the same shapes, and replayed from then on."""

    def __init__(self, work: Callable[..., Losses], parameters: Iterable[nn.Parameter], graphs: Graphs) -> None:
        """``work(inputs, constant)``: name -> tensor on the device, and a number that is the same in every replay -> detached losses; it
        adds its gradients to ``parameters``."""
        self._work, self._parameters, self._graphs = work, [p for p in parameters if p.requires_grad], graphs
        self._key: Hashable = None
        self._passes = 0
        self._replay: Callable[[], None] | None = None
        self._inputs: dict[str, Tensor] = {}
        self._gradients: list[Tensor | None] = []
        self._losses: Losses = {}

    def __call__(self, inputs: Mapping[str, Tensor], constant: int) -> Losses:
        """Losses, valid until the next call; each parameter's gradient is that of this pass alone. Call it once in an update, when no
        parameter has a gradient."""
        if any(parameter.grad is not None for parameter in self._parameters):
            raise RuntimeError("a captured pass replaces gradients, but a parameter already has one; reset them before it.")
        key = (constant, tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(inputs.items())))
        if key != self._key:
            self.release()
            self._key = key
        if self._replay is None and self._passes < WARM_UP:
            self._passes += 1
            return self._graphs.aside(lambda: self._work(inputs, constant))
        if self._replay is None:
            self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
            self._losses, self._replay = self._graphs.capture(lambda: self._work(self._inputs, constant))
            self._gradients = [parameter.grad for parameter in self._parameters]
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses

    def release(self) -> None:
        """Drops the graph and its memory, which is as large as the pass's; a pass of other shapes needs it."""
        self._key, self._passes, self._replay = None, 0, None
        self._inputs, self._gradients, self._losses = {}, [], {}
