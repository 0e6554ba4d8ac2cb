"""What is measured: a preset's networks with random weights, and random images in a packed store. The stages' own classes do the work.

This module alone knows how the tasks of the stages are built and called.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from svgbench.backends.open import open_encoder
from svgbench.config.choices import CACHE_BYTES
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import RunConfig
from svgbench.errors import BadWeights
from svgbench.images import packed
from svgbench.images.store import ImageSet, open_images
from svgbench.lab.forecast.sizes import FLOAT, Sizes
from svgbench.machine import arrays
from svgbench.machine.capture import WARM_UP
from svgbench.machine.feed import loaded
from svgbench.machine.measure import Precision, float32_products
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.machine.updates import Updates
from svgbench.metrics import judges
from svgbench.metrics.features import Extractor, Tap, load_extractor
from svgbench.nets.latents import LatentStats
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages import tokenizers
from svgbench.stages.autoencoder import AutoencoderTask
from svgbench.stages.diffusion import DiffusionTask
from svgbench.stages.samples import Generator, compile_for_sampling

IMAGES = 512
"""Images in the store, or one batch if it is larger."""


@dataclass(frozen=True)
class Subject:
    """A preset's run on this machine; ``place``: a directory for temporary files."""

    config: RunConfig
    sizes: Sizes
    runtime: Runtime
    place: Path
    most: int
    """Largest batch that is drawn from the store."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.runtime.torch_device

    @cached_property
    def images(self) -> ImageSet:
        """Random images in a packed store, memory-mapped as in a run."""
        about: dict[str, Any] = {"classes": [str(n) for n in range(self.sizes.counts.classes)], "masks": False, "skipped": []}
        about |= {"counts": {"train": max(IMAGES, self.most), "val": 1}, "resolution": self.sizes.side}
        folder, numbers = self.place / "images", np.random.default_rng(0)
        folder.mkdir()
        for split in packed.SPLITS:
            for name, (shape, kind) in packed.rows(about, split).items():
                arrays.create(folder / name, kind, shape)
                high = 256 if kind is np.uint8 else self.sizes.counts.classes
                arrays.open_rows(folder / name)[:] = numbers.integers(0, high, shape, dtype=kind)
        packed.write(folder, about)
        return open_images(folder).train

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder, in the run's precision; ``products`` changes it for a while."""
        made = open_encoder(self.sizes.card, None, self.device, random_weights_seed=0)
        made.precision = self.config.encoder.precision
        return made

    @contextlib.contextmanager
    def products(self, kind: Precision) -> Iterator[None]:
        """Context in which images are encoded and latents decoded in this precision, whatever the run's is. On a GPU, ``fp32`` and ``tf32``
        also exclude or allow TF32 in all other float32 products."""
        float32: AbstractContextManager[Any] = contextlib.nullcontext()
        if self.device.type == "cuda" and kind != "bf16":
            float32 = float32_products("high" if kind == "tf32" else "highest")
        before = self.encoder.precision
        self.encoder.precision = keyed(kind)
        try:
            with float32:
                yield
        finally:
            self.encoder.precision = before

    def tokenizer(self) -> Tokenizer | Codec:
        """The tokenizer as it is before its training; with gradients for what is trained."""
        if self.sizes.card.kind == "codec":
            return Codec(self.encoder)
        return tokenizers.build(self.encoder, self.config.autoencoder, self.sizes.side, self.device)

    @cached_property
    def frozen(self) -> Tokenizer | Codec:
        """The tokenizer as later stages use it."""
        made = self.tokenizer().eval().requires_grad_(False)
        if isinstance(made, Tokenizer) and made.alignment is not None:
            made.alignment.leave()
        return made

    def pixels(self, count: int) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] on the device."""
        return tokenizers.to_floats(self.images.batch(range(count)), self.device)

    @property
    def stats(self) -> LatentStats:
        """Statistics of latents that are standardised already."""
        mean = torch.zeros(self.sizes.channels, dtype=torch.float64, device=self.device)
        return LatentStats(mean, torch.ones_like(mean))

    def transformer(self, compile: bool = False) -> Any:
        """An untrained transformer."""
        objective = OBJECTIVES[self.config.diffusion.objective]
        sizes: dict[str, Any] = {"channels": self.sizes.channels, "grid": self.sizes.grid, "classes": self.sizes.counts.classes}
        torch.manual_seed(0)
        with self.device:  # on a GPU, initial weights take long on the host
            model = objective.network(**sizes, **objective.sizes(self.config.diffusion))
        model = model.to(self.device)
        if compile:
            model.compile_blocks()
        return model

    def latents(self, *, online: bool) -> tokenizers.Cached:
        """Raw latents of the training images: random ones in memory, or computed from the images at each call."""
        return self._cached(self.frozen.encode, (self.sizes.channels, self.sizes.grid, self.sizes.grid), online=online)

    def _cached(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, online: bool) -> tokenizers.Cached:
        """A function of the images: random values in memory, or computed at each call."""
        if online:
            return tokenizers.Cached(function, _Endless.of(self.images), self.runtime, label="latents")
        generator = torch.Generator(self.device).manual_seed(0)
        known = torch.randn(len(self.images), *shape, device=self.device, generator=generator)
        return tokenizers.Cached(function, self.images, self.runtime, label="latents", known=known)

    def diffusion(self, *, online: bool = False, compile: bool = False, capture: bool = False) -> DiffusionTask:
        """The second stage's task, without mirrored images, so that latents in memory and computed ones are comparable."""
        part = self.config.diffusion.model_copy(update={"flip": False})
        labels = torch.as_tensor(self.images.labels)
        latents, read = self.latents(online=online), self.images if online else None
        runtime = replace(self.runtime, capture=capture)
        return DiffusionTask(self.transformer(compile), latents, labels, self.stats, part, 0, runtime, images=read)

    def losses(self, task: DiffusionTask, count: int) -> Callable[[], Any]:
        """The forward pass of the second stage's update."""
        indices = torch.arange(count)
        batch = loaded(task, Batch(indices=indices, positions=indices, size=count), self.device)
        return lambda: task.losses(task.encoded(batch))

    def autoencoder(self, precision: str, *, compile: bool = False) -> AutoencoderTask:
        """The first stage's task, with features in memory if a run of this size keeps them there. A perceptual network that is not shipped
        has random weights."""
        part, tokenizer = self.config.autoencoder, self.tokenizer()
        part = part.model_copy(update={"training": part.training.model_copy(update={"precision": precision})})
        assert isinstance(tokenizer, Tokenizer)  # a codec has no first stage
        if part.loss.perceptual and part.loss.network == "lpips" and part.loss.weights is None:
            part = part.model_copy(update={"loss": part.loss.model_copy(update={"weights": str(self._vgg())})})
        shape = (self.sizes.card.channels, self.sizes.grid, self.sizes.grid)
        online = FLOAT * math.prod(shape) * self.sizes.counts.train > CACHE_BYTES
        features = self._cached(self.encoder.encode, shape, online=online)
        task = AutoencoderTask(tokenizer, self.images, features, part, 0, self.runtime)
        if compile:
            task.compile()
        return task

    def update(self, task: AutoencoderTask | DiffusionTask, batch: int, *, capture: bool = False) -> Callable[[], Any]:
        """Updates of a task at this batch size, with optimiser and averages, once every loss is on. As a run does, the first call counts on
        a GPU which micro-batch fits, and compiles what is compiled; with ``capture`` it ends when the pass is captured."""
        part = self.config.autoencoder if isinstance(task, AutoencoderTask) else self.config.diffusion
        begun = self.config.autoencoder.loss.adversarial_start_images if isinstance(task, AutoencoderTask) else 0
        settings = part.training.model_copy(update={"batch": batch})
        common: dict[str, Any] = {"dataset_size": len(self.images), "out": self.place, "runtime": self.runtime}

        @cache
        def begin() -> Updates:
            task.fit()
            made = Updates(task, settings=settings, images_seen=begun, **common)
            for _ in range(WARM_UP + 1 if capture else 0):
                made()
            return made

        return lambda: begin()()

    def generator(self) -> Generator:
        """Draws samples with an untrained transformer, compiled if the runtime compiles."""
        part = self.config.diffusion
        model = OBJECTIVES[part.objective].wrap(self.transformer().eval().requires_grad_(False), part.prediction)
        compile_for_sampling(model, self.runtime)
        classes = [str(n) for n in range(self.sizes.counts.classes)]
        return Generator.around(self.frozen, self.stats, model, classes, self.runtime)

    def sampling(self, kind: Precision) -> SamplingProtocol:
        """The run's sampling at its largest numbers of steps and guidance, in a precision; a tuned shift is replaced by 1, which costs the
        same."""
        part = self.config.sampling.model_dump()
        shift = 1.0 if isinstance(part["shift"], str) else part["shift"]
        more = {"steps": max(part["steps"]), "guidance": max(part["guidance"]), "against": "null", "shift": shift, "precision": keyed(kind)}
        return SamplingProtocol.of({**part, **more})

    def extractor(self) -> Extractor:
        """The judging network; Inception with random weights."""
        name = self.config.scores.extractor
        facts = judges.row("features", name)
        if "shelf" in facts or self.config.scores.extractor_weights:
            return load_extractor(name, self.config.scores.extractor_weights, self.device)
        if facts["registry"] != "inception-v3-compat":
            raise BadWeights(f"the extractor '{name}' is not measured without weights; give --set scores.extractor_weights=FILE.")
        return _untrained_inception(name, facts, self.device)

    def _vgg(self) -> Path:
        """A file of random weights of the perceptual network, in torchvision's names."""
        from torchvision.models import vgg16

        path = self.place / "vgg16.safetensors"
        if not path.exists():
            save_file({f"features.{name}": value for name, value in vgg16(weights=None).features.state_dict().items()}, path)
        return path


def keyed(kind: Precision) -> Literal["fp32", "bf16"]:
    """The value of a field of precision; TF32 is a float32 there."""
    return "bf16" if kind == "bf16" else "fp32"


class _Endless(ImageSet):
    """A set of images that is too large to keep its features in memory, like ImageNet: the stages then compute them at each call."""

    @classmethod
    def of(cls, images: ImageSet) -> _Endless:
        """With the images of another set."""
        return cls(images.images, images.labels, images.masks)

    def __len__(self) -> int:
        return 1 << 40


def _untrained_inception(name: str, facts: dict[str, Any], device: torch.device) -> Extractor:
    """torch-fidelity's Inception without the weights that its constructor insists on."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            """Loads nothing."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    layers = [facts["layer"], *([facts["logits"]] if "logits" in facts else [])]
    network = Untrained(facts["registry"], layers, feature_extractor_weights_path=empty).eval().to(device)
    spatial = facts.get("spatial")
    tap = Tap(network.get_submodule(spatial["layer"]), spatial["channels"], spatial["dim"]) if spatial else None
    return Extractor(
        name=name, digest="random", resize=facts["resize"], dim=facts["dim"], network=network, device=device, tap=tap,
        frechet=facts["frechet"],
    )  # fmt: skip
