"""Images made elsewhere: the same pixels give the same numbers from a folder or an ``.npz``; what cannot be scored is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from svgbench.errors import BadData, BadInput
from svgbench.metrics.elsewhere import elsewhere_scores
from svgbench.metrics.features import extract, load_extractor
from svgbench.metrics.image_sets import ImageArray, open_set, save_npz
from svgbench.metrics.resampling import Resampling
from svgbench.world import shapes

QUICK = Resampling(resamples=3, seed=0)


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("shapes-cnn")


@pytest.fixture(scope="module")
def images():
    """40 images to judge and 60 to judge them against, uint8 [N, 3, 32, 32]."""
    return tuple(shapes.draw(range(count), seed=0, resolution=32, split=split).images for count, split in ((40, "val"), (60, "train")))


def folder(place, images):
    place.mkdir()
    for number, image in enumerate(images):
        (place / f"{number // 20}").mkdir(exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, -1)).save(place / f"{number // 20}" / f"{number:03d}.png")
    return place


def npz(place, images, **more):
    np.savez(place, arr_0=np.ascontiguousarray(np.moveaxis(images, 1, -1)), **more)
    return place


def values(scores):
    return {s.metric: s.value for s in scores}


def test_a_folder_and_an_npz_of_the_same_images_score_the_same(tmp_path, extractor, images):
    given, real = images
    one = elsewhere_scores(folder(tmp_path / "a", given), folder(tmp_path / "b", real), extractor, resampling=QUICK)
    two = elsewhere_scores(npz(tmp_path / "a.npz", given), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    assert set(values(one)) == {"gfid", "is", "kid", "precision", "recall"}
    assert values(one) == pytest.approx(values(two), rel=1e-6)
    assert all("given-40" in s.protocol.text and s.count == 40 for s in one)


def test_statistics_stand_for_the_images_they_are_of_and_not_for_those_beside_them(tmp_path, extractor, images):
    given, real = images
    gaussian = extract(extractor, real).moments.gaussian()
    beside = npz(tmp_path / "ref.npz", given[:10], mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
    whole = elsewhere_scores(npz(tmp_path / "a.npz", given), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    bare = elsewhere_scores(tmp_path / "a.npz", beside, extractor, resampling=QUICK)
    assert set(values(bare)) == {"gfid", "is"}
    assert values(bare)["gfid"] == pytest.approx(values(whole)["gfid"], rel=1e-9)
    assert "/statistics@" in bare[0].protocol.text and bare[0].protocol != whole[0].protocol


def test_what_is_exported_is_read_back_where_it_lies(tmp_path, images):
    save_npz(tmp_path / "out.npz", images[0])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as content:
        assert np.array_equal(content["arr_0"], np.moveaxis(images[0], 1, -1))
    again = ImageArray(tmp_path / "out.npz")
    assert isinstance(again._images, np.memmap) and np.array_equal(again.batch(range(40)).numpy(), images[0])
    np.savez_compressed(tmp_path / "small.npz", arr_0=np.moveaxis(images[0], 1, -1))
    assert np.array_equal(ImageArray(tmp_path / "small.npz").batch(range(40)).numpy(), images[0])


def test_the_command_prints_scores_as_json(tmp_path, images):
    words = ["eval", npz(tmp_path / "a.npz", images[0]), "--reference", npz(tmp_path / "b.npz", images[1]), "--extractor", "shapes-cnn"]
    command = [sys.executable, "-m", "svgbench", *map(str, words), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    assert found["gfid"]["low"] <= found["gfid"]["value"] <= found["gfid"]["high"] and found["gfid"]["detail"]["singular"]


def _sizes(place):
    folder(place / "f", shapes.draw(range(3), seed=0, resolution=32, split="val").images)
    Image.new("RGB", (16, 16)).save(place / "f" / "z.png")
    return place / "f"


def _pickled(place):
    np.savez(place / "p.npz", arr_0=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return place / "p.npz"


def _truncated(place):
    file = npz(place / "t.npz", shapes.draw(range(3), seed=0, resolution=32, split="val").images)
    file.write_bytes(file.read_bytes()[:-3000])
    return file


def _floats(place):
    np.savez(place / "x.npz", arr_0=np.zeros((2, 8, 8, 3)))
    return place / "x.npz"


def _other(place):
    np.savez(place / "o.npz", images=np.zeros(3))
    return place / "o.npz"


def _broken(place):
    (place / "d").mkdir()
    (place / "d" / "a.png").write_bytes(b"no image")
    return place / "d"


def _empty(place):
    (place / "e").mkdir()
    return place / "e"


@pytest.mark.parametrize(
    "make, sentence",
    [(_sizes, "images of 2 sizes"), (_pickled, "pickled objects"), (_truncated, "neither a folder nor an .npz"), (_floats, "uint8"),
     (_other, "has no array 'arr_0', but images"), (_broken, "cannot be read as an image"), (_empty, "holds no images"),
     (lambda place: place / "no", "does not exist")],
)  # fmt: skip
def test_what_is_no_set_of_images_is_refused_in_a_sentence(tmp_path, make, sentence):
    with pytest.raises(BadData, match=sentence):
        open_set(make(tmp_path))


def test_statistics_of_another_extractor_doubled_images_and_another_size_are_refused(tmp_path, extractor, images):
    given, real = images
    wrong = tmp_path / "w.npz"
    np.savez(wrong, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(BadInput, match="statistics of 2048 numbers, but 'shapes-cnn' gives 128"):
        elsewhere_scores(npz(tmp_path / "a.npz", given), wrong, extractor, resampling=QUICK)
    with pytest.raises(BadData, match="doubled"):
        elsewhere_scores(npz(tmp_path / "d.npz", given[[0, 1, 0]]), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    large = npz(tmp_path / "l.npz", given.repeat(2, 2).repeat(2, 3))
    with pytest.raises(BadData, match="64 x 64 px, the reference 32 x 32"):
        elsewhere_scores(large, tmp_path / "b.npz", extractor, resampling=QUICK)
