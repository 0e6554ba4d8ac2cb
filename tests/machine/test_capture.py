"""A captured pass gives the gradients of the plain one: which passes are captured, what is copied, and what is computed without a graph."""

from __future__ import annotations

import weakref
from itertools import count

import pytest
import torch
from torch import nn

from svgbench.config import schema
from svgbench.errors import BadInput
from svgbench.machine.capture import WARM_UP, Captured
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.nets.latents import LatentStats
from svgbench.nets.sit import SiT
from svgbench.stages.diffusion import DiffusionTask


class FakeGraphs:
    """Behaves as a CUDA graph: a capture computes nothing; a replay reads the memory of the captured inputs, writes the memory of the
    captured results and gradients, and sets no ``grad``."""

    def __init__(self, parameters):
        self.parameters, self.asides, self.captures, self.replays = list(parameters), 0, 0, 0

    def aside(self, work):
        self.asides += 1
        return work()

    def capture(self, work):
        self.captures += 1
        result = {name: loss.clone() for name, loss in work().items()}
        gradients = [p.grad for p in self.parameters]
        for tensor in (*result.values(), *gradients):
            tensor.fill_(torch.nan)

        def replay():
            self.replays += 1
            before = [p.grad for p in self.parameters]
            for p in self.parameters:
                p.grad = None
            for name, loss in work().items():
                result[name].copy_(loss)
            for p, place, was in zip(self.parameters, gradients, before, strict=True):
                place.copy_(p.grad)
                p.grad = was

        return result, replay


def _passes(model):
    def work(inputs, size):
        loss = (model(inputs["x"]) - inputs["y"]).square().sum() / size
        loss.backward()
        return {"loss": loss.detach()}

    return work


def _trained(sizes, captured):
    """Weights and losses of a training on batches of these sizes, and the fake device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    graphs = FakeGraphs(model.parameters())
    one = Captured(_passes(model), model.parameters(), graphs) if captured else _passes(model)
    losses = []
    for number, size in enumerate(sizes):
        random = torch.Generator().manual_seed(number)
        inputs = {"x": torch.randn(size, 3, generator=random), "y": torch.randn(size, 2, generator=random)}
        losses.append(one(inputs, size)["loss"].clone())
        for tensor in inputs.values():
            tensor.fill_(torch.nan)  # a feed reuses its buffers
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return [*(p.detach() for p in model.parameters()), torch.stack(losses)], graphs


def test_a_captured_training_has_the_bits_of_the_plain_one_and_its_last_batch_is_computed_without_a_graph():
    sizes = [4] * 7 + [3]
    plain, captured = _trained(sizes, False)[0], _trained(sizes, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, captured[0], strict=True))
    graphs = captured[1]
    assert (graphs.captures, graphs.replays, graphs.asides) == (1, 7 - WARM_UP, WARM_UP + 1)


def test_passes_of_another_shape_or_another_global_batch_drop_the_graph_and_its_memory():
    model = nn.Linear(3, 2)
    graphs = FakeGraphs(model.parameters())
    captured = Captured(_passes(model), model.parameters(), graphs)

    def run(size, constant):
        captured({"x": torch.ones(size, 3), "y": torch.ones(size, 2)}, constant)
        model.zero_grad(set_to_none=True)

    for _ in range(WARM_UP + 1):
        run(4, 4)
    static = weakref.ref(captured._inputs["x"])
    assert (graphs.captures, static() is not None) == (1, True)
    run(4, 8)  # as many images here, but more on the other ranks: the divisor of the loss is in the graph
    assert (graphs.captures, static()) == (1, None)
    for _ in range(WARM_UP):
        run(4, 8)
    assert graphs.captures == 2


def test_a_captured_pass_refuses_to_replace_a_gradient():
    model = nn.Linear(3, 2)
    captured = Captured(_passes(model), model.parameters(), FakeGraphs(model.parameters()))
    inputs = {"x": torch.ones(4, 3), "y": torch.ones(4, 2)}
    captured(inputs, 4)
    with pytest.raises(RuntimeError, match="already has one"):
        captured(inputs, 4)


def _task(direction=0.0, micro_batch=None):
    torch.manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        model = SiT(channels=4, grid=4, width=32, depth=2, heads=2, classes=3)
    for parameter in model.parameters():  # at its first values the network computes zeros
        nn.init.normal_(parameter, std=0.05)
    part = schema.Diffusion(direction=direction, flip=False)
    stats = LatentStats(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    stored = torch.randn(40, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    runtime = Runtime(device="cpu", threads=1, micro_batch=micro_batch, quiet=True)
    return DiffusionTask(model, lambda indices, flip=None: stored[indices], torch.arange(40) % 3, stats, part, 0, runtime)


def _updated(task, sizes):
    """All losses, and the gradients of the last update."""
    found, place = [], count()
    model = task.modules["sit"]
    for size in sizes:
        positions = torch.tensor([next(place) for _ in range(size)])
        model.zero_grad(set_to_none=True)
        batch = Batch(positions, positions, size, data={"labels": positions % 3})
        found += [loss.clone() for loss in task.update(batch, lambda name: None).values()]
    return [*found, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("direction", [0.0, 0.5])
def test_updates_of_the_transformer_are_those_of_the_graph_and_each_has_draws_of_its_own(direction):
    plain, captured = _task(direction), _task(direction)
    graphs = FakeGraphs(captured.modules["sit"].parameters())
    captured._captured = Captured(captured._of_inputs, captured.modules["sit"].parameters(), graphs)
    sizes = [6] * 5
    expected, found = _updated(plain, sizes), _updated(captured, sizes)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert (graphs.captures, graphs.replays) == (1, 5 - WARM_UP)
    assert len({float(loss) for loss in expected[:5]}) == 5


def test_a_captured_update_is_one_pass():
    task = _task(micro_batch=4)
    task._captured = Captured(task._of_inputs, task.modules["sit"].parameters(), FakeGraphs(task.modules["sit"].parameters()))
    with pytest.raises(BadInput, match="one pass, not in passes of 4 images"):
        _updated(task, [6])


def test_capture_needs_one_cuda_device():
    with pytest.raises(BadInput, match="one CUDA device"):
        Runtime(device="cpu", capture=True, quiet=True).start()
