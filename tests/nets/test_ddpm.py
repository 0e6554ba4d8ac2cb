import math

import pytest
import torch

from svgbench.config.sampling import SamplingProtocol
from svgbench.errors import BadConfig
from svgbench.nets import ddpm, draws
from svgbench.nets.guidance import guided
from svgbench.nets.sampler import sample
from svgbench.nets.sit import SiT
from svgbench.nets.training_pair import TrainingPair

MEAN, STD = 0.7, 0.5
"""The data of these tests: N(0.7, 0.25) in each number."""


class Exact(torch.nn.Module):
    """The best possible noise prediction for Gaussian data, with a variance's numbers when asked; class 1 moves the mean by -1.4."""

    classes, objective = 2, "ddpm"

    def __init__(self, numbers: float | None = None):
        super().__init__()
        self.numbers, self.chain, self.calls = numbers, ddpm.Chain(), []

    def forward(self, x, k, labels):
        self.calls.append((len(x), int(k[0])))
        signal, noise = self.chain.at("signal", k.long()), self.chain.at("noise", k.long())
        mean = torch.where(labels == 1, -MEAN, MEAN)[:, None, None, None]
        eps = noise * (x - signal * mean) / (signal**2 * STD**2 + noise**2)
        return eps if self.numbers is None else torch.cat([eps, torch.full_like(eps, self.numbers)], dim=1)

    def epsilon(self, x, k, labels):
        return self(x, k, labels)[:, : x.shape[1]]


def test_the_chain_is_the_linear_schedule_and_ends_in_noise():
    chain = ddpm.Chain()
    betas = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]
    kept, alpha = [], 1.0
    for beta in betas:
        kept.append(alpha := alpha * (1 - beta))
    torch.testing.assert_close(chain.signal.square(), torch.tensor(kept), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(chain.log_beta.exp(), torch.tensor(betas), rtol=1e-4, atol=0)
    assert kept[-1] < 5e-5 and chain.kept == list(range(1000))
    assert not chain.state_dict()


@pytest.mark.parametrize("steps", [1, 2, 10, 250, 1000])
def test_kept_steps_run_from_the_first_to_the_last(steps):
    chain = ddpm.Chain(steps)
    assert len(set(chain.kept)) == steps and chain.kept[0] == 0 and (steps == 1 or chain.kept[-1] == 999)
    assert all(table.isfinite().all() for table in chain.buffers())
    torch.testing.assert_close(chain.signal, ddpm.Chain().signal[chain.kept])


def test_chains_of_no_or_too_many_steps_are_refused():
    for steps in (0, 1001):
        with pytest.raises(BadConfig, match="1 to 1000"):
            ddpm.Chain(steps)


def test_ten_steps_are_those_that_adms_respacing_keeps():
    assert ddpm.Chain(10).kept == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_training_pairs_are_a_function_of_position_and_hold_their_noise():
    chain, data, positions = ddpm.Chain(), torch.randn(64, 3, 2, 2), torch.arange(500, 564)
    pair = ddpm.training_pair(chain, data, positions, noise=1, time=2)
    torch.testing.assert_close(chain.data(pair.x, pair.target, pair.time)[pair.time < 500], data[pair.time < 500])
    assert torch.equal(pair.target, draws.normal(1, positions, (3, 2, 2)))
    assert pair.time.min() >= 0 and pair.time.max() <= 999 and pair.time.float().mean().item() == pytest.approx(500, abs=120)
    part = ddpm.training_pair(chain, data[5:7], positions[5:7], noise=1, time=2)
    assert all(torch.equal(a[5:7], b) for a, b in zip(pair, part, strict=True))


def by_the_book(chain, data, x, k, eps, numbers):
    """The bound's term of single numbers, in float64 from DDPM's and improved DDPM's formulas."""
    kept, alpha = [1.0], 1.0
    for beta in torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist():
        kept.append(alpha := alpha * (1 - beta))
    now, before, first, second = kept[k + 1], kept[k], kept[1], kept[2]
    beta = 1 - now / before
    variance = beta * (1 - before) / (1 - now) if k else (1 - second / first) * (1 - first) / (1 - second)
    said = math.exp((numbers + 1) / 2 * math.log(beta) + (1 - numbers) / 2 * math.log(variance))
    posterior = lambda start: (math.sqrt(before) * beta * start + math.sqrt(now / before) * (1 - before) * x) / (1 - now)  # noqa: E731
    mean, model_mean = posterior(data), posterior((x - math.sqrt(1 - now) * eps) / math.sqrt(now))
    if k:
        return (0.5 * math.log(said / variance) + (variance + (mean - model_mean) ** 2) / (2 * said) - 0.5) / math.log(2)
    cdf = lambda v: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))  # noqa: E731
    low = 0.0 if data < -0.999 else cdf((data - model_mean - 1 / 255) / math.sqrt(said))
    high = 1.0 if data > 0.999 else cdf((data - model_mean + 1 / 255) / math.sqrt(said))
    return -math.log(max(high - low, 1e-12)) / math.log(2)


