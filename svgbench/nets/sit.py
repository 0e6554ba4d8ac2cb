"""SiT: the velocity transformer on latents (Ma et al. 2024, arXiv 2401.08740; SVG section 3.4), with QK-norm as SVG and VA-VAE have it.

Parameters map onto the released SVG DiT and SiT by renaming and reshaping: patch and output orders are theirs, and ``modulation`` holds
their ``adaLN_modulation.1`` of all blocks, one below the other. The released nets have 2C output channels; the first C are the velocity.
"""

from __future__ import annotations

from torch import Tensor, nn

from svgbench.errors import BadConfig
from svgbench.nets.blocks import Block, TimeEmbedding, grid_positions, modulate


class SiT(nn.Module):
    """Velocity [B, C, h, w] of latents x_t [B, C, h, w] at times t [B] (0 noise, 1 data) for labels [B]; ``classes`` is the null label."""

    def __init__(
        self,
        *,
        channels: int,
        grid: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        patch: int = 1,
        qk_norm: bool = True,
    ) -> None:
        """``grid`` latent positions a side, cut into tokens of ``patch`` by ``patch`` positions."""
        super().__init__()
        if grid % patch:
            raise BadConfig(f"a latent grid of {grid} does not divide into tokens of {patch}; use a patch that divides it.")
        if width % 4 or width % heads:
            raise BadConfig(f"a transformer of width {width} with {heads} heads cannot be built; use a width that 4 and the heads divide.")
        self.channels, self.grid, self.classes, self.patch, self.depth, self.width = channels, grid, classes, patch, depth, width
        self.patches = nn.Linear(channels * patch * patch, width)
        self.time = TimeEmbedding(width)
        self.labels = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm) for _ in range(depth))
        self.modulation = nn.Linear(width, depth * 6 * width)
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, patch * patch * channels)
        self.register_buffer("positions", grid_positions(width, grid // patch), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """DiT's start: Xavier for matrices, small normal embeddings, zero gates and output, so that each block begins as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for weight in (self.labels.weight, self.time.mlp[0].weight, self.time.mlp[2].weight):
            nn.init.normal_(weight, std=0.02)
        for layer in (self.modulation, self.final_modulation, self.final):
            nn.init.zeros_(layer.weight)

    def compile_blocks(self) -> None:
        """Compiles the block in place; all blocks are alike, so the first one's code serves the others."""
        for block in self.blocks:
            block.compile()

    def tokens(self, x: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> patches [B, N, C * patch * patch], channel first as a convolution's kernel has it."""
        if self.patch == 1:
            return x.flatten(2).transpose(1, 2)
        b, c, h, w = x.shape
        p = self.patch
        return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)

    def latents(self, tokens: Tensor) -> Tensor:
        """Outputs [B, N, patch * patch * C], channel last as in DiT's final layer -> [B, C, h, w]."""
        b, p, side = len(tokens), self.patch, self.grid // self.patch
        if p == 1:
            return tokens.transpose(1, 2).reshape(b, -1, side, side)
        return tokens.reshape(b, side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, side * p, side * p)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        tokens = self.patches(self.tokens(x)) + self.positions
        condition = nn.functional.silu(self.time(t) + self.labels(labels))
        modulations = self.modulation(condition).unflatten(1, (self.depth, 6, self.width)).unbind(1)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            tokens = block(tokens, modulation)
        shift, scale = self.final_modulation(condition).chunk(2, dim=1)
        return self.latents(self.final(modulate(self.final_norm(tokens), shift, scale)))
