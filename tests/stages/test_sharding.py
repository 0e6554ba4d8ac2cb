"""A transformer divided among ranks (FSDP2, gloo) trains as a plain one does, and each reads the other's files.

Tolerances: FSDP2 adds the ranks' gradients in the plain run's order (with two ranks there is only one), but fused AdamW computes a shard's
last elements without vector instructions, which rounds differently, and the norm is a sum over shards. So losses agree to 1e-4, as those of
one and of several processes do (``tests/machine/test_ranks.py``), and weights to a small part of one step.
"""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.fsdp
import torch.distributed.tensor
from artifacts import SmallRun
from commands import svgbench
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing import assert_close
from toys import in_child, in_ranks

from svgbench.config import schema
from svgbench.errors import BadConfig, BadInput, SvgbenchError
from svgbench.lab import worker
from svgbench.lab.worker import Bench
from svgbench.machine import checkpoints
from svgbench.machine.feed import loaded
from svgbench.machine.memory import later_bytes
from svgbench.machine.order import Batch, Order
from svgbench.machine.runtime import Runtime
from svgbench.machine.sharding import divided, gathered, gradient_norm, load_optimiser, local, optimiser_state, shard_
from svgbench.machine.training import train
from svgbench.nets import draws
from svgbench.nets.latents import LatentStats
from svgbench.nets.representation import Projector
from svgbench.nets.sit import SiT
from svgbench.stages import diffusion
from svgbench.stages.diffusion import DiffusionTask

