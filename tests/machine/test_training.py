"""The training loop: what it promises about order, sums, rates, numbers that are not finite, and its log."""

from __future__ import annotations

import json
import math

import pytest
import torch
from toys import DATASET, SETTINGS, Toy, digest, run

from svgbench.config.networks import Optimiser, Training
from svgbench.errors import BadConfig, NumericalError
from svgbench.machine.averages import Averages
from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import learning_rate, train


def test_each_epoch_visits_every_image_once_in_another_order():
    order = Order(1000, seed=5)
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.99
    assert (Order(1000, seed=6).epoch(0) != first).mean() > 0.99


def test_order_at_a_position_does_not_depend_on_what_was_asked_before():
    straight = torch.cat([Order(37, seed=2).batch(start, 12).indices for start in range(0, 120, 12)])
    order = Order(37, seed=2)
    jumped = {start: order.batch(start, 12).indices for start in (108, 0, 60, 12, 96, 24, 36, 84, 48, 72)}
    assert torch.equal(straight, torch.cat([jumped[start] for start in sorted(jumped)]))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_a_batch_without_gap_or_overlap(world):
    whole = Order(37, seed=2).batch(30, 14)
    shares = [Order(37, seed=2).batch(30, 14, rank=rank, world=world) for rank in range(world)]
    positions = torch.cat([share.positions for share in shares])
    assert sorted(positions.tolist()) == list(range(30, 44)) == whole.positions.tolist()
    lookup = dict(zip(whole.positions.tolist(), whole.indices.tolist(), strict=True))
    assert all(lookup[p] == i for share in shares for p, i in zip(share.positions.tolist(), share.indices.tolist(), strict=True))
    assert all(share.size == 14 for share in shares)


@pytest.mark.parametrize(("most", "lengths"), [(None, [7]), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_micro_batches_cut_a_batch_in_order_and_keep_its_global_size(most, lengths):
    batch = Order(37, seed=2).batch(0, 14, rank=1, world=2)
    pieces = list(batch.micro_batches(most))
    assert [len(piece) for piece in pieces] == lengths
    assert torch.equal(torch.cat([piece.indices for piece in pieces]), batch.indices)
    assert {(piece.size, piece.images_seen) for piece in pieces} == {(14, 0)}


def test_a_rank_without_images_gets_no_micro_batch():
    assert list(Order(37, seed=2).batch(0, 1, rank=1, world=2).micro_batches(4)) == []


def test_a_training_ends_exactly_at_total_images(tmp_path):
    report, toy = run(tmp_path)
    assert report.images_seen == SETTINGS.total_images == len(toy.visited)
    assert report.updates == math.ceil(SETTINGS.total_images / SETTINGS.batch)
    assert sorted(toy.visited[:DATASET]) == list(range(DATASET))


def test_a_training_learns(tmp_path):
    report, _ = run(tmp_path)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert report.losses["fit"] < 0.6 * first["fit"]


@pytest.mark.parametrize("micro", [1, 3, 12])
def test_accumulated_micro_batches_equal_the_big_batch(tmp_path, micro):
    (whole, toy_whole), (parts, toy_parts) = run(tmp_path / "a", micro=None), run(tmp_path / "b", micro=micro)
    for name, tensor in toy_whole.modules["first"].state_dict().items():
        torch.testing.assert_close(toy_parts.modules["first"].state_dict()[name], tensor, rtol=2e-5, atol=2e-6)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


def test_the_same_training_twice_has_equal_bits(tmp_path):
    assert digest(*run(tmp_path / "a")) == digest(*run(tmp_path / "b"))
    assert digest(*run(tmp_path / "c", seed=4)) != digest(*run(tmp_path / "d"))


def test_a_finished_training_called_again_updates_nothing_and_reports_the_same(tmp_path):
    report, toy = run(tmp_path)
    again, other = run(tmp_path)
    assert other.visited == []
    assert digest(again, other) == digest(report, toy)
    assert again.seconds == pytest.approx(report.seconds, rel=0.5)


def test_averages_follow_the_weights_by_the_decay():
    module = torch.nn.Linear(2, 1)
    averages = Averages(module, 0.75)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 4.0
    averages.update()
    torch.testing.assert_close(averages.state["weight"], before + 1.0)


def test_the_learning_rate_rises_then_falls_to_zero():
    settings = Training(total_images=1100, batch=10, optimiser=Optimiser(lr=0.2, lr_warmup_images=100, schedule="cosine"))
    assert learning_rate(settings, 50) == pytest.approx(0.1)
    assert learning_rate(settings, 100) == pytest.approx(0.2)
    assert learning_rate(settings, 600) == pytest.approx(0.1)
    assert learning_rate(settings, 1100) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(Training(total_images=10, batch=10, optimiser=Optimiser(lr=0.2)), 10) == 0.2


def test_raes_rate_is_held_and_falls_on_a_line_to_its_end():
    """bytetriper/RAE, utils/optim_utils.py, with its training configuration's numbers: 2e-4 until epoch 40, then linear to 2e-5 at 800."""
    epoch = 1_280_000
    optimiser = Optimiser(lr=2e-4, schedule="linear", decay_start_images=40 * epoch, final_lr=2e-5)
    settings = Training(total_images=800 * epoch, batch=1024, optimiser=optimiser)
    for at in (1, 40, 41, 100, 420, 799, 800):
        expected = 2e-4 if at < 40 else 2e-4 * (1 - (1 - 0.1) * (at - 40) / (800 - 40))
        assert learning_rate(settings, at * epoch) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(settings, 800 * epoch) == pytest.approx(2e-5)


def test_a_cosine_may_end_above_zero_after_its_warm_up():
    optimiser = Optimiser(lr=2e-4, schedule="cosine", lr_warmup_images=100, final_lr=2e-5)
    settings = Training(total_images=1100, batch=10, optimiser=optimiser)
    assert [learning_rate(settings, at) for at in (50, 100, 600, 1100)] == pytest.approx([1e-4, 2e-4, 1.1e-4, 2e-5])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"final_lr": 1e-5}, "final_lr needs schedule cosine or linear"),
        ({"decay_start_images": 5}, "decay_start_images needs schedule cosine or linear"),
        ({"schedule": "linear", "final_lr": 1.0}, "final_lr 1 is above lr 0.0001; give at most lr"),
        ({"schedule": "cosine", "decay_start_images": 5, "lr_warmup_images": 6}, "decay_start_images 5 is below lr_warmup_images 6"),
        ({"schedule": "linear", "decay_start_images": 100}, "decay_start_images 100 must be below total_images 100"),
    ],
)
def test_a_decay_that_cannot_be_meant_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Training(total_images=100, batch=10, optimiser=settings)


