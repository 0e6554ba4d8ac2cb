"""KL autoencoders (LDM, arXiv 2112.10752) without a GAN loss, and VA-VAE's alignment to a frozen encoder (arXiv 2501.01423)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from svgbench.backends.open import FrozenEncoder, open_encoder, open_network
from svgbench.config.cards import EncoderCard, find
from svgbench.machine.order import Batch
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import adam
from svgbench.metrics.judges import weights_file
from svgbench.nets import draws
from svgbench.nets.classifier import PERCEPTUAL, ShapesVGG
from svgbench.nets.critic import perceptual_distance
from svgbench.nets.execution import channels_last
from svgbench.pretraining.families import CardPixels, card_of
from svgbench.pretraining.pictures import OnDevice
from svgbench.pretraining.shipped import Job, Shipped

KL_WEIGHT = 1e-6
"""Weight of an image's Kullback-Leibler divergence, summed over its latent, relative to its mean absolute error."""
PERCEPTUAL_WEIGHT = 0.05
FIRST_LOG_VARIANCE = -6.0
"""Initial log-variance of the posterior: small, so that noise does not hide the first, small latents from the decoder."""
COSINE_MARGIN, DISTANCE_MARGIN, ALIGNMENT_WEIGHT = 0.5, 0.25, 0.1
"""m1, m2 and w_hyper in equations 5 to 8 of VA-VAE."""


class Posterior(NamedTuple):
    """Mean and log-variance of a latent, each [B, C, h, w]."""

    mean: Tensor
    log_variance: Tensor


def posterior(model: Any, pixels: Tensor) -> Posterior:
    """The posterior of pixels [B, 3, H, W] in [-1, 1] under diffusers' AutoencoderKL or LDM's autoencoder."""
    if hasattr(model, "posterior"):
        return Posterior(*model.posterior(channels_last(pixels)))
    distribution = model.encode(channels_last(pixels)).latent_dist
    return Posterior(distribution.mean, distribution.logvar)


