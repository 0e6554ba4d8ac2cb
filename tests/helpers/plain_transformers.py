"""The released transformers once more, plainly: a function of their official names, and files of any size in their layouts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Shape(NamedTuple):
    """A published network and its millions of parameters (its paper's table)."""

    kind: str
    width: int
    millions: float
    size: dict[str, Any]


SHAPES = [
    Shape("sit", 384, 33, {"width": 384, "depth": 12, "channels": 4, "grid": 32, "patch": 2}),
    Shape("sit", 768, 130, {"width": 768, "depth": 12, "channels": 4, "grid": 32, "patch": 2}),
    Shape("sit", 1024, 458, {"width": 1024, "depth": 24, "channels": 4, "grid": 32, "patch": 2}),
    Shape("dit", 1152, 675, {"width": 1152, "depth": 28, "channels": 4, "grid": 32, "patch": 2}),
    Shape("repa", 1152, 675, {"width": 1152, "depth": 28, "channels": 4, "grid": 32, "patch": 2}),
    Shape("svg-dit", 1152, 677, {"width": 1152, "depth": 28, "channels": 392, "grid": 16}),
    Shape("lightningdit", 1152, 675, {"width": 1152, "depth": 28, "channels": 32, "grid": 16}),
    Shape("ddt", 1152, 839, {"width": 1152, "depth": 28, "channels": 768, "grid": 16, "wide": 2048}),
]


def layout(
    kind: str, *, width: int, depth: int, channels: int, grid: int = 4, patch: int = 1, classes: int = 10, wide: int = 0,
    qk_norm: bool | None = None, sigma: bool | None = None, rms: bool | None = None, swiglu: bool | None = None,
    rope: bool | None = None, fourier: bool | None = None, sincos: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """Empty tensors by their official names; a choice that is not made is the release's."""
    lightning = kind in ("lightningdit", "ddt")
    qk_norm = kind == "svg-dit" if qk_norm is None else qk_norm
    sigma = kind in ("svg-dit", "sit", "dit") if sigma is None else sigma
    rms, swiglu, rope = (lightning if choice is None else choice for choice in (rms, swiglu, rope))
    fourier = kind == "ddt" if fourier is None else fourier
    heads = {64: 4, 384: 6, 768: 12, 1024: 16, 1152: 16, 2048: 16}
    state: dict[str, Tensor] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.empty(outputs, inputs), torch.empty(outputs)

    def block(number: int, width: int) -> None:
        name, hidden = f"blocks.{number}", 4 * width
        linear(f"{name}.attn.qkv", width, 3 * width), linear(f"{name}.attn.proj", width, width)
        linear(f"{name}.adaLN_modulation.1", width, 6 * width)
        if swiglu:
            hidden = int(2 / 3 * hidden)
            linear(f"{name}.mlp.w12", width, 2 * hidden), linear(f"{name}.mlp.w3", hidden, width)
        else:
            linear(f"{name}.mlp.fc1", width, hidden), linear(f"{name}.mlp.fc2", hidden, width)
        if rms:
            state[f"{name}.norm1.weight"], state[f"{name}.norm2.weight"] = torch.empty(width), torch.empty(width)
        for part in ("q_norm", "k_norm") if qk_norm else ():
            state[f"{name}.attn.{part}.weight"] = torch.empty(width // heads[width])
            if not rms:
                state[f"{name}.attn.{part}.bias"] = torch.empty(width // heads[width])

    def embed(name: str, width: int) -> None:
        state[f"{name}.proj.weight"], state[f"{name}.proj.bias"] = torch.empty(width, channels, patch, patch), torch.empty(width)

    last = wide or width
    linear("ln1", channels, width) if kind == "svg-dit" else embed("s_embedder" if wide else "x_embedder", width)
    if wide:
        embed("x_embedder", wide)
        if wide != width:
            linear("s_projector", width, wide)
    if sincos:
        state["pos_embed"] = torch.empty(1, (grid // patch) ** 2, width)
    for name, size in (("enc_feat_rope", width), ("dec_feat_rope", wide)) if wide else (("feat_rope", width),):
        for part in ("freqs_cos", "freqs_sin") if rope else ():
            state[f"{name}.{part}"] = torch.empty((grid // patch) ** 2, size // heads[size])
    if fourier:
        state["t_embedder.W"] = torch.empty(256)
    linear("t_embedder.mlp.0", 512 if fourier else 256, width), linear("t_embedder.mlp.2", width, width)
    state["y_embedder.embedding_table.weight"] = torch.empty(classes + 1, width)
    for number in range(depth + (2 if wide else 0)):
        block(number, width if number < depth else wide)
    if rms:
        state["final_layer.norm_final.weight"] = torch.empty(last)
    linear("final_layer.adaLN_modulation.1", last, 2 * last), linear("final_layer.linear", last, (1 + sigma) * channels * patch**2)
    if kind == "repa":
        linear("projectors.0.0", width, 32)
    return state


def release(kind: str, **size: Any) -> dict[str, Tensor]:
    """A release's file with random weights; its tables of places are the fixed ones."""
    state = layout(kind, **size)
    for name, value in state.items():
        gain = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm_final.weight")) else 0.0
        value.normal_().mul_(math.prod(value.shape[1:]) ** -0.5 if value.ndim > 1 else 0.1).add_(gain)
    side = size.get("grid", 4) // size.get("patch", 1)
    if "pos_embed" in state:
        state["pos_embed"][0] = sines(side, size["width"])
    for name in [n for n in state if n.endswith("freqs_cos")]:
        angles = turns(side, state[name].shape[1]).repeat_interleave(2, dim=1)
        state[name], state[name.replace("cos", "sin")] = angles.cos(), angles.sin()
    return state


def sines(side: int, width: int) -> Tensor:
    """MAE's table, place by place."""
    omega = [10000 ** (-i / (width // 4)) for i in range(width // 4)]
    return torch.tensor([
        [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in omega]
        for row in range(side) for column in range(side)
    ])  # fmt: skip


def turns(side: int, head: int) -> Tensor:
    """Angles [places, head / 2] by which the pairs of a head's numbers turn: the first half by the row, then by the column."""
    omega = [10000 ** (-4 * i / head) for i in range(head // 4)]
    return torch.tensor([[place * w for place in (row, column) for w in omega] for row in range(side) for column in range(side)])


def answer(s: dict[str, Tensor], x: Tensor, t: Tensor, labels: Tensor, *, heads: int, wide_heads: int) -> Tensor:
    """All outputs [B, C or 2C, h, w] of a release, written from its papers and its names."""

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def embed(name: str) -> Tensor:
        if f"{name}.proj.weight" not in s:
            return linear(name, x.flatten(2).mT)
        weight = s[f"{name}.proj.weight"]
        return F.conv2d(x, weight, s[f"{name}.proj.bias"], stride=weight.shape[-1]).flatten(2).mT

    def norm(name: str, v: Tensor, eps: float) -> Tensor:
        if f"{name}.weight" in s and f"{name}.bias" not in s:
            return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"]
        return F.layer_norm(v, v.shape[-1:], s.get(f"{name}.weight"), s.get(f"{name}.bias"), eps)

    def attention(name: str, v: Tensor, heads: int) -> Tensor:
        mixed = []
        for q, k, value in zip(*(part.chunk(heads, -1) for part in linear(f"{name}.qkv", v).chunk(3, -1)), strict=True):
            if f"{name}.q_norm.weight" in s:
                q, k = norm(f"{name}.q_norm", q, 1e-5), norm(f"{name}.k_norm", k, 1e-5)
            if any("rope" in key for key in s):
                turn = torch.polar(torch.ones(()), turns(math.isqrt(v.shape[1]), q.shape[-1]))
                q, k = (torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2))) * turn).flatten(-2) for z in (q, k))
            mixed.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ value)
        return linear(f"{name}.proj", torch.cat(mixed, -1))

    def mlp(name: str, v: Tensor) -> Tensor:
        if f"{name}.w12.weight" in s:
            gate, value = linear(f"{name}.w12", v).chunk(2, -1)
            return linear(f"{name}.w3", gate * gate.sigmoid() * value)
        return linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", v), approximate="tanh"))

    def block(number: int, v: Tensor, c: Tensor, heads: int) -> Tensor:
        name = f"blocks.{number}"
        a, b, gate, d, e, gate_2 = linear(f"{name}.adaLN_modulation.1", F.silu(c)).chunk(6, -1)
        v = v + gate * attention(f"{name}.attn", norm(f"{name}.norm1", v, 1e-6) * (1 + b) + a, heads)
        return v + gate_2 * mlp(f"{name}.mlp", norm(f"{name}.norm2", v, 1e-6) * (1 + e) + d)

    if "t_embedder.W" in s:
        angles = 2 * math.pi * t[:, None] * s["t_embedder.W"]
        waves = torch.cat([angles.sin(), angles.cos()], 1)
    else:
        angles = t[:, None] * 10000.0 ** (-torch.arange(128) / 128)
        waves = torch.cat([angles.cos(), angles.sin()], 1)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", waves)))[:, None]
    condition = time + s["y_embedder.embedding_table.weight"][labels][:, None]
    wide, count = "s_embedder.proj.weight" in s, len({name.split(".")[1] for name in s if name.startswith("blocks.")})
    tokens = embed("s_embedder" if wide else "ln1" if "ln1.weight" in s else "x_embedder")
    tokens = tokens + s.get("pos_embed", torch.zeros(()))
    for number in range(count - 2 if wide else count):
        tokens = block(number, tokens, F.silu(condition) if wide else condition, heads)
    if wide:
        condition = F.silu(time + tokens)
        condition = linear("s_projector", condition) if "s_projector.weight" in s else condition
        tokens = embed("x_embedder")
        for number in (count - 2, count - 1):
            tokens = block(number, tokens, condition, wide_heads)
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(condition)).chunk(2, -1)
    out = linear("final_layer.linear", norm("final_layer.norm_final", tokens, 1e-6) * (1 + scale) + shift)
    side = math.isqrt(tokens.shape[1])
    patch = x.shape[-1] // side
    out = out.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))
    return torch.einsum("nhwpqc->nchpwq", out).flatten(4, 5).flatten(2, 3)
