"""Codecs of diffusers (SD-VAE): the posterior mean and the decoder, unscaled; latents are standardised later by measured statistics."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from svgbench.backends.network import Network
from svgbench.config.cards import EncoderCard
from svgbench.errors import BadConfig, unknown

OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention weights in files written before diffusers 0.17, such as stabilityai's."""


class DiffusersNetwork(Network):
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


def open_network(card: EncoderCard, state: dict[str, Tensor] | None) -> Network:
    """``AutoencoderKL`` with ``card.arguments`` and random weights."""
    if card.model != "AutoencoderKL":
        raise unknown("diffusers codec", card.model, ["AutoencoderKL"])
    try:
        model = AutoencoderKL(**card.arguments)
    except (TypeError, ValueError) as error:
        raise BadConfig(f"diffusers cannot build '{card.model}' with {card.arguments} ({error}); correct the card.") from None
    return DiffusersNetwork(model)
