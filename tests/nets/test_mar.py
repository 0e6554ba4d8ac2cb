"""MAR against a second implementation on the same weights, and what holds for any weights: hidden tokens, rounds, guidance, dropout."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from scipy.stats import truncnorm
from second_mar import SecondMar, alphas_bar
from torch import Tensor, nn

from svgbench.config.build import build
from svgbench.config.choices import hidden_share, left_after
from svgbench.config.parse import override
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import Diffusion
from svgbench.errors import BadConfig, BadInput
from svgbench.nets import ddpm, draws, mar
from svgbench.nets.objectives import OBJECTIVES
from svgbench.nets.sampler import sample

SIZES = {
    "channels": 3, "grid": 4, "width": 32, "depth": 2, "heads": 4, "classes": 7, "mlp_ratio": 2.0, "buffer": 3, "head_width": 24,
    "head_depth": 2, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
LABELS = torch.tensor([0, 1, 2, 7])
PLACES = torch.arange(4)
NOISE, TIME = 11, 12


def network(patch: int = 1, **more) -> mar.MAR:
    torch.manual_seed(patch)
    model = mar.MAR(**SIZES | {"patch": patch} | more)
    for module in (model.head.final, model.head.modulation, *(block.modulation for block in model.head.blocks)):
        nn.init.normal_(module.weight, std=0.2)  # zero at the start, where the head ignores its condition
    return model.eval()


@pytest.fixture(scope="module")
def model() -> mar.MAR:
    return network()


def settings(**more) -> Diffusion:
    training = {"total_images": 400, "batch": 4, "optimiser": {"lr": 1e-3}}
    return Diffusion(objective="mar", training=training, mar=more)


def data(count: int = 4) -> Tensor:
    return draws.normal(1, torch.arange(count), (3, 4, 4)).clamp(-0.9, 0.9)


def pair_of(model: mar.MAR, part: Diffusion, positions: Tensor = PLACES, latents: Tensor | None = None):
    return pair_of_labels(model, part, positions, data() if latents is None else latents, LABELS)


def pair_of_labels(model: mar.MAR, part: Diffusion, positions: Tensor, latents: Tensor, labels: Tensor):
    held = mar.drawn(positions, model.count, TIME, part)
    return mar.training_pair(model, latents, positions, NOISE, TIME, part, labels, held)


@pytest.mark.parametrize("patch", [1, 2])
def test_the_training_loss_is_the_second_implementation_s(patch):
    model, part = network(patch), settings(repeats=3, least_hidden=0.4)
    pair = pair_of(model, part)
    mine = mar.losses(model, model(pair.x, pair.time, LABELS), data(), pair).mean()

    hidden, (b, r, m) = pair.time.hidden, pair.time.steps.shape
    mask = torch.zeros(b, model.count).scatter(1, hidden, 1.0)
    channels = pair.target.shape[3]
    at = hidden[:, None].expand(-1, r, -1)
    steps = torch.zeros(b, r, model.count, dtype=torch.int64).scatter(2, at, pair.time.steps).transpose(0, 1)
    noise = torch.zeros(b, r, model.count, channels).scatter(2, at[..., None].expand(-1, -1, -1, channels), pair.target).transpose(0, 1)
    other = SecondMar(model).loss(model.tokens(data()), mask, LABELS, steps, noise)
    assert 0 < m < model.count or patch == 2  # of four tokens, all are hidden in most updates
    torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("rounds", "guidance", "schedule"), [(1, 1.0, "constant"), (5, 3.0, "linear"), (16, 2.5, "constant")])
def test_samples_are_the_second_implementation_s(model, rounds, guidance, schedule):
    start, labels, head_steps, temperature, seed = draws.normal(5, PLACES, (3, 4, 4)), LABELS[:3], 12, 0.9, 21
    places = PLACES[:3]
    sampling = SamplingProtocol(
        sampler="mar", steps=rounds, guidance=guidance, shift=1.0, schedule=schedule, head_steps=head_steps, temperature=temperature,
        token_limit=2.0,
    )  # fmt: skip
    mine = mar.generate(model, start[:3], labels, sampling, seed, places)

    order = draws.uniform(draws.stream(seed, "mar/order"), places, (16,)).argsort(1)

    def fresh(number: int, step: int, now: Tensor) -> Tensor:
        return draws.normal(draws.stream(seed, f"mar/{number}/{step}"), places, (now.shape[1], 3))

    with torch.no_grad():
        tokens, history = SecondMar(model).sample(
            labels, order.flip(1), rounds=rounds, head_steps=head_steps, guidance=guidance, linear=schedule == "linear",
            temperature=temperature, limit=2.0, start=model.tokens(start[:3]), fresh=fresh,
        )  # fmt: skip
    assert torch.stack(history).sum(0).eq(1).all()  # the second implementation makes every token once, too
    torch.testing.assert_close(mine, model.latents(tokens), rtol=0, atol=5e-3)  # 16 rounds multiply roundings
    assert float(tokens.abs().max()) <= 2 and float((tokens.abs() < 1.9).double().mean()) > 0.2  # most are not at the limit


def test_the_cosine_schedule_is_nichol_and_dhariwal_s():
    chain = ddpm.Chain(schedule="cosine")
    torch.testing.assert_close(chain.signal.double() ** 2, alphas_bar(), rtol=1e-5, atol=1e-12)
    middle = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(chain.signal[499]) ** 2 == pytest.approx(middle, rel=1e-5)


def test_only_hidden_tokens_have_a_loss(model):
    part = settings(repeats=2)
    pair = pair_of(model, part)
    outputs = model(pair.x, pair.time, LABELS)
    assert outputs.shape == (4, 2, pair.time.hidden.shape[1], 6)
    clean = model.tokens(data()).gather(1, pair.time.hidden[:, :, None].expand(-1, -1, 3))
    one_by_one = []
    for b, r, t in itertools.product(range(4), range(2), range(clean.shape[1])):
        seen, target, made, whole = (
            x[None, :, None, None] for x in (pair.time.noised[b, r, t], pair.target[b, r, t], outputs[b, r, t], clean[b, t])
        )
        one_by_one.append(ddpm.losses(model.chain, made, whole, mar.TrainingPair(seen, pair.time.steps[b, r, t][None], target)))
    torch.testing.assert_close(mar.losses(model, outputs, data(), pair), torch.cat(one_by_one).reshape(4, -1).mean(1), rtol=1e-5, atol=1e-6)


def test_a_condition_sees_visible_tokens_and_no_hidden_one(model):
    tokens = model.tokens(data()).clone().requires_grad_()
    kept = torch.tensor([[0, 5, 9]] * 4)
    model.conditions(tokens, LABELS, kept)[:, 12].square().sum().backward()
    moved = tokens.grad.abs().sum(2) > 0
    assert moved[:, [0, 5, 9]].all()
    assert moved.sum() == 12


def test_the_hidden_and_visible_tokens_are_all_tokens_once_and_as_many_in_all_images_of_an_update():
    part = settings()
    for update in range(20):
        held = mar.drawn(torch.arange(4) + 4 * update, 16, TIME, part)
        every = torch.cat([held["hidden"], held["kept"]], dim=1)
        assert every.sort(1).values.eq(torch.arange(16)).all()
        # a rank's part of the update, and no images at all
        part_of_it = mar.drawn(torch.tensor([4 * update + 2]), 16, TIME, part)
        assert part_of_it["hidden"].equal(held["hidden"][2:3])
    assert mar.drawn(torch.arange(0), 16, TIME, part)["hidden"].shape[0] == 0


def test_the_share_of_hidden_tokens_is_the_truncated_normal_of_the_paper():
    known = truncnorm((0.7 - 1) / 0.25, 0, loc=1.0, scale=0.25)
    for place in (0.01, 0.3, 0.5, 0.99):
        assert hidden_share(place, 0.7) == pytest.approx(known.ppf(place), abs=1e-6)
    counts = [mar.hidden_count(update, 100, 3, 0.7) for update in range(2000)]
    assert sum(counts) / 2000 == pytest.approx(100 * known.mean() + 0.5, abs=0.6)  # rounded up: half a token more
    assert (min(counts), max(counts)) == (71, 100)


@pytest.mark.parametrize("tokens", [1, 2, 16, 256])
def test_each_round_makes_at_least_one_token(tokens):
    for rounds in sorted({1, max(1, tokens // 3), tokens}):
        left = [tokens, *left_after(rounds, tokens), 0]
        assert len(left) == rounds + 1
        assert all(after < before for before, after in itertools.pairwise(left))
    with pytest.raises(BadConfig, match=f"in 1 to {tokens} rounds, not {tokens + 1}"):
        left_after(tokens + 1, tokens)


def test_without_guidance_the_null_class_is_not_evaluated():
    model, noise = network(), draws.normal(3, PLACES, (3, 4, 4))
    alone, guided = (sample(model, noise, LABELS[:3].repeat(2)[:4], steps=4, sampler="mar", guidance=scale) for scale in (1.0, 2.0))
    with torch.no_grad():
        model.labels.weight[7] += 1.0  # the null class
    again, changed = (sample(model, noise, LABELS[:3].repeat(2)[:4], steps=4, sampler="mar", guidance=scale) for scale in (1.0, 2.0))
    assert again.equal(alone)
    assert not changed.allclose(guided)


def test_a_sample_depends_on_its_index_and_seed_and_on_no_batch_mate(model):
    noise, labels, settings_ = draws.normal(3, PLACES, (3, 4, 4)), torch.tensor([0, 1, 2, 3]), {"steps": 4, "sampler": "mar"}
    whole = sample(model, noise, labels, indices=PLACES + 5, seed=1, **settings_)
    part = sample(model, noise[2:], labels[2:], indices=PLACES[2:] + 5, seed=1, **settings_)
    torch.testing.assert_close(part, whole[2:], rtol=1e-4, atol=1e-4 * float(whole.std()))
    assert not sample(model, noise, labels, indices=PLACES + 5, seed=2, **settings_).allclose(whole)


def test_temperature_scales_the_noise_of_the_head_s_steps(monkeypatch):
    """With a head that finds the same noise everywhere, a token is a sum of its first noise and of each step's, so it is linear in the
    temperature."""
    model, noise, labels = network(), draws.normal(3, PLACES, (3, 4, 4)), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(model.head, "forward", lambda x, steps, conditions: torch.zeros(len(x), 6))
    base = SamplingProtocol(sampler="mar", steps=1, guidance=1.0, shift=1.0, head_steps=5)
    cold, one, two = (
        mar.generate(model, noise, labels, base.model_copy(update={"temperature": value}), 0, PLACES).double() for value in (1e-9, 1.0, 2.0)
    )
    assert float((one - cold).abs().max()) > 1
    torch.testing.assert_close(two - cold, 2 * (one - cold), rtol=1e-3, atol=1e-3 * float(cold.std()))


def test_compiled_sampling_draws_the_same(monkeypatch):
    """Traced as for a GPU, without generating code, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    noise, labels = draws.normal(3, PLACES, (3, 4, 4)), torch.tensor([0, 1, 2, 3])
    sampling = {"steps": 3, "sampler": "mar", "guidance": 2.0, "head_steps": 4, "token_limit": 2.0}
    compiled, model = network(depth=1), network(depth=1)
    compiled.compile_for_sampling()
    torch.testing.assert_close(sample(compiled, noise, labels, **sampling), sample(model, noise, labels, **sampling), rtol=1e-3, atol=1e-4)
    assert compiled.head._compiled_call_impl is not None and compiled.encoder.compiled


