"""The wide head of RAE's transformer (arXiv 2510.11690 section 5; DDT, arXiv 2504.05741): a few wide blocks with one condition per
token."""

from __future__ import annotations

from torch import Tensor, nn

from svgbench.nets.blocks import Block, MlpKind, Norm, modulate, rotary_angles, token_norm
from svgbench.nets.execution import BlockList


class WideHead(nn.Module):
    """Outputs [B, N, out] from noised patches [B, N, in]; each block is conditioned on the backbone's tokens at the same positions [B, N,
    W].

    A latent of many channels needs a network wider than the channels (RAE section 4); only these blocks have that width.
    """

    rotary: Tensor | None
    """Cosines and sines of the positions, [2, N, D]; None without rotary positions."""

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        condition: int,
        width: int,
        depth: int,
        heads: int,
        side: int,
        mlp_ratio: float,
        qk_norm: bool,
        norm: Norm,
        mlp: MlpKind,
        rotary: bool,
        spacing: float = 1.0,
    ) -> None:
        """``condition``: the backbone's width; ``side``: tokens per side, for rotary positions (the only ones); ``spacing``: their
        distance."""
        super().__init__()
        self.depth, self.width = depth, width
        self.project = nn.Linear(condition, width) if condition != width else nn.Identity()
        self.patches = nn.Linear(inputs, width)
        self.blocks = BlockList(Block(width, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, norm=norm, mlp=mlp) for _ in range(depth))
        self.modulation = nn.Linear(width, depth * 6 * width)
        self.final_norm = token_norm(width, norm)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, outputs)
        self.register_buffer("rotary", rotary_angles(width // heads, side, spacing) if rotary else None, persistent=False)

    def forward(self, patches: Tensor, condition: Tensor) -> Tensor:
        condition = nn.functional.silu(self.project(condition))
        tokens = self.patches(patches).to(patches.dtype)
        modulations = self.modulation(condition).unflatten(2, (self.depth, 6, self.width)).unbind(2)
        for block, modulation in zip(self.blocks.called(tokens, modulations[0]), modulations, strict=True):
            tokens = block(tokens, modulation, self.rotary)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        return self.final(modulate(self.final_norm(tokens), shift, scale))
