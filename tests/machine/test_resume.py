"""Kill, signal, damage and resume: the end is that of the uninterrupted run, bit for bit (CPU, one thread)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal

import pytest
from toys import SETTINGS, digest, in_child, leftovers, run

from svgbench.errors import Interrupted, StorageError
from svgbench.machine import checkpoints
from svgbench.machine.signals import name_of

FAILPOINTS = (
    "training.applied:1", "training.applied:11", "training.updated:1", "training.updated:13", "training.updated:25",
    "checkpoint.begin:1", "checkpoint.begin:3", "checkpoint.part:1", "checkpoint.part:8", "checkpoint.state:1", "checkpoint.state:4",
    "checkpoint.before_rename:1", "checkpoint.before_rename:3", "checkpoint.renamed:1", "checkpoint.renamed:3",
    "checkpoint.purge:1", "checkpoint.purge:2", "tree.renamed:1", "tree.renamed:4", "training.saved:1", "training.saved:6",
)  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Digest of the uninterrupted run."""
    return digest(*run(tmp_path_factory.mktemp("quiet"), library=True))


@pytest.mark.parametrize("point", FAILPOINTS)
def test_killed_at_a_failpoint_and_resumed_equals_the_uninterrupted_run(tmp_path, truth, point):
    assert in_child(lambda: run(tmp_path, library=True), failpoint=point) == -signal.SIGKILL
    assert digest(*run(tmp_path, library=True)) == truth
    assert leftovers(tmp_path) == []
    assert len(checkpoints.list_checkpoints(tmp_path / "checkpoints")) == 2


@pytest.mark.parametrize("seed", range(3))
def test_killed_ten_times_at_random_moments_equals_the_uninterrupted_run(tmp_path, truth, seed):
    moments = random.Random(seed)
    for _ in range(10):
        status = in_child(lambda: run(tmp_path, library=True), kill_after=moments.uniform(0.02, 0.15))
        assert status in (0, -signal.SIGKILL)
    assert digest(*run(tmp_path, library=True)) == truth
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_lets_the_update_finish_saves_it_and_resumes_exactly(tmp_path, truth, number):
    def send(position):
        if position == 84:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"stopped by {name_of(number)} after 96 of 290 images"):
        run(tmp_path, library=True, on_update=send)
    assert signal.getsignal(number) is handler
    assert checkpoints.list_checkpoints(tmp_path / "checkpoints")[0].name == f"{96:012d}"
    assert digest(*run(tmp_path, library=True)) == truth


def test_stopped_after_every_update_equals_the_uninterrupted_run(tmp_path, truth):
    stops = 0
    while True:
        try:
            result = run(tmp_path, library=True, on_update=lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        except Interrupted:
            stops += 1
            if stops == 25:  # the last update was made and saved too
                result = run(tmp_path, library=True)
                break
    assert digest(*result) == truth


def test_losses_between_two_log_lines_survive_a_kill(tmp_path):
    long = SETTINGS.model_copy(update={"total_images": 12 * 300, "checkpoint_images": 12 * 100})  # a line each three updates
    run(tmp_path / "quiet", settings=long)
    assert in_child(lambda: run(tmp_path / "rough", settings=long), failpoint="training.updated:101") == -signal.SIGKILL
    run(tmp_path / "rough", settings=long)
    texts = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("quiet", "rough")]
    lines = [[{k: v for k, v in json.loads(line).items() if "second" not in k} for line in text] for text in texts]
    assert len(lines[0]) == 100 and lines[0] == lines[1]


