"""What is known of users' files between commands: every change of bytes is seen, whatever sizes and times say, and nothing else is read."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from scenes import ade20k, nyu
from sets import FORMS, as_folders, content, images
from toys import in_child

from svgbench.config.schema import Data
from svgbench.errors import BadData
from svgbench.images import catalogue, dense_sets, sources
from svgbench.images.scan import Skipped, stat_file, walk
from svgbench.metrics.judges import reference_identity

OLD = 1_600_000_000_000_000_000
SUFFIX = {"folders": "jpg", "shards": "tar", "saved": "arrow", "parquet": "parquet"}


def asked(root):
    return Data(source=str(root), resolution=16)


def flip(path: Path, *, keep_times: bool = True) -> None:
    """One byte in the middle of a file, under the same size and, where asked, the same time of change."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    if keep_times:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def settle(monkeypatch) -> None:
    """As if every file had been written long before it is read."""
    real = time.time_ns
    monkeypatch.setattr(catalogue.time, "time_ns", lambda: real() + 10 * catalogue.UNSETTLED_NS)


def files(root):
    return list(walk(root, "", (".bin",), Skipped()))


@pytest.fixture
def root(tmp_path):
    for name in ("a.bin", "b/c.bin", "b/d.bin"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode() * 50)
    return tmp_path / "data"


def test_files_that_did_not_change_are_read_once(root, monkeypatch):
    settle(monkeypatch)
    first = catalogue.read(root, files(root), "images")
    again = catalogue.read(root, files(root), "images")
    assert (first.read, again.read) == (3, 0) and first.digests == again.digests and first.identity == again.identity
    assert catalogue.read(root, files(root), "images", reread=True).read == 3
    shutil.copytree(root, root.parent / "copy")
    assert catalogue.read(root.parent / "copy", files(root.parent / "copy"), "images").identity == first.identity


def test_a_file_changed_shortly_before_it_was_read_is_read_again(root):
    assert catalogue.read(root, files(root), "images").read == 3
    assert catalogue.read(root, files(root), "images").read == 3


def test_times_of_the_future_are_no_reason_to_read_a_file_again(root, monkeypatch):
    settle(monkeypatch)
    for file in files(root):
        os.utime(root / file.path, ns=(2**62, 2**62))
    catalogue.read(root, files(root), "images")
    assert catalogue.read(root, files(root), "images").read == 0


def swapped(root):
    a, c = root / "b" / "c.bin", root / "b" / "d.bin"
    a.rename(root / "x")
    c.rename(a)
    (root / "x").rename(c)


def relinked(root):
    shutil.copy2(root / "a.bin", root / "other")
    flip(root / "other")
    (root / "a.bin").unlink()
    (root / "a.bin").symlink_to(root / "other")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda root: flip(root / "a.bin"), ["a.bin"]),
        (lambda root: flip(root / "b" / "c.bin", keep_times=False), ["b/c.bin"]),
        (swapped, ["b/c.bin", "b/d.bin"]),
        (relinked, ["a.bin"]),
    ],
)
def test_a_change_under_the_same_size_and_time_is_seen_and_said(root, monkeypatch, capsys, change, seen):
    settle(monkeypatch)
    before = catalogue.read(root, files(root), "images")
    change(root)
    after = catalogue.read(root, files(root), "images")
    assert list(after.changed) == seen and after.identity != before.identity
    said = capsys.readouterr().err
    assert f"{len(seen)} of 3 files changed since they were last read ({seen[0]}" in said and "is computed again" in said
    assert catalogue.read(root, files(root), "images").changed == () and not capsys.readouterr().err


def test_touched_files_are_read_and_nothing_is_said(root, monkeypatch, capsys):
    settle(monkeypatch)
    before = catalogue.read(root, files(root), "images")
    for file in files(root):
        os.utime(root / file.path, ns=(OLD, OLD))
    after = catalogue.read(root, files(root), "images")
    assert after.read == 3 and after.identity == before.identity and not capsys.readouterr().err


