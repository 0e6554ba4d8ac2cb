"""Stage 1: trains residual encoder, alignment and decoder around a frozen encoder, or adopts an encoder that has a decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svgbench.backends.open import FrozenEncoder
from svgbench.config import schema
from svgbench.config.choices import MOMENT_IMAGES
from svgbench.images.store import ImageSet, open_images
from svgbench.machine.feed import loaded
from svgbench.machine.files import write_atomic
from svgbench.machine.measure import count_flops
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch, adam
from svgbench.machine.training import train as run_training
from svgbench.metrics.perceptual import load_perceptual
from svgbench.nets import draws
from svgbench.nets.critic import Gradients, PatchDiscriminator, ReconstructionObjective, adaptive_weight, last_layer_gradients
from svgbench.nets.latents import noised
from svgbench.nets.tokenizer import Tokenizer
from svgbench.stages.cost import cost_of, product_rate
from svgbench.stages.tokenizers import Cached, Shape, blocks, build, describe, open_frozen, to_floats


class AutoencoderTask:
    """One update: global batch statistics, one backward pass of the decoder with the adaptive weight, then one of the discriminator."""

    averaged = None

    def __init__(
        self,
        tokenizer: Tokenizer,
        images: ImageSet,
        features: Callable[..., Tensor],
        part: schema.Autoencoder,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """``features``: a ``Cached``, or a function (indices [B], images=uint8 [B, 3, H, W]) -> frozen features [B, C, h, w]."""
        self._tokenizer, self._images, self._features, self._part, self._seed, self._runtime = (
            tokenizer,
            images,
            features,
            part,
            seed,
            runtime,
        )
        loss, device = part.loss, runtime.torch_device
        self.modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
        self.optimisers = {"tokenizer": adam(tokenizer.parameters(), part.training.optimiser)}
        discriminator = None
        if loss.adversarial:
            discriminator = PatchDiscriminator(loss.discriminator_base, loss.discriminator_layers).to(device)
            self.modules["discriminator"] = discriminator
            self.optimisers["discriminator"] = adam(discriminator.parameters(), part.training.optimiser)
        judge = load_perceptual(loss.network, loss.weights, device=device) if loss.perceptual else None
        self._objective = ReconstructionObjective(
            l1=loss.l1, perceptual=loss.perceptual, adversarial=loss.adversarial, discriminator=discriminator, judge=judge
        )

    def load(self, batch: Batch) -> dict[str, Any]:
        """The images."""
        return {"images": self._images.rows(batch.indices)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """Updates the tokenizer and, once the GAN term is on, the discriminator; returns this rank's share of each loss (scalar)."""
        loss = self._part.loss
        gan = bool(loss.adversarial) and batch.images_seen >= loss.adversarial_start_images
        # once for all micro-batches, because a frozen encoder fills each batch up to a whole number of chunks
        batch = batch.holding(features=self._features(batch.indices, images=batch.data["images"]))
        micros = list(batch.micro_batches(self._runtime.micro_batch))
        if len(micros) <= 1:
            losses, outputs = self._whole(batch, gan)
        else:
            losses, outputs = self._in_pieces(micros, self._statistics_of(micros), gan)
        apply("tokenizer")
        if gan:
            losses["discriminator"] = torch.zeros((), device=self._runtime.torch_device)
            for micro, y in zip(micros or [batch], outputs, strict=True):
                critic_loss = self._objective.discriminate(y, self._originals(micro), size=batch.size)
                critic_loss.backward()
                losses["discriminator"] += critic_loss.detach()
            apply("discriminator")
        return losses

    def _originals(self, micro: Batch) -> Tensor:
        """The images [B, 3, H, W] in [0, 1]."""
        return to_floats(micro.data["images"], self._runtime.torch_device)

    def _parts(self, micro: Batch) -> tuple[Tensor, Tensor | None]:
        """Frozen features, and the residual, whose dropout is seeded by position."""
        features, encoder = micro.data["features"], self._tokenizer.residual_encoder
        if encoder is None:
            return features, None
        return features, encoder(self._originals(micro), micro.positions, self._seed)

    def _sums(self, features: Tensor, residual: Tensor | None) -> Tensor | None:
        """This process's sums for the alignment; None if it needs none."""
        alignment = self._tokenizer.alignment
        if residual is None or alignment is None or not alignment.needs_statistics:
            return None
        return alignment.statistics_of(residual, features)

    def _global(self, sums: Tensor | None) -> Tensor | None:
        """The sums of the global batch."""
        return None if sums is None else self._runtime.all_reduce_(sums)

    def _decode(self, micro: Batch, features: Tensor, residual: Tensor | None, sums: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last convolution's input and output [B, 3, H, W] in [-1, 1]."""
        latents = features
        if residual is not None:
            encoder, alignment = self._tokenizer.residual_encoder, self._tokenizer.alignment
            assert encoder is not None and alignment is not None  # a residual implies both
            aligned = alignment(residual, features, sums)
            latents = torch.cat([features, encoder.replace(aligned, micro.positions, self._seed)], dim=1)
        latents = noised(latents, micro.positions, seed=self._seed, tau=self._part.noise)
        hidden = self._tokenizer.decoder.before_last(latents)
        return hidden, self._tokenizer.decoder.conv_out(hidden)

    def _whole(self, batch: Batch, gan: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The rank's share of the batch in one forward and backward pass of every network."""
        with self._runtime.autocast(self._part.training.precision):
            parts = self._parts(batch)
            hidden, y = self._decode(batch, *parts, self._global(self._sums(*parts)))
        gradients = self._objective.gradients(y.float(), self._originals(batch), size=batch.size, gan=gan)
        weight = self._weight(last_layer_gradients(self._tokenizer.decoder, hidden.float(), gradients)) if gan else None
        y.backward(self._combined(gradients, weight).to(y.dtype))
        return gradients.losses, [y.detach().float()]

    @torch.no_grad()
    def _statistics_of(self, micros: list[Batch]) -> Tensor | None:
        """The alignment's sums over all micro-batches. No gradient flows through them, so a pass without a graph is exact."""
        total: Tensor | None = None
        for micro in micros:
            with self._runtime.autocast(self._part.training.precision):
                sums = self._sums(*self._parts(micro))
            if sums is not None:
                total = sums if total is None else total + sums
        return self._global(total)

    def _in_pieces(self, micros: list[Batch], sums: Tensor | None, gan: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The rank's share in micro-batches. The adaptive weight is computed over the global batch, so with the GAN term a first pass
        without a graph computes all gradients at the reconstructions, and a second pass of the decoder runs backward."""
        losses: dict[str, Tensor] = {}
        outputs, kept, weight = [], [], None
        if gan:
            at_last = torch.zeros((), device=self._runtime.torch_device)
            for micro in micros:
                with torch.no_grad(), self._runtime.autocast(self._part.training.precision):
                    hidden, y = self._decode(micro, *self._parts(micro), sums)
                kept.append(self._objective.gradients(y.float(), self._originals(micro), size=micro.size, gan=True))
                at_last = at_last + last_layer_gradients(self._tokenizer.decoder, hidden.float(), kept[-1])
            weight = self._weight(at_last)
        for number, micro in enumerate(micros):
            with self._runtime.autocast(self._part.training.precision):
                _, y = self._decode(micro, *self._parts(micro), sums)
            gradients = kept[number] if gan else self._objective.gradients(y.float(), self._originals(micro), size=micro.size, gan=False)
            y.backward(self._combined(gradients, weight).to(y.dtype))
            outputs.append(y.detach().float())
            for name, value in gradients.losses.items():
                losses[name] = losses[name] + value if name in losses else value
        return losses, outputs

    def _weight(self, gradients: Tensor) -> Tensor:
        loss = self._part.loss
        return loss.adversarial * adaptive_weight(self._runtime.all_reduce_(gradients), loss.adaptive_limit)

    @staticmethod
    def _combined(gradients: Gradients, weight: Tensor | None) -> Tensor:
        if weight is None:
            return gradients.reconstruction
        assert gradients.adversarial is not None  # the weight comes from both
        return gradients.reconstruction + weight * gradients.adversarial


def train(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains the autoencoder; writes ``autoencoder.safetensors``, ``autoencoder.json`` and ``log.jsonl``. Starts from the artifact
    ``start``, if there is one (``stages.continuation``)."""
    part, seed, device = schema.Autoencoder.model_validate(slice_["autoencoder"]), slice_["seed"], runtime.torch_device
    images = open_images(inputs["images"])
    _, encoder = open_frozen(slice_["encoder"], device)
    features = Cached(encoder.encode, images.train, runtime, label="features of the training images")
    torch.manual_seed(draws.stream(seed, "autoencoder/weights") % 2**31)
    start, shape = inputs.get("start"), Shape.at(images.resolution)
    if start is not None:
        shape = Shape.of(json.loads((start / "autoencoder.json").read_bytes())).continued(images.resolution, slice_["positions"])
    tokenizer = build(encoder, part, shape, device)
    if start is not None:
        tokenizer.load_state_dict(load_file(start / "autoencoder.safetensors", device=str(device)))
    task = AutoencoderTask(tokenizer, images.train, features, part, seed, runtime)

    # cost of one image, and speed of the machine
    flops = _flops(task, part, device)
    rate = product_rate(runtime, part.training.precision)

    report = run_training(
        task, settings=part.training, dataset_size=len(images.train), seed=seed, out=out, runtime=runtime, label="autoencoder"
    )
    if tokenizer.alignment is not None and tokenizer.alignment.freezes:
        tokenizer.alignment.freeze(moments(tokenizer, features, images.train, runtime))
    if runtime.is_main:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tokenizer.state_dict().items()}, out / "autoencoder.safetensors")
        settings = part.model_dump(mode="json")
        write_atomic(out / "autoencoder.json", describe(slice_["encoder"], encoder.card, settings=settings, **shape.described()))
    return cost_of(report, flops, max(rate, product_rate(runtime, part.training.precision)), tokenizer) | _taken(slice_, encoder)


def _taken(slice_: dict[str, Any], encoder: FrozenEncoder) -> dict[str, Any]:
    """For the manifest: the key of the encoder's weights in a given checkpoint."""
    return {"weights_key": encoder.weights_key} if slice_["encoder"]["weights"] else {}


@torch.no_grad()
def moments(tokenizer: Tokenizer, features: Callable[[Tensor], Tensor], images: ImageSet, runtime: Runtime) -> Tensor:
    """The alignment's sums over the (first ``MOMENT_IMAGES``) training images, from the trained residual encoder without dropout.
    ``features``: data set indices [B] -> frozen features [B, C, h, w]."""
    count = min(len(images), MOMENT_IMAGES)
    parts = list(blocks(count))
    alignment = tokenizer.alignment
    assert alignment is not None  # only called if there is a residual
    c = alignment.channels
    total = torch.zeros(1 + c + c * c + 2 * tokenizer.feature_channels, dtype=torch.float64, device=runtime.torch_device)
    with runtime.progress("alignment moments", count) as bar:
        for number in runtime.shard(len(parts)):
            residual = tokenizer.residual(to_floats(images.batch(parts[number]), runtime.torch_device))
            total += alignment.statistics_of(residual, features(parts[number]))
            bar.advance(len(parts[number]) * runtime.world)
    return runtime.all_reduce_(total)


def _flops(task: AutoencoderTask, part: schema.Autoencoder, device: torch.device) -> int:
    """FLOPs of one image in one update, averaged over the training, without and with the GAN term."""
    start, total = part.loss.adversarial_start_images, part.training.total_images
    share = max(0.0, 1 - start / total) if part.loss.adversarial else 0.0
    counted = []
    for images_seen in (-1, start):
        probe = Batch(indices=torch.arange(2), positions=torch.arange(2), size=2, images_seen=images_seen)
        probe = loaded(task, probe, device)
        counted.append(count_flops(partial(task.update, probe, lambda name: None)) / 2)
        for module in task.modules.values():
            module.zero_grad(set_to_none=True)
    return round((1 - share) * counted[0] + share * counted[1])


def adopt(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Adopts an encoder with a decoder as the autoencoder: the artifact names its card; its weights are opened only to check them."""
    card, encoder = open_frozen(slice_["encoder"], runtime.torch_device)
    write_atomic(out / "autoencoder.json", describe(slice_["encoder"], card))
    return _taken(slice_, encoder)
