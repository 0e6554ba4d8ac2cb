"""Pixels of every depth: one scale by the file's type in every reader, refusals where none is known, bounds before anything is decoded."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from deep import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, INDEXED, chunk, png, tiff
from PIL import Image, ImageCms
from scenes import ade20k, nyu

from svgbench.errors import BadData
from svgbench.images import decode
from svgbench.images.crop import read_image
from svgbench.images.dense_sets import ImagePair, open_set, read_depth, read_labelled
from svgbench.machine.files import open_regular, read_regular
from svgbench.metrics.image_sets import ImageFiles

SIDE = 16
BRIGHT = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 257
"""The whole range of 16 bits."""
DARK = (BRIGHT % 200).astype(np.uint16)
"""Below 256: nearly black in 16 bits."""
BYTES = (BRIGHT >> 8).astype(np.uint8)


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def four(grey, alpha):
    return np.concatenate([three(grey), np.full((SIDE, SIDE, 1), alpha, grey.dtype)], axis=2)


def made(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ppm(numbers, magic: bytes, most: int = 65535) -> bytes:
    return magic + f" {SIDE} {SIDE} {most}\n".encode() + numbers.astype(">u2").tobytes()


PALETTE = bytes(255 - number for number in range(256) for _ in range(3))
READ = {
    "png of 16 bits": (png(BRIGHT, 16), BYTES),
    "dark png of 16 bits": (png(DARK, 16), DARK >> 8),
    "colour png of 16 bits": (png(three(BRIGHT), 16, COLOUR), BYTES),
    "dark colour png of 16 bits": (png(three(DARK), 16, COLOUR), DARK >> 8),
    "png of 16 bits with alpha": (png(np.stack([BRIGHT, DARK], -1), 16, GREY_ALPHA), BYTES),
    "colour png of 16 bits with alpha": (png(four(BRIGHT, 9), 16, COLOUR_ALPHA), BYTES),
    "png of 16 bits with a transparent level": (png(BRIGHT, 16, GREY, chunk(b"tRNS", b"\0\0")), BYTES),
    "png of 4 bits": (png(BYTES >> 4, 4), (BYTES >> 4) * 17),
    "png of 2 bits": (png(BYTES >> 6, 2), (BYTES >> 6) * 85),
    "png of 1 bit": (png(BYTES >> 7, 1), (BYTES >> 7) * 255),
    "png with a palette": (png(BYTES, 8, INDEXED, chunk(b"PLTE", PALETTE)), 255 - BYTES),
    "png with a palette of transparent colours": (png(BYTES, 8, INDEXED, chunk(b"PLTE", PALETTE), chunk(b"tRNS", bytes(256))), 255 - BYTES),
    "png with alpha": (made(Image.fromarray(four(BYTES, 0)), "PNG"), BYTES),
    "tiff of 16 bits": (tiff(BRIGHT), BYTES),
    "big-endian tiff of 16 bits": (tiff(BRIGHT, order=">"), BYTES),
    "dark big-endian tiff of 16 bits": (tiff(DARK, order=">"), DARK >> 8),
    "compressed tiff of 16 bits": (made(Image.fromarray(BRIGHT), "TIFF", compression="tiff_adobe_deflate"), BYTES),
    "tiff of 16 bits with white as 0": (tiff(BRIGHT, white_is_zero=True), 255 - BYTES),
    "tiff of 8 bits with white as 0": (tiff(BYTES, white_is_zero=True), 255 - BYTES),
    "tiff of 12 bits": (tiff(BRIGHT >> 4, bits=12), BYTES),
    "colour tiff of 16 bits": (tiff(three(BRIGHT)), BYTES),
    "big-endian colour tiff of 16 bits": (tiff(three(DARK), order=">"), DARK >> 8),
    "tiff of 16 bits with alpha": (tiff(four(BRIGHT, 9)), BYTES),
    "tiff of 8 bits in planes": (tiff(three(BYTES), planes=True), BYTES),
    "float tiff": (tiff(BYTES.astype(np.float32) / 255), BYTES),
    "big-endian float tiff": (tiff(BYTES.astype(np.float32) / 255, order=">"), BYTES),
    "dark float tiff": (tiff(np.full((SIDE, SIDE), 0.01, np.float32)), np.full((SIDE, SIDE), 3)),
    "float tiff with white as 0": (tiff(BYTES.astype(np.float32) / 255, white_is_zero=True), 255 - BYTES),
    "portable map of 16 bits": (ppm(BRIGHT, b"P5"), BYTES),
    "dark portable map of 16 bits": (ppm(DARK, b"P5"), np.rint(DARK * 255 / 65535)),
    "colour portable map of 16 bits": (ppm(three(DARK), b"P6"), np.rint(DARK * 255 / 65535)),
    "portable map of 10 bits": (ppm(BRIGHT >> 6, b"P5", 1023), np.rint(np.rint((BRIGHT >> 6) * (65535 / 1023)) * 255 / 65535)),
    "stereo jpeg": (made(Image.new("L", (SIDE, SIDE), 77).convert("RGB"), "MPO", save_all=True), np.full((SIDE, SIDE), 77)),
    "jpeg of grey": (made(Image.new("L", (SIDE, SIDE), 77), "JPEG"), np.full((SIDE, SIDE), 77)),
    "webp": (made(Image.fromarray(BYTES), "WEBP", lossless=True), BYTES),
    "bmp": (made(Image.fromarray(BYTES), "BMP"), BYTES),
    "gif": (made(Image.fromarray(BYTES), "GIF"), BYTES),
    "jpeg 2000 of 16 bits": (made(Image.fromarray(BRIGHT), "JPEG2000"), BYTES),
    "inverted cmyk": (made(Image.fromarray(four(255 - BYTES, 0), "CMYK"), "TIFF"), BYTES),
}
"""Name -> a file, and the grey that every reader must see."""
SCALE_UNKNOWN = r"whose scale is unknown; save it in 8 or 16 bits"
REFUSED = {
    "floats to 255": (tiff(BYTES.astype(np.float32)), "floats outside 0 to 1, " + SCALE_UNKNOWN),
    "floats below 0": (tiff(BYTES.astype(np.float32) / 255 - 0.5), "floats outside 0 to 1"),
    "NaN": (tiff(np.where(BYTES == 3, np.nan, 0.5).astype(np.float32)), "floats outside 0 to 1"),
    "infinity": (tiff(np.where(BYTES == 3, np.inf, 0.5).astype(np.float32)), "floats outside 0 to 1"),
    "numbers of 32 bits": (tiff(BRIGHT.astype(np.uint32)), "signed or 32-bit integers, " + SCALE_UNKNOWN),
    "small numbers of 32 bits": (tiff(DARK.astype(np.int32), order=">"), "signed integers"),
    "signed numbers of 16 bits": (tiff((BRIGHT >> 1).astype(np.int16)), "signed integers"),
    "signed numbers of 8 bits": (tiff((BYTES >> 1).astype(np.int8)), "signed integers"),
    "colours of 16 bits in planes": (tiff(three(BRIGHT), planes=True), "more than 8 bits in separate planes"),
    "float colours": (tiff(three(BYTES.astype(np.float32) / 255)), "cannot identify"),
    "double floats": (tiff(BYTES.astype(np.float64) / 255), "cannot identify"),
    "two channels of 16 bits": (tiff(np.stack([BRIGHT, BRIGHT], -1)), "cannot identify"),
    "a drawing that a program would have to run": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
}
"""Name -> a file, and why no reader takes it."""


def as_dense(root, content, name="tif"):
    """A dense set of one pair: the image, and a mask of class 1."""
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir(parents=True)
    (root / "images" / "training" / f"a.{name}").write_bytes(content)
    Image.fromarray(np.ones((SIDE, SIDE), np.uint8)).save(root / "annotations" / "training" / "a.png")
    return root, ImagePair(f"images/training/a.{name}", "annotations/training/a.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", READ)
def test_every_reader_sees_the_same_grey_by_the_scale_of_the_type(tmp_path, name):
    content, grey = READ[name]
    root, pair = as_dense(tmp_path / "dense", content)
    seen = {
        "packing": np.moveaxis(read_image(content, SIDE), 0, -1),
        "eval": np.moveaxis(ImageFiles(root / "images")[0], 0, -1),
        "dense": np.asarray(read_labelled(root, pair, 4).image),
    }
    for reader, pixels in seen.items():
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, three(grey.astype(np.uint8))), reader


@pytest.mark.parametrize("name", REFUSED)
def test_every_reader_refuses_what_it_cannot_know(tmp_path, name):
    content, words = REFUSED[name]
    assert re.search(words, read_image(content, SIDE))
    root, pair = as_dense(tmp_path / "dense", content)
    with pytest.raises(BadData, match=rf"a\.tif: cannot be read.*({words})"):
        read_labelled(root, pair, 4)
    with pytest.raises(BadData, match=rf"a\.tif: cannot be read as an image.*({words})"):
        ImageFiles(root / "images")[0]


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I;16 I;16B I;16L I;16N F"


@pytest.mark.parametrize("mode", MODES.split())
def test_an_image_of_any_mode_becomes_three_channels(mode):
    found = decode.to_rgb(Image.new(mode, (4, 4)))
    assert found.mode == "RGB" and np.asarray(found).dtype == np.uint8


def test_numbers_of_32_bits_in_memory_are_read_as_the_16_bits_of_the_png_they_come_from():
    """Older versions of PIL open a PNG of 16 bits so."""
    image = Image.fromarray(BRIGHT.astype(np.int32))
    with pytest.raises(decode.UnsupportedImage, match="scale is unknown"):
        decode.to_rgb(image)
    image.format = "PNG"
    assert np.array_equal(np.asarray(decode.to_rgb(image)), three(BYTES))
    numbers = decode.read_values(image)
    assert numbers.dtype == np.uint16 and np.array_equal(numbers, BRIGHT)


def test_lab_keeps_its_colours():
    grey = Image.fromarray(three(BYTES))
    lab = ImageCms.profileToProfile(grey, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    assert np.abs(np.asarray(decode.to_rgb(lab)).astype(int) - three(BYTES)).max() < 12


# --- bounds ---


def plain_png(width, height, *extra):
    """A white picture of any size in a few bytes."""
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


LONG = "at most 1,000 times"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 20_000), LONG), ((20_000, 1), LONG), ((1, 60_000), LONG), ((3, 5_000), LONG), ((65_000, 64), LONG),
        ((100, 70_000), "at most 65,535 px per side"), ((14_000, 14_000), "more pixels than any photograph"),
        ((40, 30_000), "more than 33,554,432 px"),
    ],
)  # fmt: skip
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path, size, words, monkeypatch):
    content = plain_png(*size)
    root, pair = as_dense(tmp_path / "dense", content, "png")
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("was decoded"))
    assert re.search(words, read_image(content, 256))
    if "33,554,432" not in words:  # nothing is resized in these
        with pytest.raises(BadData, match=words):
            read_labelled(root, pair, 4)
        with pytest.raises(BadData, match=words):
            ImageFiles(root / "images")


def test_an_image_too_long_for_the_largest_training_crop_is_refused(tmp_path):
    root, pair = as_dense(tmp_path / "dense", plain_png(900, 2), "png")
    Image.new("L", (900, 2), 1).save(root / pair.target)
    assert read_labelled(root, pair, 4).image.size == (900, 2)
    with pytest.raises(BadData, match="with a short side of 1024 px it would have more than"):
        read_labelled(root, pair, 4, 1024)


def test_photographs_and_panoramas_are_within_the_bounds():
    for size in ((14_204, 10_652), (30_000, 3_000), (20_000, 1_000), (60, 20_000), (20, 17), (1, 1), (500, 1)):
        decode.check_size(size)
    for size in ((14_204, 10_652), (30_000, 3_000), (20_000, 1_000)):
        decode.check_size(size, 1024)


@pytest.mark.skipif(sys.platform == "win32", reason="measures by resource")
def test_long_pictures_take_little_memory(tmp_path):
    """Those that were dangerous, and one that is as long as is allowed."""
    code = (
        "import resource, sys; from pathlib import Path; from svgbench.images.crop import read_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "small = read_image(Path(sys.argv[1]).read_bytes(), 32); before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    found = read_image(Path(path).read_bytes(), 256)\n"
        "    print(isinstance(found, str), (peak() - before) // 1024)\n"
    )
    paths = []
    for size in ((300, 200), (1, 20_000), (20_000, 1), (1, 60_000), (130, 65_000)):
        paths.append(tmp_path / "{}x{}.png".format(*size))
        paths[-1].write_bytes(plain_png(*size))
    said = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True).stdout.split()
    assert said[::2] == ["False", "True", "True", "True", "False"]
    assert max(int(megabytes) for megabytes in said[1:8:2]) < 40 and int(said[9]) < 300


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_compressed_bomb_beside_the_pixels_is_refused(kind):
    bomb = zlib.compress(b"A" * 50_000_000, 9)
    head = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind]
    assert "too large" in read_image(plain_png(8, 8, chunk(kind, head + bomb)), 16)


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_words_and_never_a_crash():
    """Pictures of every kind with a few bytes changed or cut off."""
    rng = np.random.default_rng(0)
    contents = [content for content, _ in (*READ.values(), *REFUSED.values())]
    for _ in range(1500):
        content = bytearray(contents[rng.integers(len(contents))])
        if rng.random() < 0.3:
            content = content[: rng.integers(len(content))]
        for _ in range(rng.integers(1, 6)):
            if content:
                content[rng.integers(min(len(content), 400))] = rng.choice([0, 1, 127, 128, 255])
        found = read_image(bytes(content), SIDE)
        assert (isinstance(found, str) and found) or found.shape == (3, SIDE, SIDE)


# --- masks and depth maps ---


LABELS = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 4).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (png(LABELS, 8), LABELS), (png(LABELS, 4), LABELS), (png(LABELS, 2), LABELS), (png(LABELS % 2, 1), LABELS % 2),
        (png(LABELS, 16), LABELS),
        (png(LABELS, 8, INDEXED, chunk(b"PLTE", PALETTE)), LABELS), (png(LABELS, 2, INDEXED, chunk(b"PLTE", PALETTE[:12])), LABELS),
    ],
)  # fmt: skip
def test_a_mask_of_any_depth_holds_its_numbers(tmp_path, content, labels):
    root, pair = as_dense(tmp_path, png(BYTES, 8), "png")
    (root / pair.target).write_bytes(content)
    target = read_labelled(root, pair, 4).target
    assert target.dtype == np.uint8 and np.array_equal(target, labels.astype(np.uint8) - np.uint8(1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(BRIGHT, 16), "has label 65535, but the classes are 1 to 4"),
        (made(Image.fromarray(LABELS), "JPEG"), "is a JPEG, which may change the stored values"),
        (tiff(LABELS.astype(np.float32)), "has float32 values; a mask has 0 for unlabelled"),
        (tiff(LABELS.astype(np.int8)), "signed integers"),
        (tiff(255 - LABELS, white_is_zero=True), "in which 0 is white"),
        (png(np.stack([LABELS, LABELS], -1), 8, GREY_ALPHA), "has 2 channels; a mask has one"),
        (png(three(LABELS), 8, COLOUR), "has 3 channels; a mask has one"),
    ],
)
def test_a_mask_of_other_numbers_is_refused(tmp_path, content, words):
    root, pair = as_dense(tmp_path, png(BYTES, 8), "png")
    (root / pair.target).write_bytes(content)
    with pytest.raises(BadData, match=words):
        read_labelled(root, pair, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(np.full((48, 64), 2500), 16), None),
        (tiff(np.full((48, 64), 2500, np.uint16), order=">"), None),
        (tiff(np.full((48, 64), 2.5, np.float32)), "has float32 values, whose unit is unknown"),
        (tiff(np.full((48, 64), 2500, np.int32)), "signed integers"),
        (tiff(np.full((48, 64), 2500, np.uint32)), "has int32 values, whose unit is unknown"),
        (tiff(np.full((48, 64), 2500, np.uint16), white_is_zero=True), "in which 0 is white"),
        (png(np.ones((48, 64), int), 1), "has 8 bits per pixel"),
        (png(np.full((48, 64), 9), 4), "has 8 bits per pixel"),
        (made(Image.fromarray(np.full((48, 64), 2500, np.uint16)), "JPEG2000"), "is a JPEG2000"),
    ],
)
def test_a_depth_map_is_sixteen_bits_of_millimetres(tmp_path, content, words):
    root = nyu(tmp_path / "set", training=1, validation=1)
    pair = open_set("depth", str(root)).training[0]
    (root / pair.target).write_bytes(content)
    if words is None:
        assert (read_depth(root, pair).target == np.float32(2.5)).all()
        return
    with pytest.raises(BadData, match=words):
        read_depth(root, pair)


def test_an_image_of_sixteen_bits_in_a_dense_set(tmp_path):
    root = ade20k(tmp_path, training=1, validation=1, sides=(SIDE, SIDE + 1))
    pair = open_set("segmentation", str(root)).training[0]
    (root / pair.image).write_bytes(png(DARK, 16))
    assert np.asarray(read_labelled(root, pair, 4).image).max() == DARK.max() >> 8


# --- what is no regular file ---


def pipe(path):
    os.mkfifo(path)


def listening(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path):
    path.symlink_to("/dev/zero")


STRANGE = [pipe, listening, device]


def soon(function):
    """What a function raises, within seconds; a read that waits for ever fails here."""
    raised = []

    def call():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "still waits"
    return raised[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Unix")
@pytest.mark.parametrize("make", STRANGE)
def test_a_pipe_a_socket_or_a_device_is_no_picture(tmp_path, make):
    make(tmp_path / "a.png")
    for function in (lambda: open_regular(tmp_path / "a.png"), lambda: read_regular(tmp_path / "a.png")):
        assert "is not a regular file" in str(soon(function))
    root, pair = as_dense(tmp_path / "dense", png(BYTES, 8), "png")
    for name in pair:
        (root / name).unlink()
        make(root / name)
        error = soon(lambda: read_labelled(root, pair, 4))
        assert isinstance(error, BadData) and "cannot be read (is not a regular file)" in str(error)
        (root / name).unlink()
        (root / name).write_bytes(png(BYTES % 2, 8))
    read_labelled(root, pair, 4)


def test_a_directory_and_a_giant_file_are_no_pictures(tmp_path):
    with pytest.raises(OSError, match="is not a regular file"):
        open_regular(tmp_path)
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # a sparse file: no block of it exists
    with pytest.raises(OSError, match="has 1,099,511,627,776 bytes"):
        read_regular(tmp_path / "a.png")
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with pytest.raises(OSError):
            open_regular(tmp_path)
    assert descriptors == (len(os.listdir("/proc/self/fd")) if descriptors else 0)