@pytest.mark.parametrize("k", [0, 1, 17, 500, 999])
@pytest.mark.parametrize(("data", "eps", "numbers"), [(0.3, 0.9, -1.0), (-1.5, -0.4, 0.5), (1.2, 0.2, 1.0)])
def test_the_bounds_term_is_the_books(k, data, eps, numbers):
    chain, full = ddpm.Chain(), lambda value: torch.full((1, 1, 1, 1), value)
    x = chain.at("signal", k) * data + chain.at("noise", k) * 0.6
    pair = TrainingPair(x, torch.tensor([k]), full(0.6))
    got = ddpm.bound(chain, full(eps), full(numbers), full(data), pair).item()
    assert got == pytest.approx(by_the_book(chain, data, x.item(), k, eps, numbers), rel=2e-3, abs=1e-4)


def test_the_right_noise_and_the_least_variance_have_no_loss():
    chain, data = ddpm.Chain(), torch.randn(4, 2, 3, 3)
    k = torch.tensor([5, 100, 600, 999])
    eps = torch.randn(4, 2, 3, 3)
    pair = TrainingPair(chain.at("signal", k) * data + chain.at("noise", k) * eps, k, eps)
    outputs = torch.cat([eps, torch.full_like(eps, -1.0)], dim=1)
    assert ddpm.losses(chain, outputs, data, pair).abs().max() < 1e-4
    assert torch.equal(ddpm.losses(chain, eps, data, pair), torch.zeros(4))
    assert (ddpm.losses(chain, torch.cat([eps, torch.full_like(eps, 1.0)], dim=1), data, pair)[:1] > 1e-3).all()


def test_the_bound_trains_the_variance_and_never_the_noise():
    chain, data = ddpm.Chain(), torch.randn(3, 2, 2, 2)
    pair = ddpm.training_pair(chain, data, torch.arange(3), noise=1, time=2)
    outputs = torch.cat([pair.target, torch.zeros_like(pair.target)], dim=1).requires_grad_()
    ddpm.losses(chain, outputs, data, pair).sum().backward()
    assert not outputs.grad[:, :2].any() and outputs.grad[:, 2:].any()


