"""Checkpoints written in a thread, as on a GPU: the files, the order and the guarantees of those written while training waits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load_file
from toys import SETTINGS, digest, in_child, in_ranks, leftovers, run, run_on_a_full_disk

from svgbench.errors import Interrupted, NumericalError, StorageError
from svgbench.machine import checkpoints, writer
from svgbench.machine.writer import HostCopies, Writer

FAILPOINTS = (
    "training.applied:11", "training.updated:1", "training.updated:6", "training.updated:25", "checkpoint.begin:1", "checkpoint.begin:3",
    "checkpoint.part:8", "checkpoint.state:4", "checkpoint.before_rename:1", "checkpoint.before_rename:3", "checkpoint.renamed:3",
    "checkpoint.purge:2", "tree.renamed:4", "training.saved:1", "training.saved:6",
)  # fmt: skip
KEEP = {"half.safetensors": 145, "late.safetensors": 250}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Digest of the uninterrupted run whose checkpoints are written while it waits."""
    return digest(*run(tmp_path_factory.mktemp("quiet")))


@pytest.fixture
def background(monkeypatch):
    monkeypatch.setattr(writer, "in_background", lambda device: True)


def kept(out):
    return [int(place.name) for place in checkpoints.list_checkpoints(out / "checkpoints")]


def test_a_cpu_waits_for_its_checkpoints_and_a_gpu_does_not():
    assert not writer.in_background(torch.device("cpu")) and writer.in_background(torch.device("cuda", 0))


def test_both_ways_write_the_same_files(tmp_path, monkeypatch):
    run(tmp_path / "waiting", keep=KEEP)
    monkeypatch.setattr(writer, "in_background", lambda device: True)
    run(tmp_path / "thread", keep=KEEP)
    files = sorted(path.relative_to(tmp_path / "waiting") for path in (tmp_path / "waiting").rglob("*.safetensors"))
    assert len(files) == 2 + 2 * 5
    for file in files:
        assert (tmp_path / "waiting" / file).read_bytes() == (tmp_path / "thread" / file).read_bytes()
    assert kept(tmp_path / "thread") == [290, 252]


def test_a_slow_disk_does_not_hold_up_updates_and_what_it_writes_is_the_state_at_the_save(tmp_path, monkeypatch, background):
    plain, reached, behind = checkpoints.fsync, threading.Event(), []

    def slow(path):
        if not reached.is_set() and "0060" in str(path):
            behind.append(reached.wait(30))  # without the update at 96 it would wait in vain
        plain(path)

    monkeypatch.setattr(checkpoints, "fsync", slow)
    monkeypatch.setattr(checkpoints, "MAX_KEPT", 10)
    run(tmp_path / "slow", on_update=lambda position: reached.set() if position == 96 else None)
    assert behind == [True]
    monkeypatch.setattr(writer, "in_background", lambda device: False)
    run(tmp_path / "waiting")
    assert kept(tmp_path / "slow") == kept(tmp_path / "waiting") == [290, 252, 204, 156, 108, 60]
    for place in checkpoints.list_checkpoints(tmp_path / "waiting" / "checkpoints"):
        for file in place.glob("*.safetensors"):
            assert file.read_bytes() == (tmp_path / "slow" / "checkpoints" / place.name / file.name).read_bytes()


def test_the_next_checkpoint_waits_for_the_one_that_is_written(tmp_path, monkeypatch, background):
    plain, active, most, order = checkpoints.save, [], [], []

    def slow(directory, checkpoint):
        active.append(1)
        most.append(len(active))
        time.sleep(0.02)
        place = plain(directory, checkpoint)
        order.append(checkpoint.images_seen)
        active.pop()
        return place

    monkeypatch.setattr(checkpoints, "save", slow)
    run(tmp_path)
    assert order == [60, 108, 156, 204, 252, 290] and set(most) == {1}


