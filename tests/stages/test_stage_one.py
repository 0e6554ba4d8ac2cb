"""Stage 1's update: micro-batches make the big batch's gradients, the encoder gets none, and one image costs what the budget allows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from products import Products
from safetensors.torch import load_file, save_file
from toys import in_ranks

from svgbench.config import schema
from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.errors import BadConfig
from svgbench.machine import gradients as sums
from svgbench.machine.feed import TableRows, loaded
from svgbench.machine.measure import count_flops
from svgbench.machine.memory import Memory
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import Batch
from svgbench.stages import autoencoder, tokenizers

torch.set_num_threads(1)


class Patches(torch.nn.Module):
    """An encoder of 5 channels and stride 8."""

    channels, stride = 5, 8

    def __init__(self, channels=5, stride=8):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.layer = torch.nn.Conv2d(3, channels, stride, stride=stride).requires_grad_(False)

    def encode(self, images):
        return self.layer(images)


class Pictures:
    """An image set in memory."""

    def __init__(self, count, side):
        self._images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)

    def __len__(self):
        return len(self._images)

    def batch(self, indices):
        return self._images[torch.as_tensor(indices)]

    def rows(self, indices):
        return TableRows(self._images, indices)


def settings(**over) -> schema.Autoencoder:
    part = build({}, preset="tiny").autoencoder
    residual = part.residual.model_copy(update={"layers": 1, "width": 32, "heads": 2, "mlp": 64})
    decoder = part.decoder.model_copy(update={"base": 8, "multipliers": (1, 1, 2, 2)})
    loss = part.loss.model_copy(update={"adversarial_start_images": 100, "discriminator_base": 8})
    return part.model_copy(update={"residual": residual, "decoder": decoder, "loss": loss, **over})


def task(part, micro=None):
    torch.manual_seed(0)
    encoder, images, runtime = Patches(), Pictures(12, 32), Runtime(device="cpu", micro_batch=micro, quiet=True)
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    made = tokenizers.build(encoder, part, 32, runtime.torch_device)
    return autoencoder.AutoencoderTask(made, images, features, part, 3, runtime), encoder


def gradients(part, micro, images_seen):
    """Gradients of both networks at the moment they would be applied, and the losses."""
    made, encoder = task(part, micro)
    found = {}

    def apply(name):
        found.update({f"{name}.{n}": p.grad.clone() for n, p in made.modules[name].named_parameters() if p.grad is not None})

    batch = Batch(torch.arange(8), torch.arange(8) + images_seen, 8, images_seen)
    losses = made.update(loaded(made, batch, torch.device("cpu")), apply)
    assert all(p.grad is None for p in encoder.parameters())
    return found, losses


@pytest.mark.parametrize(
    "align, kind, through",
    [
        ("none", "vit", False), ("batch", "vit", False), ("frozen", "vit", False), ("channel", "vit", False), ("frozen", "patch", False),
        ("frozen", "vit", True), ("whiten", "vit", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("images_seen", [0, 1000], ids=["before the GAN term", "with the GAN term"])
def test_micro_batches_make_the_gradients_of_the_big_batch(align, kind, through, images_seen):
    part = settings(align=align, align_gradient=through)
    part = part.model_copy(update={"residual": part.residual.model_copy(update={"kind": kind})})
    (whole, whole_losses), (pieces, piece_losses) = (gradients(part, micro, images_seen) for micro in (None, 3))
    assert whole.keys() == pieces.keys() and any(name.startswith("discriminator.") for name in whole) == (images_seen > 100)
    assert any("residual_encoder" in name for name in whole)
    largest = max(gradient.abs().max().item() for name, gradient in whole.items() if name.startswith("tokenizer."))
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=2e-3, atol=1e-5 * largest)
    for name in whole_losses:
        assert piece_losses[name].item() == pytest.approx(whole_losses[name].item(), rel=1e-4)


@pytest.mark.parametrize("micro", [None, 3])
def test_two_ranks_sum_the_gradients_of_one_process_during_the_last_backward_pass_of_each_network(tmp_path, monkeypatch, micro):
    monkeypatch.setattr(sums, "BUCKET_BYTES", 1 << 12)

    def work():
        runtime = Runtime(device="cpu", threads=1).start()
        made, _ = task(settings(), micro)
        summed, found = sums.GradientSums(made.optimisers, runtime), {}

        def apply(name):
            buckets = summed._buckets[name]
            assert len(buckets) > 1 and all(bucket.sum is not None for bucket in buckets)
            summed.summed(name)
            found.update({f"{name}.{n}": p.grad.clone() for n, p in made.modules[name].named_parameters()})
            made.optimisers[name].zero_grad(set_to_none=True)

        mine = torch.arange(8)[runtime.rank :: 2]
        made.update(loaded(made, Batch(mine, mine + 1000, 8, 1000, reducing=summed.reducing), torch.device("cpu")), apply)
        save_file(found, tmp_path / f"{runtime.rank}")
        runtime.stop()

    assert in_ranks(2, work) == [0, 0]
    (whole, _), ranks = gradients(settings(), None, 1000), [load_file(tmp_path / f"{rank}") for rank in (0, 1)]
    largest = max(gradient.abs().max().item() for name, gradient in whole.items() if name.startswith("tokenizer."))
    assert whole.keys() <= ranks[0].keys() and any(name.startswith("discriminator.") for name in whole)
    for name, gradient in ranks[0].items():
        assert torch.equal(ranks[1][name], gradient)
        torch.testing.assert_close(gradient, whole.get(name, torch.zeros_like(gradient)), rtol=2e-3, atol=1e-5 * largest)


def test_an_update_is_the_same_twice():
    (first, _), (second, _) = (gradients(settings(), None, 1000) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_moments_that_fix_the_alignment_are_those_of_the_training_images():
    part = settings()
    made, encoder = task(part)
    tokenizer, images, runtime = made.modules["tokenizer"], Pictures(12, 32), Runtime(device="cpu", quiet=True)
    features = tokenizers.Cached(encoder.encode, images, runtime, label="features")
    tokenizer.alignment.freeze(autoencoder.moments(tokenizer, features, images, runtime))
    aligned = tokenizer.encode(tokenizers.to_floats(images.batch(torch.arange(12)), runtime.torch_device))[:, 5:]
    wanted = features.gather(lambda x: x).transpose(0, 1).flatten(1)
    found = aligned.transpose(0, 1).flatten(1)
    assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=1e-3)
    assert found.std(1).mean().item() == pytest.approx(wanted.std(1).mean().item(), rel=1e-3)


def test_stage_one_at_the_paper_s_size_costs_at_most_970_gflop_an_image(monkeypatch):
    """Counted without numbers (meta tensors): residual 19, decoder 759, VGG 120, discriminator; the frozen encoder is 16 more."""
    from svgbench.metrics.perceptual import VggTaps

    part, runtime = schema.Autoencoder(), Runtime(device="meta", quiet=True)
    with torch.device("meta"):
        vgg, encoder = VggTaps().requires_grad_(False), Patches(384, 16)
        monkeypatch.setattr(autoencoder, "load_perceptual", lambda *_, **__: SimpleNamespace(activations=vgg, weights=None))
        images = SimpleNamespace(rows=lambda indices: torch.zeros(len(indices), 3, 256, 256, dtype=torch.uint8))
        made = tokenizers.build(encoder, part, 256, runtime.torch_device)
        one = autoencoder.AutoencoderTask(made, images, lambda indices, images: torch.zeros(len(indices), 384, 16, 16), part, 0, runtime)
        batch = loaded(one, Batch(torch.arange(2), torch.arange(2), 2, images_seen=10**9), runtime.torch_device)
        flops = count_flops(lambda: one.update(batch, lambda name: None)) / 2 + 16e9
    assert 900e9 < flops <= 970e9


def test_the_limit_of_the_adaptive_weight_binds_in_the_update():
    """Where it binds, the GAN's part of the decoder's gradient is proportional to the limit, also over micro-batches."""

    def at_last(limit, micro=None):
        loss = settings().loss.model_copy(update={"adaptive_limit": limit})
        return gradients(settings(loss=loss), micro, 1000)[0]["tokenizer.decoder.conv_out.weight"]

    without, tight, doubled, free = at_last(1e-9), at_last(0.01), at_last(0.02, micro=3), at_last(None)
    assert 0 < (tight - without).norm() < 0.5 * (free - without).norm()
    assert (doubled - without - 2 * (tight - without)).norm() < 0.02 * (doubled - without).norm()


@pytest.mark.parametrize(("align", "strength"), [("token", 1.0), ("frozen", 0.5)])
def test_micro_batches_make_the_same_gradients_with_tokenwise_and_partial_alignment(align, strength):
    part = settings(align=align, align_strength=strength)
    (whole, _), (pieces, _) = (gradients(part, micro, 0) for micro in (None, 3))
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=2e-3, atol=1e-5 * largest)


# --- the work of an update ---

SIZE = 8
BEFORE, WITH_GAN = 0, 1000
ALL = Memory(fits=4, image=1, room=100)
"""Room for the activations of all micro-batches."""


def batch(made, images_seen):
    return loaded(made, Batch(torch.arange(SIZE), torch.arange(SIZE) + images_seen, SIZE, images_seen), torch.device("cpu"))


def flops(align, images_seen, micro=None, memory=None):
    made, _ = task(settings(align=align), micro)
    if memory is not None:
        made._memory = memory
    return count_flops(lambda: made.update(batch(made, images_seen), lambda name: None))


def forward_flops():
    """Of residual encoder and decoder, for the batch."""
    tokenizer = task(settings())[0].modules["tokenizer"]
    images, positions = torch.rand(SIZE, 3, 32, 32), torch.arange(SIZE)
    return (
        count_flops(lambda: tokenizer.residual_encoder(images, positions, 0)),
        count_flops(lambda: tokenizer.decoder(torch.rand(SIZE, tokenizer.channels, 4, 4))),
    )


def test_micro_batches_of_stage_one_add_only_the_forward_passes_that_must_run_twice():
    """The alignment's sums over the batch come before any graph (the residual encoder runs twice), and so does the adaptive weight, once
    the GAN term is on (the decoder runs twice)."""
    residual, decoder = forward_flops()
    for align, needs_sums in (("none", 0), ("frozen", 1)):
        assert flops(align, BEFORE, 4) - flops(align, BEFORE) == needs_sums * residual
        assert flops(align, WITH_GAN, 4) - flops(align, WITH_GAN) == residual + decoder


@pytest.mark.parametrize("align", ["none", "frozen"])
def test_micro_batches_whose_activations_fit_add_nothing(align):
    for images_seen in (BEFORE, WITH_GAN) if align == "none" else (WITH_GAN,):
        assert flops(align, images_seen, memory=ALL) == flops(align, images_seen)


@pytest.mark.parametrize("images_seen", [BEFORE, WITH_GAN])
@pytest.mark.parametrize("align", ["none", "frozen"])
def test_held_activations_give_the_same_gradients(images_seen, align):
    found = []
    for memory in (Memory(micro_batch=4), ALL):
        made, _ = task(settings(align=align))
        made._memory, kept = memory, {}

        def apply(name, made=made, kept=kept):
            kept.update({f"{name}.{n}": p.grad.clone() for n, p in made.modules[name].named_parameters() if p.grad is not None})

        made.update(batch(made, images_seen), apply)
        found.append(kept)
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("images_seen", [BEFORE, WITH_GAN])
@pytest.mark.parametrize("micro", [None, 3])
def test_an_update_of_stage_one_asks_once_for_each_images_features(images_seen, micro):
    made, _ = task(settings(), micro)
    asked, features = [], made._features
    made._features = lambda indices, **more: (asked.extend(indices.tolist()), features(indices, **more))[1]
    made.update(batch(made, images_seen), lambda name: None)
    assert sorted(asked) == list(range(SIZE))


def in_bf16(part):
    return part.model_copy(update={"training": part.training.model_copy(update={"precision": "bf16"})})


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("kind", ["ldm", "vit"])
def test_no_product_of_stage_one_is_fp32_when_it_trains_in_bf16(micro, kind):
    """Statistics of the alignment are fp64. The frozen features are in memory: their precision is the encoder's."""
    part = settings()
    vit = part.decoder.vit.model_copy(update={"width": 16, "layers": 2, "heads": 2, "mlp": 32})
    made, _ = task(in_bf16(part.model_copy(update={"decoder": part.decoder.model_copy(update={"kind": kind, "vit": vit})})), micro)
    with Products() as products:
        made.update(batch(made, WITH_GAN), lambda name: None)
    assert products.fp32 == [] and products.bf16 > 50