def test_ddim_carries_gaussian_noise_into_the_datas_gaussian():
    noise = torch.randn(5000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    got = sample(Exact(), noise, torch.zeros(5000, dtype=torch.int64), steps=200, sampler="ddim")
    torch.testing.assert_close(got, MEAN + STD * noise, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("numbers", [None, -1.0, 1.0])
def test_ancestral_samples_have_the_datas_mean_and_spread(numbers):
    noise = torch.randn(5000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    got = sample(Exact(numbers), noise, torch.zeros(5000, dtype=torch.int64), steps=1000, sampler="ddpm")
    assert got.mean().item() == pytest.approx(MEAN, abs=0.03) and got.std().item() == pytest.approx(STD, abs=0.03)


def test_ancestral_samples_depend_on_index_and_seed_and_on_no_batch_mate():
    noise, labels, indices = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 1, 0]), torch.tensor([7, 8, 9, 10])
    draw = lambda rows, **more: sample(  # noqa: E731
        Exact(0.0), noise[rows], labels[rows], steps=20, sampler="ddpm", guidance=2.0, indices=indices[rows], **more
    )
    assert torch.equal(draw(slice(0, 4))[1:2], draw(slice(1, 2)))
    assert not torch.equal(draw(slice(0, 4)), draw(slice(0, 4), seed=1))


def test_noise_is_guided_and_the_variance_is_the_classes_own():
    class Plain(Exact):
        def forward(self, x, k, labels):
            self.calls.append((len(x), int(k[0])))
            value = labels.float()[:, None, None, None].expand_as(x)
            return torch.cat([value, 10 * value], dim=1)

    model, seen = Plain(), []
    sampling = SamplingProtocol(sampler="ddim", steps=4, guidance=3.0, shift=1.0)
    field = guided(model, torch.tensor([0, 1]), sampling, null=2)
    prediction = field(torch.zeros(2, 1, 1, 1), 999, 0)
    assert prediction.flatten(1).tolist() == [[2 + 3 * (0 - 2), 0], [2 + 3 * (1 - 2), 10]] and not seen
    assert model.calls == [(4, 999)]


def test_schedules_see_noise_as_time_zero_and_skip_the_null_class():
    model = Exact()
    sample(model, torch.randn(2, 1, 1, 1), torch.tensor([0, 1]), steps=5, sampler="ddim", guidance=2.0, schedule="early-0.5")
    assert model.calls == [(2, 999), (2, 749), (2, 500), (4, 250), (4, 0)]


def test_a_velocity_sampler_on_a_noise_predicting_model_is_refused():
    for sampler in ("euler", "sde-euler"):
        with pytest.raises(BadConfig, match="predicts noise; use ddim or ddpm"):
            sample(Exact(), torch.randn(1, 1, 1, 1), torch.tensor([0]), sampler=sampler)


def test_the_model_over_a_transformer_gives_noise_variance_and_tapped_tokens():
    sit = SiT(channels=2, grid=4, width=16, depth=2, heads=2, classes=3, patch=2, learned_sigma=True)
    torch.nn.init.normal_(sit.final.weight)
    model = ddpm.EpsilonModel(sit)
    x, k, labels = torch.randn(2, 2, 4, 4), torch.tensor([3, 900]), torch.tensor([0, 3])
    outputs = model(x, k, labels)
    assert outputs.shape == (2, 4, 4, 4) and torch.equal(model.epsilon(x, k, labels), outputs[:, :2])
    assert (model.channels, model.grid, model.classes) == (2, 4, 3)
    said, tokens = model(x, k, labels, tap=2)
    assert torch.equal(said, outputs) and tokens.shape == (2, 4, 16)
    assert model.state_dict().keys() == {f"sit.{name}" for name in sit.state_dict()}
    for sampler in ("ddim", "ddpm"):
        assert sample(model, x, labels, steps=3, sampler=sampler, guidance=1.5, weak=model).isfinite().all()


def test_as_a_velocity_model_it_says_the_straight_path_s_velocity():
    model = Exact()
    model.channels = model.grid = 1
    view = ddpm.FlowView(model)
    x, t = torch.linspace(-2, 2, 7)[:, None, None, None], torch.tensor([0.05, 0.2, 0.4, 0.5, 0.7, 0.9, 0.95])
    said = view(x, t, torch.zeros(7, dtype=torch.int64)).flatten()
    off = (x.flatten() - t * MEAN) / (t**2 * STD**2 + (1 - t) ** 2)
    true = (MEAN + t * STD**2 * off) - (1 - t) * off  # E[data - noise | x_t] of Gaussian data
    assert torch.allclose(said, true, atol=0.05) and (view.channels, view.grid, view.classes) == (1, 1, 2)
