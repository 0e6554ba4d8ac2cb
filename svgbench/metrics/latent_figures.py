"""The figures of a diffusability card, declared once: names, titles and digits for the table and its pictures. No torch.

The functions that compute them are in ``diffusability``, ``velocity_variance`` and ``latent_neighbours``; docs/diagnose.md defines them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOISES = (0.0, 0.1, 0.3, 1.0)
"""Standard deviations of the noise that is added to standardised latents before they are decoded."""
NEIGHBOURS = 10
"""Number of nearest neighbours of an image whose classes are counted."""


@dataclass(frozen=True, kw_only=True)
class LatentFigure:
    """One row of the card."""

    name: str
    """Its name in ``scores.json``."""
    title: str
    """Its title in tables and pictures."""
    digits: int
    """Decimals in tables."""
    better: Literal["lower", "higher", ""] = ""
    """The direction that its source found better for generation; empty where no source states one."""
    logarithmic: bool = False
    """Whether its panel has a logarithmic axis."""

    @property
    def heading(self) -> str:
        """Title with an arrow in the better direction, if there is one."""
        return self.title + {"lower": " ↓", "higher": " ↑", "": ""}[self.better]


FIGURES: tuple[LatentFigure, ...] = (
    LatentFigure(name="viv_gaussian", title="VIV, Gaussian", digits=3, better="lower"),
    LatentFigure(name="viv_empirical", title="VIV, images", digits=3, better="lower"),
    LatentFigure(name="effective_rank", title="effective rank", digits=2),
    LatentFigure(name="participation_ratio", title="participation ratio", digits=2),
    LatentFigure(name="condition_number", title="condition number", digits=0, logarithmic=True),
    LatentFigure(name="effective_rank_whole", title="rank, whole latent", digits=1),
    LatentFigure(name="kurtosis", title="excess kurtosis", digits=2),
    LatentFigure(name="class_share", title="class share", digits=3, better="higher"),
    LatentFigure(name="neighbour_share", title="own-class neighbours", digits=3, better="higher"),
    LatentFigure(name="lds", title="LDS", digits=3, better="higher"),
    LatentFigure(name="cds", title="CDS", digits=3, better="higher"),
    LatentFigure(name="high_frequency", title="high frequencies", digits=3, better="lower"),
    LatentFigure(name="spectral_slope", title="spectral slope", digits=2),
    LatentFigure(name="local_continuity", title="local continuity", digits=3),
    *(LatentFigure(name=f"noise_psnr_{noise:g}", title=f"PSNR, noise {noise:g} (dB)", digits=2) for noise in NOISES),
    LatentFigure(name="ifid", title="interpolated FID", digits=2, better="lower"),
)
"""In the order of the table."""
DECODED = frozenset({"ifid", *(f"noise_psnr_{noise:g}" for noise in NOISES)})
"""Figures that need a decoder."""
NO_DECODER = "it has no decoder."
"""Why a tokenizer lacks them."""
