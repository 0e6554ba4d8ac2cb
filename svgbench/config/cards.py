"""Encoder cards: how one encoder opens, its pixels, its grid, its weights and its licence. Read from YAML, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from svgbench.config.file_state import file_digest
from svgbench.config.file_types import form_of
from svgbench.config.foreign import describe
from svgbench.config.parse import validate
from svgbench.config.part import Count, Part, Positive
from svgbench.config.records import digest
from svgbench.config.schema import Encoder, Features
from svgbench.config.weight_files import weights_files
from svgbench.errors import BadConfig, BadWeights, unknown
from svgbench.shelf import entries, folder, read_yaml

LARGE = 64 << 20
"""Bytes above which a file's type is checked before its digest is computed."""
FAMILIES = ("dinov3", "dinov2", "mae", "siglip", "sd-vae", "va-vae")


class Pixels(Part):
    """What the encoder expects of an image in [0, 1]: (image - mean) / std after an optional resize."""

    mean: tuple[float, float, float]
    """Mean of each colour (red, green, blue), which is subtracted from pixels in [0, 1]."""
    std: tuple[Positive, Positive, Positive]
    """Standard deviation of each colour, by which pixels are then divided."""
    size: Count
    """Side in pixels of the images that the card is tested with."""
    scale: Annotated[str, Field(pattern=r"^\d+/\d+$")] = "1/1"
    """The encoder sees images resized by this ratio (bicubic, antialiased): ``14/16`` gives DINOv2 224 px for 256 px, so that patch 14
    yields the same 16x16 grid. The card's ``stride`` counts pixels of the original image: 16."""
    antialias: bool = True
    """Whether that resize antialiases and clips to [0, 1]; false as in RAE's code."""


class Weights(Part):
    """Where the weights are and how they are identified."""

    file: str | None = None
    """A file on the shelf itself (tiny members), relative to ``encoders/``."""
    hub: str | None = None
    """Hugging Face repository."""
    hub_file: str | None = None
    """File in that repository (``model.safetensors`` when empty)."""
    revision: str | None = None
    """Commit of that repository; pins the weights."""
    sha256: str | None = None
    """Digest of the file, if it is pinned."""


class EncoderCard(Part):
    """One encoder."""

    name: str
    """Name of the card: its file's name without ``.yaml``."""
    family: str
    """Family that ``--encoder`` may name in place of a card, such as ``dinov3``."""
    preset: Literal["tiny", "mini", "small", "paper", "any"] = "any"
    """``tiny`` and ``mini`` mark the family's members for 32 and 64 px; ``paper`` the member that ``--encoder FAMILY`` means in the presets
    small and paper."""
    backend: str
    """Opener: timm, open_clip, transformers, diffusers, checkpoint, or one that an installed package adds."""
    model: str
    """The library's name of the architecture (timm: ``architecture.tag``; transformers, diffusers: the class)."""
    arguments: dict[str, Any] = {}
    """Constructor arguments that override the library's defaults."""
    kind: Literal["features", "codec"] = "features"
    """A codec also decodes and is adopted as the autoencoder."""
    features: Features = Features()
    """For transformers: which blocks' tokens are the features, how they are combined and normalised."""
    channels: Annotated[int, Field(ge=0)]
    """Channels of a latent; 0 only in cards for BACKEND:NAME, until the model is opened."""
    stride: Count
    """Image pixels per latent position."""
    patch: Count = 1
    """Latent positions per SiT token side."""
    pixels: Pixels
    """What the encoder expects of an image."""
    weights: Weights = Weights()
    """Where the weights are."""
    params_m: Annotated[float, Field(ge=0)]
    """Millions of parameters; 0 as for ``channels``."""
    gflops: Annotated[float, Field(ge=0)] = 0
    """Operations to encode one image of ``pixels.size``, in 1e9 (a multiply-add is two); 0 if unknown. A plan's hours need it."""
    decode_gflops: Annotated[float, Field(ge=0)] = 0
    """Operations to decode its latent, in 1e9; codecs only."""
    licence: str
    """Licence of the weights."""
    forbids: tuple[Literal["commercial"], ...] = ()
    """Uses that the licence forbids: weights are not opened if SVGBENCH_USE declares such a use."""
    origin: str
    """Where the authors publish it."""
    paper: str
    """arXiv number."""
    trained_by: str | None = None
    """The command that made the weights, for tiny members."""
    note: str | None = None
    """Anything else that a user should know."""


