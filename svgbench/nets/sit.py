"""SiT: the velocity transformer on latents (Ma et al. 2024, arXiv 2401.08740; SVG section 3.4), and the options in which related models
differ.

The parameters of the released SVG, SiT, DiT, REPA, LightningDiT and RAE networks are loaded by renaming and reshaping
(``svgbench.releases``): patch and output orders are the same, and ``modulation`` is their ``adaLN_modulation.1`` of all blocks,
concatenated along the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from svgbench.errors import BadConfig
from svgbench.nets.blocks import Block, FourierEmbedding, MlpKind, Norm, TimeEmbedding, grid_positions, modulate, rotary_angles, token_norm
from svgbench.nets.execution import BlockList
from svgbench.nets.wide_head import WideHead


class Tapped(NamedTuple):
    """A network's prediction [B, C, h, w] and its tokens [B, N, width] after one of its blocks (which REPA aligns)."""

    prediction: Tensor
    tokens: Tensor


class SiT(nn.Module):
    """Velocity [B, C, h, w] of latents x_t [B, C, h, w] at times t [B] (0 noise, 1 data) for labels [B]; ``classes`` is the null label."""

    positions: Tensor | None
    """Added to the tokens, [N, C]; None with only rotary positions."""
    rotary: Tensor | None
    """Cosines and sines of the positions, [2, N, D]; None without rotary positions."""

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
        norm: Norm = "layer",
        mlp: MlpKind = "gelu",
        position: Literal["sincos", "rope", "both"] = "sincos",
        time: Literal["cosine", "fourier"] = "cosine",
        learned_sigma: bool = False,
        wide: Mapping[str, Any] | None = None,
        spacing: float = 1.0,
        interval: bool = False,
    ) -> None:
        """``grid``: latent positions per side; a token covers ``patch`` by ``patch`` positions; ``learned_sigma``: C further outputs, for a
        variance (DiT); ``wide``: width, depth and heads of RAE's wide head, which then computes the outputs; ``spacing``: distance between
        the positions of neighbouring tokens, below 1 when a training continues with a larger grid;
        ``interval``: times are intervals [B, 2], whose length is embedded too (MeanFlow)."""
        left = ("self", "__class__", *(["spacing"] if spacing == 1 else []), *([] if interval else ["interval"]))
        self_sizes = {name: value for name, value in locals().items() if name not in (*left, "left")}
        super().__init__()
        self.sizes: dict[str, Any] = self_sizes  # the arguments with which the same network can be built again
        _check(grid, patch, width, heads, position, wide)
        self.channels, self.grid, self.classes, self.patch, self.depth, self.width = channels, grid, classes, patch, depth, width
        rotary, side = position != "sincos", grid // patch
        inputs, outputs = channels * patch * patch, (1 + learned_sigma) * channels * patch * patch
        alike: dict[str, Any] = {"mlp_ratio": mlp_ratio, "qk_norm": qk_norm, "norm": norm, "mlp": mlp}
        self.patches = nn.Linear(inputs, width)
        self.time = (TimeEmbedding if time == "cosine" else FourierEmbedding)(width)
        if interval:
            self.interval = TimeEmbedding(width)
        self.labels = nn.Embedding(classes + 1, width)
        self.blocks = BlockList(Block(width, heads, **alike) for _ in range(depth))
        self.modulation = nn.Linear(width, depth * 6 * width)
        if wide is None:
            self.final_norm = token_norm(width, norm)
            self.final_modulation = nn.Linear(width, 2 * width)
            self.final = nn.Linear(width, outputs)
        else:
            self.wide = WideHead(
                inputs=inputs, outputs=outputs, condition=width, side=side, rotary=rotary, spacing=spacing, **wide, **alike
            )
        self.register_buffer("positions", grid_positions(width, side, spacing) if position != "rope" else None, persistent=False)
        self.register_buffer("rotary", rotary_angles(width // heads, side, spacing) if rotary else None, persistent=False)
        self._initialise()

    @property
    def head(self) -> SiT | WideHead:
        """The module whose ``final`` layer computes the outputs."""
        return self.wide if hasattr(self, "wide") else self

    def _initialise(self) -> None:
        """DiT's initialisation: Xavier for matrices, small normal embeddings, zero gates and output, so that each block begins as the
        identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.labels, *self.time.mlp, *(self.interval.mlp if hasattr(self, "interval") else ())):
            if isinstance(layer, (nn.Embedding, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.02)
        for layer in {self.modulation, self.head.modulation, self.head.final_modulation, self.head.final}:
            nn.init.zeros_(layer.weight)

    def compile_blocks(self) -> None:
        """Compiles the blocks in place; all have the same code, so only one compilation is needed."""
        self.blocks.compile()
        if self.head is not self:
            self.head.blocks.compile()

    @property
    def parts(self) -> list[nn.Module]:
        """The modules whose weights a sharded training gathers one after the other, each once in a pass; the rest is small."""
        wide = [*self.head.blocks, self.head.modulation] if self.head is not self else []
        return [*self.blocks, self.modulation, *wide]

    def tokens(self, x: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> patches [B, N, C * patch * patch], with channels first, as in the kernel of a convolution."""
        if self.patch == 1:
            return x.flatten(2).transpose(1, 2)
        b, c, h, w = x.shape
        p = self.patch
        return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)

    def latents(self, tokens: Tensor) -> Tensor:
        """Outputs [B, N, patch * patch * C], with channels last, as in DiT's final layer -> [B, C, h, w]."""
        b, p, side = len(tokens), self.patch, self.grid // self.patch
        if p == 1:
            return tokens.transpose(1, 2).reshape(b, -1, side, side)
        return tokens.reshape(b, side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, side * p, side * p)

    def _time(self, t: Tensor) -> Tensor:
        """The embedding [B, width] of times [B], or of intervals [B, 2]: that of the start plus that of the length."""
        return self.time(t) if t.dim() == 1 else self.time(t[:, 0]) + self.interval(t[:, 1] - t[:, 0])

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, tap: int | None = None) -> Tensor | Tapped:
        """Velocity [B, C, h, w]; with ``tap`` k also the tokens [B, N, width] after the first k blocks."""
        outputs, tokens = self._run(x, t, labels, tap)
        return outputs[:, : self.channels] if tokens is None else Tapped(outputs[:, : self.channels], tokens)

    def outputs(self, x: Tensor, t: Tensor, labels: Tensor, tap: int | None = None) -> Tensor | Tapped:
        """All outputs: [B, C, h, w], or [B, 2C, h, w] with a learned variance last; with ``tap`` k also the tokens after k blocks."""
        outputs, tokens = self._run(x, t, labels, tap)
        return outputs if tokens is None else Tapped(outputs, tokens)

    def _run(self, x: Tensor, t: Tensor, labels: Tensor, tap: int | None) -> tuple[Tensor, Tensor | None]:
        """All outputs, and the tokens after block ``tap``."""
        if tap is not None and not 1 <= tap <= self.depth:
            raise BadConfig(f"a transformer of {self.depth} blocks has no tokens after block {tap}; use 1 to {self.depth}.")
        patches, time = self.tokens(x), self._time(t)
        tokens, tapped = self.patches(patches).to(x.dtype), None  # the residual stream keeps the latents' precision under autocast
        if self.positions is not None:
            tokens = tokens + self.positions
        condition = nn.functional.silu(time + self.labels(labels))
        if self.head is not self:  # RAE's net passes its condition through the SiLU twice
            condition = nn.functional.silu(condition)
        modulations = self.modulation(condition).unflatten(1, (self.depth, 6, self.width)).unbind(1)
        blocks = self.blocks.called(tokens, modulations[0])
        for count, (block, modulation) in enumerate(zip(blocks, modulations, strict=True), start=1):
            tokens = block(tokens, modulation, self.rotary)
            tapped = tokens if count == tap else tapped
        if self.head is not self:
            return self.latents(self.wide(patches, nn.functional.silu(time.unsqueeze(1) + tokens))), tapped
        shift, scale = self.final_modulation(condition).unsqueeze(1).chunk(2, dim=2)
        return self.latents(self.final(modulate(self.final_norm(tokens), shift, scale))), tapped


def _check(grid: int, patch: int, width: int, heads: int, position: str, wide: Mapping[str, Any] | None) -> None:
    """Refuses sizes that do not fit each other."""
    if grid % patch:
        raise BadConfig(f"a latent grid of {grid} does not divide into tokens of {patch}; use a patch that divides it.")
    if width % 4 or width % heads:
        raise BadConfig(
            f"a transformer of width {width} with {heads} heads cannot be built; use a width that is a multiple of 4 and of heads."
        )
    sizes = [(width, heads), *([(wide["width"], wide["heads"])] if wide else [])]
    for wide_width, wide_heads in sizes:
        if wide_width % wide_heads:
            raise BadConfig(f"a wide head of width {wide_width} cannot have {wide_heads} heads; use a multiple of heads as width.")
        if position != "sincos" and wide_width // wide_heads % 4:
            raise BadConfig(
                f"rotary positions need heads whose width is a multiple of 4, "
                f"not {wide_width // wide_heads}; use another number of heads, or position: sincos."
            )
