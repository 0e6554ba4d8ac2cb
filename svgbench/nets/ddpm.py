"""DDPM's noise prediction as DiT has it (Ho et al. 2020, arXiv 2006.11239; Peebles and Xie, arXiv 2212.09748)."""

from __future__ import annotations

from torch import Tensor, nn

from svgbench.nets.sit import SiT


class EpsilonModel(nn.Module):
    """A transformer that names the noise in x_k = sqrt(a_k) x + sqrt(1 - a_k) eps at step k of 1000 (0 nearly data, 999 nearly noise)."""

    def __init__(self, sit: SiT) -> None:
        super().__init__()
        self.sit = sit
        self.channels, self.grid, self.classes = sit.channels, sit.grid, sit.classes

    def epsilon(self, x: Tensor, timestep_index: Tensor, labels: Tensor) -> Tensor:
        """The noise [B, C, h, w] in x [B, C, h, w] at steps [B] for labels [B]."""
        return self.sit(x, timestep_index, labels)
