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
    LatentFigure(name="viv_gaussian", title="irreducible variance, Gaussian", digits=3, better="lower"),
    LatentFigure(name="viv_empirical", title="irreducible variance, images", digits=4, better="lower"),
    LatentFigure(name="effective_rank", title="effective rank, channels", digits=2),
    LatentFigure(name="participation_ratio", title="participation, channels", digits=2),
    LatentFigure(name="condition_number", title="condition number, channels", digits=1, logarithmic=True),
    LatentFigure(name="effective_rank_whole", title="effective rank, whole latent", digits=1),
    LatentFigure(name="kurtosis", title="excess kurtosis", digits=2),
    LatentFigure(name="class_share", title="class share", digits=3, better="higher"),
    LatentFigure(name="neighbour_share", title="neighbours of own class", digits=3, better="higher"),
    LatentFigure(name="lds", title="near minus far (LDS)", digits=3, better="higher"),
    LatentFigure(name="cds", title="decay of similarity (CDS)", digits=4, better="higher"),
    LatentFigure(name="high_frequency", title="high-frequency energy", digits=3, better="lower"),
    LatentFigure(name="spectral_slope", title="slope of the spectrum", digits=2),
    LatentFigure(name="local_continuity", title="local continuity", digits=3),
    *(LatentFigure(name=f"noise_psnr_{noise:g}", title=f"PSNR at noise {noise:g} (dB)", digits=2) for noise in NOISES),
    LatentFigure(name="ifid", title="interpolated FID", digits=2, better="lower"),
)
"""In the order of the table."""
DECODED = frozenset({"ifid", *(f"noise_psnr_{noise:g}" for noise in NOISES)})
"""Figures that need a decoder."""
NO_DECODER = "it has no decoder."
"""Why a tokenizer lacks them."""
