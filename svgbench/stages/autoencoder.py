"""Stage 1: trains residual encoder, alignment and decoder around a frozen encoder, or adopts a card that already decodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from svgbench.config import schema
from svgbench.metrics.perceptual import load_perceptual
from svgbench.nets import draws
from svgbench.nets.critic import Gradients, Objective, PatchDiscriminator, adaptive_weight, last_layer_gradients
from svgbench.nets.tokenizer import Tokenizer
from svgbench.stages.tokenizers import Cached, build, describe, open_frozen, to_floats
from svgbench.world import checkpoints
from svgbench.world.files import write_atomic
from svgbench.world.images import ImageSet, open_images
from svgbench.world.measure import count_flops, gemm_rate, utilisation
from svgbench.world.runtime import Runtime
from svgbench.world.training import Batch, adam
from svgbench.world.training import train as run_training


class AutoencoderTask:
    """One update: global batch statistics, the decoder's single backward pass with the adaptive weight, then the discriminator's."""

    averaged = None

    def __init__(
        self, tokenizer: Tokenizer, images: ImageSet, features: Callable[[Tensor], Tensor], part: schema.Autoencoder, seed: int, runtime: Runtime
    ) -> None:
        self._tokenizer, self._images, self._features, self._part, self._seed, self._runtime = tokenizer, images, features, part, seed, runtime
        loss, device = part.loss, runtime.torch_device
        self.modules = {"tokenizer": tokenizer}
        self.optimisers = {"tokenizer": adam(tokenizer.parameters(), part.training.optimiser)}
        discriminator = None
        if loss.adversarial:
            discriminator = PatchDiscriminator(loss.discriminator_base, loss.discriminator_layers).to(device)
            self.modules["discriminator"] = discriminator
            self.optimisers["discriminator"] = adam(discriminator.parameters(), part.training.optimiser)
        judge = load_perceptual(loss.network, loss.weights, device=device) if loss.perceptual else None
        self._objective = Objective(
            l1=loss.l1, perceptual=loss.perceptual, adversarial=loss.adversarial, discriminator=discriminator, judge=judge
        )

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update of the tokenizer and, once the GAN term is on, of the discriminator."""
        loss = self._part.loss
        gan = bool(loss.adversarial) and batch.images_seen >= loss.adversarial_start_images
        micros = list(batch.micro_batches(self._runtime.micro_batch))
        statistics = self._statistics(micros)
        if len(micros) == 1 or not gan:
            losses, outputs = self._in_one_pass(micros, statistics, gan)
        else:
            losses, outputs = self._in_two_passes(micros, statistics)
        apply("tokenizer")
        if gan:
            losses["discriminator"] = torch.zeros((), device=self._runtime.torch_device)
            for micro, y in zip(micros, outputs, strict=True):
                found = self._objective.discriminate(y, self._originals(micro), size=batch.size)
                found.backward()
                losses["discriminator"] += found.detach()
            apply("discriminator")
        return losses

    def latents(self, micro: Batch, statistics: Tensor | None) -> Tensor:
        """Raw latents in training: dropout and residual drop keyed by position, alignment by the global batch's statistics."""
        features = self._features(micro.indices)
        encoder = self._tokenizer.residual_encoder
        if encoder is None:
            return features
        positions = micro.positions.to(features.device)
        aligned = self._tokenizer.alignment(encoder(self._originals(micro), positions, self._seed), features, statistics)
        return torch.cat([features, encoder.replace(aligned, positions, self._seed)], dim=1)

    def _originals(self, micro: Batch) -> Tensor:
        return to_floats(self._images.batch(micro.indices), self._runtime.torch_device)

    @torch.no_grad()
    def _statistics(self, micros: list[Batch]) -> Tensor | None:
        """Alignment's sums over the global batch. No gradient flows through them, so a pass without a graph gives exactly what is needed."""
        alignment = self._tokenizer.alignment
        if alignment is None or not alignment.needs_statistics:
            return None
        total = torch.zeros_like(alignment.running)
        for micro in micros:
            residual = self._tokenizer.residual_encoder(self._originals(micro), micro.positions.to(total.device), self._seed)
            total += alignment.statistics_of(residual, self._features(micro.indices))
        self._runtime.all_reduce_(total)
        alignment.accumulate(total)
        return total

    def _decode(self, micro: Batch, statistics: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last convolution's input and output [B, 3, H, W] in [-1, 1]."""
        with self._runtime.autocast(self._part.training.precision):
            hidden = self._tokenizer.decoder.before_last(self.latents(micro, statistics))
            return hidden, self._tokenizer.decoder.conv_out(hidden)

    def _in_one_pass(self, micros: list[Batch], statistics: Tensor | None, gan: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Each micro-batch forward and backward once; with the GAN term only where one micro-batch is the whole share of the rank."""
        losses: dict[str, Tensor] = {}
        outputs = []
        weight = self._no_gradient() if gan and not micros else None  # a rank without an image still takes part in the sum
        for micro in micros:
            hidden, y = self._decode(micro, statistics)
            found = self._objective.gradients(y.float(), self._originals(micro), size=micro.size, gan=gan)
            if gan:
                weight = self._weight(last_layer_gradients(self._tokenizer.decoder, hidden.float(), found))
            y.backward(self._combined(found, weight).to(y.dtype))
            outputs.append(y.detach().float())
            _add(losses, found.losses)
        return losses, outputs

    def _in_two_passes(self, micros: list[Batch], statistics: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The adaptive weight belongs to the global batch: first all gradients at the reconstructions, then the decoder backward."""
        losses: dict[str, Tensor] = {}
        outputs, kept, at_last = [], [], 0.0
        for micro in micros:
            with torch.no_grad():
                hidden, y = self._decode(micro, statistics)
            found = self._objective.gradients(y.float(), self._originals(micro), size=micro.size, gan=True)
            at_last = at_last + last_layer_gradients(self._tokenizer.decoder, hidden.float(), found)
            outputs.append(y.float())
            kept.append(found)
            _add(losses, found.losses)
        weight = self._weight(at_last)
        for micro, found in zip(micros, kept, strict=True):
            _, y = self._decode(micro, statistics)
            y.backward(self._combined(found, weight).to(y.dtype))
        return losses, outputs

    def _weight(self, gradients: Tensor) -> Tensor:
        return self._part.loss.adversarial * adaptive_weight(self._runtime.all_reduce_(gradients))

    def _no_gradient(self) -> Tensor:
        return self._weight(torch.zeros(2, self._tokenizer.decoder.conv_out.weight.numel(), device=self._runtime.torch_device))

    @staticmethod
    def _combined(found: Gradients, weight: Tensor | None) -> Tensor:
        return found.reconstruction if weight is None else found.reconstruction + weight * found.adversarial


def train(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Trains the autoencoder; writes ``autoencoder.safetensors``, ``autoencoder.json`` and ``log.jsonl``."""
    part, seed, device = schema.Autoencoder.model_validate(slice_["autoencoder"]), slice_["seed"], runtime.torch_device
    images = open_images(inputs["images"])
    card, encoder = open_frozen(slice_["encoder"], device)
    features = Cached(encoder.encode, images.train, runtime, label="features of the training images")
    torch.manual_seed(draws.stream(seed, "autoencoder/weights") % 2**31)
    tokenizer = build(encoder, part, images.resolution, device)
    task = AutoencoderTask(tokenizer, images.train, features, part, seed, runtime)

    # what one image costs with the GAN term on, and what the machine could do
    flops = _flops(task, part, tokenizer)
    rate = gemm_rate(device, part.training.precision) * runtime.world

    report = run_training(
        task, settings=part.training, dataset_size=len(images.train), seed=seed, out=out, runtime=runtime, label="autoencoder"
    )
    if tokenizer.alignment is not None:
        tokenizer.alignment.freeze()
    if runtime.is_main:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tokenizer.state_dict().items()}, out / "autoencoder.safetensors")
        settings = part.model_dump(mode="json")
        write_atomic(out / "autoencoder.json", describe(slice_["encoder"], card, settings=settings, resolution=images.resolution))
        checkpoints.clear(out)
    return {
        "images_seen": report.images_seen, "images_per_second": report.images_per_second, "flops_per_image": flops, "losses": report.losses,
        "utilisation": utilisation(report.images_per_second, flops, rate), "peak_memory_bytes": report.peak_memory_bytes,
        "parameters": sum(p.numel() for p in tokenizer.parameters()), "skipped_updates": report.skipped,
    }  # fmt: skip


def _flops(task: AutoencoderTask, part: schema.Autoencoder, tokenizer: Tokenizer) -> int:
    """FLOPs of one image in one update, as most of the training makes them."""
    late = part.loss.adversarial_start_images < part.training.total_images / 2
    probe = Batch(indices=torch.arange(2), positions=torch.arange(2), size=2, images_seen=part.loss.adversarial_start_images if late else 0)
    running = tokenizer.alignment.running.clone() if tokenizer.alignment is not None else None
    flops = count_flops(lambda: task.update(probe, lambda name: None)) // 2
    if running is not None:
        tokenizer.alignment.running.copy_(running)
    for module in task.modules.values():
        module.zero_grad(set_to_none=True)
    return flops


def adopt(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """An encoder that decodes is the autoencoder: the artifact points at its card and pinned weights. Opening it shows that they are there."""
    card, _ = open_frozen(slice_["encoder"], runtime.torch_device)
    write_atomic(out / "autoencoder.json", describe(slice_["encoder"], card))
    return {}


def _add(total: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value
