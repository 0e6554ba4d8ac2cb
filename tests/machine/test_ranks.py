"""Several processes (gloo, forked): one process's result, the same bits on every rank, and an end for all when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import SETTINGS, digest, in_ranks, run, run_on_a_full_disk

from svgbench.errors import Interrupted, SvgbenchError
from svgbench.machine import checkpoints
from svgbench.machine.runtime import Runtime


def saving(out, **options):
    """A run whose every rank writes what it holds to ``rank-<r>.safetensors`` and its digest beside it."""

    def work():
        report, toy = run(out / "run", **options)
        rank = toy.runtime.rank
        weights = {**toy.modules["first"].state_dict(), **{f"averages.{name}": tensor for name, tensor in report.averages.items()}}
        save_file(weights, out / f"rank-{rank}.safetensors")
        (out / f"rank-{rank}.digest").write_text(digest(report, toy))
        (out / f"rank-{rank}.losses").write_text(json.dumps(report.losses))
        toy.runtime.stop()

    return work


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_equal_one_process_and_hold_equal_bits(tmp_path, world):
    report, toy = run(tmp_path / "one", micro=None)
    assert in_ranks(world, saving(tmp_path)) == [0] * world
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(world)]
    for name, tensor in toy.modules["first"].state_dict().items():
        torch.testing.assert_close(ranks[0][name], tensor, rtol=2e-5, atol=2e-6)
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
    for name, tensor in report.averages.items():
        torch.testing.assert_close(ranks[0][f"averages.{name}"], tensor, rtol=2e-5, atol=2e-6)
    losses = [json.loads((tmp_path / f"rank-{rank}.losses").read_text()) for rank in range(world)]
    assert losses[0] == losses[-1] == pytest.approx(report.losses, rel=1e-4)


def test_two_ranks_killed_and_resumed_equal_two_ranks_uninterrupted(tmp_path):
    (tmp_path / "quiet").mkdir()
    (tmp_path / "rough").mkdir()
    assert in_ranks(2, saving(tmp_path / "quiet")) == [0, 0]
    for point in ("training.updated:9", "training.applied:5"):
        statuses = in_ranks(2, saving(tmp_path / "rough"), failpoints={0: point, 1: point})
        assert statuses == [(-signal.SIGKILL) & 0xFF] * 2
    statuses = in_ranks(2, saving(tmp_path / "rough"), failpoints={1: "training.updated:7"})
    assert statuses == [SvgbenchError.exit_status, (-signal.SIGKILL) & 0xFF]  # the survivor says so in a sentence and ends
    assert in_ranks(2, saving(tmp_path / "rough")) == [0, 0]
    for rank in (0, 1):
        assert (tmp_path / "quiet" / f"rank-{rank}.digest").read_text() == (tmp_path / "rough" / f"rank-{rank}.digest").read_text()


def test_a_signal_to_one_rank_stops_all_at_the_same_update(tmp_path):
    import os

    def work():
        def send(position):
            if os.environ["RANK"] == "1" and position == 84:
                os.kill(os.getpid(), signal.SIGTERM)

        run(tmp_path, on_update=send)

    assert in_ranks(2, work) == [Interrupted.exit_status] * 2
    assert int(checkpoints.list_checkpoints(tmp_path / "checkpoints")[0].name) == 96


def test_a_disk_that_fails_the_main_rank_ends_every_rank_with_the_storage_status(tmp_path):
    assert in_ranks(2, lambda: run_on_a_full_disk(tmp_path)) == [5, 5]


def test_numbers_are_summed_compared_and_sent_between_ranks():
    def work():
        here = Runtime(device="cpu", threads=1).start()
        here.begin_sum_(summed := torch.full((2, 5), here.rank + 1.0)).wait()
        total = here.all_reduce_(torch.tensor([float(here.rank)]), "max")
        here.broadcast_(first := torch.tensor([here.rank]))
        agreed = here.all_agree(True) and not here.all_agree(here.rank != 1)
        here.stop()
        if not (agreed and torch.equal(summed, torch.full((2, 5), 6.0)) and total.item() == 2.0 and first.item() == 0):
            raise SvgbenchError("sums are wrong")

    assert in_ranks(3, work) == [0, 0, 0]


def test_the_fixture_gives_every_rank_an_update_without_images():
    last = SETTINGS.total_images % SETTINGS.batch
    assert last == 2  # with three ranks the third has none in the last update


def test_a_number_that_is_not_finite_on_one_rank_leaves_the_update_out_on_all(tmp_path):
    def work():
        import os

        report, toy = run(tmp_path, poison=[36] if os.environ["RANK"] == "1" else [])
        finite = all(torch.isfinite(tensor).all() for tensor in toy.modules["first"].state_dict().values())
        toy.runtime.stop()
        if report.skipped != 1 or not finite:
            raise SvgbenchError("one rank went on alone")

    assert in_ranks(2, work) == [0, 0]


@pytest.mark.parametrize(("frozen", "where"), [(0, "waits between stages"), (1, "trains")])
def test_a_rank_frozen_for_good_ends_the_others_within_the_rank_timeout_with_a_sentence(tmp_path, monkeypatch, frozen, where):
    """Rank 0 holds the store by which torch's processes find each other. The frozen one is killed only after the other has ended."""
    monkeypatch.setenv("SVGBENCH_RANK_TIMEOUT_MINUTES", "0.02")

    def freeze():
        if os.environ["RANK"] == str(frozen):
            subprocess.Popen(["sh", "-c", f"sleep 5; kill -KILL {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)

    def work():
        sys.stderr = (tmp_path / f"said-{os.environ['RANK']}").open("w")
        if where == "trains":
            try:
                run(tmp_path / "run", on_update=lambda position: freeze() if position == 24 else None)
            except SvgbenchError as error:  # torch's own limit on a sum over ranks may come before ours
                sys.stderr.write(str(error))
                sys.stderr.flush()
                raise
        else:
            here = Runtime(device="cpu", threads=1).start()
            here.meet(True)
            freeze()
            here.meet(True)

    before, other = time.time(), 1 - frozen
    statuses = in_ranks(2, work)
    assert statuses[frozen] == (-signal.SIGKILL) & 0xFF and statuses[other] == SvgbenchError.exit_status
    said = tmp_path / f"said-{other}"
    assert said.stat().st_mtime - before < 4.9
    whose = (f"rank {frozen} of 2", "the process that connects the ranks", f"rank {other} lost the others")
    assert "the same command again" in said.read_text() and any(word in said.read_text() for word in whose)


@pytest.mark.parametrize(
    "said",
    ["Application timeout caused pair closure", "[gloo/transport/tcp/pair.cc:1] Read timeout", "Connection closed by peer [127.0.0.1]:1"],
)
def test_a_lost_rank_is_one_sentence_whatever_torch_says(monkeypatch, said):
    monkeypatch.setattr(Runtime, "world", 2)
    here = Runtime(device="cpu", threads=1, quiet=True)
    with pytest.raises(SvgbenchError, match=r"toy: rank 0 lost the others \(.*\); run the same command again"), here.together("toy"):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes differ"), here.together("toy"):
        raise RuntimeError("shapes differ")


def test_a_rank_that_works_alone_for_longer_than_the_timeout_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SVGBENCH_RANK_TIMEOUT_MINUTES", "0.02")

    def work():
        here = Runtime(device="cpu", threads=1).start()
        here.meet(True)
        if here.rank == 1:
            time.sleep(3.0)
        if not here.meet(True):
            raise SvgbenchError("they disagree")
        here.stop()

    assert in_ranks(2, work) == [0, 0]