def test_the_head_draws_in_single_precision_when_the_transformer_does_not(model):
    seen = []
    handle = model.head.final.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    base = SamplingProtocol(sampler="mar", steps=2, guidance=1.0, shift=1.0, head_steps=2, token_limit=2.0, precision="bf16")
    mar.generate(model, draws.normal(3, PLACES, (3, 4, 4)), torch.tensor([0, 1, 2, 3]), base, 0, PLACES)
    handle.remove()
    assert set(seen) == {torch.float32}


def test_a_limit_bounds_the_tokens(model):
    base = SamplingProtocol(sampler="mar", steps=4, guidance=1.0, shift=1.0, head_steps=5, token_limit=1.5)
    made = mar.generate(model, draws.normal(3, PLACES, (3, 4, 4)), torch.tensor([0, 1, 2, 3]), base, 0, PLACES)
    assert float(made.abs().max()) <= 1.5 + 1e-6  # the last step returns the predicted token
    assert base.how == "mar-shift1-head5-limit1.5"


def test_dropout_acts_in_training_by_position_only():
    model = network(dropout=0.3, attention_dropout=0.3)
    tokens, kept = model.tokens(data()), torch.tensor([[0, 5, 9]] * 4)
    first = model.conditions(tokens, LABELS, kept, PLACES, 4)
    assert first.equal(model.conditions(tokens, LABELS, kept, PLACES, 4))
    torch.testing.assert_close(first[1:], model.conditions(tokens[1:], LABELS[1:], kept[1:], PLACES[1:], 4))
    assert not first.allclose(model.conditions(tokens, LABELS, kept, PLACES + 4, 4))
    assert model.conditions(tokens, LABELS, kept).equal(network().conditions(tokens, LABELS, kept))


