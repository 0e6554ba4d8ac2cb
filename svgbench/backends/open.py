"""Opens the encoder of a card: one interface for the encoders of all backends."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svgbench.backends.network import Network
from svgbench.backends.tokens import TokenNetwork
from svgbench.config.backends import BACKENDS
from svgbench.config.cards import EncoderCard
from svgbench.config.foreign import NOT_STATED, by_name
from svgbench.config.preprocessing import check_statistics
from svgbench.config.schema import Features
from svgbench.errors import BadConfig, BadInput, BadWeights, unknown
from svgbench.nets.chunks import chunk_size, in_chunks
from svgbench.nets.precision import Precision, products_in
from svgbench.weights import files

HALF = (torch.float16, torch.bfloat16)


class FrozenEncoder(nn.Module):
    """A frozen encoder: images [B, 3, H, W] in [0, 1] -> latents [B, C, H / stride, W / stride], float32.

    Images are computed in chunks of one constant shape, so that a latent does not depend on the other images of the batch, bit for bit.
    """

    mean: Tensor
    std: Tensor
    weights_key: str | None = None
    """Dotted path of the weights in their checkpoint; None for random weights."""
    precision: Precision | None = None
    """Precision of the network's products (``encoder.precision`` of a run); None: autocast of the caller applies."""

    def __init__(self, card: EncoderCard, network: Network) -> None:
        super().__init__()
        self.card, self.network = card, network
        self.channels, self.stride = card.channels, card.stride
        self.scale = Fraction(card.pixels.scale)
        self.register_buffer("mean", torch.tensor(card.pixels.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.pixels.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Does nothing: the encoder stays in evaluation mode, so that a trainer cannot switch its dropout on."""
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Features, or the posterior mean of a codec, [B, C, h, w] float32, of images [B, 3, H, W] in [0, 1].

        Raises BadInput for other dtypes and shapes, BadConfig when H or W is not a multiple of ``stride``.
        """
        return self._in_chunks(self.network.encode, images)

    @torch.no_grad()
    def encode_blocks(self, images: Tensor) -> Tensor:
        """The tokens of each of the card's blocks, not yet combined, [B, L, C, h, w] float32, of images [B, 3, H, W] in [0, 1]. Raises as
        ``encode``."""
        return self._in_chunks(self.network.encode_blocks, images)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """A function of normalised pixels [b, 3, H, W] for images [B, 3, H, W], in chunks of one shape."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            got = f"{images.dtype} {tuple(images.shape)}"
            raise BadInput(f"images for '{self.card.name}' must be floats [B, 3, H, W] in [0, 1], got {got}.")
        for side in images.shape[2:]:
            self.check_side(side)
        with products_in(self.precision, images.device):
            return in_chunks(lambda chunk: self._encode(chunk, function), images, chunk_size(images.device, *images.shape[2:]))

    @torch.no_grad()
    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """Images [B, 3, H, W] of a codec's latents [B, C, h, w], clamped to [0, 1] unless ``clamp`` is False. Raises BadInput for an
        encoder without a decoder."""
        if self.card.kind != "codec":
            raise BadInput(f"'{self.card.name}' gives features and has no decoder; train one with the autoencoder stage.")
        height, width = (side * self.stride for side in latents.shape[2:])
        with products_in(self.precision, latents.device):
            images = in_chunks(self._decode, latents, chunk_size(latents.device, height, width))
        return images.clamp(0, 1) if clamp else images

    def forward(self, images: Tensor) -> Tensor:
        """The same as ``encode``."""
        return self.encode(images)

    def check_side(self, side: int) -> None:
        """Raises BadConfig when a side in pixels is not a multiple of ``stride``, or not the only side that the network accepts."""
        if side % self.stride or side == 0:
            below = side - side % self.stride
            use = f"{below} or {below + self.stride}" if below else f"{self.stride}"
            raise BadConfig(f"images of {side} px cannot be divided into the {self.stride} px patches of '{self.card.name}'; use {use}.")
        if self.network.side is not None and side * self.scale != self.network.side:
            fitting = self.network.side / self.scale
            raise BadConfig(f"'{self.card.name}' takes only images of {fitting} px, not {side}; resize them or use another backend.")

    def _encode(self, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.scale != 1:
            size = [int(side * self.scale) for side in images.shape[2:]]
            smooth = self.card.pixels.antialias
            images = F.interpolate(images, size=size, mode="bicubic", antialias=smooth, align_corners=False)
            images = images.clamp(0, 1) if smooth else images
        return function((images - self.mean) / self.std).float()

    def _decode(self, latents: Tensor) -> Tensor:
        images = self.network.decode(latents).float() * self.std + self.mean
        if self.scale != 1:
            size = [int(side / self.scale) for side in images.shape[2:]]
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        return images


def open_encoder(
    card: EncoderCard,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    random_weights_seed: int | None = None,
    weights_key: str | None = None,
) -> FrozenEncoder:
    """Opens the encoder of a card with its pinned weights, those of a local file ``weights``, or random ones (``random_weights_seed``).

    ``weights_key``: the dotted path of the weights in a checkpoint with several. Raises BadWeights for a file that is missing, damaged or
    of another architecture, BadConfig for a card that the backend cannot build, BadInput for a backend that is not installed.
    """
    path = None if random_weights_seed is not None else files.resolve(card, weights)
    state = files.read(path, weights_key) if path else None
    network = open_network(card, state, seed=random_weights_seed or 0)
    if state is not None:
        where = f"{path} for '{card.name}'"
        files.fill(network.model, adapted(network, state, where), where=where, file_names=state)
    card = _completed(card, network)
    if path is not None and weights is not None:
        check_statistics(path, card.pixels.mean, card.pixels.std, card.name)
    encoder = FrozenEncoder(card, network).to(device)
    encoder.weights_key = state.key if isinstance(state, files.State) else None
    return encoder


def adapted(network: Network, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights of a file with the names of the network, float32. Raises BadWeights, whose message begins with ``where``, when they
    cannot be converted."""
    try:  # float32, because tensors that are resampled need it
        return network.adapt({name: value.float() if value.dtype in HALF else value for name, value in state.items()})
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        kind = files.looks_like(state)
        guess = f"it looks like {kind}; " if kind else ""
        raise BadWeights(
            f"{where} does not match this architecture: it cannot be loaded into {type(network.model).__name__} ({type(error).__name__}); "
            f"{guess}give a file of this architecture."
        ) from None


def open_network(card: EncoderCard, state: dict[str, Tensor] | None = None, *, seed: int = 0) -> Network:
    """The trainable network of a card with random weights from ``seed``. The global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return opener(card.backend)(card, state)


def opener(backend: str) -> Callable[[EncoderCard, dict[str, Tensor] | None], Network]:
    """The function that opens the cards of a backend: from the table, else from the entry point of an installed package. Raises BadInput
    for a package that is not installed, UnknownName for an unknown backend."""
    if backend in BACKENDS:
        row = BACKENDS[backend]
        try:
            return pkgutil.resolve_name(row.opener)
        except ModuleNotFoundError as error:
            if (error.name or "svgbench").partition(".")[0] == "svgbench":
                raise
            install = f"'svgbench[{row.extra}]'" if row.extra else row.package
            raise BadInput(f"the backend {backend} needs the package {error.name}: pip install {install}.") from None
    plugins = {point.name: point for point in entry_points(group="svgbench.backends")}
    if backend not in plugins:
        raise unknown("backend", backend, [*BACKENDS, *plugins])
    try:
        return plugins[backend].load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"the backend {backend}, which an installed package adds, cannot be loaded ({error}); reinstall it.") from None


def _completed(card: EncoderCard, network: Network) -> EncoderCard:
    """Checks the card against the network; a card made from BACKEND:NAME gets the values that only the opened network has."""
    stride = network.stride / Fraction(card.pixels.scale)
    if card.features != Features() and not isinstance(network, TokenNetwork):
        raise BadConfig(f"'{card.name}': the backend {card.backend} has no choice of features; leave the field features out.")
    if card.channels == 0:
        if card.pixels.mean == NOT_STATED.mean and card.pixels.std == NOT_STATED.std and by_name(card):
            statistics = {"mean": network.mean or card.pixels.mean, "std": network.std or card.pixels.std}
        else:  # the model's files state its statistics
            statistics = {}
            network.mean, network.std = card.pixels.mean, card.pixels.std
        params_m = round(sum(p.numel() for p in network.model.parameters()) / 1e6, 1)
        card = card.model_copy(
            update={"channels": network.channels, "params_m": params_m, "pixels": card.pixels.model_copy(update=statistics)}
        )
    if card.channels != network.channels or card.stride != stride:
        raise BadConfig(
            f"the card '{card.name}' has {card.channels} channels at stride {card.stride}, but the network of {card.backend} has "
            f"{network.channels} channels at stride {stride}; correct the card."
        )
    return card
