"""One architecture in several libraries: the same weights give the same features, whichever opens them."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from interop import error
from pytest import mark, skip
from safetensors.torch import load_file, save_file
from small_cards import TINY, shallow

from svgbench.backends.open import FrozenEncoder, open_encoder, open_network
from svgbench.backends.tokens import block_indices
from svgbench.config import cards
from svgbench.config.cards import EncoderCard, find
from svgbench.config.schema import Features
from svgbench.weights.files import fill

State = dict[str, torch.Tensor]
INTEROP = Path(os.environ.get("SVGBENCH_INTEROP", Path(__file__).parents[3] / "shared" / "interop"))
CHOICES = [Features(), Features(layers=[-1, -2], combine="sum", norm="plain"), Features(layers=[1], norm="none")]


def shaken(state: State, seed: int = 0) -> State:
    """Weights of which none is a trivial zero or one."""
    generator = torch.Generator().manual_seed(seed)
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def to_hugging_face(state: State, *, registers: str | None, gated: bool = False, legacy: bool = False, prefix: str = "encoder.") -> State:
    """Meta's names of DINOv2 and DINOv3 as transformers writes them."""
    result: State = {}
    attention = "attention.attention." if legacy else "attention."
    words = ("query", "key", "value") if legacy else ("q_proj", "k_proj", "v_proj")
    for name, value in state.items():
        if name in ("norm.weight", "norm.bias"):
            result[("norm." if gated else "layernorm.") + name.partition(".")[2]] = value
        elif name.startswith("patch_embed.proj."):
            result["embeddings.patch_embeddings." + ("" if gated else "projection.") + name.rpartition(".")[2]] = value
        elif name == "pos_embed":
            result["embeddings.position_embeddings"] = value
        elif name == "mask_token":
            result["embeddings.mask_token"] = value.reshape(1, 1, -1) if gated else value
        elif name == "cls_token":
            result["embeddings.cls_token"] = value
        elif name == registers:
            result["embeddings.register_tokens"] = value
        elif name.startswith("blocks."):
            start = prefix + "layer." + name.split(".")[1] + "."
            rest = name.split(".", 2)[2]
            if rest == "attn.qkv.bias_mask":  # zeros where the bias of the keys is, which transformers does not build
                continue
            if rest.startswith("attn.qkv."):
                for word, part in zip(words, value.chunk(3), strict=True):
                    if not (gated and word == "k_proj" and rest.endswith("bias")):
                        result[f"{start}{attention}{word}.{rest.rpartition('.')[2]}"] = part
            else:
                out = "attention.output.dense." if legacy else "attention.o_proj."
                for old, new in (("attn.proj.", out), ("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1"),
                                 ("mlp.w1.", "mlp.gate_proj."), ("mlp.w2.", "mlp.up_proj."), ("mlp.w3.", "mlp.down_proj.")):  # fmt: skip
                    rest = rest.replace(old, new)
                result[start + rest] = value
    return result


def written(folder: Path, state: State, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    return folder


def equal(first: FrozenEncoder, second: FrozenEncoder, side: int = 256) -> None:
    """The features agree to 1e-4 of the largest."""
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(5))
    one, two = first.encode(images), second.encode(images)
    assert one.shape == two.shape
    assert two.std(dim=(2, 3)).mean() > 1e-2 * two.abs().max()  # patches differ: agreement on a constant would show nothing
    assert error(one, two) <= 1e-4