@pytest.mark.parametrize("point", FAILPOINTS)
def test_killed_at_a_failpoint_and_resumed_equals_the_uninterrupted_run(tmp_path, truth, background, point):
    assert in_child(lambda: run(tmp_path), failpoint=point) == -signal.SIGKILL
    assert digest(*run(tmp_path)) == truth
    assert leftovers(tmp_path) == [] and kept(tmp_path) == [290, 252]


def test_killed_ten_times_at_random_moments_equals_the_uninterrupted_run(tmp_path, truth, background):
    moments = random.Random(0)
    for _ in range(10):
        assert in_child(lambda: run(tmp_path, keep=KEEP), kill_after=moments.uniform(0.02, 0.15)) in (0, -signal.SIGKILL)
    assert digest(*run(tmp_path, keep=KEEP)) == truth
    assert leftovers(tmp_path) == [] and all((tmp_path / file).exists() for file in KEEP)


def test_a_kill_during_a_write_leaves_the_checkpoint_before_it(tmp_path, truth, background):
    assert in_child(lambda: run(tmp_path), failpoint="checkpoint.state:3") == -signal.SIGKILL
    assert kept(tmp_path) == [108, 60] and leftovers(tmp_path) == [".writing-000000000156"]
    visited = []
    assert digest(*run(tmp_path, on_update=visited.append)) == truth and visited[0] == 108


@pytest.mark.parametrize("write", [1, 9, 41])
def test_an_error_of_the_writer_is_raised_soon_and_leaves_the_older_checkpoints(tmp_path, truth, monkeypatch, background, write):
    plain, flushes, visited = checkpoints.fsync, [], []

    def failing(path):
        flushes.append(path)
        if len(flushes) == write:  # eight flushes a checkpoint
            raise OSError(28, "No space left on device", str(path))
        plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "fsync", failing)
        with pytest.raises(StorageError, match=r"checkpoints.*the disk is full; free some space"):
            run(tmp_path, on_update=visited.append)
    assert kept(tmp_path) == {1: [], 9: [60], 41: [252, 204]}[write]
    assert len(flushes) == write and visited[-1] <= {1: 108, 9: 156, 41: 288}[write]  # at the next checkpoint or the end, or before
    assert leftovers(tmp_path) == []
    assert digest(*run(tmp_path)) == truth


def test_a_failed_write_is_raised_at_the_next_log_line(tmp_path, monkeypatch, background):
    """The writer is done with it before the log line after next; every update here has one."""
    failed = threading.Event()

    def failing(directory, checkpoint):
        failed.set()
        raise StorageError("no room")

    monkeypatch.setattr(checkpoints, "save", failing)
    visited = []

    def later(position):
        visited.append(position)
        if position == 60:
            assert failed.wait(30)
            time.sleep(0.2)

    with pytest.raises(StorageError, match="no room"):
        run(tmp_path, on_update=later)
    assert visited[-1] == 60
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


def test_nothing_is_written_after_an_error(tmp_path, monkeypatch, background):
    begun = threading.Event()

    def failing(path, tensors):
        begun.wait(30)
        raise StorageError("no room")

    monkeypatch.setattr(checkpoints, "write_tensors", failing)
    one = Writer(tmp_path, torch.device("cpu"))
    one.snapshot(["half.safetensors"], {"a": torch.ones(1)})
    one.checkpoint(5, {"module.a": {"b": torch.ones(1)}}, {})  # waits behind the snapshot
    begun.set()
    with pytest.raises(StorageError, match="no room"):
        one.wait()
    one.close()
    assert kept(tmp_path) == []
    with pytest.raises(StorageError, match="no room"):
        one.checkpoint(6, {}, {})


@pytest.mark.parametrize("point", ["file.before_rename:1", "file.renamed:2"])
def test_a_kill_while_a_snapshot_is_written_leaves_the_whole_one_or_none(tmp_path, truth, background, point):
    run(tmp_path / "quiet", keep=KEEP)
    assert in_child(lambda: run(tmp_path / "rough", keep=KEEP), failpoint=point) == -signal.SIGKILL
    assert len(list((tmp_path / "rough").glob("[!.]*.safetensors"))) == int(point[-1]) * (point.startswith("file.renamed"))
    assert digest(*run(tmp_path / "rough", keep=KEEP)) == truth
    for file in KEEP:
        assert (tmp_path / "quiet" / file).read_bytes() == (tmp_path / "rough" / file).read_bytes()
    assert leftovers(tmp_path) == []