def test_added_and_removed_files_are_said(root, capsys):
    catalogue.read(root, files(root), "images")
    (root / "a.bin").unlink()
    (root / "n\new.bin").write_bytes(b"x")
    reading = catalogue.read(root, files(root), "images")
    assert (reading.added, reading.removed) == (("n\new.bin",), ("a.bin",))
    said = capsys.readouterr().err
    assert r"1 added (n\new.bin)" in said and "1 removed (a.bin)" in said and len(said.splitlines()) == 1
    assert catalogue.read(root, files(root), "images").added == ()


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data.replace(b"a.bin", b"z.bin"), lambda data: b""])
def test_a_damaged_catalogue_is_not_trusted(root, monkeypatch, damage):
    settle(monkeypatch)
    first = catalogue.read(root, files(root), "images")
    (place,) = [p for p in (catalogue.cache_folder() / "files").iterdir() if os.fsencode(str(root)) in p.read_bytes()]
    place.write_bytes(damage(place.read_bytes()))
    again = catalogue.read(root, files(root), "images")
    assert again.read == 3 and again.digests == first.digests and not again.changed


def test_a_first_reading_that_was_killed_goes_on(root, monkeypatch):
    settle(monkeypatch)
    monkeypatch.setattr(catalogue, "FLUSH_SECONDS", -1.0)
    assert in_child(lambda: catalogue.read(root, files(root), "images"), failpoint="catalogue.flushed:2") == -signal.SIGKILL
    reading = catalogue.read(root, files(root), "images")
    assert reading.read == 1 and not reading.added
    assert reading.identity == catalogue.read(root, files(root), "images", reread=True).identity


def test_a_cache_that_cannot_be_written_is_one_warning(root, monkeypatch, capsys):
    settle(monkeypatch)
    (root.parent / "file").write_text("x")
    monkeypatch.setenv("SVGBENCH_CACHE", str(root.parent / "file" / "below"))
    first = catalogue.read(root, files(root), "images")
    again = catalogue.read(root, files(root), "images")  # this process still knows them
    assert (first.read, again.read) == (3, 0)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and "set SVGBENCH_CACHE to a folder that can be written" in said and len(said.splitlines()) == 1


def test_a_relative_cache_is_below_the_current_directory_and_a_pipe_in_it_is_not_waited_for(root, monkeypatch, capsys):
    settle(monkeypatch)
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("SVGBENCH_CACHE", "own")
    assert [catalogue.read(root, files(root), "images").read for _ in range(2)] == [3, 0]
    (place,) = (root.parent / "own" / "files").iterdir()
    place.unlink()
    os.mkfifo(place)
    assert catalogue.read(root, files(root), "images").read == 3
    said = capsys.readouterr().err
    assert "set SVGBENCH_CACHE" in said and len(said.splitlines()) == 1


