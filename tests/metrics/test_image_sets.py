"""Sets of images made elsewhere: folders, archives and arrays give the same pixels; an archive writes nothing and is bounded."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from svgbench.errors import BadData
from svgbench.images.crop import centre_crop
from svgbench.metrics.image_sets import ImageFiles, drawn_evenly, even_places, open_set


def test_hidden_files_and_folders_are_left_out(tmp_path):
    folder = tmp_path / ".cache" / "set"  # a hidden folder above the set hides nothing
    for name in ("a.png", "b/c.png", ".checkpoints/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "._a.png").write_bytes(b"what macOS leaves beside a file")
    assert [path.relative_to(folder).as_posix() for path in ImageFiles(folder).paths] == ["a.png", "b/c.png"]
    for path in ("a.png", "b/c.png"):
        (folder / path).unlink()
    with pytest.raises(BadData, match="holds no images"):
        ImageFiles(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Unix")
def test_a_pipe_is_no_set_of_images_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    (tmp_path / "b.npz").symlink_to("/dev/zero")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BadData, match=r"is not a regular file; give a folder, \.zip or \.tar of images, an \.npz or an \.npy"):
            open_set(tmp_path / name)


def png(seed: int, size=(8, 8)) -> bytes:
    """An image file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {"b/z.png": png(0), "a/y.png": png(1), "a-c/x.png": png(2), "a/.hidden.png": png(3), "__MACOSX/a/y.png": b"", "a/notes.txt": b"no"}


def folder(place, files=FILES):
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def zipped(place, files=FILES, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(place, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place


def tarred(place, files=FILES, links=(), mode="w"):
    with tarfile.open(place, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return place


@pytest.mark.parametrize("resize", [None, 4])
def test_a_folder_a_zip_a_tar_and_arrays_of_the_same_images_are_the_same_set(tmp_path, resize):
    whole = open_set(folder(tmp_path / "f"), resize)
    pixels = whole.batch(range(3)).numpy()
    assert pixels.shape == (3, 3, resize or 8, resize or 8) and len({image.tobytes() for image in pixels}) == 3
    for archive in (zipped(tmp_path / "a.zip"), zipped(tmp_path / "b.ZIP", compression=zipfile.ZIP_STORED), tarred(tmp_path / "a.tar")):
        found = open_set(archive, resize)
        assert np.array_equal(found.batch(range(3)), pixels) and found.digest() == whole.digest() and found.labels() == whole.labels()
    arrays = open_set(tmp_path / "f").batch(range(3)).numpy()
    np.save(tmp_path / "ours.npy", arrays)
    np.save(tmp_path / "theirs.npy", arrays.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "adm.npz", arrays.transpose(0, 2, 3, 1), np.array([0, 1, 1]))
    for name in ("ours.npy", "theirs.npy", "adm.npz"):
        assert np.array_equal(open_set(tmp_path / name, resize).batch(range(3)), pixels)
    assert open_set(tmp_path / "adm.npz").labels() == [0, 1, 1] and open_set(tmp_path / "ours.npy").labels() is None


def test_images_of_several_sizes_need_resize_which_is_adms_crop(tmp_path):
    files = {"a.png": png(0, (12, 8)), "b.png": png(1, (30, 20))}
    with pytest.raises(BadData, match=r"images of 2 sizes .* \(eval --resize N does\)"):
        open_set(zipped(tmp_path / "a.zip", files))
    found = open_set(tmp_path / "a.zip", 8)
    assert found.shape == (2, 3, 8, 8)
    wanted = centre_crop(Image.open(io.BytesIO(files["b.png"])).convert("RGB"), 8)
    assert np.array_equal(found[1], wanted.transpose(2, 0, 1))


def test_an_archive_writes_nothing_whatever_its_names_are(tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    files = {"../../out.png": png(0), f"{inside.parent}/absolute.png": png(1), "a/b.png": png(2)}
    found = [open_set(zipped(inside / "a.zip", files)), open_set(tarred(inside / "a.tar", files, links=[("l.png", "/etc/hostname")]))]
    for images in found:
        assert images.batch(range(len(images))).shape == (3, 3, 8, 8)  # the link is left out
    assert sorted(p.name for p in inside.iterdir()) == ["a.tar", "a.zip"] and not (inside.parent / "absolute.png").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]


def test_archives_that_would_fill_memory_are_refused_before_a_member_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("svgbench.config.archives.LARGE", 1 << 20)
    with pytest.raises(BadData, match="more than 50 times as many"):
        open_set(zipped(tmp_path / "bomb.zip", {"a.png": bytes(4 << 20)}))
    monkeypatch.setattr("svgbench.metrics.image_sets.LARGE", 1 << 20)
    for archive in (
        zipped(tmp_path / "b.zip", {"a.png": bytes(2 << 20)}, zipfile.ZIP_STORED),
        tarred(tmp_path / "b.tar", {"a.png": bytes(2 << 20)}),
    ):
        with pytest.raises(BadData, match=r"'a\.png' has 2,097,152 bytes, more than any image"):
            open_set(archive)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_whatever_is_damaged_in_an_archive_is_one_sentence(tmp_path, kind):
    make = zipped if kind == "a.zip" else tarred
    whole = make(tmp_path / kind).read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.integers(0, len(whole), 120):
        damaged = bytearray(whole)
        damaged[place] ^= int(generator.integers(1, 256))
        (tmp_path / kind).write_bytes(bytes(damaged[: None if place % 3 else int(place)]))
        try:
            found = open_set(tmp_path / kind)
            found.batch(range(len(found)))
            found.digest()
        except BadData as error:
            refused += 1
            assert kind in str(error) and "\n" not in str(error)
    assert refused > 20


def test_what_is_no_set_is_refused_in_a_sentence(tmp_path):
    cases = {
        tarred(tmp_path / "a.tar.gz", mode="w:gz"): "a compressed tar cannot be read in place",
        zipped(tmp_path / "none.zip", {"a.txt": b"a"}): "holds no images",
        tmp_path / "objects.npy": "cannot be read as an array",
        tmp_path / "floats.npy": r"the array is float64 \[2, 4, 4, 3\]",
    }
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "floats.npy", np.zeros((2, 4, 4, 3)))
    for path, sentence in cases.items():
        with pytest.raises(BadData, match=sentence):
            open_set(path)
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for seed in range(2):
            archive.writestr("a.png", png(seed))
    with pytest.raises(BadData, match=r"holds two files of the name 'a\.png'"):
        open_set(tmp_path / "twice.zip")


def test_a_trial_draws_evenly_over_the_classes(tmp_path):
    labels = ["a"] * 50 + ["b"] * 50 + ["c"] * 3
    places = even_places(23, len(labels), labels)
    drawn = [labels[place] for place in places]
    assert places == sorted(set(places)) and [drawn.count(name) for name in "abc"] == [10, 10, 3]
    assert places == even_places(23, len(labels), labels) and places[:10] != list(range(10))
    assert even_places(3, 5, None) == sorted(set(even_places(3, 5, None))) and len(even_places(2, 9, list(range(9)))) == 2
    files = {f"{kind}/{number}.png": png(number) for number, kind in enumerate("aaaabbbb")}
    few = drawn_evenly(open_set(zipped(tmp_path / "a.zip", files)), 4)
    whole = [open_set(tmp_path / "a.zip")[place].tobytes() for place in range(8)]
    found = [whole.index(few[place].tobytes()) for place in range(len(few))]
    assert len(few) == 4 and sum(place < 4 for place in found) == 2
