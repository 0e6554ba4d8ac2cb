"""An artifact is finished or it is not; one process owns its making; what is broken is said, not used."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time

import pytest

from svgbench.config.records import STORE_FORMAT, Manifest
from svgbench.errors import BrokenArtifact, Occupied, StorageError
from svgbench.lab.store import Store, files_of

KEY = "ab" * 32


def make(store: Store, content: bytes = b"content") -> None:
    with store.claim("stage", KEY) as partial:
        (partial / "data.bin").write_bytes(content)
        files, sizes = files_of(partial)
        manifest = Manifest(stage="stage", version=1, key=KEY, slice={}, inputs={}, files=files, sizes=sizes, seconds=0.0, finished="now")
        store.commit(manifest, partial)


def test_an_artifact_is_finished_when_its_manifest_is_there(tmp_path):
    store = Store(tmp_path)
    assert store.manifest("stage", KEY) is None
    make(store)
    assert store.manifest("stage", KEY).files.keys() == {"data.bin"}
    store.verify("stage", KEY)


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"format": STORE_FORMAT + 1}, "newer svgbench"), ({"key": "0" * 64}, "belongs to key"), ({"files": 3}, "is not a manifest")],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, change, sentence):
    store = Store(tmp_path)
    make(store)
    path = store.place("stage", KEY) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BrokenArtifact, match=sentence):
        store.manifest("stage", KEY)


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


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EIO, "input/output")])
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