def in_order(known: Iterable[EncoderCard]) -> list[EncoderCard]:
    """Cards as lists show them: those of drawn images by preset, then all others; each by family and size."""
    first = ("tiny", "mini")
    return sorted(known, key=lambda c: (first.index(c.preset) if c.preset in first else len(first), c.family, c.params_m, c.name))


def load(path: Path) -> EncoderCard:
    """The card in one YAML file."""
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, _changed: int) -> EncoderCard:
    return validate(EncoderCard, {"name": path.stem, **read_yaml(path)}, where=str(path))


def load_cards(extra: Path | None = None) -> dict[str, EncoderCard]:
    """Every card by name: the shelf's, then those of a user's folder ``extra``."""
    return {name: load(path) for name, path in entries("encoders", extra).items()}


def find(name: str, preset: str, extra: Path | None = None) -> EncoderCard:
    """The card of this name; for a family, its member for the preset (``small`` and ``paper``: the one that its paper used); for
    BACKEND:NAME, a new card."""
    known = entries("encoders", extra)
    if name in known:
        return load(known[name])
    if ":" in name:
        return validate(EncoderCard, describe(name), where=name)
    wanted = preset if preset in ("tiny", "mini") else "paper"
    cards = load_cards(extra)
    for card in cards.values():
        if card.family == name and card.preset == wanted:
            return card
    raise unknown("encoder card", name, [*cards, *(family for family in FAMILIES if family not in cards)])


def card_of(encoder: Encoder, preset: str, extra: Path | None = None) -> EncoderCard:
    """The card of a run's ``encoder``, with the run's choice of features."""
    card = find(encoder.card, preset, extra)
    return card if encoder.features is None else with_features(card, encoder.features)


def with_features(card: EncoderCard, features: Features) -> EncoderCard:
    """The card with another choice of features; its channels follow."""
    if card.kind == "codec" and features != Features():
        raise BadConfig(f"encoder.features: '{card.name}' is a codec: its latent is the posterior's mean; choose a transformer.")
    channels = card.channels // card.features.width * features.width
    return card.model_copy(update={"features": features, "channels": channels})


def identity(card: EncoderCard, weights: Path | None = None, key: str | None = None) -> str:
    """Digest of everything that affects an encoder's outputs: the card's opening fields and its weights, by their pinned digest or
    revision, or by the bytes of a given file and the ``key`` inside it. A hub repository without either is identified by its name: pin it
    if it may change."""
    opening = card.model_dump(mode="json", include={"backend", "model", "arguments", "kind", "channels", "stride", "patch", "pixels"})
    if card.pixels.antialias:
        opening["pixels"].pop("antialias")  # the default is left out, so that older identities stay valid
    if card.features != Features():
        opening["features"] = card.features.model_dump(mode="json")
    if key is not None:
        opening["weights_key"] = key
    pins = card.weights
    if weights is not None:
        return digest({**opening, "weights": digest_of(weights, card.name)})
    if pins.sha256:
        return digest({**opening, "weights": pins.sha256})
    path = weights_file(card)
    source = digest_of(path, card.name) if path else f"{pins.hub}/{pins.hub_file or 'model.safetensors'}@{pins.revision or 'main'}"
    return digest({**opening, "weights": source})


def weights_file(card: EncoderCard) -> Path | None:
    """The file of the weights that a card ships with; None for cards whose weights are elsewhere."""
    if card.weights.file is None:
        return None
    file = Path(card.weights.file)
    return file if file.is_absolute() else folder("encoders") / file


def digest_of(path: Path, name: str) -> str:
    """Digest of the files of a weights path. ``name``: the owner of the weights, for errors."""
    digests = []
    for part in weights_files(path):
        try:
            if part.suffix not in (".distcp", ".metadata") and part.stat().st_size > LARGE:
                form_of(part)  # refuses other files in seconds, before an hour of hashing
            digests.append(file_digest(part))
        except OSError as error:
            raise BadWeights(f"{part} for '{name}' cannot be read ({error.strerror}); give the path of a weights file.") from None
    return digests[0] if len(digests) == 1 else digest(digests)
