"""Tokenizers map images to raw latents and back: the SVG autoencoder around a frozen encoder, or an encoder with its own decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from svgbench.nets.alignment import Alignment
from svgbench.nets.chunks import chunk_size, in_chunks
from svgbench.nets.ldm import LdmDecoder
from svgbench.nets.precision import Precision, products_in
from svgbench.nets.residual import ResidualNetwork
from svgbench.nets.vit_decoder import ViTDecoder


def channel_parts(features: int, channels: int) -> dict[str, slice]:
    """Slices of the latents' channels: features, and residual and both if there are residual channels."""
    parts = {"features": slice(0, features)}
    if channels > features:
        parts |= {"residual": slice(features, channels), "both": slice(0, channels)}
    return parts


class Tokenizer(nn.Module):
    """Frozen features, aligned residual and decoder. Images are processed in chunks of one constant shape, so that with every alignment
    except ``batch`` a latent depends only on its image, bit for bit.

    ``replacement``: an alignment that replaces the trained one. ``encode`` applies it; ``decode`` undoes it and applies the trained one, so
    that the decoder gets the latents that it was trained on.

    The frozen encoder is held outside the module's state: it is never trained, saved or moved with it.
    """

    def __init__(
        self,
        encoder: Any,
        residual: ResidualNetwork | None,
        alignment: Alignment | None,
        decoder: LdmDecoder | ViTDecoder,
        replacement: Alignment | None = None,
    ) -> None:
        super().__init__()
        self._outside = (encoder,)
        self.residual_encoder, self.alignment, self.decoder, self.replacement = residual, alignment, decoder, replacement
        self.feature_channels, self.stride = encoder.channels, encoder.stride
        self.channels = encoder.channels + (alignment.channels if alignment else 0)

    @property
    def frozen(self) -> Any:
        """The frozen encoder."""
        return self._outside[0]

    @property
    def precision(self) -> Precision | None:
        """Precision of the products of the residual encoder and the decoder when images are encoded and latents decoded: the frozen
        encoder's. Alignment is float32. None: autocast of the caller applies."""
        return getattr(self.frozen, "precision", None)

    def check_side(self, side: int) -> None:
        """Refuses an image side in pixels that the encoder does not support."""
        self._outside[0].check_side(side)

    def features(self, images: Tensor) -> Tensor:
        """Frozen features [B, C, h, w] of images [B, 3, H, W] in [0, 1]."""
        return self._outside[0].encode(images)

    def residual(self, images: Tensor) -> Tensor:
        """Residual [B, c, h, w] before alignment; c is 0 without a residual encoder."""
        if self.residual_encoder is None:
            return images.new_zeros(len(images), 0, *(side // self.stride for side in images.shape[2:]))
        with products_in(self.precision, images.device):
            return in_chunks(self.residual_encoder, images, chunk_size(images.device, *images.shape[2:])).to(images.dtype)

    @property
    def used_alignment(self) -> Alignment | None:
        """The alignment that ``encode`` applies; None without a residual."""
        return self.replacement or self.alignment

    @torch.no_grad()
    def encode(self, images: Tensor, align: str | None = None) -> Tensor:
        """Raw latents [B, C + c, h, w]; ``align``: ``none`` or ``batch`` instead of the tokenizer's mode."""
        with products_in(self.precision and "fp32", images.device):
            return self._encoded(images, align)

    def _encoded(self, images: Tensor, align: str | None) -> Tensor:
        features = self.features(images)
        if self.residual_encoder is None:
            return features
        own = self.used_alignment
        assert own is not None  # a residual comes with an alignment
        mode = align or own.mode
        if mode == "none":
            return torch.cat([features, self.residual(images)], dim=1)
        if mode == "batch":
            strength = own.strength if own.mode == "batch" else 1.0
            alignment = Alignment("batch", feature_channels=own.features, residual_channels=own.channels, strength=strength)
            return torch.cat([features, alignment.to(images.device)(self.residual(images), features)], dim=1)
        if mode != own.mode:
            raise ValueError(f"this tokenizer has the alignment '{own.mode}', not '{mode}'")
        whole = torch.cat([features, self.residual(images)], dim=1)
        return in_chunks(lambda chunk: self._aligned(chunk, own), whole, chunk_size(images.device, *images.shape[2:]))

    def _aligned(self, latents: Tensor, alignment: Alignment) -> Tensor:
        """Latents with aligned residual [B, C + c, h, w] from features and unaligned residual [B, C + c, h, w]."""
        features, residual = latents.split([self.feature_channels, self.channels - self.feature_channels], dim=1)
        return torch.cat([features, alignment(residual, features)], dim=1)

    def _as_trained(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C + c, h, w] as the decoder was trained on them."""
        if self.replacement is None:
            return latents
        assert self.alignment is not None  # the replaced one
        features, residual = latents.split([self.feature_channels, self.channels - self.feature_channels], dim=1)
        return self._aligned(torch.cat([features, self.replacement.undo(residual)], dim=1), self.alignment)

    def _pixels(self, raw: Tensor) -> Tensor:
        """Unclamped images [B, 3, H, W] of one chunk of raw latents [B, C + c, h, w]."""
        latents = self._as_trained(raw)
        with products_in(self.precision, raw.device):
            pixels = self.decoder(latents)
        return pixels.to(raw.dtype) * 0.5 + 0.5

    def decode(self, raw: Tensor, clamp: bool = True) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] (unclamped if ``clamp`` is False) of raw latents [B, C + c, h, w]."""
        size = chunk_size(raw.device, *(side * self.stride for side in raw.shape[2:]))
        with products_in(self.precision and "fp32", raw.device):
            images = in_chunks(self._pixels, raw, size)
        return images.clamp(0, 1) if clamp else images


class Codec(nn.Module):
    """An encoder with its own decoder (SD-VAE, VA-VAE), with the interface of ``Tokenizer``."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self._outside = (encoder,)
        self.channels = self.feature_channels = encoder.channels
        self.stride = encoder.stride

    @property
    def frozen(self) -> Any:
        """The frozen encoder."""
        return self._outside[0]

    def check_side(self, side: int) -> None:
        """Refuses an image side in pixels that the encoder does not support."""
        self._outside[0].check_side(side)

    def features(self, images: Tensor) -> Tensor:
        """The latents themselves, [B, C, h, w] of images [B, 3, H, W]."""
        return self._outside[0].encode(images)

    def residual(self, images: Tensor) -> Tensor:
        """An empty residual [B, 0, h, w]."""
        return images.new_zeros(len(images), 0, *(side // self.stride for side in images.shape[2:]))

    def encode(self, images: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] of images [B, 3, H, W] in [0, 1]."""
        return self._outside[0].encode(images)

    def decode(self, raw: Tensor, clamp: bool = True) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of raw latents."""
        return self._outside[0].decode(raw, clamp=clamp)
