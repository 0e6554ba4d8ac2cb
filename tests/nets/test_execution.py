"""Compiled networks need one graph each, activation checkpointing changes no bit, and what the backward pass keeps is counted."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from forks import alone
from host_talk import fake_gpu
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from svgbench.nets import draws
from svgbench.nets.critic import ReconstructionObjective
from svgbench.nets.execution import checkpoint_activations
from svgbench.nets.ldm import AutocastGroupNorm, LdmDecoder
from svgbench.nets.residual import ResidualEncoder
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.nets.vit_decoder import ViTDecoder

SIT = {"channels": 4, "grid": 4, "width": 32, "depth": 3, "heads": 2, "classes": 3}
LDM = {"base": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "z_channels": 4, "resolution": 16}
VIT = {"z_channels": 4, "resolution": 16, "stride": 8, "width": 16, "layers": 3, "heads": 2, "mlp": 32}
RESIDUAL = {"channels": 4, "layers": 3, "width": 32, "heads": 4, "mlp": 48, "patch": 8, "resolution": 32, "dropout": 0.2, "drop": 0.0}
BATCHES = (8, 8, 5, 1, 2, 8, 3)
"""Whole batches, and last batches of every kind."""


@pytest.fixture
def graphs():
    """Counts the graphs that torch.compile makes, without the time that Inductor would need for each."""
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.set_default_backend(counter)
    yield counter
    torch.compiler.set_default_backend(None)
    torch._dynamo.reset()


def sit(**more):
    torch.manual_seed(0)
    model = SiT(**{**SIT, **more})
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return model


def inputs(count):
    positions = torch.arange(count)
    return draws.normal(1, positions, (4, 4, 4)), draws.uniform(2, positions), draws.integers(3, positions, 3)


def test_all_blocks_of_a_transformer_share_one_graph_in_training(graphs):
    model = sit()
    model.compile_blocks()
    for count in BATCHES:
        model(*inputs(count)).square().sum().backward()
    assert graphs.frame_count == 1 and not counters["graph_break"]


def test_a_process_compiles_the_networks_of_many_experiments(graphs):
    """Torch's limit counts the graphs of all of them, because they share the code of a block; it is 2 here, and 8 by default."""
    with torch._dynamo.config.patch(recompile_limit=2), torch.no_grad():
        for count, width in enumerate((16, 24, 32, 40), start=1):
            model = sit(width=width, depth=1)
            model.compile_blocks()
            model(*inputs(4))
            assert graphs.frame_count == count


def test_sampling_needs_one_graph_for_all_steps_scales_schedules_and_batches(graphs):
    model = sit().eval().requires_grad_(False)
    model.compile_blocks()
    for steps, guidance, schedule, count in ((3, 1.0, "constant", 4), (2, 3.0, "constant", 4), (4, 2.0, "interval-0.1-0.6", 3)):
        noise, _, labels = inputs(count)
        sample(model, noise, labels, steps=steps, guidance=guidance, schedule=schedule)
    assert graphs.frame_count == 1 and not counters["graph_break"]


def test_kernels_are_chosen_whatever_the_batch(graphs):
    """Else Inductor compiles a network again for a batch on the other side of 5 Mi elements, on CUDA alone."""
    options = torch._inductor.config.triton
    if not hasattr(options, "mix_order_reduction_non_strict_mode"):
        pytest.skip("this torch has no such fusion")
    with torch._inductor.config.patch({"triton.mix_order_reduction_non_strict_mode": False}):
        sit().compile_blocks()
        assert options.mix_order_reduction_non_strict_mode


def test_the_wide_head_adds_one_graph(graphs):
    model = sit(wide={"width": 48, "depth": 2, "heads": 2}, position="both", norm="rms", mlp="swiglu")
    model.compile_blocks()
    for count in BATCHES:
        model(*inputs(count)).square().sum().backward()
    assert graphs.frame_count == 2 and not counters["graph_break"]


