"""No update of either stage and no sampling step waits for the host, on a GPU (``helpers/host_talk``)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from host_talk import GpuRuntime, HostTalk, fake_gpu, moved

from svgbench.backends.open import FrozenEncoder, open_network
from svgbench.config import schema
from svgbench.config.build import build
from svgbench.config.choices import SAMPLERS
from svgbench.config.sampling import SamplingProtocol
from svgbench.machine import training
from svgbench.machine.order import Batch
from svgbench.metrics.perceptual import VggTaps
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.representation import Projector
from svgbench.nets.sampler import generate
from svgbench.pretraining.families import card_of
from svgbench.stages import autoencoder, diffusion, tokenizers

GPU = torch.device("cuda", 0)
RUNTIME = GpuRuntime(device="cuda", quiet=True)


class Pictures:
    """An image set of which nothing is read in an update."""

    def __len__(self):
        return 10**9

    def batch(self, indices):
        return torch.zeros(len(indices), 3, 32, 32, dtype=torch.uint8)


def encoder() -> FrozenEncoder:
    """The tiny DINOv3, whose rotary positions timm computes on the CPU."""
    card = card_of("dinov3-tiny")
    return FrozenEncoder(card, open_network(card, seed=0))


def talk_of(update) -> dict[str, int]:
    """The lines that talk to the host in a second call; the first one makes tables and the state of optimisers."""
    update()
    with HostTalk() as talk:
        update()
    return dict(talk.lines)


def updates(task, part, path, runtime=RUNTIME, images_seen=0):
    """A whole update of the training loop, on a batch whose data is on the device."""
    settings = part.training.model_copy(update={"total_images": 10**6, "batch": 8})  # no log line within two updates
    loop = training._Loop(task, settings=settings, dataset_size=9, seed=0, out=path, runtime=runtime, label="", keep=None, rate=None)
    numbers = torch.arange(8, device=GPU)
    data = {
        "images": torch.zeros(8, 3, 32, 32, dtype=torch.uint8, device=GPU),
        "labels": numbers,
        "flip": torch.zeros(8, dtype=torch.bool, device=GPU),
        "hidden": torch.arange(5, 16, device=GPU).expand(8, -1),
        "kept": torch.arange(5, device=GPU).expand(8, -1),
    }
    feed = SimpleNamespace(next=lambda: Batch(numbers, numbers, 8, images_seen, data))

    def update():
        loop.images_seen = images_seen
        loop.update(feed)

    return update


def transformer(objective: str, channels: int = 8, learned: bool = False):
    """A small network of an objective."""
    part = schema.Diffusion(
        objective=objective, transformer={"width": 32, "depth": 1, "heads": 2, "patch": 1, "learned_sigma": learned},
        mar={"buffer": 2, "head_width": 16, "head_depth": 1},
    )  # fmt: skip
    row = OBJECTIVES[objective]
    return row.network(channels=channels, grid=4, classes=10, **row.sizes(part))


def stage_two(path, frozen, *, online=False, teacher=False, micro_batch=None, **settings):
    runtime = GpuRuntime(device="cuda", micro_batch=micro_batch, quiet=True)
    training_ = {"total_images": 9, "batch": 8, "ema": 0.9, "optimiser": {"max_gradient_norm": 1.0}}
    part = schema.Diffusion(training=training_, **settings)
    latents = tokenizers.Cached(moved(frozen).encode, Pictures(), runtime, label="", flips=True)
    if not online:
        latents._memory = [torch.zeros(100, 8, 4, 4, device=GPU) for _ in range(2)]
    with GPU:
        sit = transformer(part.objective, frozen.channels if online else 8, part.objective == "ddpm")
        watched = SimpleNamespace(projector=Projector(32, 16, frozen.channels), weight=0.5, block=1, features=latents)
        stats = LatentStats(*torch.ones(2, sit.channels, dtype=torch.float64))
    if teacher:
        watched.features = tokenizers.Cached(frozen.encode, Pictures(), runtime, label="", flips=True)
    read = Pictures() if online or teacher else None
    task = diffusion.DiffusionTask(sit, latents, torch.zeros(9), stats, part, 0, runtime, watched if teacher else None, read)
    return updates(task, part, path, runtime)


@pytest.mark.parametrize("settings", [
    {}, {"online": True}, {"teacher": True, "micro_batch": 4, "objective": "ddpm"},
    {"flip": False, "prediction": "data", "time": "logit-normal", "direction": 0.5}, {"objective": "meanflow"},
    {"objective": "mar"},
], ids=str)  # fmt: skip
def test_an_update_of_stage_two_waits_for_nothing(tmp_path, settings):
    frozen = encoder()
    with fake_gpu():
        assert talk_of(stage_two(tmp_path, frozen, **settings)) == {}


def stage_one(path, frozen, monkeypatch, *, micro_batch=None, gan=True, **settings):
    runtime = GpuRuntime(device="cuda", micro_batch=micro_batch, quiet=True)
    sizes = {"residual": {"layers": 1}, "decoder": {"base": 8, "blocks": 1}, "loss": {"discriminator_base": 8}}
    part = build({"autoencoder": {**sizes, **settings}}, preset="tiny").autoencoder
    features = tokenizers.Cached(moved(frozen).encode, Pictures(), runtime, label="")
    with GPU:
        taps = VggTaps().requires_grad_(False)
    monkeypatch.setattr(autoencoder, "load_perceptual", lambda *_, **__: SimpleNamespace(activations=taps, weights=None))
    made = tokenizers.build(frozen, part, 32, GPU)
    task = autoencoder.AutoencoderTask(made, Pictures(), features, part, 0, runtime)
    return updates(task, part, path, runtime, images_seen=10**5 if gan else 0)


@pytest.mark.parametrize("settings", [
    {}, {"micro_batch": 4, "align": "channel"}, {"gan": False, "align": "token", "noise": 0.1},
    {"gan": False, "decoder": {"kind": "vit", "vit": {"layers": 1}}},
], ids=str)  # fmt: skip
def test_an_update_of_stage_one_waits_for_nothing(tmp_path, settings, monkeypatch):
    frozen = encoder()
    with fake_gpu():
        assert talk_of(stage_one(tmp_path, frozen, monkeypatch, **settings)) == {}


@pytest.mark.parametrize("sampling", [
    {"guidance": 1.0}, {"guidance": 3.0, "schedule": "late", "guided_channels": 3}, {"sampler": "heun", "guidance": 2.0},
    {"sampler": "sde-euler"}, {"sampler": "ddim", "guidance": 2.0}, {"sampler": "ddpm"}, {"sampler": "ddpm", "learned": False},
    {"sampler": "midpoint"}, {"sampler": "meanflow"}, {"precision": "bf16"}, {"precision": "bf16", "sampler": "heun", "guidance": 2.0},
    {"sampler": "mar", "head_steps": 4}, {"sampler": "mar", "head_steps": 4, "guidance": 1.0, "precision": "bf16"},
], ids=str)  # fmt: skip
def test_a_sampling_step_waits_for_nothing(sampling):
    """Six steps talk no more than three: what is said is said once, and only ddpm's tables are."""
    learned = sampling.pop("learned", True)
    objective = SAMPLERS[sampling.get("sampler", "euler")].objective
    said = []
    with fake_gpu(), GPU:
        model = OBJECTIVES[objective].wrap(transformer(objective, learned=learned and objective == "ddpm"), "velocity")
        noise, labels = torch.zeros(4, 8, 4, 4), torch.zeros(4, dtype=torch.int64)
        stats = LatentStats(*torch.ones(2, 8, dtype=torch.float64))
        for steps in (3, 6):
            with HostTalk() as talk:
                how = SamplingProtocol(**{"sampler": "euler", "shift": 1.0, "guidance": 1.5, "steps": steps, **sampling})
                stats.restore(generate(model, noise, labels, how)).clamp(0, 1).mul(255).round().to(torch.uint8)
            said.append(dict(talk.lines))
    assert said[0] == said[1] and not any("asks" in line for line in said[0])
    assert sum(said[0].values()) <= (8 if objective in ("ddpm", "mar") else 0)  # the chain's eight tables


