"""An artifact is finished or it is not; one process owns its making; what is broken is said, not used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import save_file
from toys import in_child

from svgbench.config.records import STORE_FORMAT, Manifest, key_of
from svgbench.errors import BrokenArtifact, Occupied, StorageError
from svgbench.lab.store import Store, files_of, locked

KEY = key_of("stage", 1, {}, {})
CHECKPOINT = "checkpoints/000000000010/part.safetensors"


def make(store: Store, content: bytes = b"content") -> None:
    with store.claim("stage", KEY) as partial:
        (partial / "data.bin").write_bytes(content)
        (partial / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
        (partial / CHECKPOINT).write_bytes(b"weights")
        files, sizes = files_of(partial)
        manifest = Manifest(stage="stage", version=1, key=KEY, slice={}, inputs={}, files=files, sizes=sizes, seconds=0.0, finished="now")
        store.commit(manifest, partial)


def test_an_artifact_is_finished_when_its_manifest_is_there(tmp_path):
    store = Store(tmp_path)
    assert store.manifest("stage", KEY) is None
    make(store)
    assert store.manifest("stage", KEY).files.keys() == {"data.bin"}
    store.verify("stage", KEY)


@pytest.mark.parametrize(("umask", "wanted"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_of_an_artifact_have_the_permissions_that_the_umask_asks_for(tmp_path, umask, wanted):
    before = os.umask(umask)
    try:
        with Store(tmp_path).claim("stage", KEY) as partial:
            (partial / "deep").mkdir()
            for name in ("a.safetensors", "deep/b.safetensors"):
                save_file({"x": torch.zeros(2)}, partial / name)
            files, sizes = files_of(partial)
            manifest = Manifest(stage="stage", version=1, key=KEY, slice={}, inputs={}, files=files, sizes=sizes, seconds=0, finished="")
            Store(tmp_path).commit(manifest, partial)
    finally:
        os.umask(before)
    place = Store(tmp_path).place("stage", KEY)
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()} == {wanted}


def test_an_interrupted_artifact_is_not_finished_and_keeps_its_work(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.claim("stage", KEY) as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    assert store.manifest("stage", KEY) is None
    with store.claim("stage", KEY) as partial:
        assert (partial / "half").read_text() == "half"


def damage(path, how):
    content = path.read_bytes()
    if how == "flipped bit":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing"])
def test_a_damaged_file_is_named(tmp_path, how):
    store = Store(tmp_path)
    make(store)
    damage(store.place("stage", KEY) / "data.bin", how)
    with pytest.raises(BrokenArtifact, match=r"data\.bin.*run again"):
        store.verify("stage", KEY)


def test_every_damage_to_an_artifact_is_noticed(tmp_path):
    """Bits at 64 places, cuts and additions, in files of two kinds: all of them, and none when they are put back."""
    store = Store(tmp_path)
    make(store, os.urandom(5000))
    path = store.place("stage", KEY) / "data.bin"
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :] for place in range(0, 5000, 5000 // 64)]
    damaged += [whole[:length] for length in (0, 1, 2500, 4950, 4999)] + [whole + b"\0", whole[1:] + whole[:1]]
    noticed = 0
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(BrokenArtifact, match=r"data\.bin.*remove the directory"):
            store.verify("stage", KEY)
        noticed += 1
    path.write_bytes(whole)
    store.verify("stage", KEY)
    assert noticed == len(damaged) > 64


def test_a_lock_s_file_that_never_stays_is_the_storage_s_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with pytest.raises(StorageError, match="replaced again and again"), locked(tmp_path / "lock", what="it"):
        pass


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": STORE_FORMAT + 1}, "newer svgbench"),
        ({"key": "0" * 64}, "not the manifest"),
        ({"files": 3}, "not the manifest"),
        ({"format": 1}, "not the manifest"),
        ({"format": "2"}, "not the manifest"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, change, sentence):
    store = Store(tmp_path)
    make(store)
    path = store.place("stage", KEY) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BrokenArtifact, match=sentence):
        store.manifest("stage", KEY)


def test_a_manifest_put_into_the_place_of_another_key_or_stage_is_refused(tmp_path):
    store = Store(tmp_path)
    make(store)
    other = key_of("stage", 2, {}, {})
    for stage, key in (("stage", other), ("other", KEY)):
        shutil.copytree(store.place("stage", KEY), store.place(stage, key))
        with pytest.raises(BrokenArtifact, match=f"belongs to stage {KEY[:12]}.*remove the directory"):
            store.manifest(stage, key)


def test_every_single_changed_byte_of_a_manifest_is_noticed(tmp_path):
    """Each byte of the file with one bit flipped, and every digit replaced by another one: nothing passes."""
    store = Store(tmp_path)
    make(store)
    path = store.place("stage", KEY) / "manifest.json"
    whole = path.read_bytes()
    changes = [(i, whole[i] ^ 1 << i % 8) for i in range(len(whole))]
    changes += [(i, ord("0") + (byte - ord("0") + 1) % 10) for i, byte in enumerate(whole) if chr(byte).isdigit()]
    passed = []
    for place, byte in changes:
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        with contextlib.suppress(BrokenArtifact):
            store.manifest("stage", KEY)
            passed.append(place)
    assert len(changes) > 500 and passed == []
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BrokenArtifact, match="remove the directory"):
            store.manifest("stage", KEY)


def test_a_manifest_of_the_first_format_is_read_and_held_against_its_key(tmp_path):
    store = Store(tmp_path)
    make(store)
    path = store.place("stage", KEY) / "manifest.json"
    content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "digest"} | {"format": 1}
    path.write_text(json.dumps(content, indent=1))
    assert store.verify("stage", KEY).manifest.format == 1
    for change in ({"version": 2}, {"slice": {"seed": 1}}, {"inputs": {"images": KEY}}):
        path.write_text(json.dumps(content | change, indent=1))
        with pytest.raises(BrokenArtifact, match="its key does not match its content"):
            store.manifest("stage", KEY)


POINTS = [
    "lock.taken", "store.claimed", "store.digested", "store.before_manifest", "file.before_rename", "file.renamed", "store.before_rename",
    "store.renamed", "tree.renamed", "tree.removed", "store.committed",
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_commit_killed_anywhere_is_old_or_new_and_the_next_use_leaves_nothing_behind(tmp_path, point):
    store = Store(tmp_path)
    assert in_child(lambda: make(store), failpoint=point) == -signal.SIGKILL
    if store.manifest("stage", KEY) is None:
        assert point in POINTS[:3] or (store.place("stage", KEY).with_suffix(".partial") / CHECKPOINT).is_file()  # no training is lost
        make(store)
    found = store.verify("stage", KEY)
    assert found.manifest.files.keys() == {"data.bin"}
    store.sweep([found])
    assert {path.relative_to(tmp_path / "stage" / KEY[:32]).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "data.bin", "manifest.json",
    }  # fmt: skip


@pytest.mark.parametrize("point", ["store.sweeping", "store.sweeping:2", "lock.taken"])
def test_a_sweep_killed_itself_is_ended_by_the_next_one(tmp_path, point):
    store = Store(tmp_path)
    make(store)
    place = litter(store)
    assert in_child(lambda: store.sweep([store.look("stage", KEY)]), failpoint=point) == -signal.SIGKILL
    store.sweep([store.look("stage", KEY)])
    assert {path.name for path in tmp_path.rglob("*")} == {"stage", place.name, "data.bin", "manifest.json"}


def litter(store: Store):
    """All that killed processes were seen to leave of a finished artifact."""
    place = store.place("stage", KEY)
    for name in (CHECKPOINT, ".writing-77-removed-checkpoints/000000000010/part.safetensors"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"20 GB")
    (place / ".writing-77-scores.json").write_text("half")
    for name in (f"{place.name}.partial", f".writing-78-removed-{place.name}", f".writing-79-removed-{place.name}.partial"):
        (place.parent / name / "checkpoints").mkdir(parents=True)
        (place.parent / name / "checkpoints" / "part.safetensors").write_bytes(b"20 GB")
    for name in (".lock", ".progress", ".progress.80"):
        place.with_name(place.name + name).write_text("")
    return place


def test_a_sweep_leaves_what_another_process_works_on_and_unfinished_work(tmp_path):
    store = Store(tmp_path)
    make(store)
    place = litter(store)
    unfinished = place.with_name("0" * 32 + ".partial") / CHECKPOINT
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"of a training")
    before = sorted(tmp_path.rglob("*"))
    with locked(place.with_name(place.name + ".lock"), what="it"):
        assert in_child(lambda: store.sweep([store.look("stage", KEY)])) == 0
    assert sorted(tmp_path.rglob("*")) == before
    store.sweep([store.look("stage", KEY)])
    assert {path.name for path in place.parent.iterdir()} == {place.name, unfinished.parents[2].name}
    assert unfinished.read_bytes() == b"of a training" and {path.name for path in place.iterdir()} == {"data.bin", "manifest.json"}


def test_a_sweep_that_may_not_write_is_no_failure(tmp_path, monkeypatch):
    store = Store(tmp_path)
    make(store)
    litter(store)

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store.sweep([store.look("stage", KEY)])
    store.verify("stage", KEY)


def test_a_lock_whose_file_was_removed_by_its_last_owner_is_taken_anew(tmp_path):
    """Between opening the file and locking it, its owner may remove it: a lock on the removed file would be nobody's."""
    path, real = tmp_path / "lock", fcntl.flock
    turns = []

    def flock(file, how):
        if not turns:
            turns.append(path.unlink())
        return real(file, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with locked(path, what="it"):
            assert path.read_text().startswith(f"process {os.getpid()} ")
            assert in_child(lambda: locked(path, what="it").__enter__()) == Occupied.exit_status


NO_LOCKS = ["ENOSYS", "ENOLCK", "ESTALE", "EOPNOTSUPP", "EINVAL", "EIO", "EBADF", "EPROTONOSUPPORT"]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_locks_that_a_file_system_lacks_are_a_sentence_about_the_storage(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="cannot lock files") as caught:
        make(Store(tmp_path))
    assert caught.value.exit_status == 5


def _hold(root, ready):
    with Store(root).claim("stage", KEY):
        ready.set()
        time.sleep(60)


def test_a_second_process_is_told_who_owns_the_work(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready))
    other.start()
    assert ready.wait(20)
    with pytest.raises(Occupied, match=f"process {other.pid}"), Store(tmp_path).claim("stage", KEY):
        pass
    other.kill()
    other.join()
    with Store(tmp_path).claim("stage", KEY):  # the kernel frees a dead owner's lock
        pass


@pytest.mark.parametrize(("number", "word"), [
    (errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EIO, "input/output"), (errno.ESTALE, "Stale file handle"),
    (errno.ETIMEDOUT, "timed out"), (errno.ENXIO, "No such device"), (errno.EMFILE, "ulimit"), (errno.ENOENT, "was removed"),
])  # fmt: skip
def test_the_disk_s_errors_are_one_sentence_and_leave_nothing_finished(tmp_path, monkeypatch, number, word):
    def fail(*_):
        raise OSError(number, os.strerror(number), str(tmp_path))

    store = Store(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=word) as caught:
        make(store)
    assert caught.value.exit_status == 5
    monkeypatch.undo()
    assert store.manifest("stage", KEY) is None
    make(store)
    store.verify("stage", KEY)
