"""The table of backends: the function that opens an encoder, the package that it needs, and the function that makes a card for
BACKEND:NAME. No torch.

A new backend is a module with an opener and a row here. Other packages register theirs as entry points of the group ``svgbench.backends``.
"""

from __future__ import annotations

from typing import NamedTuple


class Backend(NamedTuple):
    """The functions that open the encoders of one library."""

    opener: str
    """``MODULE:FUNCTION``, called with (card, state dict or None), returns a ``svgbench.backends.network.Network``."""
    package: str | None = None
    """The package on PyPI that the opener imports; None if torch is enough."""
    extra: str = ""
    """The extra of svgbench that installs the package; empty if the package is a dependency."""
    card_reader: str | None = None
    """``MODULE:FUNCTION``, called with (model, BACKEND:NAME), returns the card fields of a model without a card; None: it needs a card."""
    has_pixel_statistics: bool = False
    """Whether the library knows the pixel mean and std of the models that it lists by name."""


BACKENDS = {
    "timm": Backend(
        "svgbench.backends.from_timm:open_network", "timm", card_reader="svgbench.config.foreign:timm_card", has_pixel_statistics=True
    ),
    "open_clip": Backend(
        "svgbench.backends.from_open_clip:open_network",
        "open_clip_torch",
        card_reader="svgbench.config.foreign:open_clip_card",
        has_pixel_statistics=True,
    ),
    "transformers": Backend(
        "svgbench.backends.from_transformers:open_network", "transformers", card_reader="svgbench.config.foreign:transformers_card"
    ),
    "diffusers": Backend(
        "svgbench.backends.from_diffusers:open_network", "diffusers", card_reader="svgbench.config.foreign:diffusers_card"
    ),
    "checkpoint": Backend("svgbench.backends.from_checkpoint:open_network", card_reader="svgbench.config.foreign:checkpoint_card"),
}
"""Backend -> how it opens encoders."""