def test_it_learns_tokens_that_depend_on_their_class_and_on_each_other():
    """The first channel is 0.8 or -0.8 by class; the second is 1 or -1 by the image, the same in all its tokens."""
    torch.manual_seed(0)
    model = mar.MAR(**SIZES | {"channels": 2, "grid": 2, "classes": 2, "patch": 1, "buffer": 1})
    part = Diffusion(objective="mar", training={"total_images": 1, "batch": 64, "optimiser": {"lr": 1e-3}}, mar={"least_hidden": 0.2})
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for update in range(400):
        positions = torch.arange(64) + 64 * update
        labels = positions % 2
        values = torch.stack([0.8 - 1.6 * labels, 2.0 * draws.chance(8, positions, (), 0.5) - 1], dim=1)
        latents = values[:, :, None, None].expand(-1, -1, 2, 2)
        pair = pair_of_labels(model, part, positions, latents, labels)
        mar.losses(model, model(pair.x, pair.time, labels), latents, pair).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    labels = torch.arange(200) % 2
    sampling = SamplingProtocol(sampler="mar", steps=4, guidance=1.0, shift=1.0, head_steps=25, token_limit=2.5)
    made = mar.generate(model.eval(), draws.normal(9, torch.arange(200), (2, 2, 2)), labels, sampling, 0, torch.arange(200)).flatten(2)
    for number, mean in enumerate((0.8, -0.8)):
        assert float(made[labels == number, 0].mean()) == pytest.approx(mean, abs=0.2)
    positive = (made[:, 1] > 0).sum(1)
    assert float(((positive == 0) | (positive == 4)).double().mean()) > 0.7  # 1/8 of independent tokens
    assert 0.25 < float((positive == 4).double().mean()) < 0.75