@pytest.mark.parametrize("make", [partial(LdmDecoder, **LDM), partial(ViTDecoder, **VIT)], ids=["LDM", "ViT"])
def test_a_decoder_is_one_graph_whose_values_are_those_of_the_uncompiled_one(graphs, make):
    torch.manual_seed(0)
    plain, quick = make(), make()
    quick.load_state_dict(plain.state_dict())
    quick.compile_blocks()
    side = 16 // plain.stride
    for count in (*BATCHES, 0):  # a rank may have no image
        latents = torch.randn(count, 4, side, side)
        got, wanted = quick(latents), plain(latents)
        got.square().sum().backward()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 1 and not counters["graph_break"]


def test_the_residual_encoder_is_one_graph_with_its_dropout(graphs):
    torch.manual_seed(0)
    plain, quick = ResidualEncoder(**RESIDUAL), ResidualEncoder(**RESIDUAL)
    quick.load_state_dict(plain.state_dict())
    quick.blocks.compile()
    for count in BATCHES:
        images, positions = torch.rand(count, 3, 32, 32), torch.arange(count)
        got = quick(images, positions, 7)
        got.square().sum().backward()
        torch.testing.assert_close(got, plain(images, positions, 7), rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 1 and not counters["graph_break"]


def test_the_perceptual_distance_is_one_graph(graphs):
    class Judge:
        weights = (torch.rand(3), torch.rand(3))

        @staticmethod
        def activations(images):
            return [images, images[..., ::2, ::2]]

    plain, quick = (
        ReconstructionObjective(l1=0.0, perceptual=1.0, adversarial=0.0, judge=Judge(), discriminator=None) for _ in range(2)
    )  # fmt: skip
    quick.compile_distance()
    for count in BATCHES:
        y, originals = torch.rand(count, 3, 8, 8), torch.rand(count, 3, 8, 8)
        got, wanted = (o.gradients(y, originals, size=8, gan=False).reconstruction for o in (quick, plain))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    assert graphs.frame_count == 1 and not counters["graph_break"]


# --- activation checkpointing ---


def kept_bytes(function, network):
    """Bytes that autograd keeps for the backward pass, without the parameters."""
    known, found, alive = {id(p) for p in network.parameters()}, {}, []

    def pack(tensor):
        if id(tensor) not in known:
            alive.append(tensor)  # so that no other storage gets its number
            found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(found.values())


NETWORKS = {
    "SiT": (sit, lambda: inputs(5)),
    "LightningDiT": (partial(sit, position="both", norm="rms", mlp="swiglu"), lambda: inputs(5)),
    "wide head": (partial(sit, wide={"width": 48, "depth": 2, "heads": 2}), lambda: inputs(5)),
    "LDM decoder": (partial(LdmDecoder, **{**LDM, "attention": (16,)}), lambda: (torch.rand(3, 4, 8, 8),)),
    "ViT decoder": (partial(ViTDecoder, **VIT), lambda: (torch.rand(3, 4, 2, 2),)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_checkpointed_activations_give_the_same_bits_and_are_not_kept(name, precision):
    make, data = NETWORKS[name]
    torch.manual_seed(0)
    network, tensors, found = make(), data(), []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(network)
        outputs = []

        def run(outputs=outputs):
            with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
                outputs.append(network(*tensors))

        kept = kept_bytes(run, network)
        gradients = torch.autograd.grad(outputs[0].float().square().sum(), list(network.parameters()), allow_unused=True)
        found.append((kept, outputs[0].detach(), gradients))
    (plain, value, gradients), (fewer, again, same) = found
    assert fewer < 0.7 * plain
    assert torch.equal(value, again)
    assert any(g is not None and g.any() for g in gradients)
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_a_checkpointed_block_is_still_one_graph(graphs):
    model, plain = sit(), sit()
    checkpoint_activations(model)
    model.compile_blocks()
    for count in BATCHES:
        model(*inputs(count)).square().sum().backward()
        plain(*inputs(count)).square().sum().backward()
    assert graphs.frame_count == 1 and not counters["graph_break"]
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)


# --- counted at the paper's size ---


def papers(kind):
    """The paper's decoder, and SiT-XL."""
    from svgbench.config.build import build

    config = build({}, preset="paper")
    if kind == "decoder":
        return LdmDecoder(**config.autoencoder.decoder.model_dump(exclude={"kind", "vit"}), z_channels=392, out_channels=3, resolution=256)
    return SiT(channels=392, grid=16, classes=1000, **config.diffusion.transformer.model_dump(mode="json"))


@alone
def test_what_the_papers_decoder_keeps_for_64_images_in_bf16():
    """On fake CUDA tensors, under CUDA's autocast: 33.3 GB uncompiled; with torch's group norm, which returns fp32, 55.3 GB."""
    with fake_gpu(), torch.device("cuda"):
        decoder, latents = papers("decoder"), torch.empty(64, 392, 16, 16)

        def forward():
            with torch.autocast("cuda", torch.bfloat16):
                decoder.before_last(latents)

        plain = kept_bytes(forward, decoder)
        checkpoint_activations(decoder)
        assert plain < 33.5e9
        assert kept_bytes(forward, decoder) < 0.35 * plain


@alone
def test_compiled_a_decoder_keeps_less():
    """The part of torch.compile that chooses what to keep, at a smaller size: at the paper's, 22.6 of 33.2 GB."""
    with torch.device("meta"):
        decoder = LdmDecoder(base=128, multipliers=(1,), blocks=0, attention=(), z_channels=16, resolution=32).bfloat16()
    latents = torch.empty(4, 16, 32, 32, device="meta", dtype=torch.bfloat16)
    torch._dynamo.reset()
    quick = torch.compile(decoder.before_last, backend="aot_eager_decomp_partition")
    quick(latents)
    assert kept_bytes(lambda: quick(latents), decoder) < 0.86 * kept_bytes(lambda: decoder.before_last(latents), decoder)


class Operations(TorchDispatchMode):
    """Counts operations; on a GPU each is a launch or more, but for those that only change a view."""

    VIEWS = ("view", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "unbind", "split", "detach", "alias")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1].strip("_")
        self.count += name not in (*self.VIEWS, "_unsafe_view", "unsafe_view", "reshape_alias", "split_with_sizes")
        return function(*args, **(kwargs or {}))


def test_the_operations_of_sit_xl_only_get_fewer():
    """A ratchet of the uncompiled network; compiled, a block is a few launches between its products."""
    with torch.device("meta"):
        model = papers("SiT")
    x, t, labels = (
        torch.empty(2, 392, 16, 16, device="meta"),
        torch.empty(2, device="meta"),
        torch.zeros(2, dtype=torch.int64, device="meta"),
    )
    with Operations() as counted:
        model(x, t, labels).square().sum().backward()
    assert counted.count <= 3000


# --- dropout masks ---


@pytest.mark.parametrize("probabilities", [(0.9, 0.9, 0.9), (0.9, 0.3, 1.0)])
def test_masks_of_one_draw_have_the_bits_of_single_draws(probabilities):
    positions, shapes = torch.tensor([3, 10**12, 0, 77]), [(5, 7), (3,), (2, 2, 3)]
    streams = [draws.stream(4, place) for place in "abc"]
    rows = zip(streams, shapes, probabilities, strict=True)
    wanted = [draws.chance(number, positions, shape, probability) for number, shape, probability in rows]
    for draw in (draws.chances, draws.chances_at_once):
        found = draw(torch.tensor(streams), positions, shapes, probabilities)
        assert all(torch.equal(got, want) for got, want in zip(found, wanted, strict=True))


def test_the_papers_dropout_masks_take_a_constant_number_of_operations():
    with torch.device("meta"):
        encoder = ResidualEncoder(**{**RESIDUAL, "layers": 6, "width": 384, "heads": 8, "mlp": 1536, "patch": 16, "resolution": 256})
    positions = torch.arange(2, device="meta")
    encoder._masks(positions, 0, 257)
    with Operations() as counted:
        encoder._masks(positions, 0, 257)
    assert counted.count <= 50  # 779 with one draw for each mask


# --- group norm ---


def test_group_norm_under_autocast_returns_bf16_near_the_fp32_result_and_is_torch_s_in_fp32():
    torch.manual_seed(0)
    norm, x = AutocastGroupNorm(4, 16), torch.randn(2, 16, 8, 8)
    torch.nn.init.normal_(norm.weight)
    plain = torch.nn.GroupNorm(4, 16)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x.bfloat16())
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), plain(x.bfloat16().float()), rtol=1e-2, atol=2e-2)
