"""Each image of an update is read once and encoded once, with micro-batches and a teacher too; the bits are those of cached values."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch
from slow_device import PromptDevice

from svgbench.config import schema
from svgbench.config.build import build
from svgbench.images.store import ImageSet
from svgbench.machine import training
from svgbench.machine.feed import ReadingAhead
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.nets import draws
from svgbench.nets.chunks import in_chunks
from svgbench.nets.latents import LatentStats
from svgbench.nets.representation import Projector
from svgbench.nets.sit import SiT
from svgbench.stages import autoencoder, diffusion, tokenizers

CHUNK, COUNT, SIDE = 4, 23, 32


class Counting(ImageSet):
    """An image set that counts what is read of it, and by which threads."""

    def rows(self, indices):
        READ.append(len(indices))
        READERS.add(threading.current_thread().name)
        return super().rows(indices)


READ: list[int] = []
READERS: set[str] = set()


class Encoder(torch.nn.Module):
    """A frozen encoder that counts its images, those that fill a chunk included."""

    channels, stride = 5, 8

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.layer = torch.nn.Conv2d(3, 5, 8, stride=8).requires_grad_(False)
        self.seen = 0

    def encode(self, images):
        return in_chunks(self._encode, images, CHUNK)

    def _encode(self, images):
        self.seen += len(images)
        return self.layer(images)


def pictures():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return Counting(images, torch.arange(COUNT) % 3, None)


def stage_one(runtime, images):
    part = build({}, preset="tiny").autoencoder
    residual = part.residual.model_copy(update={"layers": 1, "width": 32, "heads": 2, "mlp": 64})
    decoder = part.decoder.model_copy(update={"base": 8, "multipliers": (1, 1, 2, 2)})
    loss = part.loss.model_copy(update={"adversarial_start_images": 0, "discriminator_base": 8})
    part = part.model_copy(update={"residual": residual, "decoder": decoder, "loss": loss})
    torch.manual_seed(0)
    encoder = Encoder()
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    made = tokenizers.build(encoder, part, SIDE, torch.device("cpu"))
    return autoencoder.AutoencoderTask(made, images, features, part, 3, runtime), [encoder], features.online


def stage_two(runtime, images, teacher=True):
    encoder, other = Encoder(), Encoder()
    latents = tokenizers.Cached(encoder.encode, images, runtime, label="latents", flips=True)
    torch.manual_seed(0)
    sit = SiT(channels=5, grid=4, width=32, depth=1, heads=2, classes=3)
    watched = object.__new__(diffusion.Teacher)
    watched.projector, watched.weight, watched.block = Projector(32, 16, 5), 0.5, 1
    watched.features = tokenizers.Cached(other.encode, images, runtime, label="features", flips=True)
    part = schema.Diffusion(training={"total_images": 20, "batch": 10})
    stats = LatentStats(torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    labels, read = torch.as_tensor(images.labels), images if latents.online else None
    task = diffusion.DiffusionTask(sit, latents, labels, stats, part, 0, runtime, watched, read)
    return task, [encoder, other], latents.online


def trained(stage, path, *, micro_batch=None, cached=False, ahead=False, monkeypatch):
    """Three updates; the task, and what was read and encoded in them."""
    monkeypatch.setattr(tokenizers, "CACHE_BYTES", 10**9 if cached else 0)
    if ahead:
        monkeypatch.setattr(training, "open_feed", lambda task, shares, device: ReadingAhead(task, shares, PromptDevice()))
    runtime = Runtime(device="cpu", threads=1, micro_batch=micro_batch, quiet=True).start()
    task, encoders, online = stage(runtime, pictures())
    assert online != cached
    settings = build({}, preset="tiny").diffusion.training.model_copy(update={"total_images": 26, "batch": 10, "ema": 0.0})
    READ.clear()
    READERS.clear()
    before = [encoder.seen for encoder in encoders]
    training.train(task, settings=settings, dataset_size=COUNT, seed=1, out=path, runtime=runtime, label="counted")
    return task, list(READ), [encoder.seen - old for encoder, old in zip(encoders, before, strict=True)]


def weights(task):
    """All weights and buffers; an alignment that is not yet fixed is not a number."""
    return {f"{name}.{key}": value.nan_to_num(9) for name, module in task.modules.items() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("stage", [stage_one, stage_two])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_each_image_of_an_update_is_read_and_encoded_once(stage, micro_batch, tmp_path, monkeypatch):
    _, read, encoded = trained(stage, tmp_path, micro_batch=micro_batch, monkeypatch=monkeypatch)
    assert read == [10, 10, 6]
    assert set(encoded) == {12 + 12 + 8}  # each batch filled up to whole chunks of 4


def test_with_cached_latents_stage_two_reads_no_image_and_stage_one_each_once(tmp_path, monkeypatch):
    for stage, wanted in ((stage_one, [10, 10, 6]), (stage_two, [])):
        _, read, encoded = trained(stage, tmp_path / stage.__name__, cached=True, micro_batch=3, monkeypatch=monkeypatch)
        assert read == wanted and set(encoded) == {0}


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_cached_encoded_and_read_ahead_updates_have_the_same_bits(stage, tmp_path, monkeypatch):
    found = []
    for number, how in enumerate([{"cached": True}, {}, {"ahead": True}]):
        found.append(weights(trained(stage, tmp_path / str(number), monkeypatch=monkeypatch, **how)[0]))
    assert {"feed"} == READERS
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


def test_mirrors_are_drawn_while_a_batch_is_loaded():
    """A draw takes 40 small kernels on a GPU, and arrives with the batch from the host."""
    task, _, _ = stage_two(Runtime(device="cpu", threads=1, quiet=True), pictures())
    places = torch.arange(40, 60)
    flip = task.load(Batch(torch.arange(20), places, 20))["flip"]
    assert torch.equal(flip, draws.chance(draws.stream(0, "diffusion/flip"), places, (), 0.5)) and 0 < flip.sum() < 20


def test_values_in_memory_keep_no_network_alive():
    encoder = Encoder()
    cached, gone = (
        tokenizers.Cached(encoder.encode, pictures(), Runtime(device="cpu", threads=1, quiet=True), label=""),
        weakref.ref(encoder),
    )
    del encoder
    assert not cached.online and gone() is None
