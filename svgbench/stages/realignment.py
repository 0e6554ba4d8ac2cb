"""Replaces the alignment of a finished autoencoder without training again, to measure the effect of the alignment on SiT only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from svgbench.config.choices import MOMENT_IMAGES
from svgbench.config.schema import Autoencoder
from svgbench.errors import BadConfig
from svgbench.images.store import open_images
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.nets.tokenizer import Tokenizer
from svgbench.stages.autoencoder import moments
from svgbench.stages.tokenizers import Shape, build, open_tokenizer, to_floats


def run(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """The autoencoder with the alignment ``latents.align``, from the training images: ``autoencoder.safetensors``, ``autoencoder.json``.

    Encoding uses this alignment; decoding inverts it and applies the trained alignment, so that the decoder gets the latents that it was
    trained on. If the trained alignment is ``batch``, whose map differs for each batch, it is replaced by ``frozen``, which trains
    identically, with the training images' statistics. Raises BadData if the map has no inverse.
    """
    images, device = open_images(inputs["images"]), runtime.torch_device
    about = json.loads((inputs["autoencoder"] / "autoencoder.json").read_text())
    settings, mode = Autoencoder.model_validate(about["settings"]), slice_["latents"]["align"]
    if settings.align == "batch":
        settings = settings.model_copy(update={"align": "frozen"})
    trained = open_tokenizer(inputs["autoencoder"], runtime)
    if not isinstance(trained, Tokenizer) or trained.alignment is None:
        raise BadConfig(
            f"latents.align {mode}: the autoencoder has no residual whose alignment could be replaced; leave latents.align out."
        )
    tokenizer = build(trained.frozen, settings, Shape.of(about), device, replacement=mode)
    loaded = tokenizer.load_state_dict(trained.state_dict(), strict=False)
    assert not loaded.unexpected_keys and all(key.startswith("replacement.") for key in loaded.missing_keys)
    tokenizer.eval().requires_grad_(False)

    def features(indices: Tensor) -> Tensor:
        return tokenizer.features(to_floats(images.train.batch(indices), device))

    sums = moments(tokenizer, features, images.train, runtime)
    own, replacement = tokenizer.alignment, tokenizer.replacement
    assert own is not None and replacement is not None  # ``build`` made both
    if not trained.alignment.freezes:
        own.freeze(sums)
    replacement.freeze(sums)
    if replacement.freezes:
        replacement.inverse()  # raises an error for a map without inverse
    if runtime.is_main:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tokenizer.state_dict().items()}, out / "autoencoder.safetensors")
        about |= {"settings": settings.model_dump(mode="json"), "replacement": mode}
        write_atomic(out / "autoencoder.json", (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    return {"images_seen": min(len(images.train), MOMENT_IMAGES)}
