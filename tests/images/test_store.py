"""The image store and the folders it is made from: the crop, the odd files, the splits, the words about bad folders."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from toys import in_child

from svgbench.config.schema import Data
from svgbench.errors import BadConfig, BadData, BrokenArtifact, StorageError
from svgbench.images.crop import centre_crop, read_image
from svgbench.images.packing import pack
from svgbench.images.sources import counted, identity, list_images
from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime

QUIET = Runtime(device="cpu", quiet=True)


def pattern(width, height):
    """A picture of high frequencies whose every pixel differs: resizing it another way gives other numbers."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([(37 * x + 11 * y) % 256, (x * y) % 256, (91 * x + 53 * y * y) % 256], 2).astype(np.uint8))


def folder(root, classes=("ant", "bee", "cat"), each=8, side=20):
    """A folder of class folders with small distinct images."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for place in range(each):
            Image.fromarray(np.full((side, side + 3, 3), 20 * number + place, np.uint8)).save(root / name / f"{place:03d}.png")
    return root


def asked(root, **fields):
    return Data(source=str(root), resolution=16, **fields)


# --- the crop ---


def test_the_crop_of_a_picture_of_its_own_size_is_the_picture():
    picture = pattern(32, 32)
    assert np.array_equal(centre_crop(picture, 32), np.asarray(picture))


def test_the_crop_takes_the_middle_and_rounds_down():
    assert np.array_equal(centre_crop(pattern(47, 32), 32), np.asarray(pattern(47, 32))[:, 7:39])
    assert np.array_equal(centre_crop(pattern(32, 61), 32), np.asarray(pattern(32, 61))[14:46])


def test_a_picture_four_times_too_large_is_halved_by_boxes():
    pixels = np.asarray(pattern(128, 128)).astype(float)
    halves = np.floor(pixels.reshape(64, 2, 64, 2, 3).mean((1, 3)) + 0.5)
    quarters = np.floor(halves.reshape(32, 2, 32, 2, 3).mean((1, 3)) + 0.5)
    assert np.abs(centre_crop(pattern(128, 128), 32) - quarters).max() <= 2  # PIL rounds after each direction


def test_the_crop_of_a_picture_between_sizes_has_the_golden_values():
    crop = centre_crop(pattern(75, 90), 32)
    assert crop.shape == (32, 32, 3)
    assert np.abs(crop[::8, ::8].reshape(-1, 3).astype(int) - np.array(GOLDEN_CROP)).max() <= 1
    assert crop.astype(float).mean((0, 1)) == pytest.approx(GOLDEN_MEANS, abs=0.1)


GOLDEN_CROP = (
    (112, 5, 124), (104, 145, 130), (137, 93, 128), (151, 123, 110),
    (51, 19, 152), (154, 144, 104), (189, 144, 114), (91, 129, 117),
    (121, 31, 125), (187, 78, 151), (109, 138, 100), (79, 134, 126),
    (193, 48, 111), (123, 129, 102), (95, 145, 152), (135, 94, 123),
)  # fmt: skip
GOLDEN_MEANS = (128.49, 123.93, 128.05)


# --- odd and broken files ---


def saved(path, image, **options):
    image.save(path, **options)
    return path


def read(path):
    return read_image(path.read_bytes(), 16)


def test_grey_alpha_palette_cmyk_and_sixteen_bit_pictures_are_read_as_rgb(tmp_path):
    picture = pattern(20, 20)
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA"), ("palette.png", "P"), ("cmyk.jpg", "CMYK"), ("one.png", "1")):
        found = read(saved(tmp_path / name, picture.convert(mode)))
        assert isinstance(found, np.ndarray) and found.shape == (3, 16, 16) and found.dtype == np.uint8, name
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
    assert read(saved(tmp_path / "deep.png", deep))[:, 8, 8] == pytest.approx(np.asarray(deep)[10, 10] / 256, abs=12)


def test_one_pixel_and_long_pictures_are_read(tmp_path):
    assert read(saved(tmp_path / "dot.png", pattern(1, 1))).shape == (3, 16, 16)
    assert read(saved(tmp_path / "line.png", pattern(700, 3))).shape == (3, 16, 16)


def test_exif_rotation_is_not_applied_and_of_an_animation_the_first_picture_is_taken(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = saved(tmp_path / "a.png", pattern(16, 16)), saved(tmp_path / "b.png", pattern(16, 16), exif=exif)
    assert np.array_equal(read(plain), read(turned))
    frames = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read(tmp_path / "moving.webp")[0, 0, 0] == 10


def bomb():
    """A PNG header that promises 60000 x 60000 pixels."""
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 0) + b"IDAT"


def broken_files():
    buffer = io.BytesIO()
    pattern(64, 64).save(buffer, "JPEG")
    whole = buffer.getvalue()
    png = io.BytesIO()
    pattern(64, 64).save(png, "PNG")
    half = {"half.jpg": whole[: len(whole) // 2], "half.png": png.getvalue()[:900]}
    return {"empty.png": b"", "text.JPEG": b"not a picture", "bomb.png": bomb(), **half}


@pytest.mark.parametrize("name", broken_files())
def test_a_file_that_is_no_picture_says_why(tmp_path, name):
    (tmp_path / name).write_bytes(broken_files()[name])
    reason = read(tmp_path / name)
    assert isinstance(reason, str) and reason and "0x" not in reason and reason == read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Unix")
def test_a_pipe_or_a_device_among_the_images_is_left_out_and_never_waited_for(tmp_path, capsys):
    folder(tmp_path / "data", each=100)
    for name, make in (("007", os.mkfifo), ("008", lambda path: path.symlink_to("/dev/zero"))):
        path = tmp_path / "data" / "bee" / f"{name}.png"
        path.unlink()
        make(path)
    packing = threading.Thread(target=pack, args=(asked(tmp_path / "data"), tmp_path / "out", QUIET), daemon=True)
    packing.start()
    packing.join(60)
    assert not packing.is_alive(), "waits for a pipe"
    about = json.loads((tmp_path / "out" / "images.json").read_text())
    assert sum(about["counts"].values()) == 298
    said = capsys.readouterr().err
    assert "bee/007.png" in said and "bee/008.png" in said


def test_a_file_that_vanished_is_left_out_and_says_so(tmp_path):
    folder(tmp_path / "data", each=60)
    (tmp_path / "data" / "bee" / "007.png").unlink()
    (tmp_path / "data" / "bee" / "007.png").symlink_to(tmp_path / "nowhere")
    about = pack(asked(tmp_path / "data"), tmp_path / "out", QUIET)
    assert about["skipped"] == [{"path": "bee/007.png", "reason": "no longer exists"}]


# --- listing ---


def test_a_share_of_each_class_is_held_out_and_stays_held_out(tmp_path):
    listing = list_images(asked(folder(tmp_path, each=10), val_share=0.2))
    assert [sum(e.label == c for e in listing.val) for c in range(3)] == [2, 2, 2]
    assert len(listing.train) == 24 and not {e.path for e in listing.train} & {e.path for e in listing.val}
    assert list_images(asked(tmp_path, val_share=0.2)) == listing
    other = list_images(asked(tmp_path, val_share=0.2, seed=1))
    assert {e.path for e in other.val} != {e.path for e in listing.val}
    limited = list_images(asked(tmp_path, val_share=0.2, train_images=9))
    assert limited.val == listing.val  # fewer training images never move one into validation


def test_every_beginning_of_a_split_is_balanced(tmp_path):
    listing = list_images(asked(folder(tmp_path), train_images=7))
    assert [e.label for e in listing.train] == [0, 1, 2, 0, 1, 2, 0]
    assert list_images(asked(tmp_path)).train[:7] == listing.train


def test_a_small_class_runs_out_and_the_others_fill_the_number(tmp_path):
    folder(tmp_path, each=8)
    for place in range(2, 8):
        (tmp_path / "ant" / f"{place:03d}.png").unlink()
    listing = list_images(asked(tmp_path, train_images=9))
    assert [sum(e.label == c for e in listing.train) for c in range(3)] == [1, 4, 4]


def test_a_limit_takes_the_beginning_of_each_split_of_every_source(tmp_path):
    data = asked(folder(tmp_path / "data"), val_share=0.5, limit=4)
    whole, trial = list_images(data.model_copy(update={"limit": None})), list_images(data)
    assert (trial.train, trial.val) == (whole.train[:4], whole.val[:4])
    assert counted(data) == (4, 4, 3) and counted(data.model_copy(update={"train_images": 2})) == (2, 4, 3)
    drawn = Data(source="shapes", resolution=32, train_images=30, val_images=2, limit=4)
    assert pack(drawn, tmp_path / "shapes", QUIET)["counts"] == {"train": 4, "val": 2}


def test_train_and_val_folders_are_used_as_they_are(tmp_path):
    folder(tmp_path / "train", each=5)
    folder(tmp_path / "val", each=2)
    listing = list_images(asked(tmp_path))
    assert (len(listing.train), len(listing.val), listing.classes) == (15, 6, ("ant", "bee", "cat"))
    assert all(e.path.startswith("train/") for e in listing.train) and all(e.path.startswith("val/") for e in listing.val)


def test_the_identity_follows_names_and_bytes_and_not_the_place(tmp_path):
    folder(tmp_path / "a")
    folder(tmp_path / "b")
    first = identity(asked(tmp_path / "a"))
    assert identity(asked(tmp_path / "b")) == first
    (tmp_path / "b" / "cat" / "000.png").rename(tmp_path / "b" / "cat" / "900.png")
    assert identity(asked(tmp_path / "b")) != first
    with (tmp_path / "a" / "cat" / "000.png").open("ab") as file:
        file.write(b"x")
    assert identity(asked(tmp_path / "a")) != first


def bad_missing(root):
    return root / "nowhere"


def bad_file(root):
    (root / "x.jpg").write_bytes(b"")
    return root / "x.jpg"


def bad_empty(root):
    return root


def bad_no_images(root):
    (root / "ant").mkdir()
    (root / "bee").mkdir()
    (root / "bee" / "words.txt").write_text("x")
    return root


def bad_flat(root):
    saved(root / "0.png", pattern(16, 16))
    return root


def bad_one_class(root):
    return folder(root, classes=("ant",))


def bad_hollow_class(root):
    folder(root)
    (root / "dog").mkdir()
    return root


def bad_strange_class(root):
    folder(root / "train")
    folder(root / "val", classes=("ant", "elk"))
    return root


def bad_single_images(root):
    return folder(root, each=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bad_missing, "does not exist; give --data"),
        (bad_file, "is a file; give --data"),
        (bad_empty, "contains no class folders"),
        (bad_flat, "contains no class folders"),
        (bad_no_images, "contains no images in class folders"),
        (bad_one_class, "has only one class, 'ant', and needs two"),
        (bad_hollow_class, "dog: contains no images"),
        (bad_strange_class, r"val: has classes without training images \(elk\); the training images have 3 classes \(ant, bee, cat\)"),
        (bad_single_images, "gives 3 training and 0 validation images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, make, words):
    with pytest.raises(BadData, match=words) as raised:
        list_images(asked(make(tmp_path)))
    assert "\n" not in str(raised.value)


def test_more_images_than_there_are_is_a_sentence(tmp_path):
    with pytest.raises(BadData, match=r"has 21 images, but data\.train_images asks for 100"):
        list_images(asked(folder(tmp_path), train_images=100))


# --- the store ---


def test_a_folder_becomes_a_store_that_says_what_it_holds(tmp_path):
    pack(asked(folder(tmp_path / "data")), tmp_path / "out", QUIET)
    images = open_images(tmp_path / "out")
    assert images.classes == ("ant", "bee", "cat") and images.resolution == 16
    assert (len(images.train), len(images.val)) == (21, 3)
    assert images.train.images.shape == (21, 3, 16, 16) and images.train.images.dtype == torch.uint8
    assert images.train.masks is None and images.skipped == ()
    listing = list_images(asked(tmp_path / "data"))
    for place in (0, 5, 20):
        entry = listing.train[place]
        assert images.train.labels[place] == entry.label
        wanted = read(listing.root / entry.path)
        assert np.array_equal(images.train.batch([place])[0].numpy(), wanted)


def test_a_batch_comes_in_the_order_asked_for_and_is_a_copy(tmp_path):
    pack(asked(folder(tmp_path / "data")), tmp_path / "out", QUIET)
    train = open_images(tmp_path / "out").train
    batch = train.batch(torch.tensor([7, 0, 7]))
    assert torch.equal(batch[0], batch[2]) and torch.equal(batch[1], train.images[0])
    batch.zero_()
    assert train.images[7].any()


def test_shapes_become_a_store_with_masks_equal_to_the_drawing(tmp_path):
    from svgbench.images import shapes

    pack(Data(source="shapes", resolution=32, train_images=300, val_images=20, seed=4), tmp_path, QUIET)
    images = open_images(tmp_path)
    drawn = shapes.draw([299, 3], seed=4, resolution=32, split="train")
    assert np.array_equal(images.train.batch([299, 3]).numpy(), drawn.images)
    assert np.array_equal(images.train.masks[[299, 3]].numpy(), drawn.masks)
    assert images.train.labels[[299, 3]].tolist() == drawn.labels.tolist()
    assert len(images.val) == 20 and images.classes == shapes.CLASSES


def test_shapes_without_a_number_is_a_sentence(tmp_path):
    with pytest.raises(BadConfig, match=r"data\.val_images is empty"):
        pack(Data(source="shapes", resolution=32, train_images=10), tmp_path, QUIET)


def test_shapes_have_one_identity_for_all_numbers():
    assert identity(Data(source="shapes")) == identity(Data(source="shapes", train_images=5, resolution=32))
    assert len(identity(Data(source="shapes"))) == 64


def test_the_store_does_not_depend_on_the_number_of_workers(tmp_path):
    folder(tmp_path / "data", each=30)
    for workers in (0, 3):
        pack(asked(tmp_path / "data"), tmp_path / str(workers), Runtime(device="cpu", quiet=True, workers=workers))
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / path.name).read_bytes(), path.name


def test_an_unreadable_image_is_named_counted_and_left_out(tmp_path, capsys):
    folder(tmp_path / "data", each=60)
    victim = list_images(asked(tmp_path / "data")).train[17]
    (tmp_path / "data" / victim.path).write_bytes(b"not a picture")
    about = pack(asked(tmp_path / "data"), tmp_path / "out", QUIET)
    images = open_images(tmp_path / "out")
    assert images.skipped == (victim.path,) and about["counts"] == {"train": 161, "val": 18}
    assert images.train.images.shape[0] == len(images.train.labels) == 161
    assert np.load(tmp_path / "out" / "train.images.npy").shape == (161, 3, 16, 16)
    words = capsys.readouterr().err
    assert victim.path in words and "1 of 180 images cannot be read and are left out" in words


def test_more_than_one_in_a_hundred_unreadable_images_is_an_error_that_names_them(tmp_path):
    folder(tmp_path / "data", each=60)
    for place in (3, 4):
        (tmp_path / "data" / "bee" / f"{place:03d}.png").write_bytes(b"")
    with pytest.raises(BadData, match=r"2 of 180 images cannot be read, more than 1 %: .*bee/00[34]\.png"):
        pack(asked(tmp_path / "data"), tmp_path / "out", QUIET)
    with pytest.raises(BrokenArtifact):
        open_images(tmp_path / "out")


def test_a_folder_that_changed_since_the_plan_is_refused(tmp_path):
    data = asked(folder(tmp_path / "data"))
    planned = data.model_copy(update={"identity": identity(data)})
    pack(planned, tmp_path / "out", QUIET)
    (tmp_path / "data" / "cat" / "001.png").unlink()
    with pytest.raises(BadData, match="changed after this run was planned"):
        pack(planned, tmp_path / "out", QUIET)


def test_a_packing_that_was_killed_is_no_store_and_the_next_one_is_whole(tmp_path):
    data = Data(source="shapes", resolution=32, train_images=600, val_images=20)
    assert in_child(lambda: pack(data, tmp_path, QUIET), failpoint="images.chunk:2") == -signal.SIGKILL
    with pytest.raises(BrokenArtifact, match="is not a complete store"):
        open_images(tmp_path)
    pack(data, tmp_path, QUIET)
    assert len(open_images(tmp_path).train) == 600


def test_a_full_disk_while_packing_is_a_sentence(tmp_path):
    def cramped():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        pack(Data(source="shapes", resolution=32, train_images=600, val_images=20), tmp_path, QUIET)

    assert in_child(cramped) == StorageError.exit_status
    assert not (tmp_path / "images.json").exists()


@pytest.mark.parametrize("damage", ["cut", "shape", "gone", "json", "no json"])
def test_a_damaged_store_is_a_broken_artifact(tmp_path, damage):
    pack(asked(folder(tmp_path / "data")), tmp_path / "out", QUIET)
    path, about = tmp_path / "out" / "train.images.npy", tmp_path / "out" / "images.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "shape":
        np.save(path, np.zeros((21, 3, 16, 15), np.uint8))
    elif damage == "gone":
        path.unlink()
    elif damage == "json":
        about.write_text(json.dumps({"format": 1}))
    else:
        about.unlink()
    with pytest.raises(BrokenArtifact, match="remove the directory and run again"):
        open_images(tmp_path / "out")