SIZES = {"channels": 3, "grid": 2, "width": 24, "depth": 2, "heads": 2, "classes": 3}
TRAINING = {
    "total_images": 49, "batch": 6, "ema": 0.9, "checkpoint_images": 12, "skipped_updates": 2, "precision": "fp32",
    "optimiser": {"lr": 1e-2, "max_gradient_norm": 0.5, "weight_decay": 0.01},
}  # fmt: skip
"""Nine updates, the last of one image, for which a second rank has none; four checkpoints."""
HALF = "sit-0.5.safetensors"
UNSEEN = "k_norm.bias"
"""Shifts all keys alike, which a softmax does not see: its gradient is rounding alone, of which Adam makes steps of full size."""
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""A five-hundredth of one step of the optimiser; Adam makes large steps of gradients near zero, whatever their rounding."""


def task_of(runtime: Runtime, *, teacher: bool = False, wide: bool = False, compiled: bool = False, **settings) -> DiffusionTask:
    torch.manual_seed(0)
    more = {"wide": {"width": 16, "depth": 2, "heads": 2}} if wide else {}
    model = SiT(**SIZES, learned_sigma=settings.get("objective") == "ddpm", **more)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    latents, features = (draws.normal(draws.stream(1, name), torch.arange(11), (3, 2, 2)) for name in ("latents", "features"))
    watched = None
    if teacher:
        watched = SimpleNamespace(projector=Projector(24, 16, 3), weight=0.5, block=1, features=lambda i, flip: features[i])
    if compiled:
        model.blocks.compile(backend="eager")
    if runtime.sharded:
        shard_(model, runtime)
    part = schema.Diffusion(flip=False, training=TRAINING, **settings)
    stats = LatentStats(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    return DiffusionTask(model, lambda i, flip: latents[i], torch.arange(11) % 3, stats, part, 3, runtime, watched)


def here(*, sharded: bool, micro: int | None = 2) -> Runtime:
    return Runtime(device="cpu", threads=1, micro_batch=micro, sharded=sharded, quiet=True).start()


def training(out, *, sharded: bool, poison: int | None = None, **settings):
    """A whole training; ``firsts.json`` lists the images seen before the first update of each attempt."""

    def work():
        runtime = here(sharded=sharded)
        task = task_of(runtime, **settings)
        update, begun = task.update, []

        def noted(batch, apply):
            if runtime.is_main and not begun:
                out.mkdir(parents=True, exist_ok=True)
                before = json.loads((out / "firsts.json").read_text()) if (out / "firsts.json").exists() else []
                (out / "firsts.json").write_text(json.dumps([*before, batch.images_seen]))
            begun.append(batch.images_seen)
            if batch.images_seen == poison and runtime.rank == runtime.world - 1:
                inner = task.losses
                task.losses = lambda micro: {name: each * float("nan") for name, each in inner(micro).items()}
                losses = update(batch, apply)
                task.losses = inner
                return losses
            return update(batch, apply)

        task.update = noted
        part = schema.Diffusion(training=TRAINING).training
        report = train(task, settings=part, dataset_size=11, seed=3, out=out, runtime=runtime, label="SiT", keep={HALF: 24})
        if runtime.is_main:
            save_file({name: tensor.contiguous() for name, tensor in report.averages.items()}, out / "sit.safetensors")
            (out / "report.json").write_text(json.dumps([report.images_seen, report.updates, report.skipped]))
        runtime.stop()

    return work


def files_of(out) -> dict[str, torch.Tensor]:
    """Every tensor that a training leaves: of its last two checkpoints, its snapshot and its result."""
    found = [*sorted((out / "checkpoints").glob("*/*.safetensors")), out / HALF, out / "sit.safetensors"]
    return {f"{path.relative_to(out)}/{name}": tensor for path in found for name, tensor in load_file(path).items()}


def lines_of(out) -> list[dict[str, float]]:
    """The log: one line for each update here, without its times."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What sharding imports, once here and not in every process."""
    torch.compiler.reset()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A training that nobody divided or stopped, in one process."""
    out = tmp_path_factory.mktemp("plain")
    assert in_child(training(out, sharded=False)) == 0
    return out


def alike(out, plain) -> None:
    """Same files, same names, same shapes; values and losses as close as float32 sums in another order are."""
    one, other = files_of(plain), files_of(out)
    assert one.keys() == other.keys() and len(one) > 100
    order = [name for name, _ in SiT(**SIZES).named_parameters()]
    shift = [f"optimiser.sit.safetensors/{place}." for place, name in enumerate(order) if UNSEEN in name]
    for name, tensor in one.items():
        assert other[name].dtype == tensor.dtype and other[name].shape == tensor.shape
        if UNSEEN in name or any(text in name for text in shift):
            continue
        assert_close(other[name], tensor, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert len(lines_of(plain)) == 9
    for line, expected in zip(lines_of(out), lines_of(plain), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    assert (out / "report.json").read_text() == (plain / "report.json").read_text()


@pytest.mark.parametrize("world", [2, 3])
def test_losses_weights_snapshots_and_checkpoints_of_a_divided_training_are_the_plain_ones(tmp_path, plain, world):
    assert in_ranks(world, training(tmp_path, sharded=True)) == [0] * world
    alike(tmp_path, plain)


def test_two_ranks_divided_and_not_begin_with_equal_bits(tmp_path):
    """Of two ranks there is one order of summation, so the first losses differ in no bit."""
    for sharded in (False, True):
        assert in_ranks(2, training(tmp_path / str(sharded), sharded=sharded)) == [0, 0]
    first, divided_first = (lines_of(tmp_path / str(sharded))[:2] for sharded in (False, True))
    assert [line["loss"] for line in first] == [line["loss"] for line in divided_first]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)], ids=str)
def test_a_killed_training_goes_on_divided_or_not_and_with_another_number_of_ranks(tmp_path, plain, before, after):
    def attempt(world, failpoint=None):
        work = training(tmp_path, sharded=world > 1)
        if world == 1:
            return [in_child(work, failpoint=failpoint)]
        return in_ranks(world, work, failpoints=dict.fromkeys(range(world), failpoint) if failpoint else None)

    assert {status & 0xFF for status in attempt(before, "training.saved:2")} == {-signal.SIGKILL & 0xFF}
    assert checkpoints.list_checkpoints(tmp_path / "checkpoints")[0].name.endswith("24")
    assert attempt(after) == [0] * after
    assert json.loads((tmp_path / "firsts.json").read_text()) == [0, 24]
    alike(tmp_path, plain)


def test_a_loss_that_is_not_finite_on_one_rank_is_left_out_on_all(tmp_path):
    assert in_ranks(2, training(tmp_path, sharded=True, poison=18)) == [0, 0]
    assert json.loads((tmp_path / "report.json").read_text()) == [49, 9, 1]
    assert all(bool(tensor.isfinite().all()) for tensor in files_of(tmp_path).values() if tensor.is_floating_point())


def asserting(*claims: bool) -> None:
    if not all(claims):
        raise SvgbenchError(f"not all of these hold: {claims}")


KINDS = [
    {}, {"prediction": "data", "direction": 0.5}, {"objective": "ddpm"}, {"teacher": True}, {"wide": True}, {"compiled": True},
]  # fmt: skip


def test_one_updates_gradients_are_the_global_batchs_for_every_objective_teacher_head_and_compiled_blocks(tmp_path):
    def work():
        for number, kind in enumerate(KINDS):
            runtime = here(sharded=True)
            order = Order(11, seed=3)
            whole = task_of(Runtime(device="cpu", quiet=True), **kind)
            share = task_of(runtime, **kind)
            for task, batch in ((whole, order.batch(0, 5)), (share, order.batch(0, 5, rank=runtime.rank, world=2, even=True))):
                task.update(loaded(task, batch, task.device), lambda name: None)
            for name, module in whole.modules.items():
                mine = dict(share.modules[name].named_parameters())
                for place, parameter in module.named_parameters():
                    if parameter.grad is None:
                        asserting(mine[place].grad is None)
                        continue
                    found = mine[place].grad
                    found = found.full_tensor() if name == "sit" else runtime.all_reduce_(found)
                    assert_close(found, parameter.grad, **CLOSE, msg=lambda text, at=(number, place): f"{at}: {text}")
        runtime.stop()

    assert in_ranks(2, work) == [0, 0]


def test_each_rank_holds_its_share_and_sums_gradients_once_an_update():
    def work():
        runtime = here(sharded=True, micro=1)
        task = task_of(runtime)
        model, optimiser = task.modules["sit"], task.optimisers["sit"]
        batch = loaded(task, Order(11, seed=3).batch(0, 6, rank=runtime.rank, world=2, even=True), task.device)
        with CommDebugMode() as counter:
            task.update(batch, lambda name: None)
        sums = sum(count for name, count in counter.get_comm_counts().items() if "reduce_scatter" in str(name))
        asserting(sums == len(model.parts) + 1)  # and not three times as many, one for each micro-batch
        optimiser.step()
        size = sum(parameter.numel() for parameter in model.parameters())
        held = sum(local(parameter).numel() for parameter in model.parameters())
        states = sum(local(tensor).numel() for state in optimiser.state.values() for tensor in state.values() if tensor.ndim)
        asserting(abs(held - size / 2) < size / 50, abs(states - size) < size / 25)
        asserting(later_bytes([model]) == 16 * held + 4 * size)  # between passes, gradients are whole
        runtime.stop()

    assert in_ranks(2, work) == [0, 0]


def test_whole_tensors_survive_division_bit_for_bit():
    def work():
        runtime = here(sharded=True)
        task = task_of(runtime)
        optimiser = task.optimisers["sit"]
        for parameter in optimiser.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        tensors, scalars = optimiser_state(optimiser, runtime)
        box = [tensors]
        torch.distributed.broadcast_object_list(box)  # stands in for the file
        other = task_of(runtime)
        load_optimiser(other.optimisers["sit"], box[0], scalars)
        again, _ = optimiser_state(other.optimisers["sit"], runtime)
        asserting(again.keys() == tensors.keys(), *(torch.equal(again[name], tensors[name]) for name in tensors))
        like = task.modules["sit"].labels.weight
        whole = torch.arange(like.numel(), dtype=torch.float32).view(like.shape)
        back = gathered({"labels": divided(whole, like), "plain": whole}, runtime)
        asserting(("labels" in back) == runtime.is_main, back["plain"] is whole, torch.equal(back.get("labels", whole), whole))
        parts = [divided(whole, like), torch.full((5,), 2.0)]
        norm = gradient_norm(parts, runtime)
        asserting(abs(norm.item() / torch.nn.utils.get_total_norm([whole, parts[1]]).item() - 1) < 1e-6)
        runtime.stop()

    assert in_ranks(3, work) == [0, 0, 0]


def test_the_stage_leaves_the_files_of_a_plain_one(tmp_path):
    """The whole stage: probe of the FLOPs, training, ``sit.safetensors`` from a training without an average."""
    words = ("diffusion.training={total_images: 24, batch: 8, ema: 0, checkpoint_images: 8}", "diffusion.transformer={depth: 2}")
    steps = SmallRun(tmp_path / "run", *words, "diffusion.snapshots=[]", "diffusion.weak_share=0")
    steps.make("images")
    steps.autoencoder()
    steps.make("statistics")

    def work(out):
        def inner():
            runtime = here(sharded="RANK" in os.environ, micro=None)
            cost = diffusion.train(steps.slices["diffusion"], steps.places, out, runtime)
            (out / f"cost-{runtime.rank}.json").write_text(json.dumps([cost[name] for name in ("flops_per_image", "parameters")]))
            runtime.stop()

        out.mkdir()
        return inner

    assert in_child(work(tmp_path / "plain")) == 0
    assert in_ranks(2, work(tmp_path / "divided")) == [0, 0]
    one, two = (load_file(tmp_path / name / "sit.safetensors") for name in ("plain", "divided"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    costs = {path.read_text() for path in tmp_path.glob("*/cost-*.json")}
    assert len(costs) == 1 and len(list(tmp_path.glob("*/cost-*.json"))) == 3
    assert sorted(p.name for p in (tmp_path / "divided").iterdir()) == sorted(
        {*(p.name for p in (tmp_path / "plain").iterdir()), "cost-1.json"}
    )


def test_a_stand_in_makes_shares_even_and_is_not_counted():
    order = Order(11, seed=3)
    shares = [order.batch(24, 4, rank=rank, world=3, even=True) for rank in range(3)]
    assert [share.positions.tolist() for share in shares] == [[24, 27], [25, 24], [26, 24]]
    assert [share.counted(torch.arange(2)).tolist() for share in shares] == [[0, 1], [0], [0]]
    for share in shares:
        assert torch.equal(share.indices, torch.from_numpy(order.images(share.positions.numpy())))
    pieces = list(Batch(torch.arange(5), torch.arange(5), 9, stand_ins=1).micro_batches(2))
    assert [(len(piece), piece.stand_ins) for piece in pieces] == [(2, 0), (2, 0), (1, 1)]
    assert [order.batch(24, 6, rank=rank, world=3, even=True).stand_ins for rank in range(3)] == [0, 0, 0]
    assert pieces[-1].counted(torch.ones(1)).sum() == 0


def test_one_process_or_another_network_is_refused_in_a_sentence(monkeypatch):
    model = SiT(**SIZES)
    with pytest.raises(BadInput, match="--shard divides a transformer among processes, and there is one; give --ranks N"):
        shard_(model, Runtime(device="cpu", sharded=True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(BadConfig, match="only stage 2's transformer can be sharded, and this is a Linear; leave --shard out"):
        shard_(nn.Linear(2, 2), Runtime(device="cpu", sharded=True))


def test_one_process_is_refused_before_anything_runs(tmp_path):
    for words in (("run", "--encoder", "mae"), ("ablate", "smoke")):
        done = svgbench(*words, "--shard", "--out", str(tmp_path / "runs"))
        assert done.returncode == BadInput.exit_status and "--shard divides a transformer among processes" in done.stderr, words
        assert not (tmp_path / "runs" / "store").exists()


def test_workers_get_the_option(tmp_path, monkeypatch):
    assert "--shard" in Bench(out=str(tmp_path), shard=True).words() and "--shard" not in Bench(out=str(tmp_path)).words()
    plan = tmp_path / "plan"
    monkeypatch.setattr(worker, "read_plan", lambda path: {})
    seen = []
    monkeypatch.setattr(worker, "Executor", lambda nodes, store, runtime, *rest, **more: seen.append(runtime.sharded))
    for shard in (True, False):
        worker.Worker(plan, Bench(out=str(tmp_path), shard=shard))
    assert seen == [True, False]
