"""Packing goes on after a kill with the same bytes; a packed store is verified, and used by a run without a copy."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from sets import FORMS, as_folders, as_parquet, images
from toys import in_child

from svgbench.config.schema import Data
from svgbench.errors import BadData, BrokenArtifact, Interrupted, StorageError
from svgbench.images import catalogue, packed, packing
from svgbench.images.packing import pack
from svgbench.images.sources import identity
from svgbench.images.store import open_images, reading_speed
from svgbench.machine.runtime import Runtime
from svgbench.stages import pictures, results

QUIET = Runtime(device="cpu", quiet=True, workers=2)


def asked(root, **fields):
    return Data(source=str(root), resolution=16, **fields)


def everything(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """306 images: four pieces of a store, one of them of validation; the store they make."""
    place = tmp_path_factory.mktemp("source")
    as_folders(place / "in", images(each=100))
    pack(asked(place / "in"), place / "out", QUIET)
    return place


POINTS = ("images.rows:1", "images.rows:2", "images.chunk:1", "images.chunk:3", "images.chunk:4", "images.digested", "file.renamed:2")


@pytest.mark.parametrize("point", POINTS)
def test_a_packing_killed_anywhere_goes_on_to_the_same_bytes(source, tmp_path, point):
    assert in_child(lambda: pack(asked(source / "in"), tmp_path / "out", QUIET), failpoint=point) == -signal.SIGKILL
    if not point.startswith("file"):
        with pytest.raises(BrokenArtifact):
            open_images(tmp_path / "out")
    pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert everything(tmp_path / "out") == everything(source / "out")


def test_a_packing_killed_again_and_again_at_random_ends_with_the_same_bytes(source, tmp_path):
    draw = random.Random(5)
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                pack(asked(source / "in"), tmp_path / "out", QUIET)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert everything(tmp_path / "out") == everything(source / "out")


def test_parquet_killed_while_it_is_laid_out_or_after_goes_on_to_the_same_bytes(tmp_path):
    as_parquet(tmp_path / "in", images(each=100))
    pack(asked(tmp_path / "in"), tmp_path / "whole", QUIET)
    for number, point in enumerate(["images.laid:1", "images.laid:2", "images.chunk:2"]):
        out = tmp_path / str(number)
        assert in_child(lambda out=out: pack(asked(tmp_path / "in"), out, QUIET), failpoint=point) == -signal.SIGKILL
        assert (out / packing.LAID).is_dir()
        pack(asked(tmp_path / "in"), out, QUIET)
        assert everything(out) == everything(tmp_path / "whole")


def test_no_image_is_decoded_twice_but_those_of_the_pieces_in_hand(source, tmp_path, monkeypatch):
    in_child(lambda: pack(asked(source / "in"), tmp_path / "out", QUIET), failpoint="images.chunk:2")
    seen = []
    real = packing.read_image
    monkeypatch.setattr(packing, "read_image", lambda content, resolution: seen.append(1) or real(content, resolution))
    pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert len(seen) == 306 - 2 * packing.CHUNK


def test_a_cut_line_of_the_journal_does_not_count_and_shorter_files_begin_again(source, tmp_path):
    in_child(lambda: pack(asked(source / "in"), tmp_path / "out", QUIET), failpoint="images.chunk:2")
    shutil.copytree(tmp_path / "out", tmp_path / "short")
    journal = tmp_path / "out" / packing.JOURNAL
    journal.write_text(journal.read_text()[:-9])
    rows = tmp_path / "short" / "train.images.npy"
    rows.write_bytes(rows.read_bytes()[:5000])
    for out in (tmp_path / "out", tmp_path / "short"):
        pack(asked(source / "in"), out, QUIET)
        assert everything(out) == everything(source / "out")


def test_the_beginning_of_another_packing_is_refused_and_left_alone(source, tmp_path):
    in_child(lambda: pack(asked(source / "in"), tmp_path / "out", QUIET), failpoint="images.chunk:2")
    before = everything(tmp_path / "out")
    with pytest.raises(BadData, match="contains an unfinished packing of other images or settings"):
        pack(asked(source / "in", train_images=9), tmp_path / "out", QUIET)
    assert everything(tmp_path / "out") == before


def test_a_signal_stops_after_the_piece_in_hand_and_the_same_call_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "failpoint", lambda name: os.kill(os.getpid(), signal.SIGTERM) if name == "images.rows" else None)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after 128 of 306; run the same command again"):
        pack(asked(source / "in"), tmp_path / "out", QUIET)
    monkeypatch.undo()
    pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert everything(tmp_path / "out") == everything(source / "out")


def test_a_disk_that_fills_up_is_a_sentence_and_what_was_packed_is_kept(source, tmp_path):
    def cramped():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        pack(asked(source / "in"), tmp_path / "out", QUIET)

    assert in_child(cramped) == StorageError.exit_status
    assert len((tmp_path / "out" / packing.JOURNAL).read_text().splitlines()) == 2  # the request, and one piece
    pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert everything(tmp_path / "out") == everything(source / "out")


def test_too_little_space_is_said_before_anything_is_cropped(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match=r"0\.2 MB are needed"):
        pack(asked(source / "in"), tmp_path / "out", QUIET)
    assert not list((tmp_path / "out").glob("*.npy"))


# --- a packed store as a source ---


def stage(data, out, **fields):
    """The images stage of a run on some data."""
    data = data.model_copy(update={"identity": identity(data)})
    out.mkdir(parents=True)
    return pictures.images({"data": data.model_dump(mode="json")}, {}, out, QUIET)


def test_a_run_on_a_packed_store_copies_nothing_and_reads_the_same_images(source, tmp_path):
    told = stage(asked(source / "out"), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["images.json"] and told["counts"] == {"train": 300, "val": 6}
    adopted, own = open_images(tmp_path / "run"), open_images(source / "out")
    assert (adopted.train.images == own.train.images).all() and (adopted.val.labels == own.val.labels).all()
    digest = json.loads((source / "out" / "images.json").read_text())["files"]["val.images.npy"]["sha256"]
    assert results.image_group(tmp_path / "run", "val", adopted.val).digest == digest


def test_fewer_images_of_a_packed_store_are_those_that_packing_fewer_takes(source, tmp_path):
    stage(asked(source / "out", train_images=50, val_images=4), tmp_path / "run")
    pack(asked(source / "in", train_images=50, val_images=4), tmp_path / "few", QUIET)
    adopted, few = open_images(tmp_path / "run"), open_images(tmp_path / "few")
    assert len(adopted.train) == 50 and len(adopted.val) == 4
    for split in ("train", "val"):
        assert (getattr(adopted, split).images == getattr(few, split).images).all()
        assert (getattr(adopted, split).labels == getattr(few, split).labels).all()


def test_the_identity_of_a_packed_store_is_its_content_s(source, tmp_path):
    shutil.copytree(source / "in", tmp_path / "elsewhere")
    pack(asked(tmp_path / "elsewhere"), tmp_path / "again", QUIET)
    known = identity(asked(source / "out"))
    assert identity(asked(tmp_path / "again")) == known
    pack(asked(source / "in", train_images=90), tmp_path / "fewer", QUIET)
    assert identity(asked(tmp_path / "fewer")) != known


def test_a_packed_store_that_does_not_fit_the_run_is_a_sentence(source, tmp_path):
    with pytest.raises(BadData, match=r"is packed at 16 px, but the run asks for 32; give --set data\.resolution=16"):
        identity(Data(source=str(source / "out"), resolution=32))
    with pytest.raises(BadData, match=r"has 300 images, but data\.train_images asks for 301"):
        identity(asked(source / "out", train_images=301))
    stage(asked(source / "out"), tmp_path / "run")
    with pytest.raises(BadData, match="is the images stage of a run, not a packed directory"):
        identity(asked(tmp_path / "run"))


def test_a_packed_store_that_went_or_changed_behind_a_run_is_said(source, tmp_path):
    shutil.copytree(source / "out", tmp_path / "packed")
    stage(asked(tmp_path / "packed"), tmp_path / "run")
    (tmp_path / "packed").rename(tmp_path / "moved")
    with pytest.raises(BrokenArtifact, match=r"refers to the packed images in .*packed, which are missing; restore them, or give --data"):
        open_images(tmp_path / "run")
    pack(asked(source / "in", train_images=90), tmp_path / "packed", QUIET)
    with pytest.raises(BrokenArtifact, match="was packed again after"):
        open_images(tmp_path / "run")


@pytest.mark.parametrize("cache", ["kept", "of another process", "unwritable"])
def test_a_run_finds_its_packed_store_again_where_a_command_used_it_last(source, tmp_path, monkeypatch, cache):
    """A moved store, or one packed elsewhere from the same images, is the same data: what was made of it goes on."""
    if cache == "unwritable":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SVGBENCH_CACHE", str(tmp_path / "file"))
    shutil.copytree(source / "out", tmp_path / "packed")
    stage(asked(tmp_path / "packed"), tmp_path / "run")
    (tmp_path / "packed").rename(tmp_path / "moved")
    about = json.loads((tmp_path / "moved" / "images.json").read_text())
    packed.write(tmp_path / "moved", {k: v for k, v in about.items() if k not in ("format", "digest")} | {"source": "/elsewhere"})
    identity(asked(tmp_path / "moved"))
    if cache == "of another process":
        packed._known_locations.cache_clear()
    assert len(open_images(tmp_path / "run").train) == 300 and packed.digests(tmp_path / "run") == packed.digests(tmp_path / "moved")
    damage(tmp_path / "moved", "flipped")
    with pytest.raises(BrokenArtifact, match=r"moved.*its bytes are not those that were packed"):
        open_images(tmp_path / "run")
    shutil.copytree(source / "out", tmp_path / "packed")
    (tmp_path / "moved" / "images.json").write_text("{")
    assert len(open_images(tmp_path / "run").train) == 300


@pytest.mark.parametrize("name", ["train.images.npy", "val.images.npy", "train.labels.npy", "val.labels.npy"])
def test_a_packed_file_changed_behind_a_run_is_noticed_at_the_next_use(source, tmp_path, name):
    shutil.copytree(source / "out", tmp_path / "packed")
    stage(asked(tmp_path / "packed"), tmp_path / "run")
    path = tmp_path / "packed" / name
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-8 if "labels" in name else -1] ^= 1  # a label that still is one of a class
    path.write_bytes(bytes(data))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    run, data = tmp_path / "run", asked(tmp_path / "packed")
    for use in (lambda: open_images(run), lambda: identity(data), lambda: packed.digests(run)):
        with pytest.raises(BrokenArtifact, match=f"{name}: its bytes are not those that were packed"):
            use()
    path.write_bytes((source / "out" / name).read_bytes())
    assert len(open_images(tmp_path / "run").train) == 300


def test_large_packed_files_are_read_whole_only_once_they_changed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "QUICK_BYTES", 100_000)
    monkeypatch.setattr(catalogue, "LARGE_BYTES", 100_000)
    read, real = [], catalogue._read_one
    monkeypatch.setattr(catalogue, "_read_one", lambda path, *a: read.append(path.name) or real(path, *a))
    shutil.copytree(source / "out", tmp_path / "packed")
    known = identity(asked(tmp_path / "packed"))  # packed elsewhere: its size and what is listed
    assert "train.images.npy" not in read and "train.labels.npy" in read
    path = tmp_path / "packed" / "train.images.npy"
    os.utime(path, ns=(1, 1))
    assert identity(asked(tmp_path / "packed")) == known and read.count("train.images.npy") == 1
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    with pytest.raises(BrokenArtifact, match="its bytes are not those that were packed"):
        identity(asked(tmp_path / "packed"))
    packed.record(source / "out", packed.read(source / "out"))
    read.clear()
    identity(asked(source / "out"))
    assert "train.images.npy" not in read


def test_a_reference_that_is_packed_or_names_packed_images_is_checked(source, tmp_path):
    from svgbench.metrics.judges import reference_identity

    shutil.copytree(source / "out", tmp_path / "packed")
    stage(asked(tmp_path / "packed"), tmp_path / "run")
    assert reference_identity(tmp_path / "packed", None) == reference_identity(tmp_path / "run", None)
    damage(tmp_path / "packed", "flipped")
    for place in ("packed", "run"):
        with pytest.raises(BrokenArtifact, match="its bytes are not those that were packed"):
            reference_identity(tmp_path / place, None)


def damage(out, kind):
    path, about = out / "train.images.npy", out / "images.json"
    if kind == "flipped":
        with path.open("r+b") as file:
            file.seek(5000)
            byte = file.read(1)
            file.seek(5000)
            file.write(bytes([byte[0] ^ 1]))
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "gone":
        (out / "val.labels.npy").unlink()
    elif kind == "shape":
        np.save(path, np.zeros((300, 16, 16, 3), np.uint8))
    elif kind == "label":  # with a digest that fits: only the range tells
        labels = np.load(out / "train.labels.npy")
        labels[3] = 3
        np.save(out / "train.labels.npy", labels)
        content = json.loads(about.read_text())
        content["files"]["train.labels.npy"]["sha256"] = packing.sha256_of(out / "train.labels.npy")
        packed.write(out, {k: v for k, v in content.items() if k not in ("digest", "format")})
    elif kind == "words":
        about.write_text(about.read_text().replace('"ant"', '"elk"'))


DAMAGES = {
    "flipped": r"train\.images\.npy: its bytes are not those that were packed",
    "cut": r"train\.images\.npy: has 230527 bytes, not 230528 as listed",
    "gone": r"val\.labels\.npy: is missing",
    "shape": r"train\.images\.npy: holds uint8 \(300, 16, 16, 3\), not uint8 \(300, 3, 16, 16\)",
    "label": r"train\.labels\.npy: holds a label outside 0 to 2",
    "words": r"images\.json: was changed after it was written",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_first_damaged_file_of_a_packed_store_is_named_and_no_run_uses_it(source, tmp_path, kind):
    shutil.copytree(source / "out", tmp_path / "out")
    damage(tmp_path / "out", kind)
    with pytest.raises(BrokenArtifact, match=DAMAGES[kind]):
        for _ in packed.verify(tmp_path / "out", packed.read(tmp_path / "out")):
            pass
    data = asked(tmp_path / "out")
    (tmp_path / "run").mkdir()
    with pytest.raises(BrokenArtifact, match=DAMAGES[kind]):
        packed.adopt(data, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_store_of_a_newer_version_is_refused_and_one_without_digests_is_read(source, tmp_path):
    shutil.copytree(source / "out", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "images.json").read_text())
    old = {name: about[name] for name in ("source", "identity", "resolution", "classes", "masks", "counts", "skipped")}
    (tmp_path / "out" / "images.json").write_text(json.dumps({"format": 1, **old}))
    assert len(open_images(tmp_path / "out").train) == 300
    (tmp_path / "out" / "images.json").write_text(json.dumps({**about, "format": 3}))
    with pytest.raises(BrokenArtifact, match="packed by a newer svgbench"):
        open_images(tmp_path / "out")


def test_the_reading_speed_is_measured_on_the_store(source):
    assert reading_speed(open_images(source / "out").train, seconds=0.05) > 1000


@pytest.mark.parametrize("form", FORMS)
def test_a_source_that_changed_since_the_plan_is_refused(tmp_path, form):
    data = asked(FORMS[form](tmp_path / "in", images()))
    planned = data.model_copy(update={"identity": "0" * 64})
    with pytest.raises(BadData, match="changed after this run was planned"):
        pack(planned, tmp_path / "out", QUIET)
