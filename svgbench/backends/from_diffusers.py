"""Codecs of diffusers; latents are standardised later by measured statistics.

``AutoencoderKL`` (SD-VAE): the posterior's mean, unscaled. ``AutoencoderDC`` (DC-AE, arXiv 2410.10733): a deterministic latent, unscaled.
``AutoencoderRAE`` (arXiv 2510.11690): a frozen DINOv2, SigLIP2 or MAE, whose tokens are normalised by the file's own statistics, and a ViT
decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderRAE
from torch import Tensor

from svgbench.backends.network import Network
from svgbench.config.cards import EncoderCard
from svgbench.errors import BadConfig, unknown

OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention weights in files written before diffusers 0.17, such as stabilityai's."""


class KlNetwork(Network):
    """A diffusers AutoencoderKL."""

    model: Any
    """The AutoencoderKL; ``Any``, because its base classes have no types."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels = model.config.latent_channels
        self.stride = 2 ** (len(model.config.block_out_channels) - 1)
        self.mean = self.std = (0.5, 0.5, 0.5)

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean [B, C, h, w]."""
        return self.model.encode(pixels).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [-1, 1], unclamped."""
        return self.model.decode(latents).sample

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts names of older diffusers versions, or LDM's names of the release, to those of current diffusers."""
        inside = "first_stage_model."
        if any(name.startswith(inside) for name in state):  # the codec in a full Stable Diffusion checkpoint
            state = {name.removeprefix(inside): value for name, value in state.items() if name.startswith(inside)}
        if "encoder.down.0.block.0.conv1.weight" in state:
            from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

            codec_state = {name: value for name, value in state.items() if not name.startswith(("loss.", "model_ema."))}
            state = convert_ldm_vae_checkpoint(codec_state, self.model.config)
        expected = self.model.state_dict()
        result = {}
        for name, value in state.items():
            for old, new in OLD_ATTENTION.items():
                name = name.replace(old, new)
            if name in expected and value.ndim == 4 and expected[name].ndim == 2 and value.shape[2:] == (1, 1):
                value = value[:, :, 0, 0]  # attention was once written as 1x1 convolutions
            result[name] = value
        return result


class DcNetwork(Network):
    """A diffusers AutoencoderDC."""

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels, self.stride = model.config.latent_channels, model.spatial_compression_ratio
        self.mean = self.std = (0.5, 0.5, 0.5)

    def encode(self, pixels: Tensor) -> Tensor:
        """The latent [B, C, h, w]."""
        return self.model.encode(pixels).latent

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [-1, 1], unclamped."""
        return self.model.decode(latents).sample


class RaeNetwork(Network):
    """A diffusers AutoencoderRAE. It takes and gives pixels in [0, 1], which it resizes and normalises itself, of one size."""

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels, self.stride, self.side = model.config.encoder_hidden_size, model.decoder_patch_size, model.decoder_image_size
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised tokens [B, C, h, w]."""
        return self.model.encode(pixels).latent

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1], unclamped."""
        return self.model.decode(latents).sample

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gives the statistics of tokens the shape of the file's; leaves out the decoder's fixed positions, which the network computes."""
        for name in ("_latents_mean", "_latents_std"):
            if name in state:
                setattr(self.model, name, torch.zeros_like(state[name]))
        return {name: value for name, value in state.items() if name != "decoder.decoder_pos_embed"}


CODECS: dict[str, tuple[Any, type[Network]]] = {
    "AutoencoderKL": (AutoencoderKL, KlNetwork),
    "AutoencoderDC": (AutoencoderDC, DcNetwork),
    "AutoencoderRAE": (AutoencoderRAE, RaeNetwork),
}
"""Class of diffusers -> the class, and its network."""


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """The codec of this class with ``card.arguments`` and random weights."""
    if card.model not in CODECS:
        raise unknown("diffusers codec", card.model, CODECS)
    made, network = CODECS[card.model]
    try:
        model = made(**card.arguments)
    except (TypeError, ValueError) as error:
        raise BadConfig(f"diffusers cannot build '{card.model}' with {card.arguments} ({error}); correct the card.") from None
    except AttributeError as error:  # diffusers 0.42 builds RAE on SigLIP2 as transformers 4 had it
        raise BadConfig(
            f"this diffusers cannot build '{card.model}' with this transformers ({error}); install versions that fit."
        ) from None
    return network(model)
