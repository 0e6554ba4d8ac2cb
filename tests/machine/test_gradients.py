"""Sums of gradients over ranks: begun during the last backward pass, without a second copy, and equal to plain sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from toys import DATASET, SETTINGS, Toy, digest, in_ranks, run

from svgbench.errors import SvgbenchError
from svgbench.machine import gradients
from svgbench.machine.gradients import GradientSums
from svgbench.machine.order import Order
from svgbench.machine.runtime import Runtime
from svgbench.machine.training import adam, train


@pytest.fixture
def eight(monkeypatch):
    """The runtime of the first of eight ranks, the others of which do not exist: a sum leaves a tensor as it is."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield Runtime(device="cpu", quiet=True)
    torch.distributed.destroy_process_group()


class Deep:
    """Learns by several layers, in micro-batches, and notes when gradients arrive and when sums begin."""

    averaged = None

    def __init__(self, runtime, monkeypatch, *, marks=True):
        self.runtime, self.marks, self.events, self.during_apply = runtime, marks, [], []
        self.net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8)))
        self.modules, self.optimisers = {"net": self.net}, {"net": adam(self.net.parameters(), SETTINGS.optimiser)}
        for parameter in self.net.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p: self.events.append(("gradient", p.numel() * 4)))
        begin = Runtime.begin_sum_
        monkeypatch.setattr(Runtime, "begin_sum_", lambda here, flat: self.sent(flat) or begin(here, flat))

    def sent(self, flat):
        self.events.append(("sum", flat.numel() * 4))

    def load(self, batch):
        return {}

    def update(self, batch, apply):
        self.events.clear()
        for micro in batch.micro_batches(self.runtime.micro_batch):
            rows = torch.randn(len(micro), 32)
            reducing = micro.reducing("net") if self.marks else torch.enable_grad()
            with reducing:
                self.net(rows).square().sum().div(batch.size).backward()
        self.held = {p.grad.untyped_storage().data_ptr() for p in self.net.parameters()}
        with Allocated() as allocated:
            apply("net")
        self.during_apply.append(allocated.bytes)
        self.whole_update = list(self.events)
        return {}