def test_the_count_of_fp32_products_sees_an_fp32_training():
    made, _ = task(settings())
    with Products() as products:
        made.update(batch(made, WITH_GAN), lambda name: None)
    assert len(products.fp32) > 50 and products.bf16 == 0


class Layers(Patches):
    """An encoder whose features are the mean of three blocks."""

    features = schema.Features(layers=(1, 2, 3), combine="mean", mean_token=True)

    def encode_blocks(self, images):
        first = self.layer(images)
        return torch.stack([first, first.square(), -3 * first], dim=1)


def test_some_blocks_of_each_image_make_its_features_in_training_and_all_of_them_later():
    torch.manual_seed(0)
    encoder, images, runtime = Layers(), Pictures(12, 32), Runtime(device="cpu", quiet=True)
    cached = tokenizers.Cached(encoder.encode_blocks, images, runtime, label="features")
    made = tokenizers.build(encoder, settings(), 32, runtime.torch_device)
    subsets = autoencoder.LayerSubsets(encoder.features, 0.5, 3)
    seen = []
    task_ = autoencoder.AutoencoderTask(made, images, cached, settings(), 3, runtime, lambda *x: seen.append(subsets(*x)) or seen[-1])
    task_.update(loaded(task_, Batch(torch.arange(8), torch.arange(8) + 40, 8, 0), torch.device("cpu")), lambda name: None)
    tokens, kept = cached(torch.arange(8)), subsets.kept(torch.arange(8) + 40, 3)
    by_hand = torch.stack([blocks[use].mean(0) + blocks[-1].mean((1, 2), keepdim=True) for blocks, use in zip(tokens, kept, strict=True)])
    torch.testing.assert_close(seen[0], by_hand)
    torch.testing.assert_close(subsets.whole(tokens), tokens.mean(1) + tokens[:, -1].mean((2, 3), keepdim=True))

    places = torch.arange(4000)
    of_all, of_none = subsets.kept(places, 3), autoencoder.LayerSubsets(encoder.features, 0.0, 3).kept(places, 3)
    assert of_none.all() and of_all.any(1).all() and subsets.kept(places[7:9], 3).equal(of_all[7:9])
    assert float(of_all.all(1).double().mean()) == pytest.approx(0.5 + 0.5 / 8, abs=0.03)
    alone = of_all.sum(1) == 1  # 3 of 8 subsets, and the empty one, whose block is drawn
    assert float(alone.double().mean()) == pytest.approx(0.5 * 4 / 8, abs=0.03)