def meta_dinov3(depth: int) -> State:
    """Meta's file of DINOv3 ViT-S+/16, periods as released."""
    card = find("dinov3-s16plus", "paper")
    model = timm.create_model(card.model.partition(".")[0] + "_qkvb", num_classes=0, depth=depth)
    state = shaken(model.state_dict())
    for old, new in (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("mlp.fc1_g", "mlp.w1"),
                     ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3")):  # fmt: skip
        state = {name.replace(old, new): value for name, value in state.items()}
    for index in range(depth):
        queries, values = (state.pop(f"blocks.{index}.attn.{name}_bias") for name in "qv")
        state[f"blocks.{index}.attn.qkv.bias"] = torch.cat([queries, torch.zeros_like(queries), values])
    periods = model.rope.periods.bfloat16()
    return {**state, "mask_token": torch.zeros(1, 384), "rope_embed.periods": periods}


@mark.parametrize("features", CHOICES, ids=["last", "sum", "first"])
@mark.parametrize("names", ["today", "published"])
def test_dinov3_in_timm_and_transformers(tmp_path: Path, features: Features, names: str) -> None:
    depth = 12 if features == Features() and names == "published" else 2
    state = meta_dinov3(depth)
    torch.save(state, tmp_path / "meta.pth")
    prefix = "" if names == "published" else "model."
    folder = written(tmp_path / "hf", to_hugging_face(state, registers="storage_tokens", gated=True, prefix=prefix))
    ours, theirs = (cards.with_features(find(name, "paper"), features) for name in ("dinov3-s16plus", "dinov3-s16plus-hf"))
    ours = ours.model_copy(update={"arguments": {**ours.arguments, "depth": depth}})
    theirs = theirs.model_copy(update={"arguments": {**theirs.arguments, "num_hidden_layers": depth}})
    first, second = open_encoder(ours, weights=tmp_path / "meta.pth"), open_encoder(theirs, weights=folder)
    equal(first, second)
    if depth == 2:
        equal(first, second, side=128)


@mark.parametrize("name", ["dinov3-s16plus", "dinov3-s16plus-hf"])
def test_both_cards_answer_what_meta_s_own_code_answered(tmp_path: Path, name: str) -> None:
    place = INTEROP / "dinov3_vits16plus.safetensors"
    if not place.is_file():
        skip(f"{place} is not here; SVGBENCH_INTEROP names the folder of the fixtures")
    tensors = load_file(place)
    code = importlib.util.spec_from_file_location("fill", INTEROP / "fill.py")
    refill = importlib.util.module_from_spec(code)
    code.loader.exec_module(refill)
    state = refill.state_dict(json.loads(place.with_suffix(".json").read_text())["parameters"], tensors)
    if name.endswith("-hf"):
        path = written(tmp_path, to_hugging_face(state, registers="storage_tokens", gated=True, prefix=""))
    else:
        path = tmp_path / "dinov3_vits16plus_pretrain.pth"
        torch.save(state, path)
    wanted = tensors["out.patch_tokens"].transpose(1, 2).unflatten(2, (16, 16))
    encoder = open_encoder(find(name, "paper"), weights=path)
    if name.endswith("-hf"):  # its files hold no periods; the fixture's are not rounded to bfloat16 as the released ones are
        encoder.network.model.rope_embeddings.inv_freq.copy_(1 / state["rope_embed.periods"])
    features = encoder.encode((tensors["in.image"] + 1) / 2)
    assert error(features, wanted) <= 1e-4


def hf_dinov2(name: str, depth: int, **more: Any) -> EncoderCard:
    """A card of transformers beside that of timm."""
    card = find(name, "paper")
    kind = "Dinov2WithRegistersModel" if "reg" in name else "Dinov2Model"
    arguments = {"hidden_size": 384, "num_hidden_layers": depth, "num_attention_heads": 6, "image_size": 224, "patch_size": 14, **more}
    return card.model_copy(update={"backend": "transformers", "model": kind, "arguments": arguments})


@mark.parametrize("features", CHOICES, ids=["last", "sum", "first"])
@mark.parametrize(("name", "legacy"), [("dinov2-s14", True), ("dinov2reg-s14", True), ("dinov2reg-s14", False)])
def test_dinov2_in_timm_and_transformers(tmp_path: Path, features: Features, name: str, legacy: bool) -> None:
    depth = 12 if features == Features() and legacy else 2
    card = cards.with_features(find(name, "paper"), features)
    card = card.model_copy(update={"arguments": {**card.arguments, "depth": depth}})
    native = shaken(timm.create_model(card.model, num_classes=0, depth=depth).state_dict())  # positions of 518 px, as published
    state = {name.replace("reg_token", "register_tokens"): value for name, value in native.items()} | {"mask_token": torch.zeros(1, 384)}
    if "reg" in name:  # timm keeps the class token's position inside the token
        zero = torch.zeros(1, 1, 384)
        state["pos_embed"] = torch.cat([zero, state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "meta.pth")
    folder = written(tmp_path / "hf", to_hugging_face(state, registers="register_tokens", legacy=legacy))
    theirs = cards.with_features(hf_dinov2(name, depth), features)
    equal(open_encoder(card, weights=tmp_path / "meta.pth"), open_encoder(theirs, weights=folder))


def siglip_to_hugging_face(state: State) -> State:
    """timm's SigLIP as transformers writes it, in the whole model's file."""
    result: State = {}
    start = "vision_model."
    for name, value in state.items():
        end = name.rpartition(".")[2]
        if name == "pos_embed":
            result[start + "embeddings.position_embedding.weight"] = value[0]
        elif name.startswith("patch_embed.proj."):
            result[f"{start}embeddings.patch_embedding.{end}"] = value
        elif name.startswith("norm."):
            result[f"{start}post_layernorm.{end}"] = value
        elif name.startswith("blocks."):
            layer, rest = name.split(".")[1], name.split(".", 2)[2]
            to = f"{start}encoder.layers.{layer}."
            if rest.startswith("attn.qkv."):
                result |= {f"{to}self_attn.{word}_proj.{end}": part for word, part in zip("qkv", value.chunk(3), strict=True)}
            else:
                for old, new in (("attn.proj", "self_attn.out_proj"), ("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
                    rest = rest.replace(old, new)
                result[to + rest] = value
    head = start + "head."
    result[head + "probe"] = state["attn_pool.latent"]
    for end in ("weight", "bias"):
        result[f"{head}attention.in_proj_{end}"] = torch.cat([state[f"attn_pool.q.{end}"], state[f"attn_pool.kv.{end}"]])
        result[f"{head}attention.out_proj.{end}"] = state[f"attn_pool.proj.{end}"]
        result[f"{head}layernorm.{end}"] = state[f"attn_pool.norm.{end}"]
        result |= {f"{head}mlp.{layer}.{end}": state[f"attn_pool.mlp.{layer}.{end}"] for layer in ("fc1", "fc2")}
    return {**result, "logit_scale": torch.zeros(1), "logit_bias": torch.zeros(1), "text_model.final_layer_norm.weight": torch.ones(4)}


SIGLIP = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "image_size": 256}


def hf_siglip(**more: Any) -> EncoderCard:
    """A card of transformers beside that of timm."""
    card = find("siglip-b16", "paper")
    arguments = {**SIGLIP, "patch_size": 16, **more}
    return card.model_copy(update={"backend": "transformers", "model": "SiglipVisionModel", "arguments": arguments})


def tower_of(siglip: State) -> State:
    """timm's SigLIP as open_clip writes it, in the whole model's file."""
    tower = {f"visual.trunk.{name}": value for name, value in siglip.items()}
    return {**tower, "text.ln_final.weight": torch.ones(3), "logit_scale": torch.ones(1)}


@mark.parametrize("features", CHOICES, ids=["last", "sum", "first"])
def test_siglip_in_timm_and_transformers(tmp_path: Path, features: Features) -> None:
    ours = shallow(cards.with_features(find("siglip-b16", "paper"), features), 2)
    state = shaken(timm.create_model("vit_base_patch16_siglip_256", num_classes=0, depth=2).state_dict())
    first = open_encoder(ours, weights=written(tmp_path / "timm", state))
    theirs = cards.with_features(hf_siglip(num_hidden_layers=2), features)
    equal(first, open_encoder(theirs, weights=written(tmp_path / "hf", siglip_to_hugging_face(state))))
    equal(first, open_encoder(ours, weights=written(tmp_path / "oc", tower_of(state), "open_clip_model.safetensors")))


def test_siglip_in_timm_open_clip_and_transformers_at_full_size() -> None:
    ours, clip, hf = find("siglip-b16", "paper"), find("siglip-b16-openclip", "paper"), hf_siglip()
    networks = [open_network(card) for card in (ours, clip, hf)]
    state = shaken(networks[0].model.state_dict())
    for network, file in zip(networks, (state, tower_of(state), siglip_to_hugging_face(state)), strict=True):
        fill(network.model, network.adapt(file), where="the file")
    for features in CHOICES[:2]:
        for network in networks:
            network.features, network.blocks = features, block_indices(features, 12)
        first, *others = (FrozenEncoder(card, network) for card, network in zip((ours, clip, hf), networks, strict=True))
        for other in others:
            equal(first, other)


def test_mae_in_transformers_keeps_its_tokens_in_order(tmp_path: Path) -> None:
    """The library shuffles them by random noise even when it masks none, anew at every call."""
    arguments = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 192, "image_size": 32}
    arguments["patch_size"] = 8
    theirs = TINY.model_copy(update={"backend": "transformers", "model": "ViTMAEModel", "arguments": arguments})
    ours = TINY.model_copy(update={"model": "vit_base_patch16_224.mae"})
    state = shaken(open_network(ours).model.state_dict())
    renamed: State = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            start, rest, end = f"vit.encoder.layer.{name.split('.')[1]}.", name.split(".", 2)[2], name.rpartition(".")[2]
            if rest.startswith("attn.qkv."):
                words = ("query", "key", "value")
                renamed |= {f"{start}attention.attention.{w}.{end}": part for w, part in zip(words, value.chunk(3), strict=True)}
                continue
            for old, new in (("attn.proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"),
                             ("norm1", "layernorm_before"), ("norm2", "layernorm_after")):  # fmt: skip
                rest = rest.replace(old, new)
            renamed[start + rest] = value
        else:
            for old, new in (("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("cls_token", "embeddings.cls_token"),
                             ("pos_embed", "embeddings.position_embeddings"), ("norm.", "layernorm.")):  # fmt: skip
                name = name.replace(old, new)
            renamed["vit." + name] = value
    renamed["decoder.mask_token"] = torch.zeros(1, 1, 8)
    first = open_encoder(ours, weights=written(tmp_path / "timm", state))
    equal(first, open_encoder(theirs, weights=written(tmp_path / "hf", renamed)), side=32)


def test_features_of_transformers_are_its_own_last_hidden_state() -> None:
    card = find("dinov3-s16plus-hf", "paper")
    card = card.model_copy(update={"arguments": {**card.arguments, "num_hidden_layers": 2}})
    encoder = open_encoder(card, random_weights_seed=0)
    assert isinstance(encoder.network.model, transformers.DINOv3ViTModel)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        hidden = encoder.network.model(pixel_values=(images - encoder.mean) / encoder.std).last_hidden_state[:, 5:]
    torch.testing.assert_close(encoder.encode(images), hidden.transpose(1, 2).unflatten(2, (4, 4)))