class Allocated(TorchDispatchMode):
    """Counts the bytes of new tensors."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs or {}))}
        results = function(*args, **kwargs or {})
        self.bytes += sum(t.untyped_storage().nbytes() for t in tensors(results) if t.untyped_storage().data_ptr() not in given)
        return results


def tensors(tree):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def trained(task, out, *, updates=3):
    settings = SETTINGS.model_copy(update={"batch": 64, "total_images": 64 * updates, "ema": 0.0})
    train(task, settings=settings, dataset_size=DATASET, seed=3, out=out, runtime=task.runtime, label="deep")
    return task


TOTAL = 8 * (32 * 32 + 32) * 4


@pytest.mark.parametrize("micro", [None, 3])
def test_the_first_sum_begins_before_the_last_gradient_and_every_byte_is_sent_once(eight, monkeypatch, tmp_path, micro):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 3 * 32 * 32 * 4)
    task = trained(Deep(Runtime(device="cpu", quiet=True, micro_batch=micro), monkeypatch), tmp_path)
    kinds = [kind for kind, _ in task.whole_update]
    last = len(kinds) - 1 - kinds[::-1].index("gradient")
    assert kinds.count("gradient") == 16 * (1 if micro is None else 3)  # 8 images on this rank
    assert kinds[:last].count("sum") == 2 and kinds.count("sum") == 3
    assert kinds.index("sum") > kinds.count("gradient") - 16  # not before the last micro-batch
    assert sum(size for kind, size in task.whole_update if kind == "sum") == TOTAL


def test_a_layer_that_is_defined_last_and_used_first_holds_up_only_the_first_update(eight, monkeypatch, tmp_path):
    """As the modulation of all blocks is, in SiT: the second update sends its bucket last."""
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 32 * 32 * 4)
    task, before = Deep(eight, monkeypatch), []
    layers = list(task.net)
    monkeypatch.setattr(task.net, "forward", lambda rows: nn.Sequential(layers[-1], *layers[:-1])(rows))
    update = task.update

    def counted(batch, apply):
        losses = update(batch, apply)
        kinds = [kind for kind, _ in task.whole_update]
        before.append(kinds[: len(kinds) - kinds[::-1].index("gradient")].count("sum"))
        return losses

    task.update = counted
    trained(task, tmp_path)
    assert before == [0, 7, 7]


def test_gradients_lie_in_the_buckets_and_a_step_copies_none_of_them(eight, monkeypatch, tmp_path):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 3 * 32 * 32 * 4)
    task = trained(Deep(eight, monkeypatch), tmp_path)
    assert len(task.held) == 3
    assert task.during_apply[-1] < 0.05 * TOTAL  # norms; the first step makes the optimiser's state


def test_a_task_that_marks_no_pass_has_its_gradients_summed_when_they_are_applied(eight, monkeypatch, tmp_path):
    task = trained(Deep(eight, monkeypatch, marks=False), tmp_path)
    assert [kind for kind, _ in task.whole_update] == ["gradient"] * 16 + ["sum"]
    assert sum(size for kind, size in task.whole_update if kind == "sum") == TOTAL


def test_hooks_and_buckets_are_gone_after_a_training(eight, monkeypatch, tmp_path):
    task = trained(Deep(eight, monkeypatch), tmp_path)
    task.events.clear()
    task.net(torch.ones(1, 32)).sum().backward()
    assert [kind for kind, _ in task.events] == ["gradient"] * 16
    assert len({p.grad.untyped_storage().data_ptr() for p in task.net.parameters()}) == 16


def test_one_process_has_neither_buckets_nor_sums(monkeypatch, tmp_path):
    task = trained(Deep(Runtime(device="cpu", quiet=True), monkeypatch), tmp_path)
    assert len(task.held) == 16 and {kind for kind, _ in task.whole_update} == {"gradient"}


def test_buckets_hold_consecutive_parameters_of_one_dtype(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 40)
    kinds = [(3, torch.float32), (8, torch.float32), (1, torch.float32), (4, torch.float64), (20, torch.float64), (0, torch.float64)]
    parameters = [nn.Parameter(torch.ones(size, dtype=dtype)) for size, dtype in kinds]
    assert [[p.numel() for p in group] for group in gradients.grouped(parameters)] == [[3, 8], [1], [4, 20], [0]]


def sums_of(net, runtime):
    return GradientSums({"net": torch.optim.SGD(net.parameters(), 0.1)}, runtime)


def test_gradients_keep_the_layout_of_their_parameters(eight):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)).to(memory_format=torch.channels_last)
    sums = sums_of(net, eight)
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    summed = sums.summed("net")
    assert all(torch.equal(p.grad, w) and p.grad.stride() == p.stride() for p, w in zip(summed, wanted, strict=True))
    assert net[0].weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert all(p.grad.data_ptr() % gradients.ALIGNMENT == 0 for p in summed)


def test_a_backward_pass_after_the_marked_one_is_refused(eight):
    net = nn.Linear(3, 2)
    sums = sums_of(net, eight)
    with sums.reducing("net"):
        net(torch.ones(1, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="mark only the last pass"):
        net(torch.ones(1, 3)).sum().backward()


def test_a_sum_that_no_step_used_is_not_in_the_next_update(eight):
    net = nn.Linear(3, 2)
    sums = sums_of(net, eight)
    for _ in range(2):
        with sums.reducing("net"):
            net(torch.ones(1, 3)).sum().backward()
        assert torch.equal(net.weight.grad, torch.ones(2, 3))
        sums.end_update()
    sums.summed("net")
    assert torch.equal(net.weight.grad, torch.zeros(2, 3))


# --- real ranks ---


def plainly(self, name):
    """Sums each gradient on its own."""
    for parameter in self._parameters[name]:
        parameter.grad = self._runtime.all_reduce_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous())
    return self._parameters[name]


def digests(out, world, *, way, monkeypatch):
    """The digest on each rank of the toy's training, its gradients summed in one of three ways."""
    (out / way).mkdir()

    def work():
        report, toy = run(out / way / "run")
        (out / way / f"{toy.runtime.rank}").write_text(digest(report, toy))
        toy.runtime.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "marks", way == "marked")
        patch.setattr(gradients, "BUCKET_BYTES", 200)
        if way == "plain":
            patch.setattr(GradientSums, "summed", plainly)
        assert in_ranks(world, work) == [0] * world
    return [(out / way / f"{rank}").read_text() for rank in range(world)]


def test_two_ranks_have_the_bits_of_plain_sums_with_and_without_marks(tmp_path, monkeypatch):
    ways = [digests(tmp_path, 2, way=way, monkeypatch=monkeypatch) for way in ("marked", "unmarked", "plain")]
    assert len({text for way in ways for text in way}) == 1


def test_when_a_sum_begins_changes_no_bit_of_three_ranks_one_of_them_without_images(tmp_path, monkeypatch):
    """Three numbers may be added in another order in another bucket; the buckets do not depend on the marks."""
    ways = [digests(tmp_path, 3, way=way, monkeypatch=monkeypatch) for way in ("marked", "unmarked")]
    assert len({text for way in ways for text in way}) == 1
    assert len(Order(DATASET, seed=3).batch(288, SETTINGS.total_images - 288, rank=2, world=3)) == 0


def test_a_gradient_that_one_rank_lacks_counts_as_zero_also_between_other_messages(tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 40)

    def work():
        here = Runtime(device="cpu", threads=1).start()
        torch.manual_seed(0)
        net = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        sums = sums_of(net, here)
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            with sums.reducing("net"):  # rank 1 uses the last layer alone, rank 0 all but the second
                sum(net[layer](torch.ones(1, 4)).sum() for layer in ((0, 2) if here.rank == 0 else (2,))).backward()
            told = here.all_reduce_(torch.tensor([1.0]))
            sums.summed("net")
            found = [layer.weight.grad[0, 0].item() for layer in net]
            if found != [1.0, 0.0, 2.0] or told.item() != 2.0:
                raise SvgbenchError(f"{found}")
            sums.end_update()
        here.stop()

    assert in_ranks(2, work) == [0, 0]
