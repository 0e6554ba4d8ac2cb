"""Encoder cards: how one encoder opens, its pixels, its grid, its weights and its licence. Read from YAML, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from svgbench.config.schema import Count, Part

FAMILIES = ("dinov3", "dinov2", "mae", "siglip", "sd-vae", "va-vae")


class Pixels(Part):
    """What the encoder expects of an image in [0, 1]: (image - mean) / std after an optional resize."""

    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    size: Count
    """Side in pixels the card is tested at (what the benchmark's images have)."""
    scale: Annotated[str, Field(pattern=r"^\d+/\d+$")] = "1/1"
    """The encoder sees images resized by this ratio (bicubic, antialiased): ``14/16`` gives DINOv2 224 of 256 px, so that patch 14 yields the
    same 16x16 grid; the card's ``stride`` is then that of the image, 16."""


class Weights(Part):
    """Where the weights are and how to know them."""

    file: str | None = None
    """A file on the shelf itself (tiny members), relative to ``encoders/``."""
    hub: str | None = None
    """Hugging Face repository."""
    hub_file: str | None = None
    """File in that repository (``model.safetensors`` when empty)."""
    revision: str | None = None
    """Commit of that repository; pins the weights."""
    sha256: str | None = None
    """Digest of the file, where it is pinned."""


class EncoderCard(Part):
    """One encoder."""

    name: str
    family: str
    preset: Literal["tiny", "small", "paper", "any"] = "any"
    """``tiny`` marks the family's tiny member; ``paper`` the member that ``--encoder FAMILY`` means in the presets small and paper."""
    backend: str
    """Opener: timm, diffusers, checkpoint."""
    model: str
    """The library's name of the architecture (timm: ``architecture.tag``)."""
    arguments: dict[str, Any] = {}
    """Constructor arguments on top of the library's own."""
    kind: Literal["features", "codec"] = "features"
    """A codec also decodes and is adopted as the autoencoder."""
    channels: Count
    stride: Count
    """Image pixels per latent position."""
    patch: Count = 1
    """Latent positions per SiT token side."""
    pixels: Pixels
    weights: Weights = Weights()
    params_m: Annotated[float, Field(gt=0)]
    licence: str
    origin: str
    """Where the authors publish it."""
    paper: str
    """arXiv number."""
    trained_by: str | None = None
    """The command that made the weights, for tiny members."""
    note: str | None = None


def load(path: Path) -> EncoderCard:
    """The card in one YAML file."""
    from svgbench.config.parse import validate
    from svgbench.shelf import read_yaml

    return validate(EncoderCard, {"name": path.stem, **read_yaml(path)}, where=str(path))
