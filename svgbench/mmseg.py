"""svgbench's encoders and tokenizers as a backbone of mmsegmentation (extra ``seg``), for any of its configs:

    custom_imports = dict(imports=["svgbench.mmseg"])
    model = dict(type="EncoderDecoder", decode_head=dict(in_channels=[768], in_index=[0], ...), ...,
                 backbone=dict(type="SvgbenchBackbone", encoder="dinov2-b14"))

Importing this module registers ``SvgbenchBackbone`` in ``mmseg.registry.MODELS``; nothing else of svgbench imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import svgbench
from svgbench.errors import BadConfig, BadInput
from svgbench.lab.store import Store
from svgbench.machine.runtime import Runtime
from svgbench.nets.tokenizer import Codec, Tokenizer
from svgbench.stages.graph import by_name
from svgbench.stages.tokenizers import open_tokenizer
from svgbench.tables.collect import read_run

try:
    from mmengine.model import BaseModule
    from mmseg.registry import MODELS
except ImportError as error:  # also raised by cv2, which needs the system's libGL and glib
    raise BadInput(
        f"mmsegmentation cannot be imported ({error}); pip install 'svgbench[seg]', and where libGL or libgthread is missing "
        "apt-get install libgl1 libglib2.0-0."
    ) from None

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Pixel statistics that mmsegmentation's configs give their ``SegDataPreProcessor``."""


@MODELS.register_module()
class SvgbenchBackbone(BaseModule):
    """A frozen encoder, or a run's frozen tokenizer: preprocessed images [B, 3, H, W] -> one feature map ([B, C, h, w],).

    Expects the output of ``SegDataPreProcessor`` (RGB: ``bgr_to_rgb=True``; pixels of 0 to 255, minus ``mean``, divided by ``std``). Undoes
    this normalisation, as the encoder applies its own. H and W must be multiples of its stride (set the preprocessor's ``size_divisor``, or
    slide over such crops). ``out_channels`` is C. Checkpoints do not contain its weights: they are the encoder's files, or the run's.
    """

    def __init__(
        self,
        encoder: str | None = None,
        run: str | None = None,
        latents: Literal["features", "residual", "both"] = "both",
        weights: str | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        init_cfg: Any = None,
    ) -> None:
        """``encoder``: a card's name or BACKEND:NAME, with an official file in ``weights``; or ``run``: a run's directory; ``latents``
        selects the channels of its raw latents. ``mean`` and ``std`` must be those of the config's data preprocessor."""
        if init_cfg is not None:
            raise BadConfig("SvgbenchBackbone takes no init_cfg: its weights are those of the encoder or the run.")
        super().__init__()
        if (encoder is None) == (run is None):
            raise BadConfig("SvgbenchBackbone needs one of encoder='dinov2-b14' and run='runs/NAME'.")
        if latents not in ("features", "residual", "both"):
            raise BadConfig(f"latents='{latents}' is not one of features, residual, both.")
        if run is not None:
            model: Any = open_run(Path(run))
        else:
            assert encoder is not None  # one of them is given
            model = svgbench.load_encoder(encoder, weights)
        self._outside = (model,)  # not registered: neither trained nor saved
        features = getattr(model, "feature_channels", model.channels)
        self._channels = {"features": slice(0, features), "residual": slice(features, None), "both": slice(None)}[latents]
        self.out_channels = len(range(*self._channels.indices(model.channels)))
        if not self.out_channels:
            raise BadConfig(f"{run or encoder} has no residual; use latents='features'.")
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Does nothing: the weights are already loaded."""

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """The feature map of preprocessed images, without gradient."""
        (model,) = self._outside
        encoder = model._outside[0] if isinstance(model, Tokenizer | Codec) else model
        if encoder.mean.device != pixels.device:
            model.to(pixels.device)
            encoder.to(pixels.device)
        images = ((pixels * self.std + self.mean) / 255).clamp(0, 1)
        with torch.autocast(pixels.device.type, enabled=False):
            return (model.encode(images.float())[:, self._channels],)


def open_run(place: Path) -> Tokenizer | Codec:
    """The tokenizer of a finished run's directory, on the CPU."""
    if not (place / "run.json").is_file():
        raise BadInput(f"{place} is no finished run; give the directory of one, such as runs/dinov3-tiny.")
    store = Store(place.parent / "store")
    for stage in reversed(read_run(place, store).about["stages"]):  # the last one replaced the earlier ones
        if (by_name(stage["stage"]).provides or stage["stage"]) == "autoencoder":
            store.verify(stage["stage"], stage["key"])
            return open_tokenizer(store.place(stage["stage"], stage["key"]), Runtime(device="cpu"))
    raise BadInput(f"{place}: has no finished autoencoder; run its command again first.")