def test_subsets_of_one_block_are_refused():
    with pytest.raises(BadConfig, match="needs features from several blocks, but 'dinov3-tiny' has none to leave out"):
        build(override(["autoencoder.layer_subsets=0.5", "encoder.card=dinov3"]), preset="tiny")
    several = "encoder.features={layers: [2, 3, 4], combine: mean}"
    assert (
        build(override(["autoencoder.layer_subsets=0.5", "encoder.card=dinov3", several]), preset="tiny").autoencoder.layer_subsets == 0.5
    )


def test_gradients_through_the_statistics_are_those_of_one_graph():
    """With ``align_gradient``, an update's gradients are autograd's of the whole loss; the residual's scale then has none."""
    part = settings(align="frozen", align_gradient=True)
    found, _ = gradients(part, 3, 0)
    made, _ = task(part, None)
    tokenizer = made.modules["tokenizer"]
    piece = made._piece(
        loaded(made, Batch(torch.arange(8), torch.arange(8), 8, 0), torch.device("cpu")).holding(features=made._features(torch.arange(8)))
    )
    residual = tokenizer.residual_encoder(piece.originals, piece.positions, 3)
    aligned = tokenizer.alignment(residual, piece.features, tokenizer.alignment.statistics_of(residual, piece.features))
    latents = torch.cat([piece.features, tokenizer.residual_encoder.replace(aligned, piece.positions, 3)], dim=1)
    y = tokenizer.decoder(latents)
    gradient = made._objective.gradients(y, piece.originals, size=8, gan=False).reconstruction
    y.backward(gradient)
    last = "residual_encoder.head.2.weight"
    largest = max(parameter.grad.abs().max().item() for parameter in tokenizer.parameters() if parameter.grad is not None)
    for name, parameter in tokenizer.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[f"tokenizer.{name}"], parameter.grad, rtol=2e-3, atol=1e-5 * largest)
    weight, bias = (tokenizer.get_parameter(f"residual_encoder.head.2.{kind}") for kind in ("weight", "bias"))
    along = (found[f"tokenizer.{last}"] * weight).sum() + (found["tokenizer.residual_encoder.head.2.bias"] * bias).sum()
    detached, _ = gradients(settings(align="frozen"), 3, 0)
    without = (detached[f"tokenizer.{last}"] * weight).sum() + (detached["tokenizer.residual_encoder.head.2.bias"] * bias).sum()
    assert abs(float(along.detach())) < 1e-3 * abs(float(without.detach()))
