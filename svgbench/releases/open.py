"""``load_official``: opens an official checkpoint as a network of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from svgbench.errors import BadWeights, unknown
from svgbench.releases import autoencoders, codecs
from svgbench.releases.settings import sampling_of
from svgbench.releases.shapes import State
from svgbench.weights import files

Config = Mapping[str, Any] | None


def _svg(state: State, config: Config, where: str) -> Any:
    return autoencoders.svg_autoencoder(state, config, where).tokenizer


def _rae(state: State, config: Config, where: str) -> Any:
    decoder = autoencoders.rae_decoder(state, config, where).decoder
    return autoencoders.PixelDecoder(decoder, decoder.embed.in_features)


def _transformer(kind: str) -> Callable[[State, Config, str], Any]:
    def opened(state: State, config: Config, where: str) -> Any:
        from svgbench.releases.transformers import open_transformer

        return open_transformer(kind, dict(state), config, where)

    return opened


AUTOENCODERS: Mapping[str, Callable[[State, Config, str], Any]] = {
    "svg-autoencoder": _svg,
    "vavae": codecs.vavae,
    "sdvae": codecs.sdvae,
    "rae-decoder": _rae,
}
TRANSFORMERS: Mapping[str, Callable[[State, Config, str], Any]] = {
    kind: _transformer(kind) for kind in ("svg-dit", "sit", "dit", "repa", "lightningdit", "ddt")
}
KINDS = {**AUTOENCODERS, **TRANSFORMERS}
"""Kind -> ``(state, config, where) -> model``, frozen and in evaluation."""


def load_official(kind: str, path: str | Path, config: Config = None, weights_key: str | None = None) -> Any:
    """The official model in a ``.pt``, ``.pth``, ``.ckpt`` or ``.safetensors`` file, or in a directory of parts.

    ``config``: the release's constructor arguments by name, needed when the shapes do not determine them; ``weights_key``: the dotted path
    to the weights in a checkpoint that contains several. Averaged weights are preferred to raw ones, and the choice is written to standard
    error.

    ========================================= =====================================================================================
    kind                                      result
    ========================================= =====================================================================================
    svg-autoencoder                           ``features(images)``, ``residual(images)``, ``encode(images, align)``, ``decode(raw)``
    vavae, sdvae                              ``encode(images)`` (the posterior's mean), ``decode(latents)``
    rae-decoder                               ``decode(features)``: images in the encoder's normalised pixel space
    svg-dit, sit, repa, lightningdit, ddt     a velocity model ``(x, t, labels)``, t = 0 noise, t = 1 data
    dit                                       ``epsilon(x, timestep_index, labels)``
    ========================================= =====================================================================================

    A transformer has the attribute ``sampling``: the release's shift, sampler, schedule and guided channels, if they differ from svgbench's
    defaults; ``svgbench.sample`` uses them. Raises BadWeights for a file that does not fit the kind, UnknownName for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of official model", kind, KINDS)
    model = opened(kind, path, config, weights_key)[0]
    if kind in TRANSFORMERS:
        model.sampling = sampling_of(kind, model.channels, model.grid)
    return model


def opened(kind: str, path: str | Path, config: Config = None, weights_key: str | None = None) -> tuple[Any, str]:
    """The model, and the key of its weights in the checkpoint."""
    state = read(path, weights_key)
    return KINDS[kind](state, config, str(path)).eval().requires_grad_(False), state.key


def read(path: str | Path, weights_key: str | None = None) -> files.State:
    """Name -> tensor of an official file, read without running code."""
    place = Path(path).expanduser()
    if not place.exists():
        raise BadWeights(f"the file {place} does not exist; give the path of an official checkpoint.")
    return files.read(place, weights_key)