def test_a_run_refuses_what_mar_does_not_have():
    base = ["diffusion.objective=mar", "sampling.sampler=mar", "sampling.steps=[8]", "sampling.zero_init=0"]

    def built(*changes: str):
        return build(override([*base, *changes]), preset="tiny")

    assert built().diffusion.transformer.qk_norm is True  # unused fields are at their defaults, so that keys do not differ
    for change, sentence in (
        ("sampling.steps=[17]", "at most 16"),
        ("sampling.schedule=late", "use constant or linear"),
        ("sampling.guided_channels=3", "leave it empty"),
        ("sampling.against=weak", "needs diffusion.objective flow"),
        ("diffusion.representation.weight=0.5", "set diffusion.representation.weight=0"),
        ("sampling.sampler=euler", "use mar"),
        ("continued=[{resolution: 64, autoencoder: {images: 64}, diffusion: {images: 64}}]", "leave continued out"),
    ):
        with pytest.raises(BadConfig, match=sentence):
            built(change)
    with pytest.raises(BadInput, match="has no velocity"):
        OBJECTIVES["mar"].as_velocity(None)


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"schedule": "late"}, "use constant or linear"),
        ({"guided_channels": 2}, "leave it empty"),
        ({"temperature": -1.0}, "must be above 0"),
        ({"token_limit": -1.0}, "must be above 0"),
        ({"steps": 17}, "in 1 to 16 rounds, not 17"),
        ({"weak": True}, "has no autoguidance"),
    ],
)
def test_sampling_refuses_what_a_run_refuses(model, settings_, sentence):
    more = {**settings_, "weak": network(), "guidance": 2.0} if "weak" in settings_ else settings_
    with pytest.raises(BadConfig, match=sentence):
        sample(model, torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), **{"sampler": "mar", "steps": 4, **more})