def test_without_a_home_directory_the_warning_says_so(root, monkeypatch, capsys):
    monkeypatch.delenv("SVGBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "also/relative")
    catalogue.read(root, files(root), "images")
    assert "cannot be written (there is no home directory)" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_known_as_that(root):
    (root / "gone.bin").symlink_to(root / "nowhere")
    reading = catalogue.read(root, files(root), "images")
    assert reading.digests["gone.bin"] == catalogue.UNREADABLE and len(reading.digests) == 4


# --- every kind of source ---


@pytest.mark.parametrize("form", FORMS)
def test_a_source_changed_under_the_same_sizes_and_times_has_another_identity(tmp_path, monkeypatch, form):
    settle(monkeypatch)
    root = FORMS[form](tmp_path / "in", images())
    known = sources.identity(asked(root))
    assert sources.identity(asked(root)) == known
    flip(next(path for path in sorted(root.rglob(f"*.{SUFFIX[form]}"))))
    assert sources.identity(asked(root)) != known


def test_images_that_a_dataset_names_and_does_not_hold_belong_to_its_identity(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet

    settle(monkeypatch)
    rows = []
    for name, label, data in images()["train"]:
        (tmp_path / name).write_bytes(data)
        rows.append({"image": {"bytes": None, "path": str(tmp_path / name)}, "label": label})
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (tmp_path / "linked").symlink_to("/")  # only files of its own are read
    known = sources.identity(asked(tmp_path))
    flip(tmp_path / "train-1-003.jpg")
    assert sources.identity(asked(tmp_path)) != known


def test_names_of_classes_beside_shards_belong_to_the_identity(tmp_path, monkeypatch):
    settle(monkeypatch)
    root = FORMS["shards"](tmp_path / "in", images())
    known = sources.identity(asked(root))
    (root / "classes.txt").write_text("ant\nbat\ncat\n")
    assert sources.identity(asked(root)) != known


@pytest.mark.parametrize(("kind", "make"), [("segmentation", ade20k), ("depth", nyu)])
@pytest.mark.parametrize("part", ["image", "target"])
def test_dense_sets_follow_the_bytes_of_images_masks_and_depth_maps(tmp_path, monkeypatch, kind, make, part):
    settle(monkeypatch)
    found = dense_sets.open_set(kind, str(make(tmp_path)))
    flip(tmp_path / getattr(found.validation[1], part))
    after = dense_sets.open_set(kind, str(tmp_path))
    assert after.identity != found.identity and after.digest("validation") != found.digest("validation")
    assert after.digest("training") == found.digest("training")
    assert found.limited(1).digest("validation") == after.limited(1).digest("validation")


def test_a_reference_folder_is_known_by_its_images(tmp_path, monkeypatch):
    settle(monkeypatch)
    root = as_folders(tmp_path / "in", images())
    known = reference_identity(root, None)
    (root / "notes.txt").write_text("not an image")
    assert reference_identity(root, None) == known
    flip(next(iter(sorted(root.rglob("*.jpg")))))
    assert reference_identity(root, None) != known


@pytest.mark.parametrize("inside", [(), ("folder/", ".hidden.png")])
def test_an_empty_reference_is_refused_before_anything_runs(tmp_path, inside):
    for name in inside:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadData, match="holds no images or statistics; give"):
        reference_identity(tmp_path, None)


def test_files_of_other_suffixes_identify_a_reference_that_holds_statistics(tmp_path):
    (tmp_path / "reference.safetensors").write_bytes(b"1234")
    known = reference_identity(tmp_path, None)
    (tmp_path / "reference.safetensors").write_bytes(b"1235")
    assert reference_identity(tmp_path, None) != known


def test_a_pipe_named_like_an_image_is_passed_over(tmp_path):
    root = as_folders(tmp_path / "in", images())
    os.mkfifo(root / "train" / "ant" / "pipe.jpg")
    skipped = Skipped()
    assert all(not path.endswith("pipe.jpg") for path in sources.files_of(root).digests)
    assert len(list(walk(root, "train/ant", (".jpg",), skipped))) == 6 and skipped.special == ["train/ant/pipe.jpg"]
    assert stat_file(root, "train/ant/none.jpg").size == 0


def test_an_image_that_changes_while_it_is_packed_is_refused(tmp_path, monkeypatch):
    from svgbench.errors import BadData
    from svgbench.images import packing
    from svgbench.machine.runtime import Runtime

    root = as_folders(tmp_path / "in", images())
    victim, real = root / "train" / "ant" / "train-0-000.jpg", packing.read_image
    monkeypatch.setattr(packing, "read_image", lambda *a: victim.write_bytes(content(0, 77)) and real(*a))
    with pytest.raises(BadData, match="its files changed while they were packed; run the same command again"):
        packing.pack(asked(root), tmp_path / "out", Runtime(device="cpu", quiet=True))
    assert not (tmp_path / "out" / "images.json").exists() and not (tmp_path / "out" / packing.JOURNAL).exists()


def test_two_processes_read_large_files_once(root, monkeypatch, tmp_path):
    """The second waits for the first, as ranks of one run do, and finds its catalogue."""
    settle(monkeypatch)
    monkeypatch.setattr(catalogue, "LARGE_BYTES", 10)
    real = catalogue._read_one

    def slowly(path, *rest):
        with (tmp_path / "read").open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(0.2)
        return real(path, *rest)

    monkeypatch.setattr(catalogue, "_read_one", slowly)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(0 if len(catalogue.read(root, files(root), "images").digests) == 3 else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sorted((tmp_path / "read").read_text().split()) == ["a.bin", "c.bin", "d.bin"]