def decoded_pixels(model: Any, latents: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] of latents [B, C, h, w] under either library."""
    pixels = model.decode(channels_last(latents))
    return pixels if isinstance(pixels, Tensor) else pixels.sample


class Autoencoding(OnDevice):
    """A training task: L1, a perceptual distance on ShapesVGG, and KL; with a teacher also VA-VAE's alignment loss and adaptive weight."""

    averaged = "model"

    def __init__(
        self,
        model: nn.Module,
        pixels: nn.Module,
        job: Job,
        stream: int,
        critic: ShapesVGG,
        teacher: FrozenEncoder | None = None,
        latent_channels: int = 0,
    ) -> None:
        self.model, self.pixels, self.pictures, self.stream = model, pixels, job.pictures, stream
        self.critic, self.teacher = critic, teacher
        self.modules = {"model": model}
        parameters = list(model.parameters())
        if teacher is not None:
            self.projection = nn.Conv2d(latent_channels, teacher.channels, 1, bias=False).to(job.pictures.images.device)
            self.modules["projection"] = self.projection
            parameters += self.projection.parameters()
        self.optimisers = {"model": adam(parameters, job.training.optimiser)}

    def update(self, batch: Batch, apply: Callable[[str], None]) -> dict[str, Tensor]:
        """One update. Both losses are differentiated once with respect to the latent, and their sum is then propagated into the encoder."""
        images = self.pictures.floats(batch.indices)
        mirror = draws.uniform(draws.stream(self.stream, "mirror"), batch.positions) < 0.5
        images = torch.where(mirror[:, None, None, None], images.flip(3), images)
        distribution = posterior(self.model, self.pixels(images))
        noise = draws.normal(draws.stream(self.stream, "noise"), batch.positions, tuple(distribution.mean.shape[1:]))
        latents = distribution.mean + noise * (0.5 * distribution.log_variance).exp()
        latents_leaf = latents.detach().requires_grad_()
        losses = self._reconstruction(images, decoded_pixels(self.model, latents_leaf), batch.size)
        (losses["l1"] + PERCEPTUAL_WEIGHT * losses["perceptual"]).backward()
        gradient = latents_leaf.grad
        assert gradient is not None  # both losses depend on the decoded latent
        if self.teacher is not None:
            aligned, losses["alignment"] = self._alignment(images, latents.detach())
            gradient = gradient + ALIGNMENT_WEIGHT * gradient.norm() / (aligned.norm() + 1e-8) * aligned
        divergence = 0.5 * (distribution.mean.square() + distribution.log_variance.exp() - 1 - distribution.log_variance).sum() / batch.size
        torch.autograd.backward([latents, KL_WEIGHT * divergence], [gradient, None])
        apply("model")
        return {name: loss.detach() for name, loss in {**losses, "kl": divergence}.items()}

    def _reconstruction(self, images: Tensor, pixels: Tensor, size: int) -> dict[str, Tensor]:
        """Mean absolute error in [0, 1] and perceptual distance, averaged over the batch."""
        decoded = (pixels + 1) / 2
        with torch.no_grad():
            target = self.critic.activations(images)
        distance = perceptual_distance(self.critic.activations(decoded), target)
        return {"l1": (decoded - images).abs().mean((1, 2, 3)).sum() / size, "perceptual": distance.sum() / size}

    def _alignment(self, images: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient with respect to the latents [B, C, h, w] and value of VA-VAE's two alignment losses; adds the projection's gradients."""
        assert self.teacher is not None
        leaf = latents.requires_grad_()
        features = self.teacher.encode(images).flatten(2)
        cosine = F.cosine_similarity(self.projection(leaf).flatten(2), features, dim=1)
        cosine_loss = F.relu(1 - COSINE_MARGIN - cosine).mean()
        ours, theirs = F.normalize(leaf.flatten(2), dim=1), F.normalize(features, dim=1)
        between = (ours.transpose(1, 2) @ ours - theirs.transpose(1, 2) @ theirs).abs()
        loss = cosine_loss + F.relu(between - DISTANCE_MARGIN).mean()
        loss.backward()
        assert leaf.grad is not None
        return leaf.grad, loss.detach()


def _random_autoencoder(card: EncoderCard, seed: int, runtime: Runtime) -> nn.Module:
    """The library's autoencoder with random weights from a seed and the initial log-variance ``FIRST_LOG_VARIANCE``."""
    model: Any = open_network(card, seed=seed).model.train()
    nn.init.constant_(model.quant_conv.bias[card.channels :].detach(), FIRST_LOG_VARIANCE)
    return model.to(runtime.torch_device)


def _critic(card: EncoderCard, runtime: Runtime) -> ShapesVGG:
    """The perceptual network that is shipped for the card's images."""
    name = "shapes-lpips" if card.preset == "tiny" else "scenes-lpips"
    return PERCEPTUAL[name].filled(load_file(weights_file("pairs", name))).to(runtime.torch_device)


def _autoencoding(job: Job, family: str, teacher: str | None = None) -> Shipped:
    """The task of an autoencoder; ``teacher``: the family of the encoder to which its latent is aligned."""
    card, device = card_of(job.card), job.runtime.torch_device
    seed = draws.stream(job.seed, family)
    model, critic = _random_autoencoder(card, seed, job.runtime), _critic(card, job.runtime)
    frozen = open_encoder(find(teacher, card.preset), device=device) if teacher else None
    task = Autoencoding(model, CardPixels(card).to(device), job, seed, critic, frozen, latent_channels=card.channels)
    return Shipped(task, model, averaged=True)


def sd_vae(job: Job) -> Shipped:
    """SD-VAE: diffusers' AutoencoderKL."""
    return _autoencoding(job, "sd-vae")


def va_vae(job: Job) -> Shipped:
    """VA-VAE: LDM's autoencoder, whose latent is aligned to DINOv2's features."""
    return _autoencoding(job, "va-vae", teacher="dinov2")