def test_an_update_that_is_not_finite_is_left_out_and_counted(tmp_path):
    frozen = {}

    def note(toy):
        return {name: tensor.clone() for name, tensor in toy.modules["first"].named_parameters()}

    class Watched(Toy):
        def update(self, batch, apply):
            before = note(self)
            losses = super().update(batch, apply)
            if int(batch.positions[0]) in self.poison:
                frozen.update(before=before, after=note(self))
            return losses

    runtime = Runtime(device="cpu", threads=1, quiet=True)
    toy = Watched(runtime, poison=[60])
    report = train(toy, settings=SETTINGS, dataset_size=DATASET, seed=3, out=tmp_path, runtime=runtime, label="toy")
    assert report.skipped == 1
    assert all(torch.equal(frozen["before"][name], frozen["after"][name]) for name in frozen["before"])
    assert all(torch.isfinite(tensor).all() for tensor in toy.modules["first"].state_dict().values())
    assert all(math.isfinite(value) for value in report.losses.values())


def test_more_updates_than_allowed_that_are_not_finite_stop_the_training_with_the_last_good_weights(tmp_path):
    with pytest.raises(NumericalError, match=r"toy: losses or gradients were not finite in 3 updates.*skipped_updates allows 2"):
        run(tmp_path, poison=[60, 72, 96])
    assert [int(place.name) for place in (tmp_path / "checkpoints").iterdir()] == [60]
    report, toy = run(tmp_path)  # the poison is gone: the same command goes on from the last checkpoint
    assert report.images_seen == SETTINGS.total_images
    assert all(torch.isfinite(tensor).all() for tensor in toy.modules["first"].state_dict().values())


def test_a_checkpoint_of_other_settings_is_refused_by_the_names_that_differ(tmp_path):
    run(tmp_path)
    other = SETTINGS.model_copy(update={"batch": 10})
    with pytest.raises(BadConfig, match=r"settings\.batch 12 there and 10 here"):
        run(tmp_path, settings=other)
    with pytest.raises(BadConfig, match="seed 3 there and 8 here"):
        run(tmp_path, seed=8)


def test_the_log_has_one_line_a_stretch_and_means_over_it(tmp_path):
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines] == [*range(12, 289, 12), 290]
    assert {"fit", "critic", "first_gradient_norm", "lr", "seconds", "images_per_second", "skipped"} <= lines[-1].keys()
    assert lines[-1]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_parameters_without_gradient_count_as_zero(tmp_path):
    class Half(Toy):
        def update(self, batch, apply):
            self.modules["first"][2](self.data[batch.indices].repeat(1, 3)[:, :16]).square().sum().div(batch.size).backward()
            apply("first")
            return {}

    runtime = Runtime(device="cpu", threads=1, quiet=True)
    toy = Half(runtime)
    before = toy.modules["first"][0].bias.detach().clone()
    settings = SETTINGS.model_copy(update={"optimiser": Optimiser(lr=0.1)})
    toy.optimisers["first"].param_groups[0]["weight_decay"] = 0.0
    train(toy, settings=settings, dataset_size=DATASET, seed=3, out=tmp_path, runtime=runtime, label="toy")
    assert torch.equal(toy.modules["first"][0].bias, before)
    assert len(toy.optimisers["first"].state) == 4