def planted_number(x):
    return x.sum().item()


def planted_copy(x):
    return x + torch.tensor([1.0], device=x.device)


def planted_move(x):
    return torch.ones(4).to(x.device) * x


def planted_way_back(x):
    return x.cpu()


def planted_index(x):
    return x[torch.tensor([0, 1])]


def planted_mask(x):
    return x[x > 0]


def planted_scalar(x):
    return torch.where(x > 0, torch.tensor(1.0), x)


PLANTED = [planted_number, planted_copy, planted_move, planted_way_back, planted_index, planted_mask, planted_scalar]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_wait_is_found_by_its_line(planted):
    with fake_gpu():
        x = torch.ones(4, device=GPU)
        with HostTalk() as talk:
            try:
                planted(x)
            except Exception as error:  # a number of a fake tensor is not known
                assert "DataDependent" in type(error).__name__ or "DynamicOutput" in type(error).__name__
    (line,) = talk.lines
    assert f"alone_host_talk.py:{planted.__code__.co_firstlineno + 1} " in line


def test_what_stays_on_the_device_is_not_called_talk():
    with fake_gpu():
        x = torch.ones(4, device=GPU)
        with HostTalk() as talk:
            x.masked_fill(x > 0, 1.0), torch.full((1,), 3.0, device=GPU), x.half(), x[torch.arange(2, device=GPU)], x / 255, x.clamp(max=1)
            torch.ones(3) + torch.ones(3), torch.where(torch.ones(3) > 0, 1.0, torch.ones(3))
    assert not talk.lines


def test_a_wait_planted_in_an_update_is_found(tmp_path, monkeypatch):
    """Labels that are looked up on the host."""
    frozen, losses = encoder(), diffusion.DiffusionTask.losses

    def planted(self, batch):
        labels = self._labels.long()[batch.indices.cpu()].to(GPU)
        return losses(self, batch.holding(labels=labels))

    monkeypatch.setattr(diffusion.DiffusionTask, "losses", planted)
    with fake_gpu():
        talk = talk_of(stage_two(tmp_path, frozen))
    assert list(talk.values()) == [2] and f"alone_host_talk.py:{planted.__code__.co_firstlineno + 1} copies (_to_copy)" in next(iter(talk))
