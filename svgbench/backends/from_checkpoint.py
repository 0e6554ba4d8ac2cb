"""Codecs in the layout of LDM (VA-VAE and similar), from their checkpoint files."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from svgbench.backends.network import Network
from svgbench.config.cards import EncoderCard
from svgbench.errors import BadConfig, unknown
from svgbench.nets.ldm import LdmDecoder, LdmEncoder

TRAINING_ONLY = ("loss.", "foundation_model.", "linear_proj.", "model_ema.")
"""Prefixes of weights in released checkpoints that are only needed for training: discriminator, frozen teacher and the projection onto
it."""


class LdmAutoencoder(nn.Module):
    """LDM's AutoencoderKL: encoder, 1x1 convolutions around the latent, decoder, with LDM's parameter names."""

    def __init__(self, *, embed_dim: int, z_channels: int, **size: Any) -> None:
        """``size``: base, multipliers, blocks, attention and resolution, the same for encoder and decoder."""
        super().__init__()
        self.encoder = LdmEncoder(**size, in_channels=3, z_channels=z_channels, double_z=True)
        self.decoder = LdmDecoder(**size, z_channels=z_channels, out_channels=3)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (clipped to [-30, 20] as in LDM), each [B, C, h, w], of the latent of pixels [B, 3, H, W] in [-1, 1]."""
        mean, log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1], unclamped, of latents [B, C, h, w]."""
        return self.decoder(self.post_quant_conv(latents))


class CheckpointNetwork(Network):
    """An LDM codec; its latent is the posterior's mean."""

    model: LdmAutoencoder

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.model = LdmAutoencoder(**arguments)
        self.channels = arguments["embed_dim"]
        self.stride = 2 ** (len(arguments["multipliers"]) - 1)
        self.mean = self.std = (0.5, 0.5, 0.5)

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean [B, C, h, w]."""
        return self.model.posterior(pixels)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [-1, 1], unclamped."""
        return self.model.decode(latents)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the codec, without those that are only needed for training."""
        return {name: value for name, value in state.items() if not name.startswith(TRAINING_ONLY)}


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """The codec ``card.model`` built with ``card.arguments``, with random weights."""
    if card.model != "ldm-kl":
        raise unknown("checkpoint architecture", card.model, ["ldm-kl"])
    try:
        return CheckpointNetwork(dict(card.arguments))
    except (TypeError, KeyError) as error:
        raise BadConfig(f"'ldm-kl' cannot be built with {card.arguments} ({error}); correct the card.") from None