def test_the_log_of_a_killed_and_resumed_run_has_each_position_once(tmp_path):
    in_child(lambda: run(tmp_path), failpoint="training.updated:14")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images_seen": 18')  # torn by the kill
    run(tmp_path)
    lines = [json.loads(line)["images_seen"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [*range(12, 289, 12), 290]


def damaged(kind, place):
    """Damages a checkpoint in one way."""
    victim = place / "module.first.safetensors"
    content = bytearray(victim.read_bytes())
    if kind == "deleted":
        victim.unlink()
    elif kind == "other run":
        (place / "averages.safetensors").write_bytes(bytes(content))
    elif kind.startswith("bit"):
        offset = int(kind.split()[1]) * (len(content) - 1) // 100
        content[offset] ^= 1 << (offset % 8)
        victim.write_bytes(bytes(content))
    elif kind.startswith("cut"):
        victim.write_bytes(bytes(content[: int(kind.split()[1]) * len(content) // 100]))
    elif kind == "one byte short":
        victim.write_bytes(bytes(content[:-1]))
    elif kind == "state edited":
        state = json.loads((place / "state.json").read_text())
        state["state"]["updates"] += 1
        (place / "state.json").write_text(json.dumps(state))
    elif kind == "state cut":
        text = (place / "state.json").read_text()
        (place / "state.json").write_text(text[: len(text) // 2])
    elif kind == "state empty":
        (place / "state.json").write_text("")
    elif kind == "state list":
        (place / "state.json").write_text("[]")
    elif kind == "state deleted":
        (place / "state.json").unlink()
    elif kind == "empty directory":
        shutil.rmtree(place)
        place.mkdir()


KINDS = (
    "deleted", "other run", "one byte short", "state edited", "state cut", "state empty", "state list", "state deleted", "empty directory",
    *(f"cut {share}" for share in (0, 1, 50, 99)), *(f"bit {share}" for share in (0, 1, 3, 30, 60, 99, 100)),
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path, truth, kind, capsys):
    in_child(lambda: run(tmp_path, library=True), failpoint="training.updated:20")
    newest, before = checkpoints.list_checkpoints(tmp_path / "checkpoints")
    damaged(kind, newest)
    visited = []
    result = run(tmp_path, library=True, on_update=visited.append)
    assert visited[0] == int(before.name)
    assert digest(*result) == truth
    assert newest.name in capsys.readouterr().err


def test_without_one_valid_checkpoint_training_begins_anew_and_says_so(tmp_path, truth, capsys):
    in_child(lambda: run(tmp_path, library=True), failpoint="training.updated:20")
    for place in checkpoints.list_checkpoints(tmp_path / "checkpoints"):
        damaged("cut 50", place)
    assert digest(*run(tmp_path, library=True)) == truth
    assert capsys.readouterr().err.count("warning: checkpoint") == 2


def limited_files(bytes_):
    """Makes every file longer than this fail while it is written, as a full disk does."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def test_a_disk_that_has_room_for_the_log_and_not_for_the_checkpoint_leaves_nothing_half_written(tmp_path, truth):
    in_child(lambda: run(tmp_path, library=True), failpoint="training.updated:6")
    room = 2 * (tmp_path / "log.jsonl").stat().st_size

    def cramped():
        limited_files(room)
        run(tmp_path, library=True)

    assert in_child(cramped) == StorageError.exit_status
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 9  # the ninth update reached the checkpoint
    assert [int(place.name) for place in checkpoints.list_checkpoints(tmp_path / "checkpoints")] == [60]
    assert leftovers(tmp_path) == []
    assert digest(*run(tmp_path, library=True)) == truth


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_disk_that_takes_no_more_keeps_the_old_checkpoint_and_resumes_exactly(tmp_path, truth, room):
    in_child(lambda: run(tmp_path, library=True), failpoint="training.updated:6")
    saved = {path.name: path.read_bytes() for path in checkpoints.list_checkpoints(tmp_path / "checkpoints")[0].iterdir()}

    def cramped():
        limited_files(room)
        run(tmp_path, library=True)

    assert in_child(cramped) == StorageError.exit_status
    kept = checkpoints.list_checkpoints(tmp_path / "checkpoints")
    assert {path.name: path.read_bytes() for path in kept[-1].iterdir()} == saved
    assert leftovers(tmp_path) == []
    assert digest(*run(tmp_path, library=True)) == truth


@pytest.mark.parametrize("number", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
@pytest.mark.parametrize("write", [1, 4, 7])
def test_an_error_of_the_disk_at_any_write_is_one_sentence_and_resumable(tmp_path, truth, number, write, monkeypatch):
    import errno

    passes = []

    def failing(path):
        passes.append(path)
        if len(passes) == 7 + write:  # seven flushes a checkpoint; the second one fails
            raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "fsync", failing)
        with pytest.raises(StorageError, match="checkpoints"):
            run(tmp_path, library=True)
    assert [int(p.name) for p in checkpoints.list_checkpoints(tmp_path / "checkpoints")][-1] == 60
    assert leftovers(tmp_path) == []
    assert digest(*run(tmp_path, library=True)) == truth


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"MB are needed and 0\.0 MB are free"):
        run(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_two_checkpoints_stay_and_clear_removes_them_and_nothing_else(tmp_path):
    run(tmp_path)
    names = [int(place.name) for place in checkpoints.list_checkpoints(tmp_path / "checkpoints")]
    assert names == [290, 252]
    checkpoints.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    checkpoints.clear(tmp_path)


def test_tied_weights_are_saved_and_come_back(tmp_path):
    import torch

    weight = torch.arange(6.0)
    place = checkpoints.save(tmp_path, checkpoints.Checkpoint(5, {"module.a": {"one": weight, "two": weight}}, {"x": [1]}))
    checkpoints.check(place)
    loaded = checkpoints.load(place)
    assert torch.equal(loaded.parts["module.a"]["two"], weight) and loaded.state == {"x": [1]} and loaded.images_seen == 5


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    run(tmp_path)
    assert {path.suffix for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_settings_of_the_fixture_cross_epochs_and_end_on_a_small_batch():
    assert SETTINGS.total_images % SETTINGS.batch and SETTINGS.total_images > 3 * 37


def test_updates_left_out_before_a_kill_stay_counted(tmp_path):
    assert in_child(lambda: run(tmp_path, poison=[24]), failpoint="training.updated:7") == -signal.SIGKILL
    report, toy = run(tmp_path, poison=[24])
    assert toy.visited and report.skipped == 1