def slowed(monkeypatch):
    plain = checkpoints.fsync
    monkeypatch.setattr(checkpoints, "fsync", lambda path: (time.sleep(0.03), plain(path)))


def test_a_stopped_training_ends_when_its_checkpoint_is_on_the_disk(tmp_path, truth, monkeypatch, background):
    with monkeypatch.context() as patch:
        slowed(patch)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after 96 of 290 images, which are saved"):
            run(tmp_path, on_update=lambda position: os.kill(os.getpid(), signal.SIGTERM) if position == 84 else None)
        assert kept(tmp_path) == [96, 60]
        checkpoints.check(tmp_path / "checkpoints" / f"{96:012d}")
    assert digest(*run(tmp_path)) == truth


def test_a_finished_training_and_one_that_fails_wait_for_the_writer(tmp_path, monkeypatch, background):
    slowed(monkeypatch)
    report, _ = run(tmp_path / "whole")
    assert report.averages is not None and kept(tmp_path / "whole") == [290, 252]
    with pytest.raises(NumericalError):
        run(tmp_path / "poisoned", poison=[36, 48, 60])  # fails one update after the save
    assert kept(tmp_path / "poisoned") == [60] and leftovers(tmp_path) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("svgbench-writer")]


def test_an_error_of_the_writer_ends_every_rank_with_the_storage_status(tmp_path, background):
    assert in_ranks(2, lambda: run_on_a_full_disk(tmp_path)) == [5, 5]


def test_copies_stay_as_they_were_and_their_memory_is_used_again():
    weight, step, flag = torch.arange(6.0).reshape(2, 3).T, torch.tensor(3.0, dtype=torch.float64), torch.tensor([True, False, True])
    parts = {"one": {"weight": weight, "step": step, "flag": flag, "none": torch.zeros(0, 4)}, "two": {"weight": weight}}
    copies = HostCopies()
    first, ready = copies.of(parts)
    ready()
    places = {(part, name): tensor.data_ptr() for part, tensors in first.items() for name, tensor in tensors.items()}
    wanted = {name: tensor.clone() for name, tensor in parts["one"].items()}
    weight.add_(1), step.add_(1), flag.logical_not_()
    assert all(torch.equal(first["one"][name], tensor) and first["one"][name].dtype == tensor.dtype for name, tensor in wanted.items())
    assert first["one"]["weight"].is_contiguous() and first["two"]["weight"].data_ptr() != first["one"]["weight"].data_ptr()
    second, _ = copies.of(parts)
    assert {(part, name): tensor.data_ptr() for part, tensors in second.items() for name, tensor in tensors.items()} == places
    assert torch.equal(second["one"]["weight"], weight) and torch.equal(second["two"]["weight"], weight)
    grown, _ = copies.of({"one": {"weight": torch.ones(5, 5)}, "late": {"weight": weight}})
    assert torch.equal(grown["one"]["weight"], torch.ones(5, 5)) and torch.equal(grown["late"]["weight"], weight)


def test_tensors_written_to_a_file_come_back_and_replace_it_whole(tmp_path):
    checkpoints.write_tensors(tmp_path / "new" / "a.safetensors", {"x": torch.ones(3), "y": torch.zeros(2, 2)[:, :1]})
    checkpoints.write_tensors(tmp_path / "new" / "a.safetensors", {"x": torch.ones(2)})
    assert load_file(tmp_path / "new" / "a.safetensors")["x"].tolist() == [1.0, 1.0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_the_checkpoints_of_the_fixture_are_six():
    assert SETTINGS.total_images == 290 and SETTINGS.checkpoint_images == 50
