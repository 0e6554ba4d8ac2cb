"""The way of a sample from the transformer to the file: graphs and bytes (host talk: ``alone_host_talk``)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import NumericalError
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import sent_as_uint8, to_uint8
from svgbench.nets.ddpm import EpsilonModel
from svgbench.nets.latents import LatentStats
from svgbench.nets.sit import SiT
from svgbench.stages import samples
from svgbench.stages.samples import Generator, compile_for_sampling

BATCH = 4
SIZES = {"channels": 8, "grid": 4, "width": 32, "depth": 1, "heads": 2, "classes": 3}
CPU = Runtime(device="cpu", quiet=True, compile=True)


def how(sampler: str = "euler", steps: int = 3, guidance: float = 2.0, **settings) -> SamplingProtocol:
    return SamplingProtocol(**{"sampler": sampler, "steps": steps, "guidance": guidance, "shift": 0.4, **settings})


def generator(model, weak=None) -> Generator:
    """Without artifacts; it decodes latents to their first three channels."""
    self = object.__new__(Generator)
    self.model, self._weak, self._runtime, self.batch, self._place = model, weak, CPU, BATCH, None
    self.tokenizer = SimpleNamespace(decode=lambda raw: raw[:, :3].sigmoid())
    self.stats = LatentStats(torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64))
    self._reseed(0)
    return self


@pytest.fixture
def graphs(monkeypatch):
    """Compiles with a backend that keeps graphs as they are, and lists the rows of each compiled graph's latents."""
    rows: list[int] = []

    def backend(graph, inputs):
        rows.extend(x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4)
        return graph.forward

    compile_, reset = torch.nn.Module.compile, torch.compiler.reset
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compile_(self, backend=backend, **options))
    reset()
    yield rows
    reset()


def test_sampling_compiles_two_graphs_for_all_steps_scales_schedules_samplers_and_last_batches(graphs):
    model = SiT(**SIZES).eval().requires_grad_(False)
    plain = generator(SiT(**SIZES).eval().requires_grad_(False))
    plain.model.load_state_dict(model.state_dict())
    compile_for_sampling(model, CPU)
    compiled = generator(model)
    cells = [
        how(), how(steps=5), how(guidance=1.0), how(guidance=3.5), how(schedule="interval-0.2-0.7"), how(schedule="late"), how("heun"),
        how("midpoint"), how("sde-euler"), how(shift=1.0), how(zero_init=1), how(optimised_scale=True), how(guided_channels=3),
    ]  # fmt: skip
    for count in (BATCH, BATCH + 1):  # the last batch is not full
        for cell in cells:
            drawn = compiled.images(torch.arange(count), torch.arange(count) % 3, cell)
            assert torch.equal(drawn, plain.images(torch.arange(count), torch.arange(count) % 3, cell)), cell
    assert sorted(graphs) == [BATCH, 2 * BATCH]


def test_a_precision_and_ddpm_have_their_own_graphs_and_a_weak_model_shares_one(graphs):
    model, weak = SiT(**SIZES).eval().requires_grad_(False), SiT(**SIZES).eval().requires_grad_(False)
    noisy = EpsilonModel(SiT(**SIZES, learned_sigma=True)).eval().requires_grad_(False)
    for each in (model, weak, noisy):
        compile_for_sampling(each, CPU)
    labels = torch.arange(BATCH) % 3
    for steps in (2, 3):
        generator(model, weak).images(torch.arange(BATCH), labels, how(against="weak", steps=steps))
    assert graphs == [BATCH]  # the weak model shares the model's graph: weights are its inputs
    for steps in (2, 3):
        generator(model).images(torch.arange(BATCH), labels, how(precision="bf16", steps=steps))
    assert graphs[1:] == [2 * BATCH]
    for sampler in ("ddim", "ddpm"):
        generator(noisy).images(torch.arange(BATCH), labels, how(sampler, shift=1.0))
    assert graphs[2:] == [2 * BATCH]


def test_a_process_samples_with_the_networks_of_many_experiments(graphs):
    """Beyond torch's limit, 2 here and 8 by default, a network that must be one graph fails."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for depth in (1, 2, 3, 4):
            model = SiT(**{**SIZES, "depth": depth}).eval().requires_grad_(False)
            compile_for_sampling(model, CPU)
            model(torch.zeros(2, model.channels, model.grid, model.grid), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert graphs == [2] * 4


def test_without_the_runtimes_choice_nothing_is_compiled(graphs):
    model = SiT(**SIZES).eval().requires_grad_(False)
    compile_for_sampling(model, Runtime(device="cpu", quiet=True))
    generator(model).images(torch.arange(BATCH), torch.arange(BATCH) % 3, how())
    assert graphs == []


# --- bytes ---


def test_the_bytes_are_those_of_to_uint8():
    exact = torch.arange(256).repeat_interleave(3).reshape(1, 3, 16, 16).float() / 255
    halves = (torch.arange(768).reshape(1, 3, 16, 16).remainder(255) + 0.5) / 255
    images = torch.cat([exact, halves, torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2])
    for kind in (torch.float32, torch.bfloat16):
        assert torch.equal(sent_as_uint8(images.to(kind))(), to_uint8(images.to(kind)))
    assert sent_as_uint8(images)().dtype == torch.uint8


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_are_refused_when_they_arrive(bad):
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 0] = bad
    arrived = sent_as_uint8(images)  # asks the device for nothing
    with pytest.raises(NumericalError, match="images hold NaN or infinity"):
        arrived()


def test_samples_leave_a_cuda_device_as_bytes_and_another_thread_writes_them(monkeypatch, tmp_path):
    """The stage asks for the thread on CUDA only, and hands over bytes alone."""
    seen = {}

    class Recorded:
        def __init__(self, journal, files, **options):
            seen.update(files=files, size=options["size"])

        def run(self, work, *, behind):
            seen.update(behind=behind, rows=work(range(3))()[0])

    model = SiT(**SIZES).eval().requires_grad_(False)
    drawn = generator(model)
    drawn.tokenizer.stride, drawn.classes = 1, ["a", "b", "c"]
    monkeypatch.setattr(samples, "Blocks", Recorded)
    monkeypatch.setattr(samples, "Generator", lambda *args: drawn)
    part = {"count": 5, "steps": 2, "guidance": 2.0, "trained": 1.0, "sampler": "euler", "shift": 0.4}
    for device in ("cpu", "cuda"):
        runtime = SimpleNamespace(torch_device=torch.device(device), is_main=True)
        samples.draw({"sampling": part, "seed": 0}, {}, tmp_path, runtime)
        assert seen["behind"] == (device == "cuda") and seen["files"][0].kind is np.uint8
        expected = to_uint8(drawn.images(torch.arange(3), torch.arange(3), how(steps=2)))
        assert seen["rows"].dtype == np.uint8 and np.array_equal(seen["rows"], expected.numpy())
